/* Moving: from the waiting list into the graph, by vacuum and by bqcore_train.
 *
 * Whoever moves holds the table's ShareUpdateExclusiveLock, which excludes all others who would, and vacuum. A row's
 * element is written before the row leaves the list; a cancel or a crash between leaves it in both, which `moving` on
 * the metapage tells to whoever moves next, and to bqcore_check. */
#include "waiting.h"
#include "privileges.h"
#include "rescore.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/index.h"
#include "catalog/pg_class.h"
#include "commands/vacuum.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* Rows that leave the list in one record of WAL. */
#define BATCH 64

static bool
in_set(ItemPointer tid, void *set)
{
	return BqTidSetHas(set, tid);
}

/* Removes rows from the list. */
static void
remove_rows(Relation index, BqTidSet *rows)
{
	BlockNumber block = BqReadTrailer(index).listHead;
	uint32 left;

	while (rows->n > 0 && BlockNumberIsValid(block))
		BqWaitingFilter(index, block, in_set, rows, &left, &block);
}

/* After a move that broke off: listed rows that are in the graph leave the list. Reads the whole index. */
static void
finish_broken_move(Relation index)
{
	BufferAccessStrategy strategy = GetAccessStrategy(BAS_BULKREAD);
	BqWaiting list = BqWaitingRead(index);
	BlockNumber blocks = RelationGetNumberOfBlocks(index);
	BqTidSet found;

	BqTidSetInit(&found, 64);
	for (BlockNumber block = HNSW_HEAD; block < blocks && list.n > 0; block++)
	{
		Buffer buf = ReadBufferExtended(index, MAIN_FORKNUM, block, RBM_NORMAL, strategy);
		Page page = BufferGetPage(buf);
		OffsetNumber n = 0;

		CHECK_FOR_INTERRUPTS();
		LockBuffer(buf, BUFFER_LOCK_SHARE);
		if (!PageIsNew(page) && BqHasPageId(page, HNSW_PAGE_ID))
			n = PageGetMaxOffsetNumber(page);
		for (OffsetNumber offset = FirstOffsetNumber; offset <= n; offset++)
		{
			ItemId id = PageGetItemId(page, offset);
			const HnswElement *element = (const HnswElement *) PageGetItem(page, id);

			if (!ItemIdIsNormal(id) || ItemIdGetLength(id) < offsetof(HnswElement, code) ||
				element->type != BQ_ITEM_ELEMENT)
				continue;
			for (int i = 0; i < HNSW_HEAPTIDS && ItemPointerIsValid(&element->heaptids[i]); i++)
				if (BqWaitingHas(&list, &element->heaptids[i]))
					BqTidSetAdd(&found, &element->heaptids[i]);
		}
		UnlockReleaseBuffer(buf);
	}
	remove_rows(index, &found);
	FreeAccessStrategy(strategy);
}

typedef struct Mover
{
	Relation heap, index;
	IndexInfo *indexInfo;
	IndexFetchTableData *fetch;
	BqReader reader;
	Snapshot snapshot;
	BqType type;
	MemoryContext row;
} Mover;

/* Puts a row into the graph; false if the snapshot does not see it, or it has no code. A row that can be seen stays
 * until vacuum, which is excluded, so its place in the heap cannot become another row's meanwhile. */
static bool
move_row(Mover *m, const ItemPointerData *listed)
{
	ItemPointerData tid = *listed;
	bool again = false, dead = false, isnull;
	MemoryContext old;
	Datum value;
	BqCode *code = NULL;

	if (!table_index_fetch_tuple(m->fetch, &tid, m->snapshot, m->reader.slot, &again, &dead))
		return false;
	old = MemoryContextSwitchTo(m->row);
	value = BqReaderValue(&m->reader, &isnull);
	if (!isnull)
	{
		const BqVector *vec = (const BqVector *) PG_DETOAST_DATUM(value);
		const bqk_model *model = BqModelGet(m->index);

		/* one near the limit of norms may have a code by the zero centroid of its insert and none by this one */
		if (BqHasCode(model->metric, vec, m->type))
			code = BqTryEncode(model, vec, m->type);
	}
	if (code)
	{
		value = PointerGetDatum(code);
		tid = *listed;
		BqInner()->aminsert(m->index, &value, &isnull, &tid, m->heap, UNIQUE_CHECK_NO, false, m->indexInfo);
	}
	ExecClearTuple(m->reader.slot);
	MemoryContextSwitchTo(old);
	MemoryContextReset(m->row);
	return code != NULL;
}

static int64
move_page(Mover *m, BlockNumber *block)
{
	ItemPointerData *tids = palloc(BQ_WAITING_ROOM * sizeof(ItemPointerData));
	BlockNumber next, ignored;
	uint32 n = BqWaitingPage(m->index, *block, tids, &next), left;
	int64 moved = 0;

	for (uint32 from = 0; from < n; from += BATCH)
	{
		BqTidSet done;

		BqTidSetInit(&done, 2 * BATCH);
		for (uint32 i = from; i < Min(from + BATCH, n); i++)
		{
			CHECK_FOR_INTERRUPTS();
			if (move_row(m, &tids[i]))
				BqTidSetAdd(&done, &tids[i]);
		}
		if (done.n > 0)
			moved += BqWaitingFilter(m->index, *block, in_set, &done, &left, &ignored);
		pfree(done.keys);
	}
	pfree(tids);
	*block = next;
	return moved;
}

/* Moves the listed rows that the active snapshot sees. It must be a recent one and hold back vacuum. */
int64
BqMoveWaiting(Relation heap, Relation index)
{
	BqTrailer trailer = BqReadTrailer(index);
	Mover m = {.heap = heap, .index = index, .snapshot = GetActiveSnapshot()};
	MemoryContext ctx, old;
	BqCaller before;
	int64 moved = 0;

	if (!BqTrailerIsTrained(&trailer) || trailer.listed == 0)
		return 0;
	ctx = AllocSetContextCreate(CurrentMemoryContext, "bqhnsw move", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(ctx);
	if (trailer.moving)
		finish_broken_move(index);
	BqWaitingSetState(index, trailer.generation, 1);
	before = BqRunAsOwner(heap, index);
	m.indexInfo = BqIndexInfo(index);
	m.fetch = table_index_fetch_begin(heap);
	m.type = BqGetTypeInfo(index)->type;
	m.row = AllocSetContextCreate(ctx, "bqhnsw moved row", ALLOCSET_DEFAULT_SIZES);
	BqReaderBegin(&m.reader, heap, index, false);
	for (BlockNumber block = trailer.listHead; BlockNumberIsValid(block);)
		moved += move_page(&m, &block);
	BqReaderEnd(&m.reader);
	table_index_fetch_end(m.fetch);
	BqRunAsCaller(&before);
	BqWaitingSetState(index, trailer.generation, 0);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(ctx);
	return moved;
}

/* ---- vacuum ---- */

/* pgvector's, then the list: a place has left both before vacuum gives it to another row. */
IndexBulkDeleteResult *
BqBulkDelete(IndexVacuumInfo *info, IndexBulkDeleteResult *stats, IndexBulkDeleteCallback callback, void *state)
{
	BlockNumber block;

	stats = BqInner()->ambulkdelete(info, stats, callback, state);
	/* rows that are listed from here on are none of those that vacuum has found dead */
	for (block = BqReadTrailer(info->index).listHead; BlockNumberIsValid(block);)
	{
		uint32 left;

		CHECK_FOR_INTERRUPTS();
		stats->tuples_removed += BqWaitingFilter(info->index, block, callback, state, &left, &block);
		stats->num_index_tuples += left;
	}
	return stats;
}

/* Vacuum's snapshot does not keep other vacuums and pruning from rows that it sees (PROC_IN_VACUUM, see
 * ComputeXidHorizons), and the toasted vector of one that is deleted meanwhile may be gone when we read it; its toast
 * table is vacuumed by others too. So from here on this transaction counts as any other. Its xmin is older than the
 * snapshot that is taken next: horizons that others compute from now on spare what that snapshot sees, and what was
 * removed under earlier ones had been dead before it. The flag is not set again: what is left of this vacuum is short,
 * and an expression that lies about being immutable may have been given a transaction id. */
static void
leave_vacuum(void)
{
	LWLockAcquire(ProcArrayLock, LW_EXCLUSIVE);
	MyProc->statusFlags &= ~PROC_IN_VACUUM;
	ProcGlobal->statusFlags[MyProc->pgxactoff] = MyProc->statusFlags;
	LWLockRelease(ProcArrayLock);
}

/* Whether a trained index has neither elements nor listed rows, and may wait. */
static bool
is_empty(Relation index, BqTrailer *trailer)
{
	Buffer buf = ReadBuffer(index, HNSW_METAPAGE);
	BlockNumber entry;

	LockBuffer(buf, BUFFER_LOCK_SHARE);
	*trailer = BqTrailerOf(index, BufferGetPage(buf));
	entry = ((const HnswMeta *) PageGetContents(BufferGetPage(buf)))->entryBlock;
	UnlockReleaseBuffer(buf);
	return BqTrailerIsTrained(trailer) && trailer->trainAt > 0 && trailer->listed == 0 && !BlockNumberIsValid(entry);
}

/* A graph that vacuum has emptied waits for rows anew: those whose rows are gone, with a transaction that was rolled
 * back or by DELETE, need not be like the next ones. */
static void
begin_anew(Relation index)
{
	BqTrailer trailer;

	if (!is_empty(index, &trailer))
		return;
	/* excludes inserts that have seen the model and not yet written their element */
	LockPage(index, BQ_INSERT_LOCK, ExclusiveLock);
	if (is_empty(index, &trailer))
		BqWaitingSetState(index, trailer.generation + 1, 0);
	UnlockPage(index, BQ_INSERT_LOCK, ExclusiveLock);
}

IndexBulkDeleteResult *
BqVacuumCleanup(IndexVacuumInfo *info, IndexBulkDeleteResult *stats)
{
	BqTrailer trailer = BqReadTrailer(info->index);

	if (!info->analyze_only && trailer.listed > 0 &&
		(BqTrailerIsTrained(&trailer) || trailer.listed >= trailer.trainAt))
	{
		leave_vacuum();
		if (BqTrailerIsTrained(&trailer) || BqTrain(info->heaprel, info->index, false))
		{
			PushActiveSnapshot(GetLatestSnapshot());
			BqMoveWaiting(info->heaprel, info->index);
			PopActiveSnapshot();
		}
	}
	else if (!info->analyze_only)
		begin_anew(info->index);
	return BqInner()->amvacuumcleanup(info, stats);
}

/* ---- bqcore_train ---- */

PG_FUNCTION_INFO_V1(bqcore_train);
Datum
bqcore_train(PG_FUNCTION_ARGS)
{
	Oid indexOid = PG_GETARG_OID(0), heapOid = IndexGetRelation(indexOid, true);
	Relation heap, index;
	int64 moved = 0;

	if (RecoveryInProgress())
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("recovery is in progress"),
						errhint("bqcore_train runs on the primary.")));
	/* before the lock, which would stop vacuum; the table first, as all who lock both */
	if (OidIsValid(heapOid) && !object_ownercheck(RelationRelationId, heapOid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, get_rel_name(heapOid));
	heap = OidIsValid(heapOid) ? table_open(heapOid, ShareUpdateExclusiveLock) : NULL;
	index = BqOpenIndex(indexOid, RowExclusiveLock);
	if (heap == NULL || index->rd_index->indrelid != heapOid)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("the table of index \"%s\" has just been dropped", RelationGetRelationName(index))));
	/* the owner may be another one since */
	if (!object_ownercheck(RelationRelationId, heapOid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, RelationGetRelationName(heap));
	if (RELATION_IS_OTHER_TEMP(index))
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("index \"%s\" is a temporary one of another session", RelationGetRelationName(index))));
	if (BqTrain(heap, index, true))
	{
		PushActiveSnapshot(GetLatestSnapshot());
		moved = BqMoveWaiting(heap, index);
		PopActiveSnapshot();
	}
	if (BqReadTrailer(index).generation == 1 && BqModelGet(index)->n_trained == 0)
		ereport(NOTICE, (errmsg("index \"%s\" was trained on nothing", RelationGetRelationName(index)),
						 errhint("REINDEX INDEX %s.", RelationGetRelationName(index))));
	index_close(index, RowExclusiveLock);
	table_close(heap, ShareUpdateExclusiveLock);
	PG_RETURN_INT64(moved);
}
