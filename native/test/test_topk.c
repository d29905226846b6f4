/* Top-k by threshold and compaction against sorting everything. */
#include "check.h"
#include "topk.h"

#include <math.h>

#define MAX_N 3000

static uint64_t entries[2 * MAX_N + 64], sorted[MAX_N];

static int
order(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *) a, y = *(const uint64_t *) b;

	return x < y ? -1 : x > y;
}

static float
distance_of(int kind, size_t i, size_t n, uint64_t *state)
{
	switch (kind)
	{
	case 0:
		return (float) (random_bits(state) % 100000) - 50000.0f;
	case 1: /* nothing but ties */
		return 1.0f;
	case 2:
		return (float) i;
	case 3:
		return (float) (n - i);
	default: /* few values, both zeros and infinities among them */
		return ((float[]) {-0.0f, 0.0f, INFINITY, -INFINITY, 1e-40f, -3.0f})[random_bits(state) % 6];
	}
}

static void
the_k_best_are_those_of_a_sort(void)
{
	static const size_t ns[] = {1, 2, 63, 64, 200, MAX_N}, ks[] = {1, 2, 10, 100, MAX_N};
	uint64_t state = 3;

	for (int kind = 0; kind < 5; kind++)
		for (size_t a = 0; a < COUNT(ns); a++)
			for (size_t b = 0; b < COUNT(ks); b++)
			{
				bqk_topk t = {entries, 0, ks[b], INFINITY};
				size_t n = ns[a], expected = n < ks[b] ? n : ks[b];

				with("kind=%d n=%zu k=%zu", kind, n, ks[b]);
				for (size_t i = 0; i < n; i++)
				{
					float d = distance_of(kind, i, n, &state);

					/* ids fall, so that ties come in the wrong order */
					sorted[i] = bqk_topk_entry(d, (uint32_t) (n - i));
					bqk_topk_push(&t, d, (uint32_t) (n - i));
					CHECK(t.n <= bqk_topk_capacity(ks[b]));
				}
				qsort(sorted, n, sizeof(*sorted), order);
				for (size_t j = 1; j <= t.n && j <= expected; j += 1 + j / 3)
				{
					float nth = bqk_topk_nth(&t, j), sought = bqk_topk_distance(sorted[j - 1]);

					CHECK_SAME(&nth, &sought, sizeof(nth));
				}
				CHECK_INT(bqk_topk_finish(&t), expected);
				for (size_t i = 0; i < expected; i++)
					CHECK(entries[i] == sorted[i]);
			}
}

static void
entries_order_as_distances_and_come_back(void)
{
	static const float d[] = {-INFINITY, -3e38f, -1.0f, -1e-40f, 0.0f, 1e-40f, 1.0f, 3e38f, INFINITY};

	with("-");
	for (size_t i = 0; i < COUNT(d); i++)
	{
		float back = bqk_topk_distance(bqk_topk_entry(d[i], 7));

		CHECK_SAME(&back, d + i, sizeof(back));
		for (size_t j = 0; j < i; j++)
			CHECK(bqk_topk_entry(d[j], UINT32_MAX) < bqk_topk_entry(d[i], 0));
	}
	CHECK(bqk_topk_entry(-0.0f, 1) == bqk_topk_entry(0.0f, 1));
}

int
main(void)
{
	RUN(entries_order_as_distances_and_come_back);
	RUN(the_k_best_are_those_of_a_sort);
	return finish();
}
