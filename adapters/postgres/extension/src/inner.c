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

#include "pg_compat.h"

#define VERSION(major, minor, patch) (((major) * 1000 + (minor)) * 1000 + (patch))

/* The first one with hnsw.iterative_scan. */
#define FIRST_ITERATIVE VERSION(0, 8, 0)
#define FIRST_ITERATIVE_TEXT "0.8.0"
/* The first one whose library tells Postgres 18 its version. */
#define FIRST_TELLING VERSION(0, 8, 1)
#define OLDEST_TEXT "0.7.4"

/* What is done with a version of pgvector. */
typedef struct Rules
{
	bool accepted;
	bool parallel;     /* its builds may use workers */
	bool walk;         /* its pages are those that our walk reads */
	const char *fault; /* what CREATE INDEX warns of; NULL if nothing is known */
} Rules;

static Rules
rules_of(int version)
{
	Rules rules = {
		.accepted = version >= VERSION(0, 7, 4),
		/* its shared allocator may leave its memory: CVE-2026-3172 */
		.parallel = version >= VERSION(0, 8, 2),
		/* 0.8.6 is the newest whose pages have been compared */
		.walk = version >= VERSION(0, 7, 4) && version < VERSION(0, 9, 0),
	};

	if (version < VERSION(0, 8, 2))
		rules.fault = "Before 0.8.2 its parallel builds may read and write beyond their memory (CVE-2026-3172), so "
					  "this build is serial; before 0.8.4 its vacuum may damage graphs.";
	else if (version < VERSION(0, 8, 4))
		rules.fault = "Before 0.8.4 its vacuum may damage graphs.";
	return rules;
}

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

/* What is unknown about pgvector's routine, without a look at catalogs; NULL if nothing is. */
static const char *
interface_problem(const IndexAmRoutine *am)
{
	Datum text[] = {CStringGetTextDatum("m=7"), CStringGetTextDatum("ef_construction=33")};
	const BqOptions *options;

	if (am->amsupport != 3 || am->amoptsprocnum != 0)
		return psprintf("Its hnsw has %d support functions and options at number %d, expected 3 and 0.", am->amsupport,
						am->amoptsprocnum);
	if (!am->amcanorderbyop || am->amcanmulticol || am->amstorage || am->amoptions == NULL)
		return "Its hnsw is not an index on one column, ordered by an operator, with options.";
	/* it reads m and ef_construction through a struct of its own, which ours has to begin with */
	options = (const BqOptions *) am->amoptions(PointerGetDatum(construct_array_builtin(text, lengthof(text), TEXTOID)),
												false);
	if (options == NULL || VARSIZE(options) != offsetof(BqOptions, bits))
		return psprintf("Its hnsw has options of %zu bytes, expected %zu.", options ? (Size) VARSIZE(options) : 0,
						offsetof(BqOptions, bits));
	if (options->m != 7 || options->efConstruction != 33)
		return psprintf("Its hnsw reads m = 7, ef_construction = 33 as %d, %d.", options->m, options->efConstruction);
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
	const char *library = BqModuleVersion("vector");
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

/* Of the library that runs, as far as it tells; else of the extension, which is not newer. */
static int
running_version(const char *extension)
{
	const char *library = BqModuleVersion("vector");

	if (library)
		return parse_version(library);
	return BQ_MODULES_TELL_VERSIONS ? Min(parse_version(extension), FIRST_TELLING - 1) : parse_version(extension);
}

static void
check_pgvector(const IndexAmRoutine *am)
{
	const char *version = BqPgvectorVersion(), *problem;

	if (version == NULL)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("extension \"vector\" is not installed")));
	if (!rules_of(parse_version(version)).accepted)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("bqhnsw needs pgvector %s or later, not %s", OLDEST_TEXT, version),
						errhint("ALTER EXTENSION vector UPDATE, after installing a newer pgvector.")));
	check_library(version);
	problem = interface_problem(am);
	if (problem)
		unknown_interface(problem);
}

/* Refuses a pgvector that is too old, or whose interface is another one than ours. */
void
BqCheckPgvector(void)
{
	check_pgvector(BqLoadInner());
}

void
BqWarnOfPgvector(void)
{
	const char *version = BqPgvectorVersion(), *fault = version ? rules_of(running_version(version)).fault : NULL;

	if (fault)
		ereport(WARNING, (errmsg("pgvector %s has faults that indexes on it inherit", version), errdetail("%s", fault),
						  errhint("Install pgvector 0.8.4 or later.")));
}

bool
BqMayBuildInParallel(void)
{
	const char *version = BqPgvectorVersion();

	return version && rules_of(running_version(version)).parallel;
}

/* Decided once per session: another pgvector needs another library, and a session keeps the one that it has loaded. */
bool
BqMayWalk(void)
{
	static int known = -1;

	if (bq_own_walk && known < 0)
	{
		const char *version = BqPgvectorVersion();
		int extension = version ? parse_version(version) : -1;

		known = version && rules_of(extension).walk && rules_of(running_version(version)).walk;
		if (!known)
			ereport(LOG, (errmsg("bqhnsw leaves walks to pgvector %s, whose pages it does not know",
								 version ? version : "(not installed)")));
	}
	return bq_own_walk && known;
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
BqLoadInner(void)
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

bool
BqKnowsInner(void)
{
	static int known = -1;

	if (known < 0)
		known = interface_problem(BqLoadInner()) == NULL;
	return known;
}

/* Called for every row inserted. A library that is upgraded under existing indexes may read what is ours as its own,
 * or call it. */
const IndexAmRoutine *
BqInner(void)
{
	const IndexAmRoutine *am = BqLoadInner();

	if (unlikely(!BqKnowsInner()))
		unknown_interface(interface_problem(am));
	return am;
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
