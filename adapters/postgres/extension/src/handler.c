/* The access method: pgvector's routine with our build, insert, scan and options in it. */
#include "bqcore.h"

#include "access/reloptions.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/syscache.h"

static relopt_kind bq_relopt_kind;

void
BqInitOptions(void)
{
	bq_relopt_kind = add_reloption_kind();
	add_int_reloption(bq_relopt_kind, "m", "Max number of connections", BQ_DEFAULT_M, 2, 100, AccessExclusiveLock);
	add_int_reloption(bq_relopt_kind, "ef_construction", "Size of the dynamic candidate list for construction",
					  BQ_EF_CONSTRUCTION_UNSET, 4, 1000, AccessExclusiveLock);
	add_int_reloption(bq_relopt_kind, "bits", "Bits per dimension: 1, 2, 4 or 8", BQ_DEFAULT_BITS, 1, 8,
					  AccessExclusiveLock);
	add_string_reloption(bq_relopt_kind, "rescore_column", "Code column that candidates are rescored from", NULL, NULL,
						 AccessExclusiveLock);
}

static bytea *
BqReadOptions(Datum reloptions, bool validate)
{
	static const relopt_parse_elt table[] = {
		{.optname = "m", .opttype = RELOPT_TYPE_INT, .offset = offsetof(BqOptions, m)},
		{.optname = "ef_construction", .opttype = RELOPT_TYPE_INT, .offset = offsetof(BqOptions, efConstruction)},
		{.optname = "bits", .opttype = RELOPT_TYPE_INT, .offset = offsetof(BqOptions, bits)},
		{.optname = "rescore_column", .opttype = RELOPT_TYPE_STRING, .offset = offsetof(BqOptions, rescoreColumn)},
	};
	BqOptions *options =
		(BqOptions *) build_reloptions(reloptions, validate, bq_relopt_kind, sizeof(BqOptions), table, lengthof(table));

	if (validate && options && !bqk_bits_supported(options->bits))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("bits must be 1, 2, 4 or 8, not %d", options->bits)));
	if (options && options->efConstruction == BQ_EF_CONSTRUCTION_UNSET)
		options->efConstruction = BqDefaultEfConstruction(options->bits);
	return (bytea *) options;
}

PG_FUNCTION_INFO_V1(bqhnsw_handler);
Datum
bqhnsw_handler(PG_FUNCTION_ARGS)
{
	IndexAmRoutine *am = makeNode(IndexAmRoutine);

	/* The node is copied, so fields that a newer Postgres adds keep pgvector's values. */
	*am = *BqInner();
	am->ambuild = BqBuild;
	am->ambuildempty = BqBuildEmpty;
	am->aminsert = BqInsert;
	am->ambulkdelete = BqBulkDelete;
	am->amvacuumcleanup = BqVacuumCleanup;
	am->amcostestimate = BqCostEstimate;
	am->amoptions = BqReadOptions;
	am->ambeginscan = BqBeginScan;
	am->amrescan = BqRescan;
	am->amgettuple = BqGetTuple;
	am->amendscan = BqEndScan;
	PG_RETURN_POINTER(am);
}

/* Opens an index and makes sure that it is one of ours, built to the end. */
Relation
BqOpenIndex(Oid indexOid, LOCKMODE lockmode)
{
	Relation index = index_open(indexOid, lockmode);
	HeapTuple am = SearchSysCache1(AMOID, ObjectIdGetDatum(index->rd_rel->relam));
	bool ours = HeapTupleIsValid(am) && strcmp(NameStr(((Form_pg_am) GETSTRUCT(am))->amname), "bqhnsw") == 0;

	if (HeapTupleIsValid(am))
		ReleaseSysCache(am);
	if (!ours || index->rd_rel->relkind != RELKIND_INDEX)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("\"%s\" is not a bqhnsw index", RelationGetRelationName(index))));
	if (!index->rd_index->indisvalid)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("index \"%s\" is not valid", RelationGetRelationName(index)), errhint("REINDEX or drop it.")));
	return index;
}

/* What a model or a recall tells is drawn from all rows of the table: it is for those who may read them all. */
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
