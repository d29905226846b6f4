/* The k smallest of a stream by threshold and compaction: what does not exceed the threshold is appended, and a full
 * buffer is cut down to its k smallest, whose largest is the next threshold. Nothing is sorted before the end.
 *
 * Entries are numbers: the distance's bits, in an order that unsigned integers share, above the id. So ties go to the
 * smaller id, and the result does not depend on the order in which entries come. */
#ifndef BQK_TOPK_H
#define BQK_TOPK_H

#include "bqk.h"

#pragma GCC visibility push(hidden)

typedef struct bqk_topk
{
	uint64_t *entries; /* bqk_topk_capacity(k) */
	size_t n;
	size_t k;
	float threshold; /* what exceeds it is not among the k best; infinite before there are k */
} bqk_topk;

static inline size_t
bqk_topk_capacity(size_t k)
{
	return 2 * k + 64;
}

/* Cuts down to the k smallest, unordered. */
void bqk_topk_compact(bqk_topk *t);
/* The j-th smallest distance of the entries, 1 <= j <= n. */
float bqk_topk_nth(bqk_topk *t, size_t j);
/* Compacts and sorts; returns the number of entries. */
size_t bqk_topk_finish(bqk_topk *t);

static inline uint64_t
bqk_topk_entry(float distance, uint32_t id)
{
	union
	{
		float f;
		uint32_t u;
	} bits = {distance + 0.0f}; /* -0 becomes 0: they tie */

	bits.u ^= bits.u >> 31 ? UINT32_MAX : UINT32_C(1) << 31;
	return (uint64_t) bits.u << 32 | id;
}

static inline float
bqk_topk_distance(uint64_t entry)
{
	union
	{
		uint32_t u;
		float f;
	} bits = {(uint32_t) (entry >> 32)};

	bits.u ^= bits.u >> 31 ? UINT32_C(1) << 31 : UINT32_MAX;
	return bits.f;
}

static inline void
bqk_topk_push(bqk_topk *t, float distance, uint32_t id)
{
	if (!(distance <= t->threshold))
		return;
	if (t->n == bqk_topk_capacity(t->k))
	{
		bqk_topk_compact(t);
		if (!(distance <= t->threshold))
			return;
	}
	t->entries[t->n++] = bqk_topk_entry(distance, id);
}

#pragma GCC visibility pop

#endif
