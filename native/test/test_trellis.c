/* The trellis: the search finds the least sum of squared errors, packing and decoding are inverse, integer dots equal
 * their definition; all of it alike on every instruction set and within bounds. */
#include "../src/trellis.h"
#include "check.h"

#include <math.h>

#define MAX_AXES 1100
#define N_CODES 37 /* two full batches of BQK_LANES and a partial one */
#define MAX_NBYTES (MAX_AXES + 3)

static uint8_t bits[MAX_AXES], codes[N_CODES * MAX_NBYTES];
static float step[MAX_AXES], weight[MAX_AXES], rows[N_CODES * MAX_AXES], levels[N_CODES * MAX_AXES], rescale[N_CODES],
	work[(3 * BQK_LANES + 1) * MAX_AXES];
static guarded grows, gcodes, grescale, gwork, glevels, gz, gints;

/* A model of m axes with descending bits up to `most`, falling steps and `spare` bytes beyond the last bit. */
static bqk_trellis
trellis_of(size_t m, int most, size_t spare)
{
	size_t n_bits = 0;
	double norm2 = 0.0;

	for (size_t i = 0; i < m; i++)
	{
		bits[i] = (uint8_t) (most - (int) ((size_t) most * i / m));
		n_bits += bits[i];
		step[i] = 1.0f / (1.0f + (float) i / (float) m);
		weight[i] = 1.0f + 0.25f * (float) (i % 5);
		norm2 += (double) weight[i] * pow(step[i] * (1 << bits[i]) / 2.5, 2.0);
	}
	return (bqk_trellis) {.dim = (uint32_t) m,
						  .code_nbytes = (uint32_t) ((n_bits + 7) / 8 + spare),
						  .bits = bits,
						  .step = step,
						  .weight = weight,
						  .norm = (float) sqrt(norm2)};
}

static void
fill_rows(size_t m, uint64_t seed)
{
	for (size_t i = 0; i < N_CODES * m; i++)
		rows[i] = random_normal(&seed) * step[i % m] * (float) (1 << bits[i % m]) * 0.4f * (float) (1 + i / m);
	memset(rows + m, 0, m * sizeof(float)); /* the second row */
}

static double
error_of(const float *target, const float *v, size_t m)
{
	double sum = 0.0;

	for (size_t i = 0; i < m; i++)
		sum += (double) weight[i] * (target[i] - v[i]) * (target[i] - v[i]);
	return sum;
}

static void
search_finds_the_least_error_of_all_codes(void)
{
	uint64_t state = 3;

	for (size_t m = 1; m <= 7; m++)
		for (int most = 1; most <= 3; most++)
			for (int trial = 0; trial < 4; trial++)
			{
				bqk_trellis t = trellis_of(m, most, 0);
				size_t n_bits = bqk_trellis_bits(&t);
				float target[7], y[7 * BQK_LANES] = {0}, cost[7], found[7], v[7];
				int32_t decisions[7 * BQK_LANES];
				double best = 1e30;

				if (n_bits > 14)
					continue;
				with("m=%zu most=%d trial=%d", m, most, trial);
				for (size_t i = 0; i < m; i++)
				{
					target[i] = random_normal(&state) * step[i] * (float) (1 << bits[i]) * 0.5f;
					y[i * BQK_LANES] = target[i] / step[i];
					cost[i] = weight[i] * step[i] * step[i];
				}
				bqk_kernels_scalar.trellis(y, bits, cost, m, decisions);
				for (size_t i = 0; i < m; i++)
					found[i] = y[i * BQK_LANES] * step[i];
				for (uint32_t code = 0; code < UINT32_C(1) << n_bits; code++)
				{
					uint8_t bytes[2] = {(uint8_t) code, (uint8_t) (code >> 8)};
					double e;

					CHECK_INT(bqk_trellis_decode(&t, bytes, 1, v), BQK_OK);
					e = error_of(target, v, m);
					best = e < best ? e : best;
				}
				CHECK(fabs(error_of(target, found, m) - best) <= 1e-5 * best);
			}
}

static const size_t sizes[] = {1, 2, 3, 4, 7, 8, 63, 64, 65, 100, 127, 128, 129, 200, 513, MAX_AXES};

static void
encode_at(const bqk_trellis *t, int rounds, side at, uint8_t *out_codes, float *out_rescale)
{
	const float *prows = guard_copy(&grows, rows, N_CODES * t->dim * sizeof(float), at);
	uint8_t *pcodes = guard_place(&gcodes, N_CODES * t->code_nbytes, at);
	float *prescale = guard_place(&grescale, N_CODES * sizeof(float), at);
	float *pwork = guard_place(&gwork, bqk_trellis_work(t->dim) * sizeof(float), at);

	memset(pcodes, 0xee, N_CODES * t->code_nbytes);
	CHECK_INT(bqk_trellis_encode(t, prows, N_CODES, rounds, pcodes, prescale, pwork), BQK_OK);
	memcpy(out_codes, pcodes, N_CODES * t->code_nbytes);
	memcpy(out_rescale, prescale, N_CODES * sizeof(float));
}

static void
codes_match_across_isas_and_stay_in_bounds(void)
{
	static uint8_t oracle[N_CODES * MAX_NBYTES];
	static float oracle_rescale[N_CODES];

	for (size_t s = 0; s < COUNT(sizes); s++)
		for (int most = 1; most <= 8; most++)
		{
			bqk_trellis t = trellis_of(sizes[s], most, s % 3);

			fill_rows(t.dim, s);
			bqk_isa_select("scalar");
			encode_at(&t, 2, AT_END, oracle, oracle_rescale);
			for (const bqk_kernels *const *k = tables(); *k; k++)
				for (side at = 0; at < N_SIDES; at++)
				{
					with("%s m=%zu most=%d at=%s", (*k)->name, sizes[s], most, side_names[at]);
					bqk_isa_select((*k)->name);
					encode_at(&t, 2, at, codes, rescale);
					CHECK_SAME(codes, oracle, N_CODES * t.code_nbytes);
					CHECK_SAME(rescale, oracle_rescale, sizeof(rescale));
				}
		}
	bqk_isa_select(NULL);
}

/* A vector's code does not depend on the batch or the lane it falls into. */
static void
codes_do_not_depend_on_their_neighbours(void)
{
	bqk_trellis t = trellis_of(129, 3, 1);
	uint8_t one[MAX_NBYTES];
	float f;

	fill_rows(t.dim, 9);
	CHECK_INT(bqk_trellis_encode(&t, rows, N_CODES, 2, codes, rescale, work), BQK_OK);
	for (size_t c = 0; c < N_CODES; c++)
	{
		CHECK_INT(bqk_trellis_encode(&t, rows + c * t.dim, 1, 2, one, &f, work), BQK_OK);
		CHECK_SAME(one, codes + c * t.code_nbytes, t.code_nbytes);
		CHECK_SAME(&f, rescale + c, sizeof(float));
	}
}

static void
decoded_levels_give_the_factor_and_the_cosine_of_their_bits(void)
{
	for (size_t s = 0; s < COUNT(sizes); s++)
		for (int most = 1; most <= 8; most++)
		{
			bqk_trellis t = trellis_of(sizes[s], most, s % 3);
			double cosines = 0.0;
			float *plevels;
			const uint8_t *pcodes;

			with("m=%zu most=%d", sizes[s], most);
			fill_rows(t.dim, s);
			CHECK_INT(bqk_trellis_encode(&t, rows, N_CODES, 2, codes, rescale, work), BQK_OK);
			pcodes = guard_copy(&gcodes, codes, N_CODES * t.code_nbytes, AT_END);
			plevels = guard_place(&glevels, N_CODES * t.dim * sizeof(float), AT_END);
			CHECK_INT(bqk_trellis_decode(&t, pcodes, N_CODES, plevels), BQK_OK);
			for (size_t c = 0; c < N_CODES; c++)
			{
				double oo = 0.0, ov = 0.0, vv = 0.0;

				for (size_t i = 0; i < t.dim; i++)
				{
					double o = rows[c * t.dim + i], v = plevels[c * t.dim + i];

					oo += o * o;
					ov += o * v;
					vv += v * v;
				}
				CHECK(fabs(rescale[c] * sqrt(vv) - sqrt(oo)) <= 1e-5 * sqrt(oo));
				cosines += oo > 0.0 ? ov / sqrt(oo * vv) / (N_CODES - 1) : 0.0;
			}
			with("m=%zu most=%d: mean cosine %g", sizes[s], most, cosines);
			if (sizes[s] >= 64) /* one bit reaches .83 where weights are equal */
				CHECK(cosines > 0.8);
		}
}

/* Neither the best scale for given levels nor the best levels for a given scale lowers the cosine. */
static void
more_rounds_never_lower_the_cosine(void)
{
	for (int most = 1; most <= 4; most++)
	{
		bqk_trellis t = trellis_of(100, most, 0);
		double before[N_CODES] = {0};

		fill_rows(t.dim, 77);
		for (int rounds = 1; rounds <= 6; rounds++)
		{
			CHECK_INT(bqk_trellis_encode(&t, rows, N_CODES, rounds, codes, rescale, work), BQK_OK);
			CHECK_INT(bqk_trellis_decode(&t, codes, N_CODES, levels), BQK_OK);
			for (size_t c = 0; c < N_CODES; c++)
			{
				double oo = 0.0, ov = 0.0, vv = 0.0, cosine;

				for (size_t i = 0; i < t.dim; i++)
				{
					double o = rows[c * t.dim + i], v = levels[c * t.dim + i];

					oo += weight[i] * o * o;
					ov += weight[i] * o * v;
					vv += weight[i] * v * v;
				}
				cosine = oo > 0.0 ? ov / sqrt(oo * vv) : 0.0;
				with("most=%d rounds=%d code=%zu: %.9f after %.9f", most, rounds, c, cosine, before[c]);
				CHECK(cosine >= before[c] - 1e-6);
				before[c] = cosine;
			}
		}
	}
}

static int
bit_at(const uint8_t *code, size_t at)
{
	return code[at / 8] >> (at % 8) & 1;
}

static void
dots_equal_their_definition_and_stay_in_bounds(void)
{
	static int8_t z[9 * MAX_AXES + 2 * BQK_BLOCK];
	uint64_t state = 11;

	for (size_t s = 0; s < COUNT(sizes); s++)
		for (int most = 1; most <= 8; most++)
		{
			bqk_trellis t = trellis_of(sizes[s], most, s % 3);
			size_t m = t.dim, n_bits = bqk_trellis_bits(&t), total = N_CODES * t.code_nbytes;
			int64_t expected[N_CODES] = {0};
			const int8_t *derived = z + bqk_query_nbytes(n_bits, 8);
			int8_t *pz;

			for (size_t i = 0; i < total; i++)
				codes[i] = (uint8_t) random_bits(&state);
			memset(codes + t.code_nbytes, 0xff, t.code_nbytes);
			memset(z, 0, sizeof(z));
			for (size_t i = 0; i < n_bits; i++)
				z[i] = (int8_t) ((int) (random_bits(&state) % 255) - 127);
			for (size_t i = 0; i < m; i++)
				z[bqk_query_nbytes(n_bits, 8) + i] = 127;
			for (size_t c = 0; c < N_CODES; c++)
			{
				const uint8_t *code = codes + c * t.code_nbytes;

				for (size_t i = 0; i < n_bits; i++)
					expected[c] += bit_at(code, i) * z[i];
				for (size_t i = 0; i < m; i++)
				{
					int z1 = bit_at(code, i);

					z1 ^= i + 1 < m ? bit_at(code, i + 1) : 0;
					z1 ^= i + 3 < m ? bit_at(code, i + 3) : 0;
					expected[c] += z1 * derived[i];
				}
			}
			for (const bqk_kernels *const *k = tables(); *k; k++)
				for (side at = 0; at < N_SIDES; at++)
				{
					const uint8_t *pcodes = guard_copy(&gcodes, codes, total, at);
					int32_t *out = guard_place(&gints, N_CODES * sizeof(int32_t), at);

					with("%s m=%zu most=%d at=%s", (*k)->name, m, most, side_names[at]);
					bqk_isa_select((*k)->name);
					pz = guard_copy(&gz, z, bqk_trellis_query_nbytes(&t), at);
					CHECK_INT(bqk_trellis_dot(&t, pcodes, N_CODES, pz, out), BQK_OK);
					for (size_t c = 0; c < N_CODES; c++)
						CHECK_INT(out[c], expected[c]);
				}
		}
	bqk_isa_select(NULL);
}

static void
prepared_queries_give_the_product_with_the_levels(void)
{
	static float q[MAX_AXES];
	static int32_t dots[N_CODES];
	uint64_t state = 13;

	for (size_t s = 0; s < COUNT(sizes); s++)
		for (int most = 1; most <= 8; most++)
		{
			bqk_trellis t = trellis_of(sizes[s], most, 0);
			double bound = 0.0, n2 = 0.0;
			float delta, offset;
			int8_t *pz = guard_place(&gz, bqk_trellis_query_nbytes(&t), AT_END);

			fill_rows(t.dim, s);
			for (size_t i = 0; i < t.dim; i++)
				q[i] = random_normal(&state);
			memset(pz, 0xee, bqk_trellis_query_nbytes(&t));
			CHECK_INT(bqk_trellis_encode(&t, rows, N_CODES, 1, codes, rescale, work), BQK_OK);
			CHECK_INT(bqk_trellis_decode(&t, codes, N_CODES, levels), BQK_OK);
			CHECK_INT(bqk_trellis_query(&t, q, pz, &delta, &offset), BQK_OK);
			CHECK_INT(bqk_trellis_dot(&t, codes, N_CODES, pz, dots), BQK_OK);
			/* every weight is off by half a delta at most */
			bound = 0.5 * (double) delta * (double) (bqk_trellis_bits(&t) + t.dim);
			for (size_t c = 0; c < N_CODES; c++)
			{
				double exact = 0.0, found = (double) delta * dots[c] + (double) offset;

				for (size_t i = 0; i < t.dim; i++)
					exact += (double) q[i] * (double) levels[c * t.dim + i];
				with("m=%zu most=%d code=%zu: %g is not %g within %g", sizes[s], most, c, found, exact, bound);
				CHECK(fabs(found - exact) <= bound * 1.001 + 1e-5);
				n2 += (found - exact) * (found - exact);
			}
			/* and independently so: the errors' deviation is far below the bound */
			with("m=%zu most=%d: deviation %g, bound %g", sizes[s], most, sqrt(n2 / N_CODES), bound);
			if (sizes[s] >= 64)
				CHECK(sqrt(n2 / N_CODES) < 0.3 * bound);
			memset(q, 0, sizeof(q));
			CHECK_INT(bqk_trellis_query(&t, q, pz, &delta, &offset), BQK_OK);
			CHECK(delta == 0.0f && offset == 0.0f);
		}
}

static void
what_is_no_model_is_refused(void)
{
	bqk_trellis t = trellis_of(8, 2, 0), bad;
	int8_t z[256];
	int32_t out;
	float delta, offset;

	CHECK_INT(bqk_trellis_encode(&t, rows, 1, 1, codes, rescale, work), BQK_OK);
	CHECK_INT(bqk_trellis_encode(&t, rows, 1, 0, codes, rescale, work), BQK_EINVAL);
	for (int i = 0; i < 4; i++)
	{
		static const uint8_t wrong[3][8] = {
			{2, 2, 1, 1, 1, 1, 1, 0}, {9, 1, 1, 1, 1, 1, 1, 1}, {1, 2, 1, 1, 1, 1, 1, 1}};

		bad = t;
		if (i < 3)
			bad.bits = wrong[i];
		else
			bad.code_nbytes--;
		with("case %d", i);
		CHECK_INT(bqk_trellis_encode(&bad, rows, 1, 1, codes, rescale, work), BQK_EINVAL);
		CHECK_INT(bqk_trellis_decode(&bad, codes, 1, levels), BQK_EINVAL);
		CHECK_INT(bqk_trellis_query(&bad, rows, z, &delta, &offset), BQK_EINVAL);
		CHECK_INT(bqk_trellis_dot(&bad, codes, 1, z, &out), BQK_EINVAL);
	}
	bad = t;
	bad.dim = 0;
	CHECK_INT(bqk_trellis_encode(&bad, rows, 1, 1, codes, rescale, work), BQK_EINVAL);
	bad.dim = BQK_MAX_DIM + 1;
	CHECK_INT(bqk_trellis_decode(&bad, codes, 1, levels), BQK_EINVAL);
}

int
main(void)
{
	grows = guard_new(sizeof(rows));
	gcodes = guard_new(sizeof(codes));
	grescale = guard_new(sizeof(rescale));
	gwork = guard_new(sizeof(work));
	glevels = guard_new(sizeof(levels));
	gz = guard_new(9 * MAX_AXES + 2 * BQK_BLOCK);
	gints = guard_new(N_CODES * sizeof(int32_t));
	RUN(what_is_no_model_is_refused);
	RUN(search_finds_the_least_error_of_all_codes);
	RUN(codes_match_across_isas_and_stay_in_bounds);
	RUN(codes_do_not_depend_on_their_neighbours);
	RUN(decoded_levels_give_the_factor_and_the_cosine_of_their_bits);
	RUN(more_rounds_never_lower_the_cosine);
	RUN(dots_equal_their_definition_and_stay_in_bounds);
	RUN(prepared_queries_give_the_product_with_the_levels);
	return finish();
}
