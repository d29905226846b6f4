/* Index build: take the centroid from a sample, let pgvector build its graph over codes, store the model. */
#include "hnsw_pages.h"

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

/* A model in the current memory context; without rows its centroid is zero. */
static bqk_model *
train(Relation heap, Relation index, IndexInfo *indexInfo)
{
	int32 dim = TupleDescAttr(RelationGetDescr(index), 0)->atttypmod;
	int bits = index_bits(index);
	Sample s;

	if (dim < 1)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("column does not have dimensions"),
						errhint("Declare it as vector(n).")));
	check_size(index, dim, bits);

	BqSumBegin(&s.sum, (uint32) dim, BqGetTypeInfo(index)->metric);
	s.type = BqGetTypeInfo(index)->type;
	s.buf = palloc(sizeof(float) * dim);
	s.tmp = AllocSetContextCreate(CurrentMemoryContext, "bqhnsw sample", ALLOCSET_DEFAULT_SIZES);
	if (heap)
		take_centroid(heap, index, indexInfo, &s);
	MemoryContextDelete(s.tmp);
	return BqSumModel(&s.sum, bits, BQ_DEFAULT_SEED);
}

IndexBuildResult *
BqBuild(Relation heap, Relation index, IndexInfo *indexInfo)
{
	IndexBuildResult *volatile result = NULL;
	BqBuildContext context, outer;
	struct dsm_segment *segment;
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
