/* Encoding: identical on every instruction set, in bounds, and right at the ends of the number range. */
#include "fixture.h"

#include <float.h>
#include <math.h>

static guarded gx, gcodes, gfactors, gwork;

static void
encode_guarded(const bqk_model *m, side at, uint8_t *out, bqk_factors *f)
{
	size_t nbytes = bqk_code_nbytes(m->dim, m->bits);
	const float *px = guard_copy(&gx, rows, N_ROWS * m->dim * sizeof(float), at);
	uint8_t *pcodes = guard_place(&gcodes, N_ROWS * nbytes, at);
	bqk_factors *pf = guard_place(&gfactors, N_ROWS * sizeof(bqk_factors), at);

	memset(pcodes, 0xee, N_ROWS * nbytes);
	CHECK_INT(bqk_encode(m, px, N_ROWS, pcodes, pf, guard_place(&gwork, m->dim * sizeof(float), at), &bad), BQK_OK);
	memcpy(out, pcodes, N_ROWS * nbytes);
	memcpy(f, pf, N_ROWS * sizeof(bqk_factors));
}

static void
codes_and_factors_match_across_isas_and_stay_in_bounds(void)
{
	static uint8_t oracle[sizeof(codes)];
	bqk_factors oracle_factors[N_ROWS];
	size_t dim;

	for (size_t d = 0; (dim = test_dim(d)) != 0; d++)
	{
		fill_normal(centroid, dim, d);
		fill_normal(rows, N_ROWS * dim, d + 1000);
		memcpy(rows + dim, centroid, dim * sizeof(float)); /* row 1: a zero residual, but for cosine */
		EACH_MODEL(m, dim)
		{
			size_t nbytes = N_ROWS * bqk_code_nbytes(dim, m.bits);

			if (dim > 4000 && m.metric != BQK_L2) /* metrics differ in the residual alone; emulators are slow */
				continue;
			bqk_isa_select("scalar");
			encode_guarded(&m, AT_END, oracle, oracle_factors);
			for (const bqk_kernels *const *k = tables(); *k; k++)
				for (side at = k == tables() ? AT_START : AT_END; at < N_SIDES; at++) /* scalar's end: the oracle */
				{
					bqk_isa_select((*k)->name);
					with("%s dim=%zu bits=%d metric=%d rotation=%d at=%s", (*k)->name, dim, m.bits, m.metric,
						 m.rotation, side_names[at]);
					encode_guarded(&m, at, codes, factors);
					CHECK_SAME(codes, oracle, nbytes);
					CHECK_SAME(factors, oracle_factors, sizeof(factors));
				}
		}
	}
	bqk_isa_select(NULL);
}

static void
code_sizes_are_dim_times_bits_rounded_up(void)
{
	for (size_t dim = 1; dim <= 300; dim++)
	{
		with("dim=%zu", dim);
		CHECK_INT(bqk_code_nbytes(dim, 1), (dim + 7) / 8);
		CHECK_INT(bqk_code_nbytes(dim, 4), (dim + 1) / 2);
		CHECK_INT(bqk_query_nbytes(dim, 4), (dim + 63) / 64 * 64);
		CHECK_INT(bqk_query_nbytes(dim, 8), (dim + 63) / 64 * 64);
		CHECK_INT(bqk_query_nbytes(dim, 32), dim * 4);
	}
	for (int bits = -1; bits <= 9; bits++)
		CHECK_INT(bqk_bits_supported(bits), bits == 1 || bits == 2 || bits == 4 || bits == 8);
	CHECK_INT(sizeof(bqk_factors), 8);
	CHECK_INT(sizeof(bqk_query), 24);
}

static void
spare_bits_of_the_last_byte_are_zero(void)
{
	for (size_t dim = 1; dim <= 70; dim++)
	{
		fill_normal(centroid, dim, 1);
		fill_normal(rows, dim, 2);
		EACH_MODEL(m, dim)
		{
			size_t nbytes = bqk_code_nbytes(dim, m.bits), used = dim * m.bits - (nbytes - 1) * 8;

			with("dim=%zu bits=%d", dim, m.bits);
			encode_ok(&m, 1);
			CHECK_INT(codes[nbytes - 1] >> used, 0);
		}
	}
}

/* Level index of a code of bit planes. */
static int
plane_level(const uint8_t *code, int bits, size_t dim, size_t i)
{
	int u = 0;

	for (int p = 0; p < bits; p++)
		u |= (code[(size_t) p * ((dim + 7) / 8) + i / 8] >> (i % 8) & 1) << p;
	return u;
}

static void
planes_hold_levels_that_sym_reads_and_no_query_takes(void)
{
	const int widths[] = {3, 5, 6, 7};
	static int8_t z[128];
	bqk_query query;

	for (size_t dim = 1; dim <= 70; dim++)
		for (size_t b = 0; b < COUNT(widths); b++)
		{
			int bits = widths[b], top = (1 << bits) - 1;
			size_t nbytes = (size_t) bits * ((dim + 7) / 8);
			bqk_model m = model_of(dim, bits, BQK_L2, BQK_ROTATION_NONE);
			float kx = 0.0f;
			int32_t sym, expected = 0;

			with("dim=%zu bits=%d", dim, bits);
			fill(centroid, dim, 0.0f);
			fill_normal(rows, 2 * dim, dim);
			CHECK_INT(bqk_code_nbytes(dim, bits), nbytes);
			memset(codes, 0xee, sizeof(codes));
			encode_ok(&m, 2);
			CHECK_INT(codes[2 * nbytes], 0xee);
			for (size_t i = 0; i < dim; i++)
			{
				int u = plane_level(codes, bits, dim, i), v = plane_level(codes + nbytes, bits, dim, i);

				CHECK((u > top / 2) == (rows[i] >= 0.0f));
				kx += ((float) u - 0.5f * (float) top) * rows[i];
				expected += (2 * u - top) * (2 * v - top);
			}
			CHECK(fabsf(factors[0].f_rescale * kx / (-2.0f * factors[0].f_add) - 1.0f) < 1e-5f);
			CHECK_INT(bqk_sym(bits, dim, codes, nbytes, 1, codes + nbytes, &sym), BQK_OK);
			CHECK_INT(sym, expected);
			CHECK_INT(bqk_sym(bits, dim, codes, nbytes - 1, 1, codes, &sym), BQK_EINVAL);
			CHECK_INT(bqk_dot(bits, dim, codes, nbytes, 1, z, &sym), BQK_EINVAL);
			CHECK_INT(bqk_query_prepare(&m, rows, 8, &query, z, work), BQK_EINVAL);
			CHECK_INT(bqk_model_write(&m, codes, bqk_model_nbytes(&m)), BQK_EINVAL);
		}
}

static void
vector_on_the_centroid_has_zero_factors(void)
{
	enum
	{
		dim = 50
	};

	fill(centroid, dim, 0.0f);
	centroid[3] = 1.0f; /* unit length: under cosine too the residual is exactly zero */
	memcpy(rows, centroid, sizeof(float) * dim);
	EACH_MODEL(m, dim)
	{
		with("bits=%d metric=%d rotation=%d", m.bits, m.metric, m.rotation);
		memset(codes, 0xee, sizeof(codes));
		encode_ok(&m, 1);
		CHECK(factors[0].f_add == 0.0f);
		CHECK(factors[0].f_rescale == 0.0f);
		CHECK(all_zero(codes, bqk_code_nbytes(dim, m.bits)));
	}
}

/* Denormals: squares vanish, and nothing may be divided by them. */
static void
residual_too_small_to_square_counts_as_zero(void)
{
	const float magnitudes[] = {FLT_TRUE_MIN, 1e-41f, FLT_MIN, 1e-30f, 1e-17f};

	fill(centroid, 100, 0.0f);
	for (size_t i = 0; i < COUNT(magnitudes); i++)
		EACH_MODEL(m, 100)
		{
			if (m.metric == BQK_COSINE)
				continue;
			with("magnitude=%g bits=%d metric=%d rotation=%d", (double) magnitudes[i], m.bits, m.metric, m.rotation);
			fill(rows, 100, magnitudes[i]);
			encode_ok(&m, 1);
			CHECK(factors[0].f_add == 0.0f);
			CHECK(factors[0].f_rescale == 0.0f);
			CHECK(all_zero(codes, bqk_code_nbytes(100, m.bits)));
		}
	for (size_t b = 0; b < COUNT(all_bits); b++)
	{
		bqk_model m = model_of(100, all_bits[b], BQK_L2, BQK_ROTATION_NONE);

		with("just above the threshold, bits=%d", m.bits);
		fill(rows, 100, 1e-15f);
		encode_ok(&m, 1);
		CHECK(fabsf(factors[0].f_add - 1e-28f) < 1e-33f);
		CHECK(isfinite(factors[0].f_rescale) && factors[0].f_rescale < 0.0f);
	}
}

static void
overflowing_distance_is_refused_with_its_row(void)
{
	const float huge[] = {1e20f, 3e38f, FLT_MAX};

	fill(centroid, 40, 1.0f);
	for (size_t h = 0; h < COUNT(huge); h++)
		for (size_t row = 0; row < N_ROWS; row++)
			EACH_MODEL(m, 40)
			{
				bqk_factors first;

				if (m.metric == BQK_COSINE)
					continue;
				with("value=%g row=%zu bits=%d metric=%d", (double) huge[h], row, m.bits, m.metric);
				fill_normal(rows, sizeof(rows) / sizeof(float), 5);
				encode_ok(&m, N_ROWS);
				first = factors[0];
				memset(factors, 0, sizeof(factors));
				rows[row * 40 + 39] = row % 2 ? -huge[h] : huge[h];
				bad = 99;
				CHECK_INT(bqk_encode(&m, rows, N_ROWS, codes, factors, work, &bad), BQK_ERANGE);
				CHECK_INT(bad, row);
				if (row > 0) /* rows before the one at fault are encoded */
					CHECK_SAME(&factors[0], &first, sizeof(first));
			}
}

/* Opposite infinities meet in the rotation, and f_add may overflow where the distance does not. */
static void
overflow_inside_the_encoder_is_refused(void)
{
	fill(centroid, 64, 0.0f);
	fill(rows, 64, FLT_MAX);
	EACH_MODEL(m, 64)
	{
		if (m.metric == BQK_COSINE)
			continue;
		with("bits=%d metric=%d rotation=%d", m.bits, m.metric, m.rotation);
		CHECK_INT(bqk_encode(&m, rows, 1, codes, factors, work, &bad), BQK_ERANGE);
		CHECK_INT(bad, 0);
	}
	fill(centroid, 64, 3e38f);
	fill(rows, 64, -3e38f);
	EACH_MODEL(m, 64)
	{
		with("opposite, bits=%d metric=%d rotation=%d", m.bits, m.metric, m.rotation);
		CHECK_INT(bqk_encode(&m, rows, 1, codes, factors, work, &bad), BQK_ERANGE);
	}
	fill(centroid, 64, 1e24f);
	fill(rows, 64, 1.0000005e24f); /* |x - c|^2 is about 2e37, <x - c, c> 3e43 */
	for (size_t i = 0; i < COUNT(all_bits); i++)
	{
		bqk_model m = model_of(64, all_bits[i], BQK_IP, BQK_ROTATION_NONE);

		with("inner product with the centroid, bits=%d", m.bits);
		CHECK_INT(bqk_encode(&m, rows, 1, codes, factors, work, &bad), BQK_ERANGE);
	}
}

static void
large_vectors_below_the_limit_are_encoded(void)
{
	fill(centroid, 100, 0.0f);
	EACH_MODEL(m, 100)
	{
		with("bits=%d metric=%d rotation=%d", m.bits, m.metric, m.rotation);
		for (size_t i = 0; i < 100; i++)
			rows[i] = (i % 2 ? -9e13f : 9e13f) * (1.0f + 0.001f * (float) i); /* length below 1e15 */
		encode_ok(&m, 1);
		CHECK(isfinite(factors[0].f_add));
		CHECK(isfinite(factors[0].f_rescale) && factors[0].f_rescale < 0.0f);
	}
}

static void
zero_vector_under_cosine_is_refused_with_its_row(void)
{
	fill(centroid, 33, 0.1f);
	for (size_t row = 0; row < N_ROWS; row++)
		EACH_MODEL(m, 33)
		{
			with("row=%zu bits=%d metric=%d", row, m.bits, m.metric);
			fill_normal(rows, N_ROWS * 33, 6);
			fill(rows + row * 33, 33, row % 2 ? -0.0f : 0.0f);
			bad = 99;
			if (m.metric == BQK_COSINE)
			{
				CHECK_INT(bqk_encode(&m, rows, N_ROWS, codes, factors, work, &bad), BQK_EZERO);
				CHECK_INT(bad, row);
			}
			else
				encode_ok(&m, N_ROWS);
		}
}

static void
cosine_codes_do_not_depend_on_length(void)
{
	static uint8_t unit[MAX_CODE_NBYTES];

	fill_normal(centroid, 77, 1);
	for (size_t i = 0; i < 77; i++)
		centroid[i] *= 0.01f;
	for (size_t b = 0; b < COUNT(all_bits); b++)
	{
		bqk_model m = model_of(77, all_bits[b], BQK_COSINE, BQK_ROTATION_HADAMARD);
		bqk_factors f;

		fill_normal(rows, 77, 2);
		encode_ok(&m, 1);
		memcpy(unit, codes, sizeof(unit));
		f = factors[0];
		for (int e = -60; e <= 60; e += 20) /* powers of two: the quotient is exact */
		{
			with("bits=%d length 2^%d", m.bits, e);
			fill_normal(rows, 77, 2);
			for (size_t i = 0; i < 77; i++)
				rows[i] = ldexpf(rows[i], e);
			encode_ok(&m, 1);
			CHECK_SAME(codes, unit, bqk_code_nbytes(77, m.bits));
			CHECK_SAME(&factors[0], &f, sizeof(f));
		}
	}
}

/* 1 / |x| overflows below 2.9e-39 and loses digits above 8.5e37. */
static void
cosine_codes_of_denormal_and_of_huge_vectors_are_those_of_their_direction(void)
{
	static uint8_t plain[MAX_CODE_NBYTES];
	const int exponents[] = {-149, -140, -110, 100, 115};

	fill(centroid, 77, 0.01f);
	for (size_t b = 0; b < COUNT(all_bits); b++)
		for (size_t e = 0; e < COUNT(exponents); e++)
		{
			bqk_model m = model_of(77, all_bits[b], BQK_COSINE, BQK_ROTATION_HADAMARD);
			bqk_factors f;

			with("bits=%d times 2^%d", m.bits, exponents[e]);
			fill_normal(rows, 77, 2);
			for (size_t i = 0; i < 77; i++)
				rows[i] = truncf(rows[i] * 1000.0f); /* whole numbers survive as denormals */
			encode_ok(&m, 1);
			memcpy(plain, codes, sizeof(plain));
			f = factors[0];
			for (size_t i = 0; i < 77; i++)
				rows[i] = ldexpf(rows[i], exponents[e]);
			encode_ok(&m, 1);
			CHECK_SAME(codes, plain, bqk_code_nbytes(77, m.bits));
			CHECK_SAME(&factors[0], &f, sizeof(f));
		}
}

static void
codes_do_not_depend_on_scale(void)
{
	static uint8_t unscaled[MAX_CODE_NBYTES];

	fill(centroid, 200, 0.0f);
	for (size_t i = 0; i < COUNT(all_bits); i++)
	{
		bqk_model m = model_of(200, all_bits[i], BQK_L2, BQK_ROTATION_HADAMARD);
		bqk_factors f;

		fill_normal(rows, 200, 3);
		encode_ok(&m, 1);
		memcpy(unscaled, codes, sizeof(unscaled));
		f = factors[0];
		for (int e = -45; e <= 45; e += 15)
		{
			with("bits=%d scale 2^%d", m.bits, e);
			fill_normal(rows, 200, 3);
			for (size_t j = 0; j < 200; j++)
				rows[j] = ldexpf(rows[j], e);
			encode_ok(&m, 1);
			CHECK_SAME(codes, unscaled, bqk_code_nbytes(200, m.bits));
			CHECK(factors[0].f_add == ldexpf(f.f_add, 2 * e));
			CHECK(factors[0].f_rescale == ldexpf(f.f_rescale, e));
		}
	}
}

static void
models_that_cannot_encode_are_refused(void)
{
	bqk_model good = model_of(16, 1, BQK_L2, BQK_ROTATION_HADAMARD), m;
	bqk_query query;
	int8_t z[64];

#define REFUSED(change)                                                                                                \
	(m = good, change, with("%s", #change),                                                                            \
	 CHECK_INT(bqk_encode(&m, rows, 1, codes, factors, work, &bad), BQK_EINVAL),                                       \
	 CHECK_INT(bqk_query_prepare(&m, rows, 8, &query, z, work), BQK_EINVAL))
	fill(rows, 16, 1.0f);
	encode_ok(&good, 1);
	REFUSED(m.dim = 0);
	REFUSED(m.dim = BQK_MAX_DIM + 1);
	REFUSED(m.bits = 0);
	REFUSED(m.bits = 9);
	REFUSED(m.metric = 3);
	REFUSED(m.centroid = NULL);
	REFUSED(m.signs = NULL);
	REFUSED(m.rotation = BQK_ROTATION_NONE);
	for (int query_bits = -1; query_bits <= 64; query_bits++)
	{
		float buf[16];
		int known = query_bits == 4 || query_bits == 8 || query_bits == 32;

		with("query_bits=%d", query_bits);
		CHECK_INT(bqk_query_prepare(&good, rows, query_bits, &query, buf, work), known ? BQK_OK : BQK_EINVAL);
	}
	with("no rows");
	CHECK_INT(bqk_encode(&good, NULL, 0, NULL, NULL, NULL, NULL), BQK_OK);
}

int
main(void)
{
	gx = guard_new(sizeof(rows));
	gcodes = guard_new(sizeof(codes));
	gfactors = guard_new(sizeof(factors));
	gwork = guard_new(sizeof(work));
	RUN(codes_and_factors_match_across_isas_and_stay_in_bounds);
	RUN(code_sizes_are_dim_times_bits_rounded_up);
	RUN(spare_bits_of_the_last_byte_are_zero);
	RUN(planes_hold_levels_that_sym_reads_and_no_query_takes);
	RUN(vector_on_the_centroid_has_zero_factors);
	RUN(residual_too_small_to_square_counts_as_zero);
	RUN(overflowing_distance_is_refused_with_its_row);
	RUN(overflow_inside_the_encoder_is_refused);
	RUN(large_vectors_below_the_limit_are_encoded);
	RUN(zero_vector_under_cosine_is_refused_with_its_row);
	RUN(cosine_codes_do_not_depend_on_length);
	RUN(cosine_codes_of_denormal_and_of_huge_vectors_are_those_of_their_direction);
	RUN(codes_do_not_depend_on_scale);
	RUN(models_that_cannot_encode_are_refused);
	return finish();
}
