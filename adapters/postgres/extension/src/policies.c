/* Row-level security and rescoring. Candidates are rescored before policies judge them. For an indexed column that
 * runs pgvector's distance alone, which tells nothing; for an indexed expression it runs functions that anybody may
 * have written, on rows that the user may not see. Such an index is not used where policies apply.
 *
 * Trusted are functions marked leakproof and those of Postgres, pgvector and bqcore: they send no notices, and what
 * of theirs is immutable cannot fail on a row that was indexed. */
#include "bqcore.h"

#include "access/transam.h"
#include "catalog/dependency.h"
#include "catalog/pg_proc.h"
#include "commands/extension.h"
#include "nodes/nodeFuncs.h"
#include "nodes/pathnodes.h"
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

/* Whether scans of an index might tell of rows that a policy hides from this user. */
bool
BqMayTell(const PlannerInfo *root, const IndexOptInfo *index)
{
	/* above 0 where any table of the query has policies for this user */
	return root->qual_security_level > 0 && tells((Node *) index->indexprs, NULL);
}
