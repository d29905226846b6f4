/* Index scans: a walk through the graph of codes gives candidates, rescoring gives rows.
 *
 * A candidate's estimate has a deviation that is known, so its distance is hardly below estimate - bqcore.epsilon
 * deviations. Rows are returned as soon as all that are wanted, LIMIT of them, have an exact distance below that bound
 * of all candidates that have not been rescored, and of all elements that the walk may find yet: where bounds overlap
 * more, the walk goes further. If no LIMIT is known, EXPECTED_ROWS are wanted, and twice as many each time they are not
 * enough. Without iterative scans the walk ends with ten times hnsw.ef_search elements.
 *
 * A row may all the same turn up after one that is further. Under strict_order it is left out, under relaxed_order
 * returned as it comes, and without iterative scans kept and returned last.
 *
 * With bqcore.rescore set, or without a walk of our own, a number of elements decides instead: see budget.h. */
#include "budget.h"
#include "pg_compat.h"
#include "pool.h"
#include "waiting.h"

#include <math.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "utils/float.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define EXPECTED_ROWS 10

typedef struct BqScan
{
	IndexScanDesc inner; /* pgvector's scan, with the query code as its argument; NULL until it is needed */
	bool walking;        /* by ourselves, in its place: */
	BqPool pool;
	BqWaiting waiting; /* rows without an element in the graph */
	int64 listed;      /* of them, not yet returned */
	BqRescorer rescorer;
	bool rescoring; /* rescorer is open */
	bool first;
	bool exhausted; /* no candidates are to come */
	bool bounded;   /* bounds decide what is rescored, not numbers */
	BqIterative iterative;
	int metric;
	double last;         /* distance of the last row returned */
	int64 returned;      /* elements */
	int64 rows;          /* returned */
	int64 expected;      /* rows that the caller of BqScanExpect will ask for, or 0 */
	int64 target;        /* rows that are wanted */
	BqQueue nearest;     /* of the rescored rows, at most `target`, furthest first: keys are negative upper bounds */
	uint32 n_ranked;     /* rescored rows that have been put there, or were further */
	int64 leastRescored; /* elements, whatever their bounds */
	pairingheap *late;   /* rows nearer than ones that had been returned before they were found */
	BqWindow window;
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

/* For scans without a plan: as LIMIT tells others. */
void
BqScanExpect(IndexScanDesc scan, int64 rows)
{
	((BqScan *) scan->opaque)->expected = rows;
}

/* How many elements are to wait for a row to be returned, where numbers decide. */
static int64
wanted_elements(const BqScan *s)
{
	if (s->iterative == BQ_ITERATIVE_OFF)
		return s->window.ahead + (s->window.slope - 1) * s->returned;
	return s->returned == 0 ? s->window.ahead : Max(s->window.floor, (int64) (s->window.growth * s->returned));
}

/* ---- bounds ---- */

/* Upper bound of the distance at which the last row that is wanted is, in the unit of estimates. */
static float
bound_of_last(BqScan *s)
{
	for (; s->n_ranked < s->rescorer.n_uppers; s->n_ranked++)
	{
		double upper = s->rescorer.uppers[s->n_ranked];
		/* the operators of l2 return the root of what codes estimate; NaN sorts last */
		float bound = isnan(upper) ? INFINITY : (float) (s->metric == BQK_L2 ? upper * upper : upper);

		if (s->nearest.n == s->target && bound >= -s->nearest.entries[0].key)
			continue;
		BqQueuePush(&s->nearest, -bound, s->n_ranked);
		if (s->nearest.n > s->target)
			BqQueuePop(&s->nearest);
	}
	return s->nearest.n < s->target ? INFINITY : -s->nearest.entries[0].key;
}

static void
set_target(BqScan *s, int64 rows)
{
	s->target = rows;
	s->nearest.n = s->n_ranked = 0;
}

/* Whether a candidate that has not been rescored may be one of the rows that are wanted. */
static bool
wants_candidates(BqScan *s, double nearest)
{
	if (!BqPoolLeft(&s->pool))
		return false;
	if (s->pool.taken < s->leastRescored)
		return true;
	/* every distance is NaN for a query without direction */
	return !isnan(nearest) && bound_of_last(s) > BqPoolBound(&s->pool);
}

/* Candidates are rescored together, so that their pages are asked for before they are needed. */
#define NEXT_BATCH 16

/* Rows of the pool's next elements: as many as are wanted, or may be. */
static int
next_of_pool(BqScan *s, BqCandidate *candidates)
{
	if (!s->bounded)
		return BqPoolTake(&s->pool, candidates, wanted_elements(s) + s->listed - s->rescorer.n_pending, INFINITY);
	if (s->pool.taken < s->leastRescored)
		return BqPoolTake(&s->pool, candidates, Max(s->leastRescored - s->pool.taken, s->target), INFINITY);
	return BqPoolTake(&s->pool, candidates, NEXT_BATCH, bound_of_last(s));
}

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
	BqShareInstrument(s->inner, scan);
	BqInner()->amrescan(s->inner, NULL, 0, orderby, 1);
}

/* ---- rows ---- */

/* Rows that wait have been rescored already, and may have an element in the graph since. */
static int
leave_out_waiting(const BqScan *s, BqCandidate *candidates, int n)
{
	int kept = 0;

	for (int i = 0; i < n; i++)
		if (!BqWaitingHas(&s->waiting, &candidates[i].tid))
			candidates[kept++] = candidates[i];
	return kept;
}

/* Fetches and rescores some candidates, or finds that there are none. */
static void
rescore_some(IndexScanDesc scan, BqScan *s)
{
	BqCandidate candidates[BQ_RESCORE_BATCH];
	MemoryContext old = MemoryContextSwitchTo(s->ctx);
	int n = 0;

	if (s->walking)
		n = next_of_pool(s, candidates);
	else
	{
		int64 missing = Min(wanted_elements(s) + s->listed - s->rescorer.n_pending, (int64) lengthof(candidates));

		MemoryContextSwitchTo(old);
		while (n < missing && next_of_inner(s, &candidates[n].tid))
			candidates[n++].counts = true;
		MemoryContextSwitchTo(s->ctx);
	}
	if (n == 0)
		s->exhausted = true;
	if (s->waiting.n > 0)
		n = leave_out_waiting(s, candidates, n);
	BqRescorerAdd(&s->rescorer, scan->xs_snapshot, candidates, n);
	MemoryContextSwitchTo(old);
}

/* Of scans that are not pgvector's. */
static void
count_scan(IndexScanDesc scan)
{
	pgstat_count_index_scan(scan->indexRelation);
	BqCountSearch(scan);
	/* nothing stays pinned between rows, so that vacuum may remove what other snapshots would still look for */
	if (!IsMVCCSnapshot(scan->xs_snapshot))
		elog(ERROR, "bqhnsw needs an MVCC snapshot");
}

/* Rescores all rows that wait; the order of the reads is the contract of waiting.h. */
static void
add_waiting(IndexScanDesc scan, BqScan *s)
{
	BqCandidate candidates[BQ_RESCORE_BATCH];
	MemoryContext old = MemoryContextSwitchTo(s->ctx);

	for (uint32 at = 0; at < s->waiting.n;)
	{
		int n = 0;

		for (; n < BQ_RESCORE_BATCH && at < s->waiting.n; at++)
			candidates[n++] = (BqCandidate) {s->waiting.tids[at], true};
		BqRescorerAdd(&s->rescorer, scan->xs_snapshot, candidates, n);
	}
	MemoryContextSwitchTo(old);
	s->listed = s->rescorer.n_pending;
}

static void
begin_walk(IndexScanDesc scan, BqScan *s, const BqQuery *query)
{
	s->leastRescored = BqLeastRescored(BqBits(&query->h));
	BqPoolBegin(&s->pool, scan->indexRelation, query, (double) s->target);
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
	bool mayWalk;
	int64 limit;
	int bits;

	if (scan->orderByData == NULL)
		elog(ERROR, "cannot scan bqhnsw index without order");
	orderby = scan->orderByData[0];
	mayWalk = BqMayWalk();
	s->waiting = BqWaitingRead(scan->indexRelation);
	s->iterative = BqIterativeScan();
	s->exhausted = !s->waiting.trained;
	s->last = -get_float8_infinity();
	s->returned = s->rows = 0;
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
	s->window = BqScanWindow(bits);
	if (!s->rescoring)
	{
		/* lives as long as the scan, whatever context the executor calls from */
		MemoryContextSwitchTo(s->scanCtx);
		BqRescorerBegin(&s->rescorer, scan->heapRelation, scan->indexRelation, scan->orderByData);
		MemoryContextSwitchTo(s->ctx);
		BqScanNodeBegin(&s->rescorer.node, scan);
		s->rescoring = true;
	}
	limit = s->expected > 0 ? s->expected : BqScanNodeRows(&s->rescorer.node);
	set_target(s, limit > 0 ? limit : EXPECTED_ROWS);
	s->walking = mayWalk && prepared && s->waiting.trained;
	s->bounded = s->walking && BqBounded();
	s->rescorer.ranking = s->bounded;
	BqQueueInit(&s->nearest, 64);
	if (s->walking || !s->waiting.trained)
		count_scan(scan);
	if (s->walking)
		begin_walk(scan, s, prepared);
	MemoryContextSwitchTo(old);

	if (s->waiting.trained && !s->walking)
		begin_inner(scan, s, &orderby);
	s->rescorer.column = columnModel ? BqRescoreAttribute(scan->heapRelation, scan->indexRelation) : 0;
	if (columnModel)
		s->rescorer.query = query;
	s->first = false;
	add_waiting(scan, s);
}

/* Whether the nearest row that waits, NULL if none does, has to wait for more candidates. */
static bool
has_to_wait(BqScan *s, const BqRow *row)
{
	if (s->exhausted)
		return false;
	if (row == NULL)
		return true;
	if (s->rows >= s->target)
		set_target(s, 2 * s->target);
	return s->bounded ? wants_candidates(s, row->distance) : s->rescorer.n_pending < wanted_elements(s) + s->listed;
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
	if (s->listed > 0 && BqWaitingHas(&s->waiting, &row->tid))
		s->listed--;
	s->rows++;
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
		BqScanNodeEnd(&s->rescorer.node);
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
