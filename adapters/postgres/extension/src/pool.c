/* Candidates of our own walk. Elements leave the pool by their bounds, so the walk goes on whenever it may find one
 * that has to come before those that it has found. */
#include "pool.h"
#include "budget.h"

#include <math.h>

#include "miscadmin.h"
#include "utils/memutils.h"

/* Moves what the walk has found since into the pool. */
static void
collect(BqPool *p)
{
	int64 number;

	while ((number = BqWalkTake(p->walk)) >= 0)
	{
		const BqElement *e = BqWalkElement(p->walk, (uint32) number);

		BqQueuePush(&p->elements, e->distance - p->epsilon * e->error, (uint32) number);
	}
}

void
BqPoolBegin(BqPool *p, Relation index, const BqQuery *query, double rows)
{
	int bits = BqBits(&query->h);
	uint32 start = BqWalkStart(bits, rows);
	int64 elements = PG_INT64_MAX;
	Size memory = MaxAllocHugeSize;

	*p = (BqPool) {
		.epsilon = BqEpsilon(),
		.walkMost = BqWalkMost(),
	};
	/* without iteration walkMost alone is a limit */
	if (BqIterativeScan() != BQ_ITERATIVE_OFF)
	{
		elements = BqMaxScanTuples();
		memory = (Size) (BqScanMemMultiplier() * work_mem * 1024.0);
	}
	p->walk = BqWalkBegin(index, query, bits, start, elements, memory);
	BqQueueInit(&p->elements, 2 * start);
	collect(p);
}

static bool
may_grow(const BqPool *p)
{
	return !BqWalkEnded(p->walk) && BqWalkSize(p->walk) < p->walkMost;
}

bool
BqPoolLeft(const BqPool *p)
{
	return p->elements.n > 0 || may_grow(p);
}

/* Of what the walk has not found. */
static float
bound_of_unfound(const BqPool *p)
{
	return may_grow(p) ? BqWalkReach(p->walk) - p->epsilon * BqWalkError(p->walk) : INFINITY;
}

float
BqPoolBound(const BqPool *p)
{
	return Min(bound_of_unfound(p), p->elements.n > 0 ? p->elements.entries[0].key : INFINITY);
}

static void
grow(BqPool *p)
{
	uint32 size = BqWalkSize(p->walk);

	BqWalkGrow(p->walk, Min(size + Max(size / 2, 16), p->walkMost));
	collect(p);
}

int
BqPoolTake(BqPool *p, BqCandidate *candidates, int64 elements, float below)
{
	int n = 0;

	while (p->elements.n == 0 || bound_of_unfound(p) < p->elements.entries[0].key)
	{
		CHECK_FOR_INTERRUPTS();
		if (may_grow(p))
			grow(p);
		else if (p->elements.n == 0)
			return 0;
	}
	do
	{
		const BqElement *e = BqWalkElement(p->walk, BqQueuePop(&p->elements).element);

		for (int i = e->n_tids - 1; i >= 0; i--)
			candidates[n++] = (BqCandidate) {e->heap_tids[i], i == e->n_tids - 1};
		p->taken++;
	} while (--elements > 0 && n + HNSW_HEAPTIDS <= BQ_RESCORE_BATCH && p->elements.n > 0 &&
			 p->elements.entries[0].key < below);
	return n;
}
