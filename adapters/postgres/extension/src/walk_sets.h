/* What a walk keeps its order and its memory in: binary heaps, and a set of tuples' places. */
#ifndef BQCORE_WALK_SETS_H
#define BQCORE_WALK_SETS_H

#include "postgres.h"

#include "port/pg_bitutils.h"
#include "storage/itemptr.h"

/* Binary heap of elements with the least key first. */
typedef struct Entry
{
	float key;
	uint32 element;
} Entry;

typedef struct Heap
{
	Entry *entries;
	uint32 n, capacity;
} Heap;

static inline void
heap_push(Heap *h, float key, uint32 element)
{
	uint32 at;

	if (h->n == h->capacity)
	{
		h->capacity *= 2;
		h->entries = repalloc(h->entries, sizeof(Entry) * h->capacity);
	}
	for (at = h->n++; at > 0 && key < h->entries[(at - 1) / 2].key; at = (at - 1) / 2)
		h->entries[at] = h->entries[(at - 1) / 2];
	h->entries[at] = (Entry) {key, element};
}

static inline Entry
heap_pop(Heap *h)
{
	Entry first = h->entries[0], last = h->entries[--h->n];
	uint32 at = 0;

	for (;;)
	{
		uint32 child = 2 * at + 1;

		if (child >= h->n)
			break;
		if (child + 1 < h->n && h->entries[child + 1].key < h->entries[child].key)
			child++;
		if (last.key <= h->entries[child].key)
			break;
		h->entries[at] = h->entries[child];
		at = child;
	}
	h->entries[at] = last;
	return first;
}

static inline void
heap_init(Heap *h, uint32 capacity)
{
	h->n = 0;
	h->capacity = capacity;
	h->entries = palloc(sizeof(Entry) * capacity);
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
typedef struct TidSet
{
	uint64 *keys;
	uint32 n, mask;
} TidSet;

static inline void
tidset_init(TidSet *s, uint32 expected)
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
tidset_has(const TidSet *s, const ItemPointerData *tid)
{
	uint64 key = tidset_key(tid);
	uint32 at = tidset_place(key, s->mask);

	while (s->keys[at] != 0 && s->keys[at] != key)
		at = (at + 1) & s->mask;
	return s->keys[at] == key;
}

/* False if it was there. */
static inline bool
tidset_add(TidSet *s, const ItemPointerData *tid)
{
	uint64 key = tidset_key(tid);

	if (s->n >= s->mask / 4 * 3)
	{
		uint32 mask = s->mask * 2 + 1;
		uint64 *table = palloc0(sizeof(uint64) * ((Size) mask + 1));

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
