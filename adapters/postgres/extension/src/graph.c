/* Reading of pgvector's graph.
 *
 * The cost of a walk is that of waiting for memory: some ten elements are looked at for every one that is kept, each on
 * a page of its own. So the neighbours of an element are fetched into the cache together before the first of them is
 * read, and the buffer that a block was in the last time is tried before the buffer table.
 *
 * Locks: one page at a time is locked, in share mode, for as long as one tuple of it is read; nothing else is locked
 * meanwhile, so no order of locks can be wrong. Inserts change a tuple under the exclusive lock of its page, so a tuple
 * is read whole. Two tuples that belong together, an element and its neighbours, lie on one page or two and are not
 * read at one time: between the two reads an insert may change the neighbours, which is as good, and with the lock of
 * BqGraphLock vacuum may not give the place to another element. */
#include "graph.h"

#include <math.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/buf_internals.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "storage/lmgr.h"

#define SCAN_LOCK 1     /* page that vacuum locks to wait for scans */
#define MAX_OFFSET 1023 /* a mask; a page has room for fewer tuples, and for this line pointer */

StaticAssertDecl(SizeOfPageHeaderData + MAX_OFFSET * sizeof(ItemIdData) <= BLCKSZ,
				 "a line pointer is read before it is known to be one");

static pg_noinline void
damaged(const BqGraph *g, BlockNumber block, const char *what)
{
	ereport(ERROR, (errcode(ERRCODE_INDEX_CORRUPTED),
					errmsg("graph of index \"%s\" is damaged: %s", RelationGetRelationName(g->index), what),
					errdetail("Block %u.", block), errhint("REINDEX INDEX %s.", RelationGetRelationName(g->index))));
}

/* What ReadBuffer does and ReadRecentBuffer leaves out: counts the buffer as used, for the clock that evicts. A lost
 * race is a count less. */
static inline void
count_use(Buffer buf)
{
	BufferDesc *header = GetBufferDescriptor(buf - 1);
	uint32 state = pg_atomic_read_u32(&header->state);

	if (BUF_STATE_GET_USAGECOUNT(state) < BM_MAX_USAGE_COUNT && !(state & BM_LOCKED))
		pg_atomic_compare_exchange_u32(&header->state, &state, state + BUF_USAGECOUNT_ONE);
}

/* A page, pinned and locked. What is on it tells whether it is one of the graph's: its end would be one cache line more
 * to wait for. */
static Page
read_page(BqGraph *g, BlockNumber block, Buffer *buf)
{
	Buffer *hint = &g->hints.buffers[block % g->hints.n];

	if (*hint > 0 && ReadRecentBuffer(g->index->rd_locator, MAIN_FORKNUM, block, *hint))
	{
		*buf = *hint;
		count_use(*buf);
		pgstat_count_buffer_read(g->index);
		pgstat_count_buffer_hit(g->index);
	}
	else
	{
		*buf = ReadBuffer(g->index, block);
		*hint = *buf;
	}
	LockBuffer(*buf, BUFFER_LOCK_SHARE);
	return BufferGetPage(*buf);
}

/* Leaves out the page header, a cache line more. So an offset beyond the last line pointer is not noticed as such: what
 * is read in its place, free space or another tuple, is a line pointer only if its state, length and place are those of
 * one, and then its tuple's type and header are compared with what is expected. All of it lies within the page. */
static const void *
read_tuple(const BqGraph *g, Page page, const ItemPointerData *tid, Size least)
{
	OffsetNumber offset = ItemPointerGetOffsetNumberNoCheck(tid);
	ItemId id;

	if (offset == InvalidOffsetNumber || offset > MAX_OFFSET)
		damaged(g, ItemPointerGetBlockNumberNoCheck(tid), "tuple missing");
	id = PageGetItemId(page, offset);
	if (!ItemIdIsNormal(id) || ItemIdGetLength(id) < least || ItemIdGetOffset(id) + ItemIdGetLength(id) > BLCKSZ ||
		ItemIdGetOffset(id) != MAXALIGN(ItemIdGetOffset(id)))
		damaged(g, ItemPointerGetBlockNumberNoCheck(tid), "tuple missing or too short");
	return PageGetItem(page, id);
}

/* Reads line pointers without a lock: a wrong one costs a useless line and nothing else. Inline, because gcc drops
 * calls of a function in the same file that only prefetches: it takes it for one without effect. */
static pg_attribute_always_inline void
prefetch(const BqGraph *g, const ItemPointerData *tids, int n)
{
	Page pages[2 * HNSW_MAX_M];

	for (int i = 0; i < n; i++)
	{
		Buffer hint = g->hints.buffers[ItemPointerGetBlockNumberNoCheck(&tids[i]) % g->hints.n];

		pages[i] = NULL;
		if (hint <= 0)
			continue;
		pages[i] = BufferGetPage(hint);
		__builtin_prefetch(GetBufferDescriptor(hint - 1));
		__builtin_prefetch(PageGetItemId(pages[i], ItemPointerGetOffsetNumberNoCheck(&tids[i]) & MAX_OFFSET));
	}
	for (int i = 0; i < n; i++)
	{
		const char *tuple;

		if (pages[i] == NULL)
			continue;
		tuple = (char *) pages[i] +
				PageGetItemId(pages[i], ItemPointerGetOffsetNumberNoCheck(&tids[i]) & MAX_OFFSET)->lp_off % BLCKSZ;
		for (Size at = 0; at < g->ahead; at += 64)
			__builtin_prefetch(tuple + at);
	}
}

void
BqGraphPrefetch(const BqGraph *g, const ItemPointerData *tids, int n)
{
	prefetch(g, tids, n);
}

/* Half width of the bound on the estimate's error, one deviation of it. */
static float
deviation(const BqGraph *g, const BqCode *code)
{
	int bits = BqBits(&g->expected), metric = BqMetric(&g->expected);
	uint32 dim = g->expected.dim;
	int32 self = (int32) dim; /* of 1 bit: each product of levels is 1 */

	if (bits > 1)
		bqk_sym(bits, dim, code->code, bqk_nbytes(dim, bits), 1, code->code, &self);
	return bqk_error(bits, metric, dim, self, &code->factors, &g->query->query);
}

BqFound
BqGraphElement(BqGraph *g, const ItemPointerData *tid, float nearer_than, BqElement *out)
{
	BlockNumber block = ItemPointerGetBlockNumberNoCheck(tid);
	Buffer buf;
	Page page = read_page(g, block, &buf);
	const HnswElement *tuple = read_tuple(g, page, tid, offsetof(HnswElement, code) + VARSIZE(&g->expected));
	const BqCode *code = (const BqCode *) &tuple->code;
	BqFound found = BQ_DELETED;

	if (tuple->type != BQ_ITEM_ELEMENT)
		damaged(g, block, "expected an element");
	if (!tuple->deleted)
	{
		if (memcmp(&tuple->code, &g->expected, sizeof(BqHeader)) != 0)
			damaged(g, block, "expected a code of the index's model");
		out->distance = bqk_distance(BqBits(&g->expected), g->expected.dim, &g->query->query, g->query->z, code->code,
									 &code->factors);
		/* an estimate beyond float's range is that of a row that is far; queues need an order */
		if (isnan(out->distance))
			out->distance = INFINITY;
		found = out->distance < nearer_than || nearer_than == INFINITY ? BQ_FOUND : BQ_FARTHER;
	}
	if (found == BQ_FOUND)
	{
		out->error = deviation(g, code);
		out->tid = *tid;
		out->level = tuple->level;
		out->version = tuple->version;
		out->pooled = false;
		out->neighbours = tuple->neighbours;
		for (out->n_tids = 0; out->n_tids < HNSW_HEAPTIDS; out->n_tids++)
		{
			if (!ItemPointerIsValid(&tuple->heaptids[out->n_tids]))
				break;
			out->heap_tids[out->n_tids] = tuple->heaptids[out->n_tids];
		}
		prefetch(g, &out->neighbours, 1);
	}
	UnlockReleaseBuffer(buf);
	return found;
}

int
BqGraphNeighbours(BqGraph *g, const BqElement *e, int level, ItemPointerData *tids)
{
	BlockNumber block = ItemPointerGetBlockNumberNoCheck(&e->neighbours);
	int most = level == 0 ? 2 * g->m : g->m, n = 0;
	Buffer buf;
	Page page = read_page(g, block, &buf);
	int count = (e->level + 2) * g->m;
	const HnswNeighbours *tuple = read_tuple(g, page, &e->neighbours, offsetof(HnswNeighbours, links));

	if (tuple->type != BQ_ITEM_NEIGHBOURS)
		damaged(g, block, "expected neighbours");
	/* another element may have got the place since this one was read */
	if (tuple->version == e->version && tuple->count == count)
	{
		const ItemPointerData *from = tuple->links + (e->level - level) * g->m;

		read_tuple(g, page, &e->neighbours, offsetof(HnswNeighbours, links) + sizeof(ItemPointerData) * count);
		while (n < most && ItemPointerIsValid(&from[n]))
			n++;
		memcpy(tids, from, sizeof(ItemPointerData) * n);
	}
	UnlockReleaseBuffer(buf);
	return n;
}

void
BqGraphLock(BqGraph *g)
{
	LockPage(g->index, SCAN_LOCK, ShareLock);
	/* taking a lock may have accepted invalidations, which free what the relcache keeps; reading pages does not */
	g->hints = BqBufferHints(g->index);
}

void
BqGraphUnlock(const BqGraph *g)
{
	UnlockPage(g->index, SCAN_LOCK, ShareLock);
}

void
BqGraphOpen(BqGraph *g, Relation index, const BqQuery *query, int bits)
{
	Size size = BQ_CODE_SIZE(query->h.dim, bits);

	g->index = index;
	g->query = query;
	g->expected = (BqHeader) {.dim = query->h.dim, .tag = BQ_TAG_CODE, .kind = query->h.kind};
	SET_VARSIZE(&g->expected, size);
	g->ahead = Min(offsetof(HnswElement, code) + size, 512);
}

/* The metapage; read as others are, without a hint: all scans read it, and ReadRecentBuffer takes a spinlock. */
static HnswMeta
read_meta(BqGraph *g)
{
	Buffer buf = ReadBuffer(g->index, HNSW_METAPAGE);
	HnswMeta meta;

	LockBuffer(buf, BUFFER_LOCK_SHARE);
	meta = *(const HnswMeta *) PageGetContents(BufferGetPage(buf));
	UnlockReleaseBuffer(buf);
	if (meta.magic != HNSW_MAGIC || meta.version != HNSW_PAGE_VERSION || meta.m < 2 || meta.m > HNSW_MAX_M)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("bqhnsw does not know the graph of index \"%s\"", RelationGetRelationName(g->index)),
						errdetail("Its metapage has magic number %08x, version %u and m = %u; expected %08x, %u and "
								  "2 to %d.",
								  meta.magic, meta.version, meta.m, HNSW_MAGIC, HNSW_PAGE_VERSION, HNSW_MAX_M)));
	return meta;
}

#define ENTRY_TRIES 10

/* Vacuum names another entry on the metapage before it marks the old one as deleted, and replay does the same, so
 * whoever finds the entry deleted finds another one by reading the metapage again. On a primary vacuum waits for scans
 * in between, on a standby it does not. An entry that stays deleted is what vacuum of pgvector before 0.8.3 could leave
 * behind. */
bool
BqGraphEntry(BqGraph *g, BqElement *out)
{
	ItemPointerData last;

	ItemPointerSetInvalid(&last);
	for (int i = 0; i < ENTRY_TRIES; i++)
	{
		HnswMeta meta = read_meta(g);
		ItemPointerData tid;

		g->m = meta.m;
		if (!BlockNumberIsValid(meta.entryBlock))
			return false;
		ItemPointerSet(&tid, meta.entryBlock, meta.entryOffset);
		/* no limit: an entry whose estimate is beyond float's range leads on as well */
		if (BqGraphElement(g, &tid, INFINITY, out) == BQ_FOUND)
			return true;
		if (ItemPointerEquals(&tid, &last))
		{
			/* the same again: replay has not come to the new one's record, or there is none */
			CHECK_FOR_INTERRUPTS();
			pg_usleep(1000L);
		}
		last = tid;
	}
	if (RecoveryInProgress())
		ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
						errmsg("cannot load the entry of index \"%s\": vacuum's changes are being replayed",
							   RelationGetRelationName(g->index)),
						errhint("Repeat the query.")));
	ereport(ERROR, (errcode(ERRCODE_INDEX_CORRUPTED),
					errmsg("the entry of the graph of index \"%s\" is deleted", RelationGetRelationName(g->index)),
					errdetail("Vacuum of pgvector before 0.8.3 could leave a graph in this state."),
					errhint("REINDEX INDEX %s.", RelationGetRelationName(g->index))));
}
