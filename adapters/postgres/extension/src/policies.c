/* Row-level security and rescoring. Candidates are rescored before policies judge them. For an indexed column that
 * runs pgvector's distance alone, which tells nothing; for an indexed expression it runs functions that anybody may
 * have written, on rows that the user may not see. Such an index is not used where policies apply.
 *
 * Trusted are functions marked leakproof and those of Postgres, pgvector and bqcore: they send no notices, and what
 * of theirs is immutable cannot fail on a row that was indexed. */
#include "bqcore.h"
#include "pg_compat.h"

#include "access/transam.h"
#include "catalog/dependency.h"
#include "catalog/pg_proc.h"
#include "commands/extension.h"
#include "nodes/nodeFuncs.h"
#include "nodes/pathnodes.h"
#include "utils/float.h"
#include "utils/lsyscache.h"

static bool
may_tell(Oid function, void *context)
{
	Oid extension;
	char *name;

	if (function < FirstUnpinnedObjectId || get_func_leakproof(function))
		return false;
	extension = getExtensionOfObject(ProcedureRelationId, function);
	name = OidIsValid(extension) ? get_extension_name(extension) : NULL;
	return name == NULL || (strcmp(name, "vector") != 0 && strcmp(name, "bqcore") != 0);
}

static bool
tells(Node *node, void *context)
{
	if (node == NULL)
		return false;
	/* a domain's CHECK may call anything */
	if (IsA(node, CoerceToDomain) || check_functions_in_node(node, may_tell, context))
		return true;
	return expression_tree_walker(node, tells, context);
}

/* pgvector's estimate; for an index that might tell of hidden rows, pgvector's way to say never. */
void
BqCostEstimate(struct PlannerInfo *root, struct IndexPath *path, double loopCount, Cost *startup, Cost *total,
			   Selectivity *selectivity, double *correlation, double *pages)
{
	BqInner()->amcostestimate(root, path, loopCount, startup, total, selectivity, correlation, pages);
	/* above 0 where any table of the query has policies for this user */
	if (root->qual_security_level > 0 && tells((Node *) path->indexinfo->indexprs, NULL))
	{
		*startup = *total = get_float8_infinity();
		BqDisablePath(&path->path);
	}
}
