/* Flips of sign codes: never a worse code, no better neighbour left, the same code on every ISA. */
#include "check.h"

#include <math.h>

#define N 4
#define MAX_BITS 130
#define MAX_DIM 90

static float x[N * MAX_DIM], matrix[MAX_BITS * MAX_DIM], gram[MAX_BITS * MAX_BITS], g[N * MAX_BITS], work[MAX_BITS];
static int8_t start[N * MAX_BITS], signs[N * MAX_BITS], first[N * MAX_BITS];
static guarded gx, gmatrix, gout, gsigns, gwork;

static void
fill(float *out, size_t n, uint64_t *state)
{
	for (size_t i = 0; i < n; i++)
		out[i] = random_normal(state);
}

/* <g,s> and s'Gs by their definition. */
static void
products(const float *row, size_t n_bits, const int8_t *s, double *gs, double *sgs)
{
	*gs = *sgs = 0.0;
	for (size_t i = 0; i < n_bits; i++)
	{
		*gs += (double) row[i] * s[i];
		for (size_t j = 0; j < n_bits; j++)
			*sgs += (double) gram[i * n_bits + j] * s[i] * s[j];
	}
}

/* What is maximised; 0 for a code that all but decodes to zero, as the interface says, seen with some play. */
static double
ratio(const float *row, size_t n_bits, const int8_t *s, double play)
{
	double gs, sgs, trace = 0.0;

	for (size_t i = 0; i < n_bits; i++)
		trace += gram[i * n_bits + i];
	products(row, n_bits, s, &gs, &sgs);
	return gs > 0.0 && sgs > play * 1e-3 * trace ? gs * gs / sgs : 0.0;
}

static void
products_equal_their_definition_and_stay_in_bounds(void)
{
	static const size_t dims[] = {1, 2, 15, 16, 17, 64, 89};
	uint64_t state = 3;

	for (size_t d = 0; d < COUNT(dims); d++)
		for (size_t rows = 1; rows < 20; rows += 3)
		{
			size_t dim = dims[d];

			fill(x, N * dim, &state);
			fill(matrix, rows * dim, &state);
			for (const bqk_kernels *const *k = tables(); *k; k++)
				for (side at = 0; at < N_SIDES; at++)
				{
					const float *px = guard_copy(&gx, x, N * dim * sizeof(float), at);
					const float *pm = guard_copy(&gmatrix, matrix, rows * dim * sizeof(float), at);
					float *out = guard_place(&gout, N * rows * sizeof(float), at);

					with("%s dim=%zu rows=%zu at=%s", (*k)->name, dim, rows, side_names[at]);
					CHECK_INT(bqk_isa_select((*k)->name), BQK_OK);
					CHECK_INT(bqk_matmul(px, N, pm, rows, dim, out), BQK_OK);
					for (size_t i = 0; i < N; i++)
						for (size_t j = 0; j < rows; j++)
						{
							float expected = bqk_kernels_scalar.dotf(x + i * dim, matrix + j * dim, dim);

							CHECK_SAME(&out[i * rows + j], &expected, sizeof(float));
						}
				}
		}
}

static void
flips_case(size_t n_bits, size_t dim, uint64_t *state)
{
	double gs[N], sgs[N], found_gs, found_sgs;

	fill(x, N * dim, state);
	fill(matrix, n_bits * dim, state);
	bqk_matmul(matrix, n_bits, matrix, n_bits, dim, gram);
	bqk_matmul(x, N, matrix, n_bits, dim, g);
	for (size_t i = 0; i < N * n_bits; i++)
		start[i] = random_bits(state) & 1 ? 1 : -1;
	for (const bqk_kernels *const *k = tables(); *k; k++)
	{
		int8_t *s = guard_copy(&gsigns, start, N * n_bits, AT_END);

		with("%s bits=%zu dim=%zu", (*k)->name, n_bits, dim);
		CHECK_INT(bqk_isa_select((*k)->name), BQK_OK);
		CHECK_INT(bqk_flip(gram, g, N, n_bits, 1000, s, guard_place(&gwork, n_bits * sizeof(float), AT_END), gs, sgs),
				  BQK_OK);
		for (size_t c = 0; c < N; c++)
		{
			const float *row = g + c * n_bits;
			double best = ratio(row, n_bits, s + c * n_bits, 0.9);

			products(row, n_bits, s + c * n_bits, &found_gs, &found_sgs);
			CHECK(fabs(found_gs - gs[c]) <= 1e-4 * fabs(found_gs) + 1e-6);
			CHECK(fabs(found_sgs - sgs[c]) <= 1e-3 * fabs(found_sgs) + 1e-6);
			CHECK(best >= ratio(row, n_bits, start + c * n_bits, 1.1) * (1 - 1e-3));
			for (size_t i = 0; i < n_bits; i++)
			{
				s[c * n_bits + i] = (int8_t) -s[c * n_bits + i];
				CHECK(ratio(row, n_bits, s + c * n_bits, 1.1) <= best * (1 + 1e-3) + 1e-9);
				s[c * n_bits + i] = (int8_t) -s[c * n_bits + i];
			}
		}
		if (*k == &bqk_kernels_scalar)
			memcpy(first, s, N * n_bits);
		CHECK_SAME(s, first, N * n_bits);
	}
}

static void
flips_end_where_no_flip_helps(void)
{
	uint64_t state = 4;

	for (size_t n_bits = 1; n_bits <= MAX_BITS; n_bits += n_bits < 20 ? 1 : 22)
		for (size_t dim = 1; dim <= MAX_DIM; dim += 29)
			flips_case(n_bits, dim, &state);
}

static void
no_sweep_changes_no_code(void)
{
	double gs[N], sgs[N];

	memset(signs, 1, sizeof(signs));
	memset(gram, 0, sizeof(gram));
	memset(g, 0, sizeof(g));
	g[1] = -1.0f;
	gram[0] = 1.0f;
	CHECK_INT(bqk_flip(gram, g, 1, 5, 0, signs, work, gs, sgs), BQK_OK);
	for (size_t i = 0; i < 5; i++)
		CHECK_INT(signs[i], 1);
	CHECK(gs[0] == -1.0 && sgs[0] == 1.0);
	CHECK_INT(bqk_flip(gram, g, 1, 5, 9, signs, work, gs, sgs), BQK_OK);
	CHECK_INT(signs[1], -1);
	CHECK(gs[0] == 1.0);
	CHECK_INT(bqk_flip(gram, g, 1, 0, 9, signs, work, gs, sgs), BQK_EINVAL);
	CHECK_INT(bqk_matmul(x, 1, matrix, 0, 3, g), BQK_EINVAL);
	CHECK_INT(bqk_matmul(x, 1, matrix, 3, 0, g), BQK_EINVAL);
}

int
main(void)
{
	gx = guard_new(sizeof(x));
	gmatrix = guard_new(sizeof(matrix));
	gout = guard_new(sizeof(g));
	gsigns = guard_new(sizeof(signs));
	gwork = guard_new(sizeof(work));
	RUN(products_equal_their_definition_and_stay_in_bounds);
	RUN(flips_end_where_no_flip_helps);
	RUN(no_sweep_changes_no_code);
	return finish();
}
