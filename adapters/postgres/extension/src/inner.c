/* pgvector's hnsw, the access method that is wrapped. */
#include "bqcore.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"
#include "utils/memutils.h"

#define VERSION(major, minor, patch) (((major) * 1000 + (minor)) * 1000 + (patch))

/* The oldest one that was tried, and the first one with hnsw.iterative_scan. */
#define OLDEST VERSION(0, 7, 4)
#define OLDEST_TEXT "0.7.4"
#define FIRST_ITERATIVE VERSION(0, 8, 0)
#define FIRST_ITERATIVE_TEXT "0.8.0"

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

/* -1 if it is no version; a missing third number is 0. */
static int
parse_version(const char *text)
{
	int major, minor, patch = 0;

	return sscanf(text, "%3d.%3d.%3d", &major, &minor, &patch) >= 2 ? VERSION(major, minor, patch) : -1;
}

static pg_noinline void
unknown_interface(const char *detail)
{
	const char *version = BqPgvectorVersion();

	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("bqhnsw does not know the interface of pgvector %s", version ? version : "(not installed)"),
			 errdetail("%s bqcore %s was made for pgvector %s and later.", detail, BQCORE_VERSION, OLDEST_TEXT)));
}

/* pgvector reads m and ef_construction through a struct of its own, which ours has to begin with. */
static void
check_options(const IndexAmRoutine *am)
{
	Datum text[] = {CStringGetTextDatum("m=7"), CStringGetTextDatum("ef_construction=33")};
	ArrayType *reloptions = construct_array_builtin(text, lengthof(text), TEXTOID);
	const BqOptions *options = (const BqOptions *) am->amoptions(PointerGetDatum(reloptions), false);

	if (options == NULL || VARSIZE(options) != offsetof(BqOptions, bits))
		unknown_interface(psprintf("Its hnsw has options of %zu bytes, expected %zu.",
								   options ? (Size) VARSIZE(options) : 0, offsetof(BqOptions, bits)));
	if (options->m != 7 || options->efConstruction != 33)
		unknown_interface(
			psprintf("Its hnsw reads m = 7, ef_construction = 33 as %d, %d.", options->m, options->efConstruction));
}

/* Of the library that this session has loaded; NULL if it does not tell (pgvector before 0.8.1, Postgres before 18). */
static const char *
library_version(void)
{
#if PG_VERSION_NUM >= 180000
	for (DynamicFileList *file = get_first_loaded_module(); file; file = get_next_loaded_module(file))
	{
		const char *path, *name, *version;

		get_loaded_module_details(file, &path, &name, &version);
		if (name && strcmp(name, "vector") == 0)
			return version;
	}
#endif
	return NULL;
}

/* pgvector keeps the variable to itself; Postgres' own table of settings has its address.
 * NULL before pgvector 0.8.0. */
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

/* An older library than the extension lacks functions that its SQL calls. A newer one is what every upgrade of
 * pgvector leaves until ALTER EXTENSION: builds go on, because TRUNCATE and VACUUM FULL are builds as well. */
static void
check_library(const char *extension)
{
	const char *library = library_version();
	bool has_iterative = iterative_setting() != NULL;
	int version = parse_version(extension);
	bool older, newer;

	if (library)
	{
		older = parse_version(library) < version;
		newer = parse_version(library) > version;
	}
	else
	{
		older = !has_iterative && version >= FIRST_ITERATIVE;
		newer = has_iterative && version < FIRST_ITERATIVE;
		library = psprintf("%s %s", older ? "before" : "at least", FIRST_ITERATIVE_TEXT);
	}
	if (older)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("pgvector's library is %s, its extension is %s", library, extension),
						errhint("Install pgvector %s; a session keeps the library that it has loaded.", extension)));
	if (newer)
		ereport(WARNING, (errmsg("pgvector's library is %s, its extension is %s", library, extension),
						  errhint("ALTER EXTENSION vector UPDATE.")));
}

static void
check_hnsw(const IndexAmRoutine *am)
{
	if (am->amsupport != 3 || am->amoptsprocnum != 0)
		unknown_interface(psprintf("Its hnsw has %d support functions and options at number %d, expected 3 and 0.",
								   am->amsupport, am->amoptsprocnum));
}

static void
check_pgvector(const IndexAmRoutine *am)
{
	const char *version = BqPgvectorVersion();

	if (version == NULL)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("extension \"vector\" is not installed")));
	if (parse_version(version) < OLDEST)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("bqhnsw needs pgvector %s or later, not %s", OLDEST_TEXT, version),
						errhint("ALTER EXTENSION vector UPDATE, after installing a newer pgvector.")));
	check_library(version);
	check_hnsw(am);
	if (!am->amcanorderbyop || am->amcanmulticol || am->amstorage || am->amoptions == NULL)
		unknown_interface("Its hnsw is not an index on one column, ordered by an operator, with options.");
	check_options(am);
}

/* Refuses a pgvector that is too old, or whose interface is another one than ours. */
void
BqCheckPgvector(void)
{
	check_pgvector(BqInner());
}

/* The routine of one of pgvector's access methods; it stays for the session. */
static IndexAmRoutine *
load_handler(const char *name)
{
	PGFunction handler = load_external_function("$libdir/vector", name, false, NULL);
	MemoryContext old;
	LOCAL_FCINFO(fcinfo, 1);
	IndexAmRoutine *am;

	if (handler == NULL)
		unknown_interface(psprintf("Its library has no function %s.", name));
	old = MemoryContextSwitchTo(TopMemoryContext);
	InitFunctionCallInfoData(*fcinfo, NULL, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = (Datum) 0;
	fcinfo->args[0].isnull = false;
	am = (IndexAmRoutine *) DatumGetPointer(handler(fcinfo));
	MemoryContextSwitchTo(old);
	if (am == NULL || !IsA(am, IndexAmRoutine))
		unknown_interface(psprintf("Its %s returned no access method.", name));
	return am;
}

/* Loading it also defines pgvector's settings (hnsw.ef_search and others). */
const IndexAmRoutine *
BqInner(void)
{
	static const IndexAmRoutine *inner = NULL;

	if (inner == NULL)
	{
		const IndexAmRoutine *am = load_handler("hnswhandler");

		/* before the script names a type that an old pgvector lacks */
		if (creating_extension)
			check_pgvector(am);
		inner = am;
	}
	return inner;
}

/* Refuses an ivfflat whose support functions are others than those that our operator classes have. */
void
BqCheckIvfflat(void)
{
	static bool checked = false;
	const IndexAmRoutine *am;

	if (checked)
		return;
	am = load_handler("ivfflathandler");
	if (am->amsupport != 5 || am->amoptsprocnum != 0)
		unknown_interface(psprintf("Its ivfflat has %d support functions and options at number %d, expected 5 and 0.",
								   am->amsupport, am->amoptsprocnum));
	checked = true;
}

void
BqCheckHnsw(void)
{
	check_hnsw(BqInner());
}

int
BqEfSearch(void)
{
	const char *value = GetConfigOption("hnsw.ef_search", true, false);

	return value ? Max(atoi(value), 1) : 40;
}

/* pgvector's limit of an iterative scan, in elements. */
int64
BqMaxScanTuples(void)
{
	const char *value = GetConfigOption("hnsw.max_scan_tuples", true, false);

	return value ? Max(atoi(value), 1) : 20000;
}

/* pgvector's limit of an iterative scan's memory, in multiples of work_mem. */
double
BqScanMemMultiplier(void)
{
	const char *value = GetConfigOption("hnsw.scan_mem_multiplier", true, false);

	return value ? atof(value) : 1.0;
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
