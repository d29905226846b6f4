/* bqcore_check, the table: every row that the index names is there, and every row that has to be in the index is,
 * under the code of its vector. */
#include "check.h"
#include "privileges.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/tableam.h"
#include "catalog/index.h"
#include "miscadmin.h"
#include "utils/memutils.h"

typedef struct HeapCheck
{
	BqCheck *c;
	BqType type;
	MemoryContext tmp;
} HeapCheck;

static int
by_row(const void *a, const void *b, void *unused)
{
	return ItemPointerCompare((ItemPointer) & ((const BqIndexRow *) a)->tid,
							  (ItemPointer) & ((const BqIndexRow *) b)->tid);
}

#define IS_WAITING(row) (ItemPointerGetOffsetNumberNoCheck(&(row)->element) == InvalidOffsetNumber)

/* Sorts the rows that the index names; none may be named twice, but for those that wait still in a broken move. */
void
BqCheckRows(BqCheck *c)
{
	uint64 n = 0;

	qsort_interruptible(c->rows, c->n_rows, sizeof(BqIndexRow), by_row, NULL);
	for (uint64 i = 0; i < c->n_rows; i++)
	{
		BqIndexRow *last = n > 0 ? &c->rows[n - 1] : NULL;
		bool again = last && by_row(last, &c->rows[i], NULL) == 0;

		if (again && c->moving && IS_WAITING(last) != IS_WAITING(&c->rows[i]))
		{
			if (IS_WAITING(last))
				*last = c->rows[i];
			continue;
		}
		if (again)
			BqDamaged(
				c, ItemPointerGetBlockNumberNoCheck(&c->rows[i].element),
				ItemPointerGetOffsetNumberNoCheck(&c->rows[i].element), "row (%u,%u) is in element (%u,%u) too",
				ItemPointerGetBlockNumberNoCheck(&c->rows[i].tid), ItemPointerGetOffsetNumberNoCheck(&c->rows[i].tid),
				ItemPointerGetBlockNumberNoCheck(&last->element), ItemPointerGetOffsetNumberNoCheck(&last->element));
		c->rows[n++] = c->rows[i];
	}
	c->n_rows = n;
}

/* What is wrong with a heap item that an index names; NULL if nothing is. */
static const char *
heap_item_problem(Page page, OffsetNumber offset)
{
	ItemId id;

	if (PageIsNew(page) || offset > PageGetMaxOffsetNumber(page))
		return "is not there";
	id = PageGetItemId(page, offset);
	if (!ItemIdIsUsed(id))
		return "is unused";
	if (ItemIdIsNormal(id) && HeapTupleHeaderIsHeapOnly((HeapTupleHeader) PageGetItem(page, id)))
		return "is a later version of a row";
	return NULL;
}

/* Vacuum frees an item of the heap after all indexes have forgotten it: one that is free, or has become something
 * else, would let a scan return a row that was never asked for. */
static void
check_heap_items(BqCheck *c)
{
	uint64 i = 0;

	while (i < c->n_rows)
	{
		BlockNumber block = ItemPointerGetBlockNumberNoCheck(&c->rows[i].tid);
		Buffer buf = ReadBufferExtended(c->heap, MAIN_FORKNUM, block, RBM_NORMAL, c->strategy);
		const char *problem = NULL;

		CHECK_FOR_INTERRUPTS();
		LockBuffer(buf, BUFFER_LOCK_SHARE);
		for (; i < c->n_rows && ItemPointerGetBlockNumberNoCheck(&c->rows[i].tid) == block; i++)
		{
			problem = heap_item_problem(BufferGetPage(buf), ItemPointerGetOffsetNumberNoCheck(&c->rows[i].tid));
			if (problem)
				break;
		}
		UnlockReleaseBuffer(buf);
		if (problem)
			BqDamaged(c, ItemPointerGetBlockNumberNoCheck(&c->rows[i].element),
					  ItemPointerGetOffsetNumberNoCheck(&c->rows[i].element), "row (%u,%u) %s", block,
					  ItemPointerGetOffsetNumberNoCheck(&c->rows[i].tid), problem);
	}
}

/* One row of the table. */
static void
check_row(Relation index, ItemPointer tid, Datum *values, bool *isnull, bool alive, void *state)
{
	HeapCheck *h = state;
	BqCheck *c = h->c;
	BqIndexRow key = {.tid = *tid};
	const BqIndexRow *row;
	const BqVector *vec;
	MemoryContext old;

	if (isnull[0])
		return;
	old = MemoryContextSwitchTo(h->tmp);
	vec = (const BqVector *) PG_DETOAST_DATUM(values[0]);
	if (BqHasCode(c->metric, vec, h->type))
	{
		const BqCode *code = BqEncode(BqModelGet(index), vec, h->type);
		BlockNumber block;
		OffsetNumber offset;
		PGAlignedBlock copy;

		row = bsearch_arg(&key, c->rows, c->n_rows, sizeof(BqIndexRow), by_row, NULL);
		if (row == NULL)
		{
			BqCheckReplay(c);
			ereport(ERROR, (errcode(ERRCODE_INDEX_CORRUPTED),
							errmsg("index \"%s\" is damaged: row (%u,%u) of table \"%s\" is not in it",
								   RelationGetRelationName(index), ItemPointerGetBlockNumber(tid),
								   ItemPointerGetOffsetNumber(tid), RelationGetRelationName(c->heap)),
							errhint("REINDEX INDEX %s.", RelationGetRelationName(index))));
		}
		block = ItemPointerGetBlockNumberNoCheck(&row->element);
		offset = ItemPointerGetOffsetNumberNoCheck(&row->element);
		/* a row that waits has no code yet */
		if (!IS_WAITING(row) &&
			memcmp(&BqElementAt(BqCopyPage(c, block, &copy), offset)->code, code, BQ_CODE_SIZE(c->dim, c->bits)) != 0)
			BqDamaged(c, block, offset, "its code is not that of row (%u,%u)", ItemPointerGetBlockNumber(tid),
					  ItemPointerGetOffsetNumber(tid));
		c->heapRows++;
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(h->tmp);
}

/* The rows of the snapshot, as amcheck's heapallindexed. */
void
BqCheckHeap(BqCheck *c, Snapshot snapshot)
{
	HeapCheck h = {.c = c, .type = BqGetTypeInfo(c->index)->type};
	IndexInfo *indexInfo;
	BqCaller caller;

	if (c->heap->rd_tableam == GetHeapamTableAmRoutine())
		check_heap_items(c);
	/* elements are read in the order of rows */
	FreeAccessStrategy(c->strategy);
	c->strategy = NULL;
	h.tmp = AllocSetContextCreate(CurrentMemoryContext, "bqcore_check row", ALLOCSET_DEFAULT_SIZES);

	caller = BqRunAsOwner(c->heap, c->index);
	indexInfo = BqIndexInfo(c->index);
	/* a scan that sees what the snapshot sees */
	indexInfo->ii_Concurrent = true;
	indexInfo->ii_Unique = false;
	table_index_build_scan(c->heap, c->index, indexInfo, true, false, check_row, &h,
						   table_beginscan_strat(c->heap, snapshot, 0, NULL, true, true));
	BqRunAsCaller(&caller);
	MemoryContextDelete(h.tmp);
}
