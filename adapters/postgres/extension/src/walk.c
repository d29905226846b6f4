/* The walk through pgvector's graph, for scans that end with hnsw.ef_search rows; others use pgvector's own.
 *
 * Its cost is that of waiting for memory: some ten elements are looked at for every one that is kept, each on a page of
 * its own. So the neighbours of an element are fetched into the cache together before the first of them is read, and
 * the buffer that a block was in the last time is tried before the buffer table. */
#include "hnsw_pages.h"
#include "walk.h"
#include "walk_sets.h"

#include <math.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/buf_internals.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"

#define SCAN_LOCK 1     /* page that vacuum locks to wait for scans */
#define MAX_OFFSET 1023 /* a mask; a page has room for fewer tuples, and for this line pointer */

typedef struct Element
{
	float distance;
	uint8 level, version, n_tids;
	ItemPointerData tid, neighbours;
	ItemPointerData heap_tids[HNSW_HEAPTIDS];
} Element;

struct BqWalk
{
	Relation index;
	const BqQuery *query;
	BqHeader expected; /* of every code */
	BqHints hints;
	Size ahead; /* bytes of a tuple to ask for: its element, but hardware goes on by itself */
	int m;
	Element *elements;
	uint32 n_elements, capacity;
	TidSet visited;
	Heap candidates; /* to be expanded, nearest first */
	Heap kept;       /* furthest first: keys are negative distances */
	uint32 next;     /* element of `kept`, sorted, to be returned */
};

static pg_noinline void
corrupt(const BqWalk *w, BlockNumber block, const char *what)
{
	ereport(ERROR, (errcode(ERRCODE_INDEX_CORRUPTED),
					errmsg("graph of index \"%s\" is damaged: %s", RelationGetRelationName(w->index), what),
					errdetail("Block %u.", block), errhint("REINDEX INDEX %s.", RelationGetRelationName(w->index))));
}

/* ---- pages ---- */

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
read_page(BqWalk *w, BlockNumber block, Buffer *buf)
{
	Buffer *hint = &w->hints.buffers[block % w->hints.n];

	if (*hint > 0 && ReadRecentBuffer(w->index->rd_locator, MAIN_FORKNUM, block, *hint))
	{
		*buf = *hint;
		count_use(*buf);
		pgstat_count_buffer_read(w->index);
		pgstat_count_buffer_hit(w->index);
	}
	else
	{
		*buf = ReadBuffer(w->index, block);
		*hint = *buf;
	}
	LockBuffer(*buf, BUFFER_LOCK_SHARE);
	return BufferGetPage(*buf);
}

/* Leaves out the page header, a cache line more: beyond the last line pointer lie zeros, which are not normal ones. */
static const void *
read_tuple(const BqWalk *w, Page page, const ItemPointerData *tid, Size least)
{
	OffsetNumber offset = ItemPointerGetOffsetNumberNoCheck(tid);
	ItemId id;

	if (offset == InvalidOffsetNumber || offset > MAX_OFFSET)
		corrupt(w, ItemPointerGetBlockNumberNoCheck(tid), "tuple missing");
	id = PageGetItemId(page, offset);
	if (!ItemIdIsNormal(id) || ItemIdGetLength(id) < least || ItemIdGetOffset(id) + ItemIdGetLength(id) > BLCKSZ)
		corrupt(w, ItemPointerGetBlockNumberNoCheck(tid), "tuple missing or too short");
	return PageGetItem(page, id);
}

/* Asks for elements' cache lines, as far as hints tell where they are. Reads line pointers without a lock: a wrong one
 * costs a useless line and nothing else. Inline, because gcc drops calls of a function that only prefetches: it takes
 * it for one without effect. */
static pg_attribute_always_inline void
prefetch(const BqWalk *w, const ItemPointerData *tids, int n)
{
	Page pages[2 * HNSW_MAX_M];

	for (int i = 0; i < n; i++)
	{
		Buffer hint = w->hints.buffers[ItemPointerGetBlockNumberNoCheck(&tids[i]) % w->hints.n];

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
		for (Size at = 0; at < w->ahead; at += 64)
			__builtin_prefetch(tuple + at);
	}
}

/* Reads an element; false if it was deleted, or is not nearer than `nearer_than`. */
static bool
read_element(BqWalk *w, const ItemPointerData *tid, float nearer_than, Element *out)
{
	BlockNumber block = ItemPointerGetBlockNumberNoCheck(tid);
	Buffer buf;
	Page page = read_page(w, block, &buf);
	const HnswElement *tuple = read_tuple(w, page, tid, offsetof(HnswElement, code) + VARSIZE(&w->expected));
	const BqCode *code = (const BqCode *) &tuple->code;
	bool found = false;

	if (tuple->type != BQ_ITEM_ELEMENT)
		corrupt(w, block, "expected an element");
	if (!tuple->deleted)
	{
		if (memcmp(&tuple->code, &w->expected, sizeof(BqHeader)) != 0)
			corrupt(w, block, "expected a code of the index's model");
		out->distance = bqk_distance(BqBits(&w->expected), w->expected.dim, &w->query->query, w->query->z, code->code,
									 &code->factors);
		found = out->distance < nearer_than;
	}
	if (found)
	{
		out->tid = *tid;
		out->level = tuple->level;
		out->version = tuple->version;
		out->neighbours = tuple->neighbours;
		for (out->n_tids = 0; out->n_tids < HNSW_HEAPTIDS; out->n_tids++)
		{
			if (!ItemPointerIsValid(&tuple->heaptids[out->n_tids]))
				break;
			out->heap_tids[out->n_tids] = tuple->heaptids[out->n_tids];
		}
		prefetch(w, &out->neighbours, 1);
	}
	UnlockReleaseBuffer(buf);
	return found;
}

/* An element's neighbours on a level; none if another element has taken its place. */
static int
read_neighbours(BqWalk *w, const Element *e, int level, ItemPointerData *tids)
{
	BlockNumber block = ItemPointerGetBlockNumberNoCheck(&e->neighbours);
	int most = level == 0 ? 2 * w->m : w->m, n = 0;
	Buffer buf;
	Page page = read_page(w, block, &buf);
	int count = (e->level + 2) * w->m;
	const HnswNeighbours *tuple = read_tuple(w, page, &e->neighbours, offsetof(HnswNeighbours, links));

	if (tuple->type != BQ_ITEM_NEIGHBOURS)
		corrupt(w, block, "expected neighbours");
	if (tuple->version == e->version && tuple->count == count)
	{
		const ItemPointerData *from = tuple->links + (e->level - level) * w->m;

		read_tuple(w, page, &e->neighbours, offsetof(HnswNeighbours, links) + sizeof(ItemPointerData) * count);
		while (n < most && ItemPointerIsValid(&from[n]))
			n++;
		memcpy(tids, from, sizeof(ItemPointerData) * n);
	}
	UnlockReleaseBuffer(buf);
	return n;
}

/* ---- the walk ---- */

/* From an element to its nearest neighbour on a level as long as that is nearer. */
static void
descend(BqWalk *w, Element *e, int level)
{
	ItemPointerData tids[2 * HNSW_MAX_M];
	bool nearer = true;

	while (nearer)
	{
		int n = read_neighbours(w, e, level, tids);

		CHECK_FOR_INTERRUPTS();
		nearer = false;
		prefetch(w, tids, n);
		for (int i = 0; i < n; i++)
		{
			Element neighbour;

			if (read_element(w, &tids[i], e->distance, &neighbour) && neighbour.level >= level)
			{
				*e = neighbour;
				nearer = true;
			}
		}
	}
}

static void
keep(BqWalk *w, const Element *e, uint32 ef_search)
{
	uint32 number = w->n_elements++;

	if (number == w->capacity)
	{
		w->capacity *= 2;
		w->elements = repalloc_huge(w->elements, sizeof(Element) * w->capacity);
	}
	w->elements[number] = *e;
	heap_push(&w->candidates, e->distance, number);
	heap_push(&w->kept, -e->distance, number);
	if (w->kept.n > ef_search)
		heap_pop(&w->kept);
}

static void
search_ground(BqWalk *w, const Element *entry, uint32 ef_search)
{
	ItemPointerData tids[2 * HNSW_MAX_M];

	tidset_add(&w->visited, &entry->tid);
	keep(w, entry, ef_search);
	while (w->candidates.n > 0)
	{
		Entry nearest = heap_pop(&w->candidates);
		int n, unvisited = 0;

		CHECK_FOR_INTERRUPTS();
		if (nearest.key > -w->kept.entries[0].key)
			break;
		n = read_neighbours(w, &w->elements[nearest.element], 0, tids);
		for (int i = 0; i < n; i++)
			if (tidset_add(&w->visited, &tids[i]))
				tids[unvisited++] = tids[i];
		prefetch(w, tids, unvisited);
		for (int i = 0; i < unvisited; i++)
		{
			float bound = w->kept.n < ef_search ? INFINITY : -w->kept.entries[0].key;
			Element e;

			if (read_element(w, &tids[i], bound, &e))
				keep(w, &e, ef_search);
		}
	}
}

/* The element at which walks begin; false if the graph is empty. */
static bool
read_entry(BqWalk *w, Element *entry)
{
	ItemPointerData tid;
	Buffer buf;
	Page page = read_page(w, HNSW_METAPAGE, &buf);
	HnswMeta meta = *(const HnswMeta *) PageGetContents(page);

	UnlockReleaseBuffer(buf);
	if (meta.magic != HNSW_MAGIC || meta.version != HNSW_PAGE_VERSION || meta.m < 2 || meta.m > HNSW_MAX_M)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("bqhnsw does not know the graph of index \"%s\"", RelationGetRelationName(w->index)),
						errdetail("Its metapage has magic number %08x, version %u and m = %u; expected %08x, %u and "
								  "2 to %d.",
								  meta.magic, meta.version, meta.m, HNSW_MAGIC, HNSW_PAGE_VERSION, HNSW_MAX_M)));
	w->m = meta.m;
	if (!BlockNumberIsValid(meta.entryBlock))
		return false;
	ItemPointerSet(&tid, meta.entryBlock, meta.entryOffset);
	if (!read_element(w, &tid, INFINITY, entry))
		/* on a standby only, whose replay of vacuum does not wait for scans; pgvector says so of every element */
		ereport(ERROR, (errmsg("cannot load deleted element"),
						errdetail("Index \"%s\".", RelationGetRelationName(w->index)), errhint("Repeat the query.")));
	return true;
}

BqWalk *
BqWalkGraph(Relation index, const BqQuery *query, int bits, int ef_search)
{
	BqWalk *w = palloc0(sizeof(BqWalk));
	Size size = BQ_CODE_SIZE(query->h.dim, bits);
	Element entry;

	w->index = index;
	w->query = query;
	w->expected = (BqHeader) {.dim = query->h.dim, .tag = BQ_TAG_CODE, .kind = query->h.kind};
	SET_VARSIZE(&w->expected, size);
	w->ahead = Min(offsetof(HnswElement, code) + size, 512);
	w->capacity = 4 * (uint32) ef_search;
	w->elements = palloc_extended(sizeof(Element) * w->capacity, MCXT_ALLOC_HUGE);
	heap_init(&w->candidates, 4 * (uint32) ef_search);
	heap_init(&w->kept, (uint32) ef_search + 1);

	/* as pgvector's scans: vacuum waits for those under way before it marks elements deleted */
	LockPage(index, SCAN_LOCK, ShareLock);
	w->hints = BqBufferHints(index);
	if (read_entry(w, &entry))
	{
		for (int level = entry.level; level >= 1; level--)
			descend(w, &entry, level);
		tidset_init(&w->visited, (uint32) ef_search * w->m * 2);
		search_ground(w, &entry, (uint32) ef_search);
	}
	UnlockPage(index, SCAN_LOCK, ShareLock);

	/* furthest first, from the end: nearest first */
	for (uint32 n = w->kept.n; n > 0; n--)
	{
		Entry furthest = heap_pop(&w->kept);

		w->kept.entries[n - 1] = furthest;
		w->next++;
	}
	w->kept.n = w->next;
	w->next = 0;
	return w;
}

bool
BqWalkNext(BqWalk *w, ItemPointer tid)
{
	while (w->next < w->kept.n)
	{
		Element *e = &w->elements[w->kept.entries[w->next].element];

		if (e->n_tids > 0)
		{
			*tid = e->heap_tids[--e->n_tids];
			return true;
		}
		w->next++;
	}
	return false;
}
