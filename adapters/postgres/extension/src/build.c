/* Index build: take the centroid from a sample, let pgvector build its graph over codes, store the model. */
#include "waiting.h"

#include "access/tableam.h"
#include "catalog/index.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/guc.h"
#include "utils/memutils.h"

/* A mean of 10,000 rows is off by 1 % of the data's spread. */
#define SAMPLE_ROWS 10000
#define MIN_BLOCK_BUDGET 10000
#define FIRST_PORTION 16

/* Room that pgvector needs on a page beside the value: its element tuple's fields, then header, special space
 * and line pointer of the page. */
#define HNSW_VALUE_MAX                                                                                                 \
	(BLCKSZ - MAXALIGN(SizeOfPageHeaderData) - MAXALIGN(8) - sizeof(ItemIdData) - offsetof(HnswElement, code) -        \
	 (MAXIMUM_ALIGNOF - 1))

typedef struct Sample
{
	BqSum sum;
	BqType type;
	float *buf;
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
	MemoryContext old;

	if (isnull[0])
		return;
	old = MemoryContextSwitchTo(s->tmp);
	BqSumAdd(&s->sum, BqCoordinates((BqVector *) PG_DETOAST_DATUM(values[0]), s->sum.dim, s->type, s->buf));
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

static int
by_block(const void *a, const void *b)
{
	BlockNumber x = *(const BlockNumber *) a, y = *(const BlockNumber *) b;

	return x < y ? -1 : x > y;
}

/* How many blocks may be read: where the index holds few of the table's rows, a sample must not cost more than the
 * build. Where all rows are indexed a thirtieth of it is enough. */
static uint64
block_budget(Relation heap)
{
	BlockNumber pages;
	double rows, visible;

	table_relation_estimate_size(heap, NULL, &pages, &rows, &visible);
	return (uint64) Max((double) MIN_BLOCK_BUDGET, 30.0 * SAMPLE_ROWS * Max(pages, 1) / Max(rows, pages + 1.0));
}

/* Mean of a block sample. Blocks come in strides of the golden ratio, so that any first part of the sequence covers the
 * table evenly; the same table always gives the same centroid. They are read in portions, each in the table's order,
 * which lets the kernel read ahead, and each as large as the rows found so far let expect that it suffices. */
static void
take_centroid(Relation heap, Relation index, IndexInfo *indexInfo, Sample *s)
{
	uint64 blocks = RelationGetNumberOfBlocks(heap), budget = Min(blocks, block_budget(heap));
	uint64 stride = (uint64) (blocks * 0.6180339887) | 1, block = 0, portion = FIRST_PORTION, done = 0;
	BlockNumber *chosen = palloc(sizeof(BlockNumber) * Max(budget, 1));

	while (blocks > 0 && gcd(stride, blocks) != 1)
		stride += 2;
	while (done < budget && s->sum.rows < SAMPLE_ROWS)
	{
		portion = Min(portion, budget - done);
		for (uint64 i = 0; i < portion; i++, block = (block + stride) % blocks)
			chosen[i] = (BlockNumber) block;
		qsort(chosen, portion, sizeof(BlockNumber), by_block);
		for (uint64 i = 0; i < portion; i++)
		{
			CHECK_FOR_INTERRUPTS();
			/* a concurrent build scans with a snapshot, which excludes anyvisible */
			table_index_build_range_scan(heap, index, indexInfo, false, !indexInfo->ii_Concurrent, false, chosen[i], 1,
										 add_row, s, NULL);
		}
		done += portion;
		if (s->sum.rows > 0 && s->sum.rows < SAMPLE_ROWS)
			portion = Min(done, (SAMPLE_ROWS - s->sum.rows) * done / s->sum.rows + 1);
		else
			portion = done;
	}
	pfree(chosen);
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

static void
begin_sample(Relation index, Sample *s)
{
	int32 dim = TupleDescAttr(RelationGetDescr(index), 0)->atttypmod;

	if (dim < 1)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("column does not have dimensions"),
						errhint("Declare it as vector(n).")));
	check_size(index, dim, index_bits(index));
	BqSumBegin(&s->sum, (uint32) dim, BqGetTypeInfo(index)->metric);
	s->type = BqGetTypeInfo(index)->type;
	s->buf = palloc(sizeof(float) * dim);
	s->tmp = AllocSetContextCreate(CurrentMemoryContext, "bqhnsw sample", ALLOCSET_DEFAULT_SIZES);
}

/* The rows of a build that may be too few for a model. */
typedef struct Few
{
	Sample sample;
	const bqk_model *zero;
	ItemPointerData *tids; /* bq_train_rows at most */
	uint32 n, room;
	uint64 rows;
} Few;

static void
add_few(Relation index, ItemPointer tid, Datum *values, bool *isnull, bool tupleIsAlive, void *state)
{
	Few *f = state;
	MemoryContext old;
	const BqVector *vec;

	if (isnull[0])
		return;
	old = MemoryContextSwitchTo(f->sample.tmp);
	vec = (const BqVector *) PG_DETOAST_DATUM(values[0]);
	if (BqHasCode(f->sample.sum.metric, vec, f->sample.type))
	{
		/* what cannot be encoded is an error of the build, as with a model */
		(void) BqEncode(f->zero, vec, f->sample.type);
		if (f->sample.sum.rows < SAMPLE_ROWS)
			BqSumAdd(&f->sample.sum, BqCoordinates(vec, f->sample.sum.dim, f->sample.type, f->sample.buf));
		if (f->n == f->room && f->n < (uint32) bq_train_rows)
		{
			f->room = Min(2 * f->room, (uint32) bq_train_rows);
			f->tids = repalloc(f->tids, f->room * sizeof(ItemPointerData));
		}
		if (f->n < f->room)
			f->tids[f->n++] = *tid;
		f->rows++;
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(f->sample.tmp);
}

/* CREATE INDEX says that an index waits; what truncates or rewrites a table does not. */
static void
tell_waiting(Relation index, const IndexInfo *indexInfo, uint64 rows)
{
	if (ReindexIsProcessingIndex(RelationGetRelid(index)) ||
		(index->rd_createSubid == InvalidSubTransactionId && !indexInfo->ii_Concurrent))
		return;
	ereport(NOTICE, (errmsg("index \"%s\" has " UINT64_FORMAT " rows: it waits for %d to take its centroid from",
							RelationGetRelationName(index), rows, bq_train_rows),
					 errdetail("Until then scans read its rows one by one; vacuum then moves them into the graph.")));
}

/* A sample has found too few rows for a model: all of them, as a list. NULL, and a model of theirs, if that was wrong,
 * because the sample did not reach them. */
static IndexBuildResult *
build_list(Relation heap, Relation index, IndexInfo *indexInfo, bqk_model **model)
{
	Few f = {.zero = *model, .room = Min(64, (uint32) bq_train_rows)};
	IndexBuildResult *result;
	double heapRows;

	begin_sample(index, &f.sample);
	f.tids = palloc(f.room * sizeof(ItemPointerData));
	heapRows = table_index_build_scan(heap, index, indexInfo, true, true, add_few, &f, NULL);
	MemoryContextDelete(f.sample.tmp);
	if (f.rows >= (uint64) bq_train_rows)
	{
		*model = BqSumModel(&f.sample.sum, (*model)->bits, BQ_DEFAULT_SEED);
		return NULL;
	}
	/* without a table pgvector builds an empty graph, as it does for the init fork */
	result = BqInner()->ambuild(NULL, index, indexInfo);
	BqModelStore(index, MAIN_FORKNUM, *model);
	BqWaitingStore(index, MAIN_FORKNUM, f.tids, f.n);
	tell_waiting(index, indexInfo, f.rows);
	result->heap_tuples = heapRows;
	result->index_tuples = (double) f.n;
	return result;
}

/* A model in the current memory context; without rows its centroid is zero. */
static bqk_model *
train(Relation heap, Relation index, IndexInfo *indexInfo)
{
	Sample s;

	begin_sample(index, &s);
	if (heap)
		take_centroid(heap, index, indexInfo, &s);
	MemoryContextDelete(s.tmp);
	return BqSumModel(&s.sum, index_bits(index), BQ_DEFAULT_SEED);
}

IndexBuildResult *
BqBuild(Relation heap, Relation index, IndexInfo *indexInfo)
{
	IndexBuildResult *volatile result = NULL;
	BqBuildContext context, outer;
	struct dsm_segment *segment;
	bqk_model *model;
	int nest;

	BqCheckPgvector();
	/* TRUNCATE and rewriting ALTER TABLE rebuild indexes: a column that is gone by then stops scans, not them */
	if (!ReindexIsProcessingIndex(RelationGetRelid(index)))
	{
		AttrNumber column = BqRescoreAttribute(heap, index);

		BqWarnOfPgvector();
		if (column != 0)
			BqRescoreModel(heap, index, column);
	}
	model = train(heap, index, indexInfo);
	if (model->n_trained < (uint64) bq_train_rows)
	{
		/* the codes of a list's rows are checked with the centroid that they would have without a model */
		memset((void *) model->centroid, 0, sizeof(float) * model->dim);
		model->n_trained = 0;
		result = build_list(heap, index, indexInfo, &model);
		if (result)
			return result;
	}
	context.model = model;
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
	if (bq_train_rows > 0)
		BqWaitingStore(index, INIT_FORKNUM, NULL, 0);
}
