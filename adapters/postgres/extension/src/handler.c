/* The access method: pgvector's routine with our build, insert, scan and options in it. */
#include "bqcore.h"

#include "access/reloptions.h"
#include "access/table.h"
#include "catalog/index.h"
#include "catalog/pg_class.h"
#include "utils/float.h"

#include "pg_compat.h"

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

/* With a pgvector of unknown interface the table can be read, if not through the index. */
static void
never_cheap(PlannerInfo *root, IndexPath *path, double loopCount, Cost *startup, Cost *total, Selectivity *selectivity,
			double *correlation, double *pages)
{
	*startup = *total = get_float8_infinity();
	*selectivity = *correlation = *pages = 0;
	BqDisablePath(&path->path);
}

PG_FUNCTION_INFO_V1(bqhnsw_handler);
Datum
bqhnsw_handler(PG_FUNCTION_ARGS)
{
	IndexAmRoutine *am = makeNode(IndexAmRoutine);

	/* The node is copied, so fields that a newer Postgres adds keep pgvector's values. */
	*am = *BqLoadInner();
	am->ambuild = BqBuild;
	am->ambuildempty = BqBuildEmpty;
	am->aminsert = BqInsert;
	am->ambulkdelete = BqBulkDelete;
	am->amvacuumcleanup = BqVacuumCleanup;
	am->amcostestimate = BqKnowsInner() ? BqCostEstimate : never_cheap;
	am->amoptions = BqReadOptions;
	am->ambeginscan = BqBeginScan;
	am->amrescan = BqRescan;
	am->amgettuple = BqGetTuple;
	am->amendscan = BqEndScan;
	PG_RETURN_POINTER(am);
}

bool
BqIsOurs(Relation index)
{
	return index->rd_indam && index->rd_indam->ambuild == BqBuild;
}

/* Opens an index and makes sure that it is one of ours, built to the end. */
Relation
BqOpenIndex(Oid indexOid, LOCKMODE lockmode)
{
	Relation index = index_open(indexOid, lockmode);
	bool ours = index->rd_rel->relkind == RELKIND_INDEX && BqIsOurs(index);

	if (!ours)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("\"%s\" is not a bqhnsw index", RelationGetRelationName(index))));
	if (!index->rd_index->indisvalid)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("index \"%s\" is not valid", RelationGetRelationName(index)), errhint("REINDEX or drop it.")));
	return index;
}

/* The table first, as all who lock both. */
Relation
BqOpenWithTable(Oid indexOid, LOCKMODE lockmode, Relation *heap)
{
	Oid heapOid = IndexGetRelation(indexOid, true);
	Relation index;

	*heap = OidIsValid(heapOid) ? table_open(heapOid, lockmode) : NULL;
	index = BqOpenIndex(indexOid, lockmode);
	if (*heap == NULL || index->rd_index->indrelid != heapOid)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("the table of index \"%s\" has just been dropped", RelationGetRelationName(index))));
	return index;
}
