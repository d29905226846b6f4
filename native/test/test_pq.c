/* Code assignment: `nearest` of every instruction set against its definition, and what coordinate descent promises. */
#include "check.h"

#include <math.h>

#define MAX_CODEWORDS 272
#define MAX_SUB_DIM 33

enum
{
	NORMAL,
	ZERO,
	EQUAL,    /* every codeword the same: the first wins */
	PAIRS,    /* each codeword twice */
	PERIODIC, /* copies in other lanes of a vector, the first in a higher one than the second */
	HUGE_VALUES,
	N_KINDS
};

static guarded gbook, gtarget, gdirection;
static float book[MAX_SUB_DIM * MAX_CODEWORDS], target[MAX_SUB_DIM], direction[MAX_SUB_DIM];

static float
value(int kind, uint64_t *state)
{
	return kind == ZERO ? 0.0f : random_normal(state) * (kind == HUGE_VALUES ? 1e25f : 1.0f);
}

/* In float and in the order of coordinates, as the table's comment has it. */
static float
defined_cost(size_t n, size_t dim, size_t k, float weight, float shift)
{
	float sum = 0.0f, along = 0.0f;

	for (size_t j = 0; j < dim; j++)
	{
		float error = target[j] - book[j * n + k];

		sum += error * error;
		along += direction[j] * book[j * n + k];
	}
	along = shift - along;
	return sum + weight * (along * along);
}

static void
nearest_case(size_t n, size_t dim, int kind, float weight, uint64_t *state)
{
	float shift = value(kind, state);
	uint32_t expected = 0;

	for (size_t j = 0; j < dim; j++)
	{
		target[j] = value(kind, state);
		direction[j] = value(kind == HUGE_VALUES ? NORMAL : kind, state);
		for (size_t k = 0; k < n; k++)
			book[j * n + k] = kind == EQUAL && k            ? book[j * n]
							  : kind == PAIRS && k % 2      ? book[j * n + k - 1]
							  : kind == PERIODIC && k >= 17 ? book[j * n + k - 17]
															: value(kind, state);
	}
	for (uint32_t k = 1; k < n; k++)
		if (defined_cost(n, dim, k, weight, shift) < defined_cost(n, dim, expected, weight, shift))
			expected = k;
	for (const bqk_kernels *const *k = tables(); *k; k++)
		for (side at = 0; at < N_SIDES; at++)
		{
			with("%s n=%zu dim=%zu kind=%d weight=%g at=%s", (*k)->name, n, dim, kind, (double) weight, side_names[at]);
			CHECK_INT((*k)->nearest(guard_copy(&gbook, book, n * dim * sizeof(float), at), n, dim,
									guard_copy(&gtarget, target, dim * sizeof(float), at),
									guard_copy(&gdirection, direction, dim * sizeof(float), at), weight, shift),
					  expected);
		}
}

static void
nearest_is_the_first_codeword_of_least_cost_and_stays_in_bounds(void)
{
	uint64_t state = 5;

	for (size_t n = 16; n <= MAX_CODEWORDS; n = n < 64 ? n + 16 : n + 208)
		for (size_t dim = 1; dim <= MAX_SUB_DIM; dim++)
			for (int kind = 0; kind < N_KINDS; kind++)
			{
				nearest_case(n, dim, kind, 0.0f, &state);
				nearest_case(n, dim, kind, 17.9f, &state);
			}
}

#define N 40
#define DIM 7
#define N_SUBSPACES 3
#define N_CODEWORDS 16

static const uint32_t offsets[N_SUBSPACES + 1] = {0, 3, 5, DIM};
static float codebooks[DIM * N_CODEWORDS], rows[N * DIM], units[N * DIM], weights[N];

static double
total_loss(const uint16_t *codes)
{
	double sum = 0.0;

	for (size_t i = 0; i < N; i++)
	{
		double squared = 0.0, parallel = 0.0;

		for (size_t m = 0; m < N_SUBSPACES; m++)
			for (size_t j = offsets[m]; j < offsets[m + 1]; j++)
			{
				double error =
					(double) rows[i * DIM + j] - (double) codebooks[j * N_CODEWORDS + codes[i * N_SUBSPACES + m]];

				squared += error * error;
				parallel += error * (double) units[i * DIM + j];
			}
		sum += squared + (double) weights[i] * parallel * parallel;
	}
	return sum;
}

static void
fill_rows(uint64_t *state)
{
	for (size_t i = 0; i < DIM * N_CODEWORDS; i++)
		codebooks[i] = random_normal(state);
	for (size_t i = 0; i < N; i++)
	{
		float norm = 0.0f;

		for (size_t j = 0; j < DIM; j++)
		{
			rows[i * DIM + j] = random_normal(state) + 1.0f;
			norm += rows[i * DIM + j] * rows[i * DIM + j];
		}
		for (size_t j = 0; j < DIM; j++)
			units[i * DIM + j] = rows[i * DIM + j] / sqrtf(norm);
		weights[i] = 10.0f * random_unit(state);
	}
}

static int
assign(int start, size_t sweeps, uint16_t *codes)
{
	return bqk_pq_assign(codebooks, offsets, N_SUBSPACES, N_CODEWORDS, rows, units, weights, N, start, sweeps, codes);
}

static void
sweeps_never_raise_the_loss_and_end_where_no_subspace_improves(void)
{
	uint64_t state = 6;

	for (int trial = 0; trial < 20; trial++)
	{
		uint16_t codes[N * N_SUBSPACES], other[N * N_SUBSPACES];
		double before;

		with("trial=%d", trial);
		fill_rows(&state);
		CHECK_INT(assign(0, 0, codes), BQK_OK);
		before = total_loss(codes);
		for (int sweep = 0; sweep < 8; sweep++)
		{
			double now;

			CHECK_INT(assign(1, 1, codes), BQK_OK);
			now = total_loss(codes);
			CHECK(now <= before * (1 + 1e-6));
			before = now;
		}
		CHECK_INT(assign(0, 100, other), BQK_OK);
		CHECK_SAME(codes, other, sizeof(codes)); /* one sweep at a time or all at once */
		for (size_t at = 0; at < N * N_SUBSPACES; at++)
			for (uint16_t k = 0; k < N_CODEWORDS; k++)
			{
				codes[at] = k;
				CHECK(total_loss(codes) >= before * (1 - 1e-6));
				codes[at] = other[at];
			}
	}
}

static void
without_weight_every_subspace_has_its_nearest_codeword(void)
{
	uint64_t state = 7;
	uint16_t codes[N * N_SUBSPACES], swept[N * N_SUBSPACES] = {0};

	fill_rows(&state);
	memset(weights, 0, sizeof(weights));
	CHECK_INT(assign(0, 10, codes), BQK_OK);
	CHECK_INT(assign(1, 10, swept), BQK_OK);
	CHECK_SAME(codes, swept, sizeof(codes));
}

static void
arguments_out_of_range_are_refused(void)
{
	uint16_t codes[N * N_SUBSPACES] = {0};
	const uint32_t not_from_zero[] = {1, 3, 5, DIM}, empty[] = {0, 3, 3, DIM}, large[] = {0, 3, 5, BQK_MAX_DIM + 1};
	const uint32_t *const bad[] = {not_from_zero, empty, large};
	uint64_t state = 8;

	fill_rows(&state);
	for (size_t i = 0; i < COUNT(bad); i++)
		CHECK_INT(bqk_pq_assign(codebooks, bad[i], 3, 16, rows, units, weights, N, 0, 1, codes), BQK_EINVAL);
	CHECK_INT(bqk_pq_assign(codebooks, offsets, 0, 16, rows, units, weights, N, 0, 1, codes), BQK_EINVAL);
	CHECK_INT(bqk_pq_assign(codebooks, offsets, 3, 0, rows, units, weights, N, 0, 1, codes), BQK_EINVAL);
	CHECK_INT(bqk_pq_assign(codebooks, offsets, 3, 17, rows, units, weights, N, 0, 1, codes), BQK_EINVAL);
	CHECK_INT(bqk_pq_assign(codebooks, offsets, 3, BQK_MAX_CODEWORDS + 16, rows, units, weights, N, 0, 1, codes),
			  BQK_EINVAL);
	codes[5] = 16;
	CHECK_INT(assign(1, 1, codes), BQK_EINVAL);
	CHECK_INT(assign(0, 1, codes), BQK_OK);
}

int
main(void)
{
	gbook = guard_new(sizeof(book));
	gtarget = guard_new(sizeof(target));
	gdirection = guard_new(sizeof(direction));
	RUN(arguments_out_of_range_are_refused);
	RUN(nearest_is_the_first_codeword_of_least_cost_and_stays_in_bounds);
	RUN(sweeps_never_raise_the_loss_and_end_where_no_subspace_improves);
	RUN(without_weight_every_subspace_has_its_nearest_codeword);
	return finish();
}
