/* pgvector's hnsw, the access method that is wrapped. */
#include "bqcore.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_extension.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#define BQ_PGVECTOR_MIN_MAJOR 0
#define BQ_PGVECTOR_MIN_MINOR 8

/* Version of the installed extension `vector`, palloc'd; NULL if there is none. */
const char *
BqPgvectorVersion(void)
{
	Relation rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;
	char *version = NULL;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ, CStringGetDatum("vector"));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool isnull;
		Datum d = heap_getattr(tuple, Anum_pg_extension_extversion, RelationGetDescr(rel), &isnull);

		if (!isnull)
			version = TextDatumGetCString(d);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return version;
}

/* Refuses a pgvector whose interface was never tried. */
void
BqCheckPgvector(void)
{
	const char *version = BqPgvectorVersion();
	const IndexAmRoutine *am = BqInner();
	int major, minor;

	if (version == NULL || sscanf(version, "%d.%d", &major, &minor) != 2)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("extension \"vector\" is not installed")));
	if (major == BQ_PGVECTOR_MIN_MAJOR && minor < BQ_PGVECTOR_MIN_MINOR)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("bqhnsw needs pgvector %d.%d or later, not %s", BQ_PGVECTOR_MIN_MAJOR,
							   BQ_PGVECTOR_MIN_MINOR, version),
						errhint("ALTER EXTENSION vector UPDATE, after installing a newer pgvector.")));
	if (am->amsupport != 3 || am->amoptsprocnum != 0 || !am->amcanorderbyop || am->amcanmulticol || am->amstorage)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("bqhnsw does not know the interface of pgvector %s", version),
						errdetail("Expected 3 support functions of its hnsw, not %d.", am->amsupport)));
}

/* Loading it also defines pgvector's settings (hnsw.ef_search and others). */
const IndexAmRoutine *
BqInner(void)
{
	static const IndexAmRoutine *inner = NULL;

	if (inner == NULL)
	{
		PGFunction handler = load_external_function("$libdir/vector", "hnswhandler", true, NULL);
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
		LOCAL_FCINFO(fcinfo, 1);
		IndexAmRoutine *am;

		InitFunctionCallInfoData(*fcinfo, NULL, 1, InvalidOid, NULL, NULL);
		fcinfo->args[0].value = (Datum) 0;
		fcinfo->args[0].isnull = false;
		am = (IndexAmRoutine *) DatumGetPointer(handler(fcinfo));
		MemoryContextSwitchTo(old);
		if (am == NULL || !IsA(am, IndexAmRoutine))
			elog(ERROR, "pgvector's hnswhandler returned no access method");
		inner = am;
	}
	return inner;
}

int
BqEfSearch(void)
{
	const char *value = GetConfigOption("hnsw.ef_search", true, false);

	return value ? Max(atoi(value), 1) : 40;
}

BqIterative
BqIterativeScan(void)
{
	const char *value = GetConfigOption("hnsw.iterative_scan", true, false);

	if (value && strcmp(value, "relaxed_order") == 0)
		return BQ_ITERATIVE_RELAXED;
	if (value && strcmp(value, "strict_order") == 0)
		return BQ_ITERATIVE_STRICT;
	return BQ_ITERATIVE_OFF;
}
