/* Rescoring: the operator's own function on the heap's own rows.
 *
 * With a code column all candidates get a lower bound of their distance from their codes, and only those that come to
 * the front by it are rescored: where vectors are toasted, reading one costs more than all the rest of a candidate. */
#include "rescore.h"
#include "privileges.h"

#include <math.h>

#include "access/genam.h"
#include "access/tableam.h"
#include "catalog/index.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/buf_internals.h"
#include "storage/bufmgr.h"
#include "utils/memutils.h"
#include "utils/spccache.h"

#define ROWS_AHEAD 8    /* whose cache lines are asked for */
#define BYTES_AHEAD 512 /* of a row; hardware goes on by itself */

/* NaN sorts last, as in Postgres; ties go by position, so that answers do not depend on the heap's shape. */
int
BqNearestFirst(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	const BqRow *x = pairingheap_const_container(BqRow, node, a), *y = pairingheap_const_container(BqRow, node, b);
	bool xnan = isnan(x->distance), ynan = isnan(y->distance);
	ItemPointerData xtid = x->tid, ytid = y->tid;

	if (xnan != ynan)
		return ynan ? 1 : -1;
	if (!xnan && x->distance != y->distance)
		return x->distance < y->distance ? 1 : -1;
	return ItemPointerCompare(&ytid, &xtid);
}

void
BqReaderBegin(BqReader *r, Relation heap, Relation index, bool predicate)
{
	r->attnum = index->rd_index->indkey.values[0];
	r->slot = table_slot_create(heap, NULL);
	r->estate = NULL;
	r->predicate = NULL;
	if (r->attnum != 0 && !predicate)
		return;
	r->indexInfo = BqIndexInfo(index);
	r->estate = CreateExecutorState();
	GetPerTupleExprContext(r->estate)->ecxt_scantuple = r->slot;
	if (predicate)
		r->predicate = ExecPrepareQual(r->indexInfo->ii_Predicate, r->estate);
}

bool
BqReaderMatches(BqReader *r)
{
	ResetPerTupleExprContext(r->estate);
	return ExecQual(r->predicate, GetPerTupleExprContext(r->estate));
}

Datum
BqReaderValue(BqReader *r, bool *isnull)
{
	Datum values[INDEX_MAX_KEYS];
	bool isnulls[INDEX_MAX_KEYS];

	if (r->attnum != 0)
		return slot_getattr(r->slot, r->attnum, isnull);
	ResetPerTupleExprContext(r->estate);
	FormIndexDatum(r->indexInfo, r->slot, r->estate, values, isnulls);
	*isnull = isnulls[0];
	return values[0];
}

void
BqReaderEnd(BqReader *r)
{
	ExecDropSingleTupleTableSlot(r->slot);
	if (r->estate)
		FreeExecutorState(r->estate);
}

/* Everything is allocated in the current memory context, which is the scan's. */
void
BqRescorerBegin(BqRescorer *r, Relation heap, Relation index, ScanKey orderby)
{
	BqReaderBegin(&r->reader, heap, index, false);
	r->orderby = orderby;
	r->heap = heap;
	r->fetch = table_index_fetch_begin(heap);
	r->tmp = AllocSetContextCreate(CurrentMemoryContext, "bqhnsw rescore", ALLOCSET_DEFAULT_SIZES);
	r->rows = pairingheap_allocate(BqNearestFirst, NULL);
}

/* The rows' memory is reset by the caller. */
void
BqRescorerReset(BqRescorer *r)
{
	pairingheap_reset(r->rows);
	r->n_pending = 0;
	r->uppers = NULL;
	r->n_uppers = r->capacity = 0;
	table_index_fetch_reset(r->fetch);
}

static int
by_tid(const void *a, const void *b)
{
	return ItemPointerCompare(&((BqCandidate *) a)->tid, &((BqCandidate *) b)->tid);
}

/* The distance of the row in the slot; false if it has none. */
static bool
exact_distance(BqRescorer *r, double *distance)
{
	bool isnull;
	Datum value = BqReaderValue(&r->reader, &isnull);

	if (isnull)
		return false;
	*distance = DatumGetFloat8(
		FunctionCall2Coll(&r->orderby->sk_func, r->orderby->sk_collation, value, r->orderby->sk_argument));
	return true;
}

/* Bounds of the distance of the row in the slot, by its code; false if it has none. */
static bool
distance_bounds(BqRescorer *r, double *lower, double *upper)
{
	bool isnull;
	Datum value = slot_getattr(r->reader.slot, r->column, &isnull);
	BqView code;

	if (isnull)
		return false;
	code = BqViewCode((const struct varlena *) PG_DETOAST_DATUM_PACKED(value));
	BqViewBounds(&r->query, &code, lower, upper);
	return true;
}

/* Nothing stays pinned between rows: an idle cursor must not keep vacuum, or replay on a standby, from a page. The slot
 * has one pin, the fetch another one of the last page. */
static void
release_pages(BqRescorer *r)
{
	ExecClearTuple(r->reader.slot);
	table_index_fetch_reset(r->fetch);
}

/* Starts to read a row's block, or asks for the cache lines of its header and line pointer; its buffer, if it is in
 * one. */
static Buffer
ask_for_page(const BqRescorer *r, const ItemPointerData *tid)
{
	Buffer buffer = PrefetchBuffer(r->heap, MAIN_FORKNUM, ItemPointerGetBlockNumber(tid)).recent_buffer;

	if (buffer > 0)
	{
		__builtin_prefetch(GetBufferDescriptor(buffer - 1));
		__builtin_prefetch(BufferGetPage(buffer));
		__builtin_prefetch(PageGetItemId(BufferGetPage(buffer), ItemPointerGetOffsetNumber(tid)));
	}
	return buffer;
}

/* Asks for the cache lines of a row. Its line pointer is read without a lock: a wrong one costs useless lines.
 * Inline, because gcc drops calls of a function that only prefetches: it takes it for one without effect. */
static pg_attribute_always_inline void
ask_for_row(Buffer buffer, const ItemPointerData *tid)
{
	if (buffer > 0)
	{
		ItemId id = PageGetItemId(BufferGetPage(buffer), ItemPointerGetOffsetNumber(tid));
		const char *row = (char *) BufferGetPage(buffer) + id->lp_off % BLCKSZ;

		for (Size at = 0; at < Min(id->lp_len, BYTES_AHEAD); at += 64)
			__builtin_prefetch(row + at);
	}
}

/* In the current memory context, as the rows. */
static void
add_upper(BqRescorer *r, double upper)
{
	if (r->n_uppers == r->capacity)
	{
		r->capacity = Max(2 * r->capacity, 64);
		r->uppers =
			r->uppers ? repalloc_huge(r->uppers, sizeof(double) * r->capacity) : palloc(sizeof(double) * r->capacity);
	}
	r->uppers[r->n_uppers++] = upper;
}

/* How many rows' blocks are looked up, and read if they are not in buffers, before they are needed: those whose cache
 * lines are asked for, more where effective_io_concurrency says so; none where it is 0, or where the table is not a
 * heap, so that nobody knows what a block number means. */
static int
rows_ahead(const BqRescorer *r)
{
	int setting = get_tablespace_io_concurrency(r->heap->rd_rel->reltablespace);

	return setting == 0 || r->heap->rd_tableam != GetHeapamTableAmRoutine() ? 0 : Max(setting, ROWS_AHEAD);
}

/* Fetches at most BQ_RESCORE_BATCH candidates in block order and computes their distances, or bounds. Rows that the
 * snapshot does not see or the query's conditions leave out are dropped here. */
void
BqRescorerAdd(BqRescorer *r, Snapshot snapshot, BqCandidate *candidates, int n)
{
	MemoryContext scan = CurrentMemoryContext;
	int ahead = rows_ahead(r), prefetched = 1;
	Buffer buffers[BQ_RESCORE_BATCH];

	qsort(candidates, n, sizeof(BqCandidate), by_tid);
	for (int i = 0; i < n; i++)
	{
		ItemPointerData tid = candidates[i].tid; /* the fetch follows HOT chains and changes it */
		bool again = false, dead = false, found;
		double distance = 0.0, upper;
		BqRow *row;

		CHECK_FOR_INTERRUPTS();
		for (; prefetched < n && prefetched <= i + ahead; prefetched++)
			buffers[prefetched] = ask_for_page(r, &candidates[prefetched].tid);
		if (i + ROWS_AHEAD < prefetched)
			ask_for_row(buffers[i + ROWS_AHEAD], &candidates[i + ROWS_AHEAD].tid);
		MemoryContextSwitchTo(r->tmp);
		found = table_index_fetch_tuple(r->fetch, &tid, snapshot, r->reader.slot, &again, &dead) &&
				BqScanNodePasses(&r->node, r->reader.slot);
		/* ORDER BY embedding <-> NULL: every distance is NULL, any order is right */
		/* a HOT update cannot change an indexed value, so a visible row has the value that was indexed */
		if (found && r->orderby->sk_flags & SK_ISNULL)
			distance = 0.0;
		else if (found)
			found = r->column ? distance_bounds(r, &distance, &upper) : exact_distance(r, &distance);
		MemoryContextSwitchTo(scan);
		MemoryContextReset(r->tmp);
		if (!found)
			continue;
		row = palloc(sizeof(BqRow));
		row->distance = distance;
		row->upper = r->column ? upper : distance;
		row->tid = candidates[i].tid;
		row->exact = r->column == 0;
		row->counts = candidates[i].counts;
		pairingheap_add(r->rows, &row->node);
		r->n_pending += row->counts;
		if (r->ranking)
			add_upper(r, row->upper);
	}
	release_pages(r);
}

/* Puts a row's distance in the place of its bounds; false if it has none. */
static bool
make_exact(BqRescorer *r, Snapshot snapshot, BqRow *row)
{
	ItemPointerData tid = row->tid;
	MemoryContext scan = MemoryContextSwitchTo(r->tmp);
	bool again = false, dead = false, found;

	CHECK_FOR_INTERRUPTS();
	found = table_index_fetch_tuple(r->fetch, &tid, snapshot, r->reader.slot, &again, &dead) &&
			exact_distance(r, &row->distance);
	row->upper = row->distance;
	row->exact = true;
	MemoryContextSwitchTo(scan);
	MemoryContextReset(r->tmp);
	release_pages(r);
	return found;
}

const BqRow *
BqRescorerFirst(const BqRescorer *r)
{
	return pairingheap_is_empty(r->rows) ? NULL : pairingheap_container(BqRow, node, pairingheap_first(r->rows));
}

BqRow *
BqRescorerTake(BqRescorer *r, Snapshot snapshot, bool all)
{
	BqRow *row = pairingheap_container(BqRow, node, pairingheap_remove_first(r->rows));
	const BqRow *second = BqRescorerFirst(r);

	if (row->exact || (all && (second == NULL || row->upper <= second->distance)))
	{
		r->n_pending -= row->counts;
		return row;
	}
	if (make_exact(r, snapshot, row))
		pairingheap_add(r->rows, &row->node);
	else
	{
		r->n_pending -= row->counts;
		pfree(row);
	}
	return NULL;
}

void
BqRescorerEnd(BqRescorer *r)
{
	table_index_fetch_end(r->fetch);
	BqReaderEnd(&r->reader);
	MemoryContextDelete(r->tmp);
}
