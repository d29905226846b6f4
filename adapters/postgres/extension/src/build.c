/* Index build: take the centroid from a sample, let pgvector build its graph over codes, store the model. */
#include "bqcore.h"

#include <math.h>

#include "access/tableam.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/guc.h"
#include "utils/memutils.h"

/* A mean of 10,000 rows is off by 1 % of the data's spread. */
#define SAMPLE_ROWS 10000

#define DEFAULT_SEED 42

/* Room that pgvector needs on a page beside the value: its element tuple's fields, then header, special space
 * and line pointer of the page. */
#define HNSW_ELEMENT_HEADER 72
#define HNSW_VALUE_MAX                                                                                                 \
	(BLCKSZ - MAXALIGN(SizeOfPageHeaderData) - MAXALIGN(8) - sizeof(ItemIdData) - HNSW_ELEMENT_HEADER -                \
	 (MAXIMUM_ALIGNOF - 1))

typedef struct Sample
{
	uint32 dim;
	int metric;
	BqType type;
	float *buf;
	double *sum;
	uint64 rows;
	MemoryContext tmp;
} Sample;

static int
index_bits(Relation index)
{
	BqOptions *options = (BqOptions *) index->rd_options;

	return options ? options->bits : BQ_DEFAULT_BITS;
}

static void
add_row(Relation index, ItemPointer tid, Datum *values, bool *isnull, bool tupleIsAlive, void *state)
{
	Sample *s = state;
	const float *x;
	double norm2 = 0.0, scale = 1.0;
	MemoryContext old;

	if (isnull[0])
		return;
	old = MemoryContextSwitchTo(s->tmp);
	x = BqCoordinates((BqVector *) PG_DETOAST_DATUM(values[0]), s->dim, s->type, s->buf);
	if (s->metric == BQK_COSINE)
	{
		for (uint32 i = 0; i < s->dim; i++)
			norm2 += (double) x[i] * x[i];
		scale = norm2 > 0.0 ? 1.0 / sqrt(norm2) : 0.0;
	}
	if (scale > 0.0)
	{
		for (uint32 i = 0; i < s->dim; i++)
			s->sum[i] += x[i] * scale;
		s->rows++;
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(s->tmp);
}

static uint64
gcd(uint64 a, uint64 b)
{
	while (b)
	{
		uint64 r = a % b;

		a = b;
		b = r;
	}
	return a;
}

/* Mean of a block sample. Blocks come in strides of the golden ratio, so that any first part of the
 * sequence covers the table evenly; the same table always gives the same centroid. */
static void
take_centroid(Relation heap, Relation index, IndexInfo *indexInfo, Sample *s)
{
	uint64 blocks = RelationGetNumberOfBlocks(heap);
	uint64 stride = (uint64) (blocks * 0.6180339887) | 1, block = 0;

	while (blocks > 0 && gcd(stride, blocks) != 1)
		stride += 2;
	for (uint64 i = 0; i < blocks && s->rows < SAMPLE_ROWS; i++)
	{
		CHECK_FOR_INTERRUPTS();
		/* a concurrent build scans with a snapshot, which excludes anyvisible */
		table_index_build_range_scan(heap, index, indexInfo, false, !indexInfo->ii_Concurrent, false,
									 (BlockNumber) block, 1, add_row, s, NULL);
		block = (block + stride) % blocks;
	}
}

static void
check_size(Relation index, int dim, int bits)
{
	Size size = BQ_CODE_SIZE(dim, bits);

	if (dim > BQK_MAX_DIM || size > HNSW_VALUE_MAX)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("column with %d dimensions is too wide for a bqhnsw index with bits = %d", dim, bits),
						errdetail("Its codes take %zu bytes, of at most %zu.", size, (Size) HNSW_VALUE_MAX)));
}

/* A model in the current memory context; without rows its centroid is zero. */
static bqk_model *
train(Relation heap, Relation index, IndexInfo *indexInfo)
{
	int32 dim = TupleDescAttr(RelationGetDescr(index), 0)->atttypmod;
	bqk_model *model = palloc0(sizeof(bqk_model));
	float *centroid, *signs;
	Sample s = {0};

	if (dim < 1)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("column does not have dimensions"),
						errhint("Declare it as vector(n).")));
	model->bits = (uint8) index_bits(index);
	model->metric = (uint8) BqGetTypeInfo(index)->metric;
	check_size(index, dim, model->bits);

	s.dim = (uint32) dim;
	s.metric = model->metric;
	s.type = BqGetTypeInfo(index)->type;
	s.buf = palloc(sizeof(float) * dim);
	s.sum = palloc0(sizeof(double) * dim);
	s.tmp = AllocSetContextCreate(CurrentMemoryContext, "bqhnsw sample", ALLOCSET_DEFAULT_SIZES);
	if (heap)
		take_centroid(heap, index, indexInfo, &s);
	MemoryContextDelete(s.tmp);

	centroid = palloc(sizeof(float) * dim);
	for (int i = 0; i < dim; i++)
		centroid[i] = (float) (s.rows ? s.sum[i] / (double) s.rows : 0.0);
	signs = palloc(sizeof(float) * bqk_signs_count(dim));
	bqk_signs_init(dim, DEFAULT_SEED, signs);
	model->dim = (uint32) dim;
	model->rotation = BQK_ROTATION_HADAMARD;
	model->seed = DEFAULT_SEED;
	model->n_trained = s.rows;
	model->centroid = centroid;
	model->signs = signs;
	return model;
}

IndexBuildResult *
BqBuild(Relation heap, Relation index, IndexInfo *indexInfo)
{
	IndexBuildResult *volatile result = NULL;
	BqBuildContext context, outer;
	struct dsm_segment *segment;
	int nest;

	BqCheckPgvector();
	context.model = train(heap, index, indexInfo);
	context.type = BqGetTypeInfo(index)->type;

	nest = NewGUCNestLevel();
	segment = BqShareBuildContext(&context);
	outer = BqSetBuildContext(context);
	PG_TRY();
	{
		result = BqInner()->ambuild(heap, index, indexInfo);
	}
	PG_FINALLY();
	{
		BqSetBuildContext(outer);
	}
	PG_END_TRY();
	AtEOXact_GUC(false, nest);
	BqUnshareBuildContext(segment);

	BqModelStore(index, MAIN_FORKNUM, context.model);
	return result;
}

/* The init fork of an unlogged index: crash recovery copies it over the main fork. */
void
BqBuildEmpty(Relation index)
{
	bqk_model *model;

	BqCheckPgvector();
	model = train(NULL, index, NULL);
	BqInner()->ambuildempty(index);
	BqModelStore(index, INIT_FORKNUM, model);
}
