/* Library start: settings, and the support functions of the operator classes. */
#include "bqcore.h"
#include "scan_node.h"
#include "waiting.h"

#include "utils/builtins.h"
#include "utils/guc.h"

#include "pg_compat.h"

BQ_MODULE_MAGIC("bqcore", BQCORE_VERSION);

int bq_rescore;
double bq_epsilon;
bool bq_own_walk;
static char *bq_isa;

static bool
check_isa(char **newval, void **extra, GucSource source)
{
	StringInfoData names;
	const char *name;

	if (strcmp(*newval, "auto") == 0 || bqk_isa_supported(*newval))
		return true;
	initStringInfo(&names);
	for (size_t i = 0; (name = bqk_isa_name(i)) != NULL; i++)
		if (bqk_isa_supported(name))
			appendStringInfo(&names, ", \"%s\"", name);
	GUC_check_errdetail("This machine can run \"auto\"%s.", names.data);
	return false;
}

static void
assign_isa(const char *newval, void *extra)
{
	bqk_isa_select(strcmp(newval, "auto") == 0 ? NULL : newval);
}

PGDLLEXPORT void _PG_init(void);
void
_PG_init(void)
{
	DefineCustomIntVariable("bqcore.rescore", "Candidates whose exact distance is known before a row is returned.",
							"-1 follows the error of their estimates: see bqcore.epsilon.", &bq_rescore, -1, -1, 100000,
							PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomRealVariable("bqcore.epsilon",
							 "Deviations of its estimate by which a candidate's distance may lie below it.",
							 "A row is returned when no other candidate may be nearer. More find more and take longer.",
							 &bq_epsilon, BQ_DEFAULT_EPSILON, 0.0, 10.0, PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("bqcore.isa", "Instruction set of the kernels.",
							   "For tests; results do not depend on it.", &bq_isa, "auto", PGC_USERSET,
							   GUC_NOT_IN_SAMPLE, check_isa, assign_isa, NULL);
	DefineCustomBoolVariable("bqcore.own_walk", "Whether scans walk through the graph by themselves.",
							 "Off leaves that to pgvector, and numbers decide what is rescored.", &bq_own_walk, true,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	/* of the session that builds an index, which remembers it: who inserts has no say */
	DefineCustomIntVariable(
		"bqcore.train_rows", "Rows that a new index's model is made of, at least.",
		"With fewer an index keeps its rows in a list, which scans read row by row. 0: the model is "
		"made at once, of whatever there is.",
		&bq_train_rows, BQ_TRAIN_ROWS, 0, 100000, PGC_USERSET, 0, NULL, NULL, NULL);
	BqDefineBuildSegment();
	BqScanNodeDefineHook();
	MarkGUCPrefixReserved("bqcore");
	BqInitOptions();
}

const char *
BqMetricName(int metric)
{
	static const char *const names[] = {"l2", "ip", "cosine"};

	return metric >= 0 && metric <= BQK_COSINE ? names[metric] : "unknown";
}

int
BqMetricByName(const char *name)
{
	for (int metric = 0; metric <= BQK_COSINE; metric++)
		if (strcmp(name, BqMetricName(metric)) == 0)
			return metric;
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("metric must be \"l2\", \"ip\" or \"cosine\", not \"%s\"", name)));
}

const BqTypeInfo *
BqGetTypeInfo(Relation index)
{
	FmgrInfo *proc = index_getprocinfo(index, 1, BQ_TYPE_INFO_PROC);

	return (const BqTypeInfo *) DatumGetPointer(FunctionCall0Coll(proc, InvalidOid));
}

#define SUPPORT(name, metric_, type_)                                                                                  \
	PG_FUNCTION_INFO_V1(name);                                                                                         \
	Datum name(PG_FUNCTION_ARGS)                                                                                       \
	{                                                                                                                  \
		static const BqTypeInfo info = {                                                                               \
			.hnsw = {.maxDimensions = BQK_MAX_DIM, .normalize = BqNormalize}, .metric = metric_, .type = type_};       \
                                                                                                                       \
		PG_RETURN_POINTER(&info);                                                                                      \
	}

/* Support function 3 of each operator class. */
SUPPORT(bqhnsw_vector_l2_support, BQK_L2, BQ_VECTOR)
SUPPORT(bqhnsw_vector_ip_support, BQK_IP, BQ_VECTOR)
SUPPORT(bqhnsw_vector_cosine_support, BQK_COSINE, BQ_VECTOR)
SUPPORT(bqhnsw_halfvec_l2_support, BQK_L2, BQ_HALFVEC)
SUPPORT(bqhnsw_halfvec_ip_support, BQK_IP, BQ_HALFVEC)
SUPPORT(bqhnsw_halfvec_cosine_support, BQK_COSINE, BQ_HALFVEC)

PG_FUNCTION_INFO_V1(bqcore_version);
Datum
bqcore_version(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(BQCORE_VERSION));
}
