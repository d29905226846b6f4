/* What a walk keeps its order and its memory in: priority queues, and a set of tuples' places. */
#ifndef BQCORE_WALK_SETS_H
#define BQCORE_WALK_SETS_H

#include "postgres.h"

#include "port/pg_bitutils.h"
#include "storage/itemptr.h"

/* Binary heap of elements with the least key first. */
typedef struct BqQueueEntry
{
	float key;
	uint32 element;
} BqQueueEntry;

typedef struct BqQueue
{
	BqQueueEntry *entries;
	uint32 n, capacity;
} BqQueue;

static inline void
BqQueuePush(BqQueue *q, float key, uint32 element)
{
	uint32 at;

	if (q->n == q->capacity)
	{
		q->capacity *= 2;
		q->entries = repalloc_huge(q->entries, sizeof(BqQueueEntry) * q->capacity);
	}
	for (at = q->n++; at > 0 && key < q->entries[(at - 1) / 2].key; at = (at - 1) / 2)
		q->entries[at] = q->entries[(at - 1) / 2];
	q->entries[at] = (BqQueueEntry) {key, element};
}

static inline BqQueueEntry
BqQueuePop(BqQueue *q)
{
	BqQueueEntry first = q->entries[0], last = q->entries[--q->n];
	uint32 at = 0;

	for (;;)
	{
		uint32 child = 2 * at + 1;

		if (child >= q->n)
			break;
		if (child + 1 < q->n && q->entries[child + 1].key < q->entries[child].key)
			child++;
		if (last.key <= q->entries[child].key)
			break;
		q->entries[at] = q->entries[child];
		at = child;
	}
	q->entries[at] = last;
	return first;
}

static inline void
BqQueueInit(BqQueue *q, uint32 capacity)
{
	q->n = 0;
	q->capacity = capacity;
	q->entries = palloc(sizeof(BqQueueEntry) * capacity);
}

/* Fibonacci hashing (Knuth, volume 3, 6.4): the high bits of a product with 2^64 over the golden ratio */
static inline uint32
tidset_place(uint64 key, uint32 mask)
{
	return (uint32) (key * UINT64CONST(0x9E3779B97F4A7C15) >> 32) & mask;
}

static inline bool
tidset_put(uint64 *table, uint32 mask, uint64 key)
{
	uint32 at = tidset_place(key, mask);

	while (table[at] != 0)
	{
		if (table[at] == key)
			return false;
		at = (at + 1) & mask;
	}
	table[at] = key;
	return true;
}

/* Open addressing; keys are block << 16 | offset, which is never 0. */
typedef struct BqTidSet
{
	uint64 *keys;
	uint32 n, mask;
} BqTidSet;

static inline void
BqTidSetInit(BqTidSet *s, uint32 expected)
{
	s->n = 0;
	s->mask = pg_nextpower2_32(expected) - 1;
	s->keys = palloc0(sizeof(uint64) * ((Size) s->mask + 1));
}

static inline uint64
tidset_key(const ItemPointerData *tid)
{
	return (uint64) ItemPointerGetBlockNumberNoCheck(tid) << 16 | ItemPointerGetOffsetNumberNoCheck(tid);
}

static inline bool
BqTidSetHas(const BqTidSet *s, const ItemPointerData *tid)
{
	uint64 key = tidset_key(tid);
	uint32 at = tidset_place(key, s->mask);

	while (s->keys[at] != 0 && s->keys[at] != key)
		at = (at + 1) & s->mask;
	return s->keys[at] == key;
}

/* False if it was there. */
static inline bool
BqTidSetAdd(BqTidSet *s, const ItemPointerData *tid)
{
	uint64 key = tidset_key(tid);

	if (s->n >= s->mask / 4 * 3)
	{
		uint32 mask = s->mask * 2 + 1;
		uint64 *table = palloc_extended(sizeof(uint64) * ((Size) mask + 1), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);

		for (uint32 i = 0; i <= s->mask; i++)
			if (s->keys[i] != 0)
				tidset_put(table, mask, s->keys[i]);
		pfree(s->keys);
		s->keys = table;
		s->mask = mask;
	}
	if (!tidset_put(s->keys, s->mask, key))
		return false;
	s->n++;
	return true;
}

#endif
