/* The walk through pgvector's graph: see graph.c for how pages are read, and for locks.
 *
 * Elements that are not among the ef nearest are remembered by their place and estimate. When the walk is to find more,
 * the nearest of them take part again, so that a walk that has grown has seen what a wider one would have. */
#include "walk.h"
#include "walk_sets.h"

#include <math.h>

#include "miscadmin.h"
#include "utils/memutils.h"

#define NO_ELEMENT PG_UINT32_MAX

/* An element that is not kept; `element` where all of it was read. */
typedef struct Discarded
{
	uint32 element;
	ItemPointerData tid;
} Discarded;

struct BqWalk
{
	BqGraph graph;
	MemoryContext ctx;
	uint32 ef;
	int64 most;
	Size mostMemory;
	BqElement *elements; /* that are or were kept */
	uint32 n_elements, capacity;
	BqTidSet visited;
	BqQueue frontier; /* elements to be expanded, nearest first */
	BqQueue kept;     /* the nearest ones, furthest first: keys are negative distances */
	Discarded *discarded;
	float *discardedDistance;
	uint32 n_discarded, discardedCapacity, n_queued;
	BqQueue again; /* of discarded[0..n_queued), nearest first */
	uint32 next;   /* entry of `kept` to be taken */
	double errors; /* sum over `elements` */
	bool ended;
};

/* From an element to its nearest neighbour on a level as long as that is nearer. */
static void
descend(BqWalk *w, BqElement *e, int level)
{
	ItemPointerData tids[2 * HNSW_MAX_M];
	bool nearer = true;

	while (nearer)
	{
		int n = BqGraphNeighbours(&w->graph, e, level, tids);

		CHECK_FOR_INTERRUPTS();
		nearer = false;
		BqGraphPrefetch(&w->graph, tids, n);
		for (int i = 0; i < n; i++)
		{
			BqElement neighbour;

			if (BqGraphElement(&w->graph, &tids[i], e->distance, &neighbour) == BQ_FOUND && neighbour.level >= level &&
				neighbour.distance < e->distance)
			{
				*e = neighbour;
				nearer = true;
			}
		}
	}
}

static void
discard(BqWalk *w, float distance, uint32 element, const ItemPointerData *tid)
{
	if (w->n_discarded == w->discardedCapacity)
	{
		w->discardedCapacity *= 2;
		w->discarded = repalloc_huge(w->discarded, sizeof(Discarded) * w->discardedCapacity);
		w->discardedDistance = repalloc_huge(w->discardedDistance, sizeof(float) * w->discardedCapacity);
	}
	w->discarded[w->n_discarded] = (Discarded) {element, *tid};
	w->discardedDistance[w->n_discarded++] = distance;
}

/* Puts an element among the nearest; the furthest of too many is one no more. */
static void
keep(BqWalk *w, float distance, uint32 element)
{
	BqQueuePush(&w->kept, -distance, element);
	if (w->kept.n > w->ef)
	{
		BqQueueEntry furthest = BqQueuePop(&w->kept);
		const BqElement *e = &w->elements[furthest.element];

		/* what was taken is with the scan */
		if (!e->pooled)
			discard(w, e->distance, furthest.element, &e->tid);
	}
}

static uint32
add_element(BqWalk *w, const BqElement *e)
{
	uint32 number = w->n_elements++;

	if (number == w->capacity)
	{
		w->capacity *= 2;
		w->elements = repalloc_huge(w->elements, sizeof(BqElement) * w->capacity);
	}
	w->elements[number] = *e;
	w->errors += e->error;
	BqQueuePush(&w->frontier, e->distance, number);
	return number;
}

static float
limit(const BqWalk *w)
{
	return w->kept.n < w->ef ? INFINITY : -w->kept.entries[0].key;
}

/* Arrays double when they are full: what is allocated may become twice as much by the next element. */
static bool
may_look_further(const BqWalk *w)
{
	return w->visited.n < w->most && MemoryContextMemAllocated(w->ctx, false) <= w->mostMemory / 2;
}

/* Expands the nearest elements until all that are left are further than the ef nearest. */
static void
search(BqWalk *w)
{
	ItemPointerData tids[2 * HNSW_MAX_M];

	while (w->frontier.n > 0 && w->frontier.entries[0].key <= limit(w) && may_look_further(w))
	{
		BqQueueEntry nearest = BqQueuePop(&w->frontier);
		int n = BqGraphNeighbours(&w->graph, &w->elements[nearest.element], 0, tids), unvisited = 0;

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < n; i++)
			if (BqTidSetAdd(&w->visited, &tids[i]))
				tids[unvisited++] = tids[i];
		BqGraphPrefetch(&w->graph, tids, unvisited);
		for (int i = 0; i < unvisited; i++)
		{
			BqElement e;
			BqFound found = BqGraphElement(&w->graph, &tids[i], limit(w), &e);

			if (found == BQ_FOUND)
				keep(w, e.distance, add_element(w, &e));
			else if (found == BQ_FARTHER)
				discard(w, e.distance, NO_ELEMENT, &tids[i]);
		}
	}
	w->ended = w->kept.n < w->ef;
	w->next = 0;
}

/* Whether there is memory for twice as many elements. */
static bool
may_double(const BqWalk *w)
{
	return MemoryContextMemAllocated(w->ctx, false) + sizeof(BqElement) * w->capacity <= w->mostMemory;
}

/* The nearest of what was discarded, until ef are kept. */
static void
take_back(BqWalk *w)
{
	if (w->again.entries == NULL)
		BqQueueInit(&w->again, Max(w->n_discarded, 16));
	for (; w->n_queued < w->n_discarded; w->n_queued++)
		BqQueuePush(&w->again, w->discardedDistance[w->n_queued], w->n_queued);
	while (w->again.n > 0 && w->kept.n < w->ef && (w->n_elements < w->capacity || may_double(w)))
	{
		const Discarded *d = &w->discarded[BqQueuePop(&w->again).element];
		uint32 number = d->element;

		CHECK_FOR_INTERRUPTS();
		if (number == NO_ELEMENT)
		{
			ItemPointerData tid = d->tid;
			BqElement e;

			if (BqGraphElement(&w->graph, &tid, INFINITY, &e) != BQ_FOUND)
				continue;
			number = add_element(w, &e);
		}
		keep(w, w->elements[number].distance, number);
	}
}

BqWalk *
BqWalkBegin(Relation index, const BqQuery *query, int bits, uint32 ef, int64 most, Size mostMemory)
{
	BqWalk *w = palloc0(sizeof(BqWalk));
	BqElement entry;

	w->ctx = CurrentMemoryContext;
	w->ef = ef;
	w->most = PG_INT64_MAX;
	w->mostMemory = MaxAllocHugeSize;
	w->capacity = w->discardedCapacity = 4 * ef;
	w->elements = palloc_extended(sizeof(BqElement) * w->capacity, MCXT_ALLOC_HUGE);
	w->discarded = palloc_extended(sizeof(Discarded) * w->discardedCapacity, MCXT_ALLOC_HUGE);
	w->discardedDistance = palloc_extended(sizeof(float) * w->discardedCapacity, MCXT_ALLOC_HUGE);
	BqQueueInit(&w->frontier, 4 * ef);
	BqQueueInit(&w->kept, ef + 1);
	BqGraphOpen(&w->graph, index, query, bits);

	BqGraphLock(&w->graph);
	if (BqGraphEntry(&w->graph, &entry))
	{
		for (int level = entry.level; level >= 1; level--)
			descend(w, &entry, level);
		BqTidSetInit(&w->visited, ef * w->graph.m * 2);
		BqTidSetAdd(&w->visited, &entry.tid);
		keep(w, entry.distance, add_element(w, &entry));
		search(w);
	}
	else
		w->ended = true;
	BqGraphUnlock(&w->graph);
	/* what hnsw.ef_search asks for is found whatever it takes */
	w->most = most;
	w->mostMemory = mostMemory;
	return w;
}

bool
BqWalkGrow(BqWalk *w, uint32 ef)
{
	MemoryContext old;

	if (w->ended)
		return false;
	old = MemoryContextSwitchTo(w->ctx);
	w->ef = ef;
	BqGraphLock(&w->graph);
	take_back(w);
	search(w);
	BqGraphUnlock(&w->graph);
	MemoryContextSwitchTo(old);
	return true;
}

bool
BqWalkEnded(const BqWalk *w)
{
	return w->ended;
}

uint32
BqWalkSize(const BqWalk *w)
{
	return w->ef;
}

int64
BqWalkTake(BqWalk *w)
{
	while (w->next < w->kept.n)
	{
		uint32 number = w->kept.entries[w->next++].element;

		if (!w->elements[number].pooled)
		{
			w->elements[number].pooled = true;
			return number;
		}
	}
	return -1;
}

BqElement *
BqWalkElement(const BqWalk *w, uint32 number)
{
	return &w->elements[number];
}

float
BqWalkReach(const BqWalk *w)
{
	return w->ended ? INFINITY : limit(w);
}

float
BqWalkError(const BqWalk *w)
{
	return w->n_elements > 0 ? (float) (w->errors / w->n_elements) : 0.0f;
}
