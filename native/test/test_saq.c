/* SAQ encoding: products in integers are near those in doubles, whatever the lengths; all of it alike on every
 * instruction set, whatever rows stand beside a row, and within bounds. */
#include "../src/products.h"
#include "../src/trellis.h"
#include "check.h"

#include <math.h>

#define MAX_SIZE 600
#define MAX_COLUMNS 70
#define N_ROWS 37 /* two full batches of BQK_LANES and a partial one */

static float rows[N_ROWS * MAX_SIZE], matrix[MAX_SIZE * MAX_COLUMNS], scale[MAX_COLUMNS], out[N_ROWS * MAX_COLUMNS];
static int16_t values[(MAX_SIZE + 1) * (MAX_COLUMNS + 3)];
static guarded grows, gvalues, gout, gwork, gcodes;

static void
fill(float *x, size_t n, uint64_t seed)
{
	for (size_t i = 0; i < n; i++)
		x[i] = random_normal(&seed);
}

static bqk_columns
columns_of(size_t dim, size_t m)
{
	bqk_columns_pack(matrix, dim, m, values, scale);
	return (bqk_columns) {.dim = (uint32_t) dim, .m = (uint32_t) m, .values = values, .scale = scale};
}

static const size_t dims[] = {1, 2, 3, 15, 16, 17, 64, 255, 256, 257, 600}, widths[] = {1, 3, 4, 5, 8, 17, 70};

static void
products_match_across_isas_and_stay_in_bounds(void)
{
	static float oracle[N_ROWS * MAX_COLUMNS];
	float alone[MAX_COLUMNS];

	fill(rows, COUNT(rows), 31);
	fill(matrix, COUNT(matrix), 32);
	for (size_t d = 0; d < COUNT(dims); d++)
		for (size_t w = 0; w < COUNT(widths); w++)
		{
			size_t dim = dims[d], m = widths[w];
			bqk_columns columns = columns_of(dim, m);

			for (const bqk_kernels *const *k = tables(); *k; k++)
				for (side at = 0; at < N_SIDES; at++)
				{
					const float *x = guard_copy(&grows, rows, N_ROWS * dim * sizeof(float), at);
					float *pout = guard_place(&gout, N_ROWS * m * sizeof(float), at);
					float *work = guard_place(&gwork, bqk_rounded_work(dim, m) * sizeof(float), at);

					columns.values = guard_copy(&gvalues, values, bqk_columns_count(dim, m) * sizeof(*values), at);
					with("%s dim=%zu m=%zu at=%s", (*k)->name, dim, m, side_names[at]);
					bqk_isa_select((*k)->name);
					bqk_project(x, N_ROWS, &columns, pout, work);
					if (*k == &bqk_kernels_scalar && at == 0)
						memcpy(oracle, pout, N_ROWS * m * sizeof(float));
					CHECK_SAME(pout, oracle, N_ROWS * m * sizeof(float));
					bqk_project(x + 5 * dim, 1, &columns, alone, work);
					CHECK_SAME(alone, oracle + 5 * m, m * sizeof(float));
				}
		}
}

/* Within 6 deviations, of sqrt(2 / 12) / BQK_ROUNDED_NORM each; lengths from the least float32 to the largest. */
static void
products_are_near_exact_ones_at_any_length(void)
{
	static const float lengths[] = {1.0f, 1e-44f, 1e-40f, 1e-30f, 1e-20f, 1e20f, 1e30f, 1e36f};
	static float x[MAX_SIZE], work[9 * (MAX_SIZE + 4) + 16 * (MAX_COLUMNS + 4) + 4 * MAX_SIZE];

	fill(matrix, COUNT(matrix), 33);
	for (size_t d = 0; d < COUNT(dims); d++)
		for (size_t k = 0; k < COUNT(lengths); k++)
			for (int peak = 0; peak < 2; peak++)
			{
				size_t dim = dims[d], m = 17;
				bqk_columns columns = columns_of(dim, m);
				double norm = 0.0;

				fill(x, dim, d + 7);
				for (size_t i = 0; i < dim; i++)
				{
					x[i] *= lengths[k] * (peak && i ? 1e-3f : 1.0f);
					norm += (double) x[i] * (double) x[i];
				}
				with("dim=%zu length=%g peak=%d", dim, (double) lengths[k], peak);
				bqk_project(x, 1, &columns, out, work);
				for (size_t j = 0; j < m; j++)
				{
					double exact = 0.0, column = 0.0;

					for (size_t i = 0; i < dim; i++)
					{
						exact += (double) x[i] * (double) matrix[i * m + j];
						column += (double) matrix[i * m + j] * (double) matrix[i * m + j];
					}
					if (fabs(exact) < 3e38)
						CHECK(fabs(out[j] - exact) <= 6 * 1.25e-5 * sqrt(norm * column) + 3e-45);
				}
			}
}

static void
zero_and_infinite_rows_are_no_accident(void)
{
	static float work[(BQK_LANES + 4) * 10 + 16 * 8];
	float x[3 * 20] = {0}, y[3 * 5];
	bqk_columns columns;

	fill(matrix, 100, 34);
	memset(matrix + 40, 0, 5 * sizeof(float));
	columns = columns_of(20, 5);
	x[20] = INFINITY;
	x[40] = 1.0f;
	for (const bqk_kernels *const *k = tables(); *k; k++)
	{
		with("%s", (*k)->name);
		bqk_isa_select((*k)->name);
		bqk_project(x, 3, &columns, y, work);
		for (size_t j = 0; j < 5; j++)
		{
			CHECK(y[j] == 0.0f);
			CHECK(!isfinite(y[5 + j]));
			CHECK(fabsf(y[10 + j] - matrix[j]) <= 1e-3f * fabsf(matrix[j]) + 1e-4f);
		}
	}
}

/* Integers of the largest norms, all with one sign: sums come near 2^30. */
static void
the_longest_integers_do_not_overflow(void)
{
	static float work[(BQK_LANES + 4) * 8000 + 64], long_row[16000], long_matrix[16000];
	static int16_t long_values[4 * 16000];
	float length, product;
	bqk_columns columns = {.dim = 16000, .m = 1, .values = long_values, .scale = &length};

	for (size_t i = 0; i < 16000; i++)
		long_row[i] = long_matrix[i] = 0.5f;
	bqk_columns_pack(long_matrix, 16000, 1, long_values, &length);
	for (const bqk_kernels *const *k = tables(); *k; k++)
	{
		with("%s", (*k)->name);
		bqk_isa_select((*k)->name);
		bqk_project(long_row, 1, &columns, &product, work);
		CHECK(fabsf(product - 4000.0f) < 4000.0f * 0.003f); /* 258.04 is rounded to 258, in every coordinate */
	}
}

/* A model of m axes and n_lists lists. */
static void
encoding_matches_across_isas_and_stays_in_bounds(void)
{
	static float centroids[20 * 64], centroid_columns[64 * 20], half[20], share[40], length[40], back[20 * 40], dev[40];
	static float f_add[N_ROWS], f_rescale[N_ROWS], oracle[2][N_ROWS], lists_scale[20];
	static int16_t lists_values[65 * 20];
	static uint8_t bits[40], oracle_codes[N_ROWS * 400];
	static uint16_t lists[N_ROWS], oracle_lists[N_ROWS];

	fill(rows, COUNT(rows), 41);
	fill(matrix, COUNT(matrix), 42);
	fill(centroids, COUNT(centroids), 43);
	fill(back, COUNT(back), 44);
	for (int most = 1; most <= 8; most += 2)
		for (int metric = BQK_L2; metric <= BQK_COSINE; metric++)
			for (uint32_t n_lists = 1; n_lists <= 20; n_lists += 19)
			{
				const size_t dim = 61, m = 39;
				size_t n_bits = 0;
				bqk_columns axes = columns_of(dim, m);
				bqk_columns list_columns = {(uint32_t) dim, n_lists, lists_values, lists_scale};
				bqk_trellis t = {.dim = (uint32_t) m, .bits = bits, .deviation = dev};
				bqk_saq saq = {.dim = (uint32_t) dim,
							   .n_lists = n_lists,
							   .metric = metric,
							   .dropped = 0.3f,
							   .centroids = centroids,
							   .lists = n_lists > 1 ? &list_columns : NULL,
							   .half_norms = half,
							   .axes = &axes,
							   .trellis = &t,
							   .share = share,
							   .length = length,
							   .centroid_back = back};

				for (size_t i = 0; i < m; i++)
				{
					bits[i] = (uint8_t) (most - (int) ((size_t) most * i / m));
					n_bits += bits[i];
					dev[i] = 8.0f / (1.0f + (float) i);
					share[i] = 0.5f;
					length[i] = 0.1f;
				}
				t.code_nbytes = (uint32_t) ((n_bits + 7) / 8);
				for (size_t l = 0; l < n_lists; l++)
				{
					half[l] = 0.0f;
					for (size_t i = 0; i < dim; i++)
					{
						centroid_columns[i * n_lists + l] = centroids[l * dim + i];
						half[l] += centroids[l * dim + i] * centroids[l * dim + i] / 2;
					}
				}
				bqk_columns_pack(centroid_columns, dim, n_lists, lists_values, lists_scale);
				for (const bqk_kernels *const *k = tables(); *k; k++)
					for (side at = 0; at < N_SIDES; at++)
					{
						const float *x = guard_copy(&grows, rows, N_ROWS * dim * sizeof(float), at);
						uint8_t *codes = guard_place(&gcodes, N_ROWS * t.code_nbytes, at);
						float *work = guard_place(&gwork, bqk_saq_work(&saq) * sizeof(float), at);

						with("%s most=%d metric=%d lists=%u at=%s", (*k)->name, most, metric, n_lists, side_names[at]);
						bqk_isa_select((*k)->name);
						memset(codes, 0xee, N_ROWS * t.code_nbytes);
						CHECK_INT(bqk_saq_encode(&saq, x, N_ROWS, 2, codes, lists, f_add, f_rescale, work), BQK_OK);
						if (*k == &bqk_kernels_scalar && at == 0)
						{
							memcpy(oracle_codes, codes, N_ROWS * t.code_nbytes);
							memcpy(oracle_lists, lists, sizeof(lists));
							memcpy(oracle[0], f_add, sizeof(f_add));
							memcpy(oracle[1], f_rescale, sizeof(f_rescale));
						}
						CHECK_SAME(codes, oracle_codes, N_ROWS * t.code_nbytes);
						CHECK_SAME(lists, oracle_lists, sizeof(lists));
						CHECK_SAME(f_add, oracle[0], sizeof(f_add));
						CHECK_SAME(f_rescale, oracle[1], sizeof(f_rescale));
						for (size_t i = 0; i < N_ROWS; i++)
							CHECK(lists[i] < n_lists && isfinite(f_add[i]) && f_rescale[i] > 0.0f);
						CHECK_INT(bqk_saq_encode(&saq, x + 20 * dim, 1, 2, codes, lists, f_add, f_rescale, work),
								  BQK_OK);
						CHECK_SAME(codes, oracle_codes + 20 * t.code_nbytes, t.code_nbytes);
						CHECK(lists[0] == oracle_lists[20] && f_add[0] == oracle[0][20] &&
							  f_rescale[0] == oracle[1][20]);
					}
				CHECK_INT(bqk_saq_encode(&saq, rows, 1, 0, oracle_codes, lists, f_add, f_rescale, rows), BQK_EINVAL);
				axes.m--;
				CHECK_INT(bqk_saq_encode(&saq, rows, 1, 2, oracle_codes, lists, f_add, f_rescale, rows), BQK_EINVAL);
			}
}

static void
pairs_are_the_nearest_and_the_first_of_equal_ones(void)
{
	static float x[37], y[37], pairs[2 * 256];
	uint8_t found[37];

	fill(x, COUNT(x), 51);
	fill(y, COUNT(y), 52);
	fill(pairs, COUNT(pairs), 53);
	memcpy(pairs + 20, pairs + 40, 2 * sizeof(float));
	x[3] = pairs[20];
	y[3] = pairs[21];
	for (size_t n_pairs = 1; n_pairs <= 256; n_pairs += 51)
	{
		with("n_pairs=%zu", n_pairs);
		CHECK_INT(bqk_nearest_pairs(x, y, COUNT(x), pairs, n_pairs, found), BQK_OK);
		for (size_t i = 0; i < COUNT(x); i++)
		{
			float least = INFINITY;
			size_t best = 0;

			for (size_t k = 0; k < n_pairs; k++)
			{
				float dx = x[i] - pairs[2 * k], dy = y[i] - pairs[2 * k + 1], d = dx * dx + dy * dy;

				if (d < least)
				{
					least = d;
					best = k;
				}
			}
			CHECK_INT(found[i], best);
		}
	}
	CHECK_INT(found[3], 10);
	CHECK_INT(bqk_nearest_pairs(x, y, 1, pairs, 257, found), BQK_EINVAL);
	CHECK_INT(bqk_nearest_pairs(x, y, 1, pairs, 0, found), BQK_EINVAL);
}

int
main(void)
{
	grows = guard_new(sizeof(rows));
	gvalues = guard_new(sizeof(values));
	gout = guard_new(sizeof(out));
	gwork = guard_new(1 << 17);
	gcodes = guard_new(N_ROWS * 400);
	RUN(products_match_across_isas_and_stay_in_bounds);
	RUN(products_are_near_exact_ones_at_any_length);
	RUN(zero_and_infinite_rows_are_no_accident);
	RUN(the_longest_integers_do_not_overflow);
	RUN(pairs_are_the_nearest_and_the_first_of_equal_ones);
	RUN(encoding_matches_across_isas_and_stays_in_bounds);
	return finish();
}
