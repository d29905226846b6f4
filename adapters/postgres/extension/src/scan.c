/* Index scans: a walk through the graph of codes gives candidates, rescoring gives rows. Iterative scans leave the walk
 * to pgvector, and so do those without a query (ORDER BY embedding <-> NULL).
 *
 * A row is returned while at least `ahead` + (slope - 1) returned rescored rows wait with it, or all there are.
 * Iterative scans start alike and then let the waiting rows fall to half of hnsw.ef_search, or growth times the rows
 * returned, because each batch costs pgvector another walk. A row that turns up later but belongs before one already
 * returned is left out, except under relaxed_order: what is returned is always in exact order. */
#include "rescore.h"
#include "waiting.h"
#include "walk.h"

#include "pgstat.h"
#include "utils/float.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

typedef struct BqScan
{
	IndexScanDesc inner; /* pgvector's scan, with the query code as its argument */
	BqWalk *walk;        /* in its place, if any */
	BqWaiting waiting;   /* rows without an element in the graph */
	int64 listed;        /* of them, not yet returned */
	BqRescorer rescorer;
	bool rescoring; /* rescorer is open */
	bool first;
	bool exhausted; /* the inner scan has no more candidates */
	BqIterative iterative;
	double last; /* distance of the last row returned */
	int64 returned;
	int ahead;
	int slope;
	int floor;             /* an iterative scan fetches more when fewer rows than this wait, */
	double growth;         /* or fewer than this times the rows returned */
	MemoryContext ctx;     /* one rescan */
	MemoryContext scanCtx; /* the whole scan */
} BqScan;

IndexScanDesc
BqBeginScan(Relation index, int nkeys, int norderbys)
{
	IndexScanDesc scan = RelationGetIndexScan(index, nkeys, norderbys);
	BqScan *s = palloc0(sizeof(BqScan));

	s->inner = BqInner()->ambeginscan(index, nkeys, norderbys);
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

/* Estimates decide which candidates are seen at all; how many are worth an exact distance follows their error:
 * at 1 bit all that the graph walk kept, at 4 bits a few per row. */
static void
set_window(BqScan *s, int bits)
{
	int ef_search = BqEfSearch();

	if (bq_rescore >= 0)
	{
		s->ahead = Max(bq_rescore, 1);
		s->slope = 1;
	}
	else if (bits == 1)
	{
		s->ahead = ef_search;
		s->slope = 1;
	}
	else
	{
		s->ahead = bits == 2 ? 40 : (bits == 4 ? 12 : 10);
		s->slope = bits == 2 ? 3 : (bits == 4 ? 2 : 1);
	}
	s->floor = Max(Min(ef_search / 2, s->ahead), 1);
	s->growth = bq_rescore >= 0 ? 0.0 : 2.0 / bits;
}

static void
count_scan(IndexScanDesc scan)
{
	pgstat_count_index_scan(scan->indexRelation);
#if PG_VERSION_NUM >= 180000
	if (scan->instrument)
		scan->instrument->nsearches++;
#endif
	/* nothing stays pinned between rows, so that vacuum may remove what other snapshots would still look for */
	if (!IsMVCCSnapshot(scan->xs_snapshot))
		elog(ERROR, "bqhnsw needs an MVCC snapshot");
}

/* Rescores all rows that wait; the order of the reads is the contract of waiting.h. */
static void
add_waiting(IndexScanDesc scan, BqScan *s)
{
	MemoryContext old = MemoryContextSwitchTo(s->ctx);

	for (uint32 at = 0; at < s->waiting.n; at += BQ_RESCORE_BATCH)
		BqRescorerAdd(&s->rescorer, scan->xs_snapshot, s->waiting.tids + at,
					  (int) Min(s->waiting.n - at, (uint32) BQ_RESCORE_BATCH));
	MemoryContextSwitchTo(old);
	s->listed = s->rescorer.n_pending;
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

	if (scan->orderByData == NULL)
		elog(ERROR, "cannot scan bqhnsw index without order");
	orderby = scan->orderByData[0];
	s->waiting = BqWaitingRead(scan->indexRelation);
	if (orderby.sk_flags & SK_ISNULL)
	{
		set_window(s, BqModelGet(scan->indexRelation)->bits);
	}
	else
	{
		BqVector *vec = (BqVector *) PG_DETOAST_DATUM(orderby.sk_argument);
		BqType type = BqGetTypeInfo(scan->indexRelation)->type;

		columnModel = BqColumnModelGet(scan->heapRelation, scan->indexRelation);
		if (columnModel)
			query = BqPrepareFloat(BqModelOf(columnModel), vec, type);
		model = BqModelGet(scan->indexRelation);
		set_window(s, model->bits);
		prepared = BqPrepare(model, vec, type);
		orderby.sk_argument = PointerGetDatum(prepared);
	}
	s->iterative = BqIterativeScan();
	s->walk = NULL;
	if (!s->waiting.trained)
		count_scan(scan);
	else if (bq_own_walk && prepared && s->iterative == BQ_ITERATIVE_OFF)
	{
		count_scan(scan);
		s->walk = BqWalkGraph(scan->indexRelation, prepared, BqBits(&prepared->h), BqEfSearch());
	}
	MemoryContextSwitchTo(old);

	s->inner->heapRelation = scan->heapRelation;
	s->inner->xs_snapshot = scan->xs_snapshot;
#if PG_VERSION_NUM >= 180000
	s->inner->instrument = scan->instrument;
#endif
	if (s->waiting.trained && s->walk == NULL)
		BqInner()->amrescan(s->inner, NULL, 0, &orderby, 1);
	if (!s->rescoring)
	{
		/* lives as long as the scan, whatever context the executor calls from */
		old = MemoryContextSwitchTo(s->scanCtx);
		BqRescorerBegin(&s->rescorer, scan->heapRelation, scan->indexRelation, scan->orderByData);
		MemoryContextSwitchTo(old);
		s->rescoring = true;
	}
	s->rescorer.column = columnModel ? BqRescoreAttribute(scan->heapRelation, scan->indexRelation) : 0;
	if (columnModel)
		s->rescorer.query = query;
	s->first = false;
	s->exhausted = !s->waiting.trained;
	s->last = -get_float8_infinity();
	s->returned = 0;
	add_waiting(scan, s);
}

/* pgvector's strict mode would drop candidates that come late by estimate; here exact distances decide, so it runs
 * relaxed. */
static bool
next_in_graph(BqScan *s, ItemPointer tid)
{
	volatile bool found = false;
	int old;

	if (s->walk)
		return BqWalkNext(s->walk, tid);
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

static bool
next_candidate(BqScan *s, ItemPointer tid)
{
	bool found;

	do
		found = next_in_graph(s, tid);
	while (found && BqWaitingHas(&s->waiting, tid));
	return found;
}

/* Fetches candidates until `wanted` rescored rows wait or none is left. */
static void
refill(IndexScanDesc scan, BqScan *s, int64 wanted)
{
	ItemPointerData tids[BQ_RESCORE_BATCH];
	MemoryContext old;

	wanted += s->listed;
	while (!s->exhausted && s->rescorer.n_pending < wanted)
	{
		int64 missing = Min(wanted - s->rescorer.n_pending, (int64) lengthof(tids));
		int n = 0;

		while (n < missing)
		{
			if (!next_candidate(s, &tids[n]))
			{
				s->exhausted = true;
				break;
			}
			n++;
		}
		old = MemoryContextSwitchTo(s->ctx);
		BqRescorerAdd(&s->rescorer, scan->xs_snapshot, tids, n);
		MemoryContextSwitchTo(old);
	}
}

bool
BqGetTuple(IndexScanDesc scan, ScanDirection dir)
{
	BqScan *s = scan->opaque;
	double distance;

	if (s->first)
		start(scan, s);
	for (;;)
	{
		if (s->iterative == BQ_ITERATIVE_OFF)
			refill(scan, s, s->ahead + (s->slope - 1) * s->returned);
		else if (s->returned == 0)
			refill(scan, s, s->ahead);
		else
			refill(scan, s, Max(s->floor, (int64) (s->growth * s->returned)));
		if (!BqRescorerNext(&s->rescorer, scan->xs_snapshot, s->exhausted, &scan->xs_heaptid, &distance))
			return false;
		if (s->listed > 0 && BqWaitingHas(&s->waiting, &scan->xs_heaptid))
			s->listed--;
		if (distance < s->last && s->iterative != BQ_ITERATIVE_RELAXED)
			continue;
		s->last = distance;
		s->returned++;
		scan->xs_recheck = false;
		scan->xs_recheckorderby = false;
		return true;
	}
}

void
BqEndScan(IndexScanDesc scan)
{
	BqScan *s = scan->opaque;

	if (s->rescoring)
		BqRescorerEnd(&s->rescorer);
	BqInner()->amendscan(s->inner);
	/* index_endscan would do this for its own descriptor, but the inner one is ours */
	IndexScanEnd(s->inner);
	MemoryContextDelete(s->ctx);
	pfree(s);
	scan->opaque = NULL;
}
