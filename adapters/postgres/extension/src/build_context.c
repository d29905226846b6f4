/* The model of the running build, in this process and in the workers of a parallel one.
 *
 * pgvector's workers start from its own entry point and know nothing of us, but settings travel to them. So the
 * leader puts the model into a shared segment and the segment's handle into a setting. */
#include "bqcore.h"

#include "access/parallel.h"
#include "miscadmin.h"
#include "storage/dsm.h"
#include "utils/guc.h"
#include "utils/memutils.h"

static char *build_segment;
static bool sharing = false; /* BqShareBuildContext is setting it */

static BqBuildContext current = {NULL, BQ_VECTOR};

typedef struct Shared
{
	uint32 type;
	uint32 nbytes;
	uint8 model[FLEXIBLE_ARRAY_MEMBER];
} Shared;

/* Only a build sets it, and workers take it over. */
static bool
check_build_segment(char **newval, void **extra, GucSource source)
{
	if (**newval == '\0' || sharing || InitializingParallelWorker)
		return true;
	GUC_check_errdetail("It is set by parallel index builds only.");
	return false;
}

void
BqDefineBuildSegment(void)
{
	DefineCustomStringVariable(
		"bqcore.build_segment", "Internal: shared segment of a parallel build.", NULL, &build_segment, "", PGC_USERSET,
		GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE | GUC_DISALLOW_IN_FILE | GUC_NO_RESET_ALL, check_build_segment, NULL, NULL);
}

/* Returns the context that was set before, for the caller to put back. */
BqBuildContext
BqSetBuildContext(BqBuildContext context)
{
	BqBuildContext old = current;

	current = context;
	return old;
}

/* Publishes the context to parallel workers until the caller's GUC nest level ends. Returns the segment, for
 * BqUnshareBuildContext; without shared memory to be had, or with a pgvector whose parallel builds are unsafe, it is
 * NULL and the build is serial. */
dsm_segment *
BqShareBuildContext(const BqBuildContext *context)
{
	Size nbytes = bqk_model_nbytes(context->model);
	dsm_segment *segment = NULL;
	Shared *shared;

	if (max_parallel_maintenance_workers > 0 && BqMayBuildInParallel())
		segment = dsm_create(offsetof(Shared, model) + nbytes, DSM_CREATE_NULL_IF_MAXSEGMENTS);
	if (segment == NULL)
	{
		(void) set_config_option("max_parallel_maintenance_workers", "0", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
								 true, 0, false);
		return NULL;
	}
	shared = dsm_segment_address(segment);
	shared->type = context->type;
	shared->nbytes = (uint32) nbytes;
	if (bqk_model_write(context->model, shared->model, nbytes) != BQK_OK)
		elog(ERROR, "bqhnsw: cannot write the model");
	sharing = true;
	PG_TRY();
	{
		(void) set_config_option("bqcore.build_segment", psprintf("%u", dsm_segment_handle(segment)), PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	}
	PG_FINALLY();
	{
		sharing = false;
	}
	PG_END_TRY();
	return segment;
}

/* After an error the resource owner does it. */
void
BqUnshareBuildContext(dsm_segment *segment)
{
	if (segment)
		dsm_detach(segment);
}

/* In a worker: what the leader published. */
static void
attach(void)
{
	dsm_segment *segment = dsm_attach((dsm_handle) strtoul(build_segment, NULL, 10));
	bqk_model *model = MemoryContextAllocZero(TopMemoryContext, sizeof(bqk_model));
	const Shared *shared;
	float *signs;

	if (segment == NULL)
		elog(ERROR, "bqhnsw: the model of the build is gone");
	dsm_pin_mapping(segment);
	shared = dsm_segment_address(segment);
	if (dsm_segment_map_length(segment) < offsetof(Shared, model) ||
		dsm_segment_map_length(segment) - offsetof(Shared, model) < shared->nbytes || shared->type >= BQ_TYPES ||
		bqk_model_read(shared->model, shared->nbytes, model) != BQK_OK)
		elog(ERROR, "bqhnsw: not the model of a build");
	signs = MemoryContextAlloc(TopMemoryContext, bqk_signs_count(model->dim) * sizeof(float));
	bqk_signs_init(model->dim, model->seed, signs);
	model->signs = signs;
	current = (BqBuildContext) {model, (BqType) shared->type};
}

const BqBuildContext *
BqGetBuildContext(void)
{
	if (unlikely(current.model == NULL))
	{
		if (!IsParallelWorker() || build_segment[0] == '\0')
			elog(ERROR, "bqhnsw: vector without a model");
		attach();
	}
	return &current;
}
