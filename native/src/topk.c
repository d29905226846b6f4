/* Selection and sorting of top-k entries; topk.h has the idea. */
#include "topk.h"

#include <math.h>

static inline void
swap(uint64_t *a, uint64_t *b)
{
	uint64_t was = *a;

	*a = *b;
	*b = was;
}

static void
sift_down(uint64_t *heap, size_t i, size_t n)
{
	for (size_t child; (child = 2 * i + 1) < n; i = child)
	{
		if (child + 1 < n && heap[child + 1] > heap[child])
			child++;
		if (heap[i] >= heap[child])
			return;
		swap(heap + i, heap + child);
	}
}

/* Heap sort: n log n whatever the order, and in place. */
static void
sort(uint64_t *e, size_t n)
{
	for (size_t i = n / 2; i-- > 0;)
		sift_down(e, i, n);
	for (size_t i = n; i-- > 1;)
	{
		swap(e, e + i);
		sift_down(e, 0, i);
	}
}

/* The k smallest to the front: quickselect with the median of three, which distinct entries allow; after as many
 * rounds as would have halved the range twice over, sorting, so that no order takes quadratic time. Whether an entry
 * is below the pivot is as good as random: it counts in a sum, where a branch would be guessed wrong half the time. */
static void
select_smallest(uint64_t *e, size_t n, size_t k)
{
	size_t low = 0, high = n, rounds = 2 * (size_t) (64 - __builtin_clzll(n));

	while (high - low > 1)
	{
		size_t mid = low + (high - low) / 2, last = high - 1, store = low;
		uint64_t pivot;

		if (rounds-- == 0)
		{
			sort(e + low, high - low);
			return;
		}
		/* the median of the three to the end, where it stays until the others are parted */
		if (e[mid] < e[low])
			swap(e + mid, e + low);
		if (e[last] < e[low])
			swap(e + last, e + low);
		if (e[mid] < e[last])
			swap(e + mid, e + last);
		pivot = e[last];
		for (size_t i = low; i < last; i++)
		{
			uint64_t one = e[i];

			e[i] = e[store];
			e[store] = one;
			store += one < pivot;
		}
		swap(e + store, e + last);
		if (k <= store)
			high = store;
		else
			low = store + 1;
		if (k == high || k <= low)
			return;
	}
}

float
bqk_topk_nth(bqk_topk *t, size_t j)
{
	uint64_t largest = 0;

	if (j < t->n)
		select_smallest(t->entries, t->n, j);
	for (size_t i = 0; i < j; i++)
		largest = t->entries[i] > largest ? t->entries[i] : largest;
	return bqk_topk_distance(largest);
}

void
bqk_topk_compact(bqk_topk *t)
{
	if (t->n < t->k || (t->n == t->k && t->threshold < INFINITY)) /* nothing came since the last time */
		return;
	t->threshold = bqk_topk_nth(t, t->k);
	t->n = t->k;
}

size_t
bqk_topk_finish(bqk_topk *t)
{
	bqk_topk_compact(t);
	sort(t->entries, t->n);
	return t->n;
}
