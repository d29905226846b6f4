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
#include "utils/guc_tables.h"
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

/* pgvector keeps the variable to itself; Postgres' own table of settings has its address. */
static struct config_enum *
iterative_setting(void)
{
	static struct config_enum *setting = NULL;

	if (setting == NULL)
	{
		struct config_generic *found = find_option("hnsw.iterative_scan", false, true, DEBUG5);

		if (found && found->vartype == PGC_ENUM)
			setting = (struct config_enum *) found;
	}
	return setting;
}

BqIterative
BqIterativeScan(void)
{
	struct config_enum *setting = iterative_setting();
	const char *name = setting ? config_enum_lookup_by_value(setting, *setting->variable) : "off";

	if (strcmp(name, "relaxed_order") == 0)
		return BQ_ITERATIVE_RELAXED;
	return strcmp(name, "strict_order") == 0 ? BQ_ITERATIVE_STRICT : BQ_ITERATIVE_OFF;
}

/* Changes what pgvector's scan sees, without the bookkeeping of SET. The caller puts the old value back. */
int
BqSwapIterative(BqIterative mode)
{
	struct config_enum *setting = iterative_setting();
	int old = *setting->variable, value;

	if (!config_enum_lookup_by_name(setting, mode == BQ_ITERATIVE_RELAXED ? "relaxed_order" : "off", &value))
		elog(ERROR, "bqhnsw does not know the values of hnsw.iterative_scan");
	*setting->variable = value;
	return old;
}

void
BqRestoreIterative(int old)
{
	*iterative_setting()->variable = old;
}
