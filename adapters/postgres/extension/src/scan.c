/* Index scans: pgvector's own scan over codes gives candidates, rescoring gives rows.
 *
 * Row e (counted from 1) is returned once the exact distances of ahead + slope (e - 1) candidates are known,
 * or of all there are. A row that turns up later but belongs before one already returned is left out, except
 * under relaxed_order: what is returned is always in exact order. */
#include "rescore.h"

#include "utils/float.h"
#include "utils/memutils.h"

#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

typedef struct BqScan
{
	IndexScanDesc inner; /* pgvector's scan, with the query code as its argument */
	BqRescorer rescorer;
	bool rescoring; /* rescorer is open */
	bool first;
	bool exhausted; /* the inner scan has no more candidates */
	bool relaxed;
	double last; /* exact distance of the last row returned */
	int64 returned;
	int ahead;
	int slope;
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
	if (bq_rescore >= 0)
	{
		s->ahead = Max(bq_rescore, 1);
		s->slope = 1;
	}
	else if (bits == 1)
	{
		s->ahead = BqEfSearch();
		s->slope = 1;
	}
	else
	{
		s->ahead = 12;
		s->slope = 2;
	}
}

static void
start(IndexScanDesc scan, BqScan *s)
{
	MemoryContext old = MemoryContextSwitchTo(s->ctx);
	const bqk_model *model;
	ScanKeyData orderby;

	if (scan->orderByData == NULL)
		elog(ERROR, "cannot scan bqhnsw index without order");
	orderby = scan->orderByData[0];
	if (orderby.sk_flags & SK_ISNULL)
	{
		set_window(s, BqModelGet(scan->indexRelation)->bits);
	}
	else
	{
		BqVector *vec = (BqVector *) PG_DETOAST_DATUM(orderby.sk_argument);

		model = BqModelGet(scan->indexRelation);
		set_window(s, model->bits);
		orderby.sk_argument = PointerGetDatum(BqPrepare(model, vec));
	}
	MemoryContextSwitchTo(old);

	s->inner->heapRelation = scan->heapRelation;
	s->inner->xs_snapshot = scan->xs_snapshot;
#if PG_VERSION_NUM >= 180000
	s->inner->instrument = scan->instrument;
#endif
	BqInner()->amrescan(s->inner, NULL, 0, &orderby, 1);
	if (!s->rescoring)
	{
		/* lives as long as the scan, whatever context the executor calls from */
		old = MemoryContextSwitchTo(s->scanCtx);
		BqRescorerBegin(&s->rescorer, scan->heapRelation, scan->indexRelation, scan->orderByData);
		MemoryContextSwitchTo(old);
		s->rescoring = true;
	}
	s->relaxed = BqIterativeScan() == BQ_ITERATIVE_RELAXED;
	s->first = false;
	s->exhausted = false;
	s->last = -get_float8_infinity();
	s->returned = 0;
	s->rescorer.n_rescored = 0;
}

/* Asks the inner scan for candidates until `target` are rescored or none is left. */
static void
refill(IndexScanDesc scan, BqScan *s, int64 target)
{
	ItemPointerData tids[256];
	MemoryContext old;

	while (!s->exhausted && s->rescorer.n_rescored < target)
	{
		int64 want = Min(target - s->rescorer.n_rescored, (int64) lengthof(tids));
		int n = 0;

		while (n < want)
		{
			if (!BqInner()->amgettuple(s->inner, ForwardScanDirection))
			{
				s->exhausted = true;
				break;
			}
			tids[n++] = s->inner->xs_heaptid;
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
		refill(scan, s, s->ahead + s->slope * s->returned);
		if (!BqRescorerNext(&s->rescorer, &scan->xs_heaptid, &distance))
		{
			if (s->exhausted)
				return false;
			/* all that were rescored came too late: look further */
			s->ahead += s->slope;
			continue;
		}
		if (distance < s->last && !s->relaxed)
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
