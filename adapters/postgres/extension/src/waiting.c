/* The waiting list: pages of the index with places of heap rows.
 *
 * A page holds up to BQ_WAITING_ROOM places of six bytes. Pages are linked by `next` from the trailer's listHead; a new
 * one becomes the head, so that one record of WAL changes metapage and page together. They stay when they are empty,
 * and rows never move between them.
 *
 * Locks: whoever changes a page holds the metapage's exclusive lock, then the page's. So the count and the state on the
 * metapage are exact, no row is listed after the state has changed, and inserts of the few rows that wait go one by
 * one. Readers hold one page's share lock at a time. */
#include "waiting.h"

#include "access/generic_xlog.h"
#include "access/xloginsert.h"
#include "miscadmin.h"

static pg_noinline void
damaged(Relation index, BlockNumber block)
{
	ereport(ERROR, (errcode(ERRCODE_INDEX_CORRUPTED),
					errmsg("index \"%s\" is damaged at block %u: expected a page of waiting rows",
						   RelationGetRelationName(index), block),
					errhint("REINDEX INDEX %s.", RelationGetRelationName(index))));
}

/* A page of the list, pinned and locked. */
static Buffer
lock_page(Relation index, BlockNumber block, int mode)
{
	Buffer buf;
	Page page;

	if (block >= RelationGetNumberOfBlocks(index))
		damaged(index, block);
	buf = ReadBuffer(index, block);
	LockBuffer(buf, mode);
	page = BufferGetPage(buf);
	if (PageIsNew(page) || !BqHasPageId(page, WAITING_PAGE_ID) ||
		((PageHeader) page)->pd_lower < MAXALIGN(SizeOfPageHeaderData) || BqWaitingCount(page) > BQ_WAITING_ROOM)
		damaged(index, block);
	return buf;
}

static void
set_count(Page page, uint32 n)
{
	((PageHeader) page)->pd_lower = (LocationIndex) (MAXALIGN(SizeOfPageHeaderData) + n * sizeof(ItemPointerData));
}

static void
init_page(Page page, BlockNumber next)
{
	PageInit(page, BLCKSZ, sizeof(BqPageOpaque));
	Opaque(page)->next = next;
	Opaque(page)->pageId = WAITING_PAGE_ID;
	set_count(page, 0);
}

/* Called at the end of a build, when nobody else can see the index. */
void
BqWaitingStore(Relation index, ForkNumber fork, const ItemPointerData *tids, uint32 n)
{
	BlockNumber first = RelationGetNumberOfBlocksInFork(index, fork), head = InvalidBlockNumber;
	BqTrailer *trailer;
	Buffer buf;

	for (uint32 done = 0; done < n;)
	{
		uint32 chunk = Min(n - done, (uint32) BQ_WAITING_ROOM);
		Page page;

		buf = ExtendBufferedRel(BMR_REL(index), fork, NULL, EB_LOCK_FIRST);
		page = BufferGetPage(buf);
		init_page(page, head);
		memcpy(BqWaitingTids(page), tids + done, chunk * sizeof(ItemPointerData));
		set_count(page, chunk);
		head = BufferGetBlockNumber(buf);
		done += chunk;
		MarkBufferDirty(buf);
		UnlockReleaseBuffer(buf);
	}

	buf = ReadBufferExtended(index, fork, HNSW_METAPAGE, RBM_NORMAL, NULL);
	LockBuffer(buf, BUFFER_LOCK_EXCLUSIVE);
	trailer = Trailer(BufferGetPage(buf));
	trailer->generation = 0;
	trailer->listed = n;
	trailer->listHead = trailer->listInsert = head;
	MarkBufferDirty(buf);
	UnlockReleaseBuffer(buf);

	if (RelationNeedsWAL(index) || fork == INIT_FORKNUM)
	{
		log_newpage_range(index, fork, HNSW_METAPAGE, HNSW_METAPAGE + 1, true);
		log_newpage_range(index, fork, first, RelationGetNumberOfBlocksInFork(index, fork), true);
	}
}

bool
BqWaitingAppend(Relation index, const ItemPointerData *tid, BqTrailer *trailer)
{
	Buffer metaBuf = ReadBuffer(index, HNSW_METAPAGE), buf = InvalidBuffer;
	GenericXLogState *state;
	BlockNumber block;
	Page meta, page;
	uint32 n;

	LockBuffer(metaBuf, BUFFER_LOCK_EXCLUSIVE);
	*trailer = BqTrailerOf(index, BufferGetPage(metaBuf));
	if (BqTrailerIsTrained(trailer))
	{
		UnlockReleaseBuffer(metaBuf);
		return false;
	}
	for (block = trailer->listInsert; BlockNumberIsValid(block);)
	{
		buf = lock_page(index, block, BUFFER_LOCK_EXCLUSIVE);
		if (BqWaitingCount(BufferGetPage(buf)) < BQ_WAITING_ROOM)
			break;
		block = Opaque(BufferGetPage(buf))->next;
		UnlockReleaseBuffer(buf);
	}

	state = GenericXLogStart(index);
	meta = GenericXLogRegisterBuffer(state, metaBuf, 0);
	if (BlockNumberIsValid(block))
		page = GenericXLogRegisterBuffer(state, buf, 0);
	else
	{
		/* the extension lock is taken under a content lock, as in the split of a btree's page; who holds it waits for
		 * no content lock but that of its new page */
		buf = ExtendBufferedRel(BMR_REL(index), MAIN_FORKNUM, NULL, EB_LOCK_FIRST);
		page = GenericXLogRegisterBuffer(state, buf, GENERIC_XLOG_FULL_IMAGE);
		init_page(page, trailer->listHead);
		trailer->listHead = BufferGetBlockNumber(buf);
	}
	n = BqWaitingCount(page);
	BqWaitingTids(page)[n] = *tid;
	set_count(page, n + 1);
	trailer->listInsert = BufferGetBlockNumber(buf);
	trailer->listed++;
	*Trailer(meta) = *trailer;
	GenericXLogFinish(state);
	UnlockReleaseBuffer(buf);
	UnlockReleaseBuffer(metaBuf);
	return true;
}

uint32
BqWaitingPage(Relation index, BlockNumber block, ItemPointerData *tids, BlockNumber *next)
{
	Buffer buf = lock_page(index, block, BUFFER_LOCK_SHARE);
	Page page = BufferGetPage(buf);
	uint32 n = BqWaitingCount(page);

	memcpy(tids, BqWaitingTids(page), n * sizeof(ItemPointerData));
	*next = Opaque(page)->next;
	UnlockReleaseBuffer(buf);
	return n;
}

uint32
BqWaitingFilter(Relation index, BlockNumber block, BqGone gone, void *arg, uint32 *left, BlockNumber *next)
{
	Buffer metaBuf = ReadBuffer(index, HNSW_METAPAGE), buf;
	GenericXLogState *state;
	Page meta, page;
	uint32 n, kept = 0;

	LockBuffer(metaBuf, BUFFER_LOCK_EXCLUSIVE);
	buf = lock_page(index, block, BUFFER_LOCK_EXCLUSIVE);
	state = GenericXLogStart(index);
	meta = GenericXLogRegisterBuffer(state, metaBuf, 0);
	page = GenericXLogRegisterBuffer(state, buf, 0);
	n = BqWaitingCount(page);
	for (uint32 i = 0; i < n; i++)
		if (!gone(&BqWaitingTids(page)[i], arg))
			BqWaitingTids(page)[kept++] = BqWaitingTids(page)[i];
	*left = kept;
	*next = Opaque(page)->next;
	if (kept == n)
		GenericXLogAbort(state);
	else
	{
		BqTrailer *trailer = Trailer(meta);

		set_count(page, kept);
		trailer->listed -= n - kept;
		trailer->listInsert = trailer->listHead;
		GenericXLogFinish(state);
	}
	UnlockReleaseBuffer(buf);
	UnlockReleaseBuffer(metaBuf);
	return n - kept;
}

void
BqWaitingSetState(Relation index, uint32 generation, uint32 moving)
{
	Buffer buf = ReadBuffer(index, HNSW_METAPAGE);
	GenericXLogState *state;
	BqTrailer *trailer;

	LockBuffer(buf, BUFFER_LOCK_EXCLUSIVE);
	state = GenericXLogStart(index);
	trailer = Trailer(GenericXLogRegisterBuffer(state, buf, 0));
	trailer->generation = generation;
	trailer->moving = moving;
	GenericXLogFinish(state);
	UnlockReleaseBuffer(buf);
}

BqWaiting
BqWaitingRead(Relation index)
{
	BqTrailer trailer = BqReadTrailer(index);
	BqWaiting w = {.trained = BqTrailerIsTrained(&trailer)};
	BlockNumber block = trailer.listHead, blocks = RelationGetNumberOfBlocks(index), pages = 0;
	uint32 room = 0;

	if (trailer.listed == 0)
		return w;
	while (BlockNumberIsValid(block))
	{
		CHECK_FOR_INTERRUPTS();
		/* a list that leads back into itself has more pages than the index */
		if (++pages > blocks)
			damaged(index, block);
		if (room - w.n < BQ_WAITING_ROOM)
		{
			room = Max(2 * room, (uint32) BQ_WAITING_ROOM);
			w.tids =
				w.tids ? repalloc_huge(w.tids, room * sizeof(ItemPointerData)) : palloc(room * sizeof(ItemPointerData));
		}
		w.n += BqWaitingPage(index, block, w.tids + w.n, &block);
	}
	if (w.n > 0)
	{
		BqTidSetInit(&w.set, w.n * 2 + 16);
		for (uint32 i = 0; i < w.n; i++)
			BqTidSetAdd(&w.set, &w.tids[i]);
	}
	trailer = BqReadTrailer(index);
	w.trained = BqTrailerIsTrained(&trailer);
	return w;
}
