/* Float kernels of every instruction set against the scalar table, bit for bit, and the choice of a table.
 * Inputs and outputs touch guard pages: a kernel that reads or writes one byte too many dies here. */
#include "check.h"

#include <math.h>

#define MAX_CODE_NBYTES BQK_MAX_DIM

enum
{
	NORMAL,
	ZERO,
	NEGATIVE_ZERO,
	ALL_MAX,
	ALTERNATING,
	ONE_HOT,
	LEVEL_BOUNDARIES,
	WIDE,
	TINY,
	DENORMAL,
	N_FLOAT_KINDS
};

static float
float_value(int kind, size_t i, size_t dim, uint64_t *state)
{
	switch (kind)
	{
	case NORMAL:
		return random_normal(state);
	case NEGATIVE_ZERO:
		return i % 3 ? -0.0f : 0.0f;
	case ALL_MAX:
		return 1e18f;
	case ALTERNATING:
		return i % 2 ? -1.0f : 1.0f;
	case ONE_HOT:
		return i == dim / 2 ? 3.0f : 0.0f;
	case LEVEL_BOUNDARIES: /* x / t is a whole number for t = 1: the step between two levels */
		return (float) (int) (random_bits(state) % 20) - 10.0f;
	case WIDE:
		return random_normal(state) * (float) (UINT64_C(1) << random_bits(state) % 50) * 0x1p-25f;
	case TINY:
		return random_normal(state) * 1e-25f;
	case DENORMAL:
		return random_normal(state) * 1e-41f;
	}
	return 0.0f;
}

typedef struct float_results
{
	double norm2;
	float dot, kx[3], kk[3]; /* at 2, 4 and 8 bits */
	bqk_sums sums;
	float residual[BQK_MAX_DIM], rotated[BQK_MAX_DIM];
	uint8_t code1[MAX_CODE_NBYTES], codes[3][MAX_CODE_NBYTES];
} float_results;

static const float scales[] = {1.0f, 0.37f};
static float x[BQK_MAX_DIM], y[BQK_MAX_DIM], signs[BQK_ROUNDS * BQK_MAX_DIM];
static guarded gx, gy, gsigns, gout, gcode;

/* A step that cuts off the largest coordinates, at every width. */
static float
inverse_step(float max, int bits, int kind)
{
	if (kind == LEVEL_BOUNDARIES)
		return 1.0f;
	return max > 1e-30f ? 1.0f / (max / (0.5f * (float) ((1 << bits) - 1)) * 0.77f) : 1.0f;
}

static void
float_run(const bqk_kernels *k, size_t dim, int kind, float max, side at, float_results *r)
{
	const float *px = guard_copy(&gx, x, dim * sizeof(float), at);
	const float *py = guard_copy(&gy, y, dim * sizeof(float), at);
	const float *ps = guard_copy(&gsigns, signs, BQK_ROUNDS * dim * sizeof(float), at);
	float *out = guard_place(&gout, dim * sizeof(float), at);
	uint8_t *code;

	r->norm2 = k->norm2(px, dim);
	r->dot = k->dotf(px, py, dim);
	k->residual(px, scales[(size_t) kind % COUNT(scales)], py, dim, out);
	memcpy(r->residual, out, dim * sizeof(float));
	memcpy(out, x, dim * sizeof(float));
	k->rotate(ps, dim, out);
	memcpy(r->rotated, out, dim * sizeof(float));
	k->sums(px, dim, &r->sums);
	for (int b = 0; b < 3; b++)
		k->score(px, dim, 2 << b, inverse_step(max, 2 << b, kind), &r->kx[b], &r->kk[b]);
	/* Codes are written whole, whatever was there. */
	code = guard_place(&gcode, bqk_nbytes(dim, 1), at);
	memset(code, 0xee, bqk_nbytes(dim, 1));
	k->pack1(px, dim, code);
	memcpy(r->code1, code, bqk_nbytes(dim, 1));
	for (int b = 0, bits = 2; bits <= 8; b++, bits *= 2)
	{
		code = guard_place(&gcode, bqk_nbytes(dim, bits), at);
		memset(code, 0xee, bqk_nbytes(dim, bits));
		k->pack(px, dim, bits, inverse_step(max, bits, kind), code);
		memcpy(r->codes[b], code, bqk_nbytes(dim, bits));
	}
}

static void
float_compare(const float_results *r, const float_results *oracle, size_t dim)
{
	CHECK_SAME(&r->norm2, &oracle->norm2, sizeof(double));
	CHECK_SAME(&r->dot, &oracle->dot, sizeof(float));
	CHECK_SAME(r->kx, oracle->kx, sizeof(r->kx));
	CHECK_SAME(r->kk, oracle->kk, sizeof(r->kk));
	CHECK_SAME(&r->sums, &oracle->sums, sizeof(bqk_sums));
	CHECK_SAME(r->residual, oracle->residual, dim * sizeof(float));
	CHECK_SAME(r->rotated, oracle->rotated, dim * sizeof(float));
	CHECK_SAME(r->code1, oracle->code1, bqk_nbytes(dim, 1));
	for (int b = 0; b < 3; b++)
		CHECK_SAME(r->codes[b], oracle->codes[b], bqk_nbytes(dim, 2 << b));
}

static void
float_kernels_match_scalar_and_stay_in_bounds(void)
{
	static float_results oracle, found;
	uint64_t state = 1;
	size_t dim;

	for (size_t d = 0; (dim = test_dim(d)) != 0; d++)
		for (int kind = 0; kind < N_FLOAT_KINDS; kind++)
		{
			bqk_sums s;

			for (size_t i = 0; i < dim; i++)
			{
				x[i] = float_value(kind, i, dim, &state);
				y[i] = float_value(kind % 2 ? NORMAL : kind, i, dim, &state);
			}
			bqk_signs_init(dim, d, signs);
			bqk_kernels_scalar.sums(x, dim, &s);
			with("oracle dim=%zu kind=%d", dim, kind);
			float_run(&bqk_kernels_scalar, dim, kind, s.max, AT_END, &oracle);
			for (const bqk_kernels *const *k = tables(); *k; k++)
				for (side at = 0; at < N_SIDES; at++)
				{
					with("%s dim=%zu kind=%d at=%s", (*k)->name, dim, kind, side_names[at]);
					float_run(*k, dim, kind, s.max, at, &found);
					float_compare(&found, &oracle, dim);
				}
		}
}

/* Any bytes are a code. The error of a sum of n rounded products is at most (n / 16 + 5) roundings of their size: 16
 * lanes, their fold of 4 additions and the product itself. */
static void
float_queries_match_scalar_and_stay_in_bounds(void)
{
	static uint8_t code[2 * MAX_CODE_NBYTES];
	uint64_t state = 4;
	size_t dim;

	for (size_t d = 0; (dim = test_dim(d)) != 0; d++)
		for (int kind = 0; kind < N_FLOAT_KINDS; kind++)
			for (int bits = 1; bits <= 8; bits *= 2)
			{
				size_t nbytes = bqk_nbytes(dim, bits);
				float oracle[2];
				double exact = 0.0, size = 0.0;

				for (size_t i = 0; i < 2 * nbytes; i++)
					code[i] = (uint8_t) random_bits(&state);
				for (size_t i = 0; i < dim; i++)
				{
					size_t bit = i * (size_t) bits;
					double k = (code[bit / 8] >> bit % 8 & ((1 << bits) - 1)) - 0.5 * ((1 << bits) - 1);

					x[i] = float_value(kind, i, dim, &state);
					exact += k * (double) x[i];
					size += fabs(k * (double) x[i]);
				}
				bqk_kernels_scalar.dot_float(code, nbytes, 2, bits, x, dim, oracle);
				with("oracle dim=%zu kind=%d bits=%d", dim, kind, bits);
				CHECK(fabs((double) oracle[0] - exact) <= size * ((double) dim / 16 + 5) * 0x1p-24 + 1e-43);
				for (const bqk_kernels *const *k = tables(); *k; k++)
					for (side at = 0; at < N_SIDES; at++)
					{
						const float *px = guard_copy(&gx, x, dim * sizeof(float), at);
						const uint8_t *pcode = guard_copy(&gcode, code, 2 * nbytes, at);
						float *out = guard_place(&gout, sizeof(oracle), at);

						with("%s dim=%zu kind=%d bits=%d at=%s", (*k)->name, dim, kind, bits, side_names[at]);
						(*k)->dot_float(pcode, nbytes, 2, bits, px, dim, out);
						CHECK_SAME(out, oracle, sizeof(oracle));
					}
			}
}

static void
selection_takes_the_named_isa_and_refuses_others(void)
{
	const char *last = NULL;

	CHECK_INT(bqk_isa_select("x87"), BQK_EINVAL);
	CHECK_INT(bqk_isa_supported("x87"), 0);
	CHECK_INT(bqk_isa_supported("scalar"), 1);
	for (const bqk_kernels *const *k = tables(); *k; k++)
	{
		last = (*k)->name;
		with("%s", last);
		CHECK_INT(bqk_isa_supported(last), 1);
		CHECK_INT(bqk_isa_select(last), BQK_OK);
		CHECK(bqk_isa_active() == last);
		CHECK_INT(bqk_isa_select("x87"), BQK_EINVAL);
		CHECK(bqk_isa_active() == last);
	}
	CHECK_INT(bqk_isa_select(NULL), BQK_OK);
	CHECK(bqk_isa_active() == last);
	for (size_t i = 0; i < COUNT(all_tables); i++)
		CHECK(bqk_isa_name(i) == all_tables[i]->name);
	CHECK(bqk_isa_name(COUNT(all_tables)) == NULL);
	for (size_t i = 0; i < COUNT(all_tables); i++)
		CHECK_INT(bqk_isa_select(all_tables[i]->name), all_tables[i]->supported() ? BQK_OK : BQK_EUNSUPPORTED);
}

int
main(void)
{
	gx = guard_new(sizeof(x));
	gy = guard_new(sizeof(y));
	gsigns = guard_new(sizeof(signs));
	gout = guard_new(sizeof(x));
	gcode = guard_new(2 * MAX_CODE_NBYTES);
	RUN(selection_takes_the_named_isa_and_refuses_others);
	RUN(float_kernels_match_scalar_and_stay_in_bounds);
	RUN(float_queries_match_scalar_and_stay_in_bounds);
	return finish();
}
