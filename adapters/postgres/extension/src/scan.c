/* Index scans: a walk through the graph of codes gives candidates, rescoring gives rows.
 *
 * A candidate's estimate has a deviation that is known, so its distance is hardly below estimate - bqcore.epsilon
 * deviations. A row is returned as soon as its exact distance is below that of all candidates that have not been
 * rescored, and of all elements that the walk may find yet: where bounds overlap more, the walk goes further. Without
 * iterative scans it ends with WALK_LIMIT times hnsw.ef_search elements, or when rows of hnsw.ef_search elements have
 * been returned.
 *
 * A row may all the same turn up after one that is further. Under strict_order it is left out, under relaxed_order
 * returned as it comes, and without iterative scans kept and returned last.
 *
 * With bqcore.rescore set, or without a walk of our own, a number of rows decides instead: see set_window. */
#include "rescore.h"
#include "walk.h"
#include "walk_sets.h"

#include <math.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "utils/float.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define WALK_LIMIT 10

typedef struct BqScan
{
	IndexScanDesc inner; /* pgvector's scan, with the query code as its argument; NULL until it is needed */
	BqWalk *walk;        /* in its place, if any */
	BqQueue pool;        /* elements that the walk found and that have not been rescored, by lower bound */
	BqRescorer rescorer;
	bool rescoring; /* rescorer is open */
	bool first;
	bool exhausted; /* no candidates are to come */
	bool bounded;   /* bounds decide what is rescored, not numbers */
	BqIterative iterative;
	int metric;
	uint32 ef_search, walkLimit;
	Size memoryLimit;  /* of an iterative walk */
	double last;       /* distance of the last row returned */
	int64 returned;    /* elements */
	int64 rescored;    /* elements, of the walk */
	int64 leastRescored;
	pairingheap *late; /* rows nearer than ones that had been returned before they were found */
	int64 ahead;       /* see set_window */
	int64 slope;
	int64 floor;
	double growth;
	MemoryContext ctx;     /* one rescan */
	MemoryContext scanCtx; /* the whole scan */
} BqScan;

IndexScanDesc
BqBeginScan(Relation index, int nkeys, int norderbys)
{
	IndexScanDesc scan = RelationGetIndexScan(index, nkeys, norderbys);
	BqScan *s = palloc0(sizeof(BqScan));

	s->scanCtx = CurrentMemoryContext;
	s->ctx = AllocSetContextCreate(CurrentMemoryContext, "bqhnsw scan", ALLOCSET_DEFAULT_SIZES);
	scan->opaque = s;
	return scan;
}

void
BqRescan(IndexScanDesc scan, ScanKey keys, int nkeys, ScanKey orderbys, int norderbys)
{
	BqScan *s = scan->opaque;

	if (keys && scan->numberOfKeys > 0)
		memmove(scan->keyData, keys, scan->numberOfKeys * sizeof(ScanKeyData));
	if (orderbys && scan->numberOfOrderBys > 0)
		memmove(scan->orderByData, orderbys, scan->numberOfOrderBys * sizeof(ScanKeyData));
	if (s->rescoring)
		BqRescorerReset(&s->rescorer);
	MemoryContextReset(s->ctx);
	s->first = true;
}

/* Elements that are rescored before a row is returned where numbers decide: `ahead` and slope - 1 more for each one
 * returned. Iterative scans start alike and then let those that wait fall to `floor`, or `growth` times those returned,
 * because each batch costs pgvector another walk. The numbers follow the error of estimates: at 1 bit all that pgvector's
 * walk kept, at 4 bits a few per row. */
static void
set_window(BqScan *s, int bits)
{
	if (bq_rescore >= 0)
	{
		s->ahead = Max(bq_rescore, 1);
		s->slope = 1;
	}
	else if (bits == 1)
	{
		s->ahead = s->ef_search;
		s->slope = 1;
	}
	else
	{
		s->ahead = bits == 2 ? 40 : (bits == 4 ? 12 : 10);
		s->slope = bits == 2 ? 3 : (bits == 4 ? 2 : 1);
	}
	s->floor = Max(Min(s->ef_search / 2, s->ahead), 1);
	s->growth = bq_rescore >= 0 ? 0.0 : 2.0 / bits;
}

/* ---- candidates of our own walk ---- */

/* Moves what the walk has found since into the pool. */
static void
pool_elements(BqScan *s)
{
	int64 number;

	while ((number = BqWalkTake(s->walk)) >= 0)
	{
		const BqElement *e = BqWalkElement(s->walk, (uint32) number);

		BqQueuePush(&s->pool, e->distance - (float) bq_epsilon * e->error, (uint32) number);
	}
}

static void
begin_walk(IndexScanDesc scan, BqScan *s, const BqQuery *query)
{
	int64 most = s->iterative == BQ_ITERATIVE_OFF ? PG_INT64_MAX : BqMaxScanTuples();

	pgstat_count_index_scan(scan->indexRelation);
#if PG_VERSION_NUM >= 180000
	if (scan->instrument)
		scan->instrument->nsearches++;
#endif
	/* nothing stays pinned between rows, so that vacuum may remove what other snapshots would still look for */
	if (!IsMVCCSnapshot(scan->xs_snapshot))
		elog(ERROR, "bqhnsw needs an MVCC snapshot");
	s->memoryLimit = (Size) (BqScanMemMultiplier() * work_mem * 1024.0);
	s->bounded = bq_rescore < 0;
	/* the bound is that of most candidates, not of all: hnsw.ef_search goes on to raise recall beyond it */
	s->leastRescored = s->ef_search / BqBits(&query->h);
	if (s->iterative != BQ_ITERATIVE_OFF)
		s->walkLimit = PG_INT32_MAX;
	else
		s->walkLimit = s->bounded ? WALK_LIMIT * s->ef_search : s->ef_search;
	s->walk = BqWalkBegin(scan->indexRelation, query, BqBits(&query->h), s->ef_search, most);
	BqQueueInit(&s->pool, 2 * s->ef_search);
	pool_elements(s);
}

static bool
walk_may_grow(const BqScan *s)
{
	return !BqWalkEnded(s->walk) && BqWalkSize(s->walk) < s->walkLimit;
}

/* Least estimate, less its error, of what the walk has not found. */
static float
bound_of_unfound(const BqScan *s)
{
	return walk_may_grow(s) ? BqWalkReach(s->walk) - (float) bq_epsilon * BqWalkError(s->walk) : INFINITY;
}

static void
grow_walk(BqScan *s)
{
	uint32 size = BqWalkSize(s->walk);

	if (s->iterative != BQ_ITERATIVE_OFF && MemoryContextMemAllocated(s->ctx, false) > s->memoryLimit)
		BqWalkStop(s->walk);
	BqWalkGrow(s->walk, Min(size + Max(size / 2, 16), s->walkLimit));
	pool_elements(s);
}

/* Whether a row at this distance may be returned only after more has been rescored. */
static bool
wants_candidates(const BqScan *s, double distance)
{
	float bound = Min(bound_of_unfound(s), s->pool.n > 0 ? s->pool.entries[0].key : INFINITY);

	if (s->rescored < s->leastRescored && (s->pool.n > 0 || walk_may_grow(s)))
		return true;
	/* of a query without direction, or rows beyond float's range: no bound is above it */
	if (isnan(distance))
		return false;
	/* operators of l2 return the root of what codes estimate */
	return distance > (s->metric != BQK_L2 ? bound : (bound > 0.0f ? sqrt(bound) : 0.0));
}

/* Candidates are rescored together, so that their pages are asked for before they are needed. */
#define FIRST_BATCH 16
#define NEXT_BATCH 8

/* Adds rows of the pool's next elements; false if the walk has no more. */
static int
next_elements(BqScan *s, BqCandidate *candidates)
{
	int n = 0, batch = s->returned == 0 && s->rescorer.n_pending == 0 ? FIRST_BATCH : NEXT_BATCH;

	while (s->pool.n == 0 || bound_of_unfound(s) < s->pool.entries[0].key)
	{
		CHECK_FOR_INTERRUPTS();
		if (walk_may_grow(s))
			grow_walk(s);
		else if (s->pool.n == 0)
			return 0;
	}
	for (int elements = 0; elements < batch && s->pool.n > 0; elements++)
	{
		const BqElement *e = BqWalkElement(s->walk, BqQueuePop(&s->pool).element);

		for (int i = e->n_tids - 1; i >= 0; i--)
			candidates[n++] = (BqCandidate) {e->heap_tids[i], i == e->n_tids - 1};
		s->rescored++;
	}
	return n;
}

StaticAssertDecl(FIRST_BATCH * HNSW_HEAPTIDS <= BQ_RESCORE_BATCH, "rows of a batch of elements");

/* ---- candidates of pgvector's scan ---- */

/* pgvector's strict mode would drop candidates that come late by estimate; here exact distances decide, so it runs
 * relaxed. */
static bool
next_of_inner(BqScan *s, ItemPointer tid)
{
	volatile bool found = false;
	int old;

	if (s->iterative != BQ_ITERATIVE_STRICT)
		found = BqInner()->amgettuple(s->inner, ForwardScanDirection);
	else
	{
		old = BqSwapIterative(BQ_ITERATIVE_RELAXED);
		PG_TRY();
		{
			found = BqInner()->amgettuple(s->inner, ForwardScanDirection);
		}
		PG_FINALLY();
		{
			BqRestoreIterative(old);
		}
		PG_END_TRY();
	}
	*tid = s->inner->xs_heaptid;
	return found;
}

static void
begin_inner(IndexScanDesc scan, BqScan *s, ScanKey orderby)
{
	if (s->inner == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(s->scanCtx);

		s->inner = BqInner()->ambeginscan(scan->indexRelation, scan->numberOfKeys, scan->numberOfOrderBys);
		MemoryContextSwitchTo(old);
	}
	s->inner->heapRelation = scan->heapRelation;
	s->inner->xs_snapshot = scan->xs_snapshot;
#if PG_VERSION_NUM >= 180000
	s->inner->instrument = scan->instrument;
#endif
	BqInner()->amrescan(s->inner, NULL, 0, orderby, 1);
}

/* ---- rows ---- */

static int64
wanted_elements(const BqScan *s)
{
	if (s->iterative == BQ_ITERATIVE_OFF)
		return s->ahead + (s->slope - 1) * s->returned;
	return s->returned == 0 ? s->ahead : Max(s->floor, (int64) (s->growth * s->returned));
}

/* Fetches and rescores some candidates, or finds that there are none. */
static void
rescore_some(IndexScanDesc scan, BqScan *s)
{
	BqCandidate candidates[BQ_RESCORE_BATCH];
	MemoryContext old = MemoryContextSwitchTo(s->ctx);
	int n = 0;

	if (s->walk)
		n = next_elements(s, candidates);
	else
	{
		int64 missing = Min(wanted_elements(s) - s->rescorer.n_pending, (int64) lengthof(candidates));

		MemoryContextSwitchTo(old);
		while (n < missing && next_of_inner(s, &candidates[n].tid))
			candidates[n++].counts = true;
		MemoryContextSwitchTo(s->ctx);
	}
	if (n == 0)
		s->exhausted = true;
	BqRescorerAdd(&s->rescorer, scan->xs_snapshot, candidates, n);
	MemoryContextSwitchTo(old);
}

static void
start(IndexScanDesc scan, BqScan *s)
{
	MemoryContext old = MemoryContextSwitchTo(s->ctx);
	const struct varlena *columnModel = NULL;
	const bqk_model *model;
	BqQuery *prepared = NULL;
	ScanKeyData orderby;
	BqView query;
	int bits;

	if (scan->orderByData == NULL)
		elog(ERROR, "cannot scan bqhnsw index without order");
	orderby = scan->orderByData[0];
	s->ef_search = (uint32) BqEfSearch();
	s->iterative = BqIterativeScan();
	s->walk = NULL;
	s->bounded = false;
	s->exhausted = false;
	s->last = -get_float8_infinity();
	s->returned = s->rescored = 0;
	s->late = pairingheap_allocate(BqNearestFirst, NULL);
	if (orderby.sk_flags & SK_ISNULL)
		bits = BqModelGet(scan->indexRelation)->bits;
	else
	{
		BqVector *vec = (BqVector *) PG_DETOAST_DATUM(orderby.sk_argument);
		const BqTypeInfo *info = BqGetTypeInfo(scan->indexRelation);

		columnModel = BqColumnModelGet(scan->heapRelation, scan->indexRelation);
		if (columnModel)
			query = BqPrepareFloat(BqModelOf(columnModel), vec, info->type);
		model = BqModelGet(scan->indexRelation);
		bits = model->bits;
		prepared = BqPrepare(model, vec, info->type);
		orderby.sk_argument = PointerGetDatum(prepared);
		s->metric = info->metric;
	}
	set_window(s, bits);
	if (bq_own_walk && prepared)
		begin_walk(scan, s, prepared);
	MemoryContextSwitchTo(old);

	if (s->walk == NULL)
		begin_inner(scan, s, &orderby);
	if (!s->rescoring)
	{
		/* lives as long as the scan, whatever context the executor calls from */
		old = MemoryContextSwitchTo(s->scanCtx);
		BqRescorerBegin(&s->rescorer, scan->heapRelation, scan->indexRelation, scan->orderByData);
		MemoryContextSwitchTo(old);
		BqFilterBegin(&s->rescorer.filter, scan);
		s->rescoring = true;
	}
	s->rescorer.column = columnModel ? BqRescoreAttribute(scan->heapRelation, scan->indexRelation) : 0;
	if (columnModel)
		s->rescorer.query = query;
	s->first = false;
}

/* Whether the nearest row that waits, NULL if none does, has to wait for more candidates. */
static bool
has_to_wait(const BqScan *s, const BqRow *row)
{
	if (s->exhausted)
		return false;
	if (row == NULL)
		return true;
	return s->bounded ? wants_candidates(s, row->distance) : s->rescorer.n_pending < wanted_elements(s);
}

/* The next row in the order that is promised, NULL at the end. */
static BqRow *
next_row(IndexScanDesc scan, BqScan *s)
{
	for (;;)
	{
		const BqRow *nearest = BqRescorerFirst(&s->rescorer);
		BqRow *row;

		if (has_to_wait(s, nearest))
		{
			rescore_some(scan, s);
			continue;
		}
		if (nearest == NULL)
			return NULL;
		row = BqRescorerTake(&s->rescorer, scan->xs_snapshot, s->exhausted);
		if (row == NULL)
			continue;
		if (!(row->distance < s->last) || s->iterative == BQ_ITERATIVE_RELAXED)
			return row;
		if (s->iterative == BQ_ITERATIVE_OFF)
			pairingheap_add(s->late, &row->node);
		else
			pfree(row);
	}
}

bool
BqGetTuple(IndexScanDesc scan, ScanDirection dir)
{
	BqScan *s = scan->opaque;
	BqRow *row;

	if (s->first)
		start(scan, s);
	row = next_row(scan, s);
	if (row == NULL && !pairingheap_is_empty(s->late))
		row = pairingheap_container(BqRow, node, pairingheap_remove_first(s->late));
	if (row == NULL)
		return false;
	s->last = Max(s->last, row->distance);
	s->returned += row->counts;
	if (s->iterative == BQ_ITERATIVE_OFF && s->bounded && s->returned >= s->ef_search)
		s->exhausted = true;
	scan->xs_heaptid = row->tid;
	scan->xs_recheck = false;
	scan->xs_recheckorderby = false;
	pfree(row);
	return true;
}

void
BqEndScan(IndexScanDesc scan)
{
	BqScan *s = scan->opaque;

	if (s->rescoring)
	{
		BqFilterEnd(&s->rescorer.filter);
		BqRescorerEnd(&s->rescorer);
	}
	if (s->inner)
	{
		BqInner()->amendscan(s->inner);
		/* index_endscan would do this for its own descriptor, but the inner one is ours */
		IndexScanEnd(s->inner);
	}
	MemoryContextDelete(s->ctx);
	pfree(s);
	scan->opaque = NULL;
}
