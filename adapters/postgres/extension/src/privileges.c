/* Who may ask, and with whose rights the functions of an index run.
 *
 * A function that anyone may call must lend nobody's rights to anybody. Run as the caller, expressions of an index
 * would give its owner the rights of whoever asks. Run as the owner, they must not reach what the caller has put in
 * their way: schemas of his search_path, temporary objects, and expressions that his session keeps with the bodies of
 * SQL functions put in under his search_path. */
#include "privileges.h"

#include "access/htup_details.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_index.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/syscache.h"

#include "pg_compat.h"

/* An expression or a predicate as it is stored, before functions are put in or evaluated; NULL without one. */
static Node *
stored_node(Relation index, AttrNumber attnum)
{
	bool isnull;
	Datum stored = SysCacheGetAttr(INDEXRELID, index->rd_indextuple, attnum, &isnull);

	return isnull ? NULL : stringToNode(TextDatumGetCString(stored));
}

List *
BqStoredExpressions(Relation index)
{
	return (List *) stored_node(index, Anum_pg_index_indexprs);
}

IndexInfo *
BqIndexInfo(Relation index)
{
	IndexInfo *info = BuildIndexInfo(index);
	Node *predicate = stored_node(index, Anum_pg_index_indpred);

	info->ii_Expressions = BqStoredExpressions(index);
	info->ii_Predicate = predicate ? make_ands_implicit((Expr *) predicate) : NIL;
	return info;
}

/* The session's temporary schema is part of every search_path, for tables and views. */
static bool
has_temporary_objects(void)
{
	Oid schema, toast;

	GetTempNamespaceState(&schema, &toast);
	return OidIsValid(schema);
}

static bool
runs_functions(Relation index)
{
	return !heap_attisnull(index->rd_indextuple, Anum_pg_index_indexprs, NULL) ||
		   !heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL);
}

bool
BqMayRunAsOwner(Relation heap, Relation index)
{
	return !runs_functions(index) || !has_temporary_objects() || has_privs_of_role(GetUserId(), heap->rd_rel->relowner);
}

BqCaller
BqRunAsOwner(Relation heap, Relation index)
{
	Oid owner = heap->rd_rel->relowner;
	BqCaller caller;

	if (!BqMayRunAsOwner(heap, index))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("functions of index \"%s\" run as \"%s\", which is not done in a session of another "
							   "role that has had temporary objects",
							   RelationGetRelationName(index), GetUserNameFromId(owner, false)),
						errhint("Ask in a new session.")));
	GetUserIdAndSecContext(&caller.user, &caller.security);
	SetUserIdAndSecContext(owner, caller.security | SECURITY_RESTRICTED_OPERATION);
	caller.nest = NewGUCNestLevel();
	BqRestrictSearchPath();
	return caller;
}

void
BqRunAsCaller(const BqCaller *caller)
{
	AtEOXact_GUC(false, caller->nest);
	SetUserIdAndSecContext(caller->user, caller->security);
}

void
BqCheckReadable(Relation index)
{
	Oid heap = index->rd_index->indrelid;
	AclResult result = pg_class_aclcheck(heap, GetUserId(), ACL_SELECT);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_TABLE, get_rel_name(heap));
	if (check_enable_rls(heap, InvalidOid, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("index \"%s\" tells of all rows of table \"%s\", and row-level security applies to this user",
						RelationGetRelationName(index), get_rel_name(heap))));
}
