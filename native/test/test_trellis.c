/* The trellis: the search finds the least sum of squared errors, packing and decoding are inverse; all of it alike on
 * every instruction set and within bounds. */
#include "../src/trellis.h"
#include "check.h"

#include <math.h>

#define MAX_AXES 1100
#define N_CODES 37 /* two full batches of BQK_LANES and a partial one */
#define MAX_NBYTES (MAX_AXES + 3)

static uint8_t bits[MAX_AXES], codes[N_CODES * MAX_NBYTES];
static float deviation[MAX_AXES], rows[N_CODES * MAX_AXES], levels[N_CODES * MAX_AXES], rescale[N_CODES],
	found_levels[N_CODES * MAX_AXES], work[(3 * BQK_LANES + 2) * MAX_AXES];
static guarded grows, gcodes, grescale, gwork, glevels;

/* A model of m axes with descending bits up to `most`, falling deviations and `spare` bytes beyond the last bit. */
static bqk_trellis
trellis_of(size_t m, int most, size_t spare)
{
	size_t n_bits = 0;

	for (size_t i = 0; i < m; i++)
	{
		bits[i] = (uint8_t) (most - (int) ((size_t) most * i / m));
		n_bits += bits[i];
		deviation[i] = (float) (1 << bits[i]) / (1.0f + (float) i / (float) m);
	}
	return (bqk_trellis) {.dim = (uint32_t) m,
						  .code_nbytes = (uint32_t) ((n_bits + 7) / 8 + spare),
						  .bits = bits,
						  .deviation = deviation};
}

static void
fill_rows(size_t m, uint64_t seed)
{
	for (size_t i = 0; i < N_CODES * m; i++)
		rows[i] = random_normal(&seed) * deviation[i % m] * (float) (1 + i / m);
	memset(rows + m, 0, m * sizeof(float)); /* the second row */
}

static double
error_of(const float *target, const float *v, size_t m)
{
	double sum = 0.0;

	for (size_t i = 0; i < m; i++)
		sum += (double) (target[i] - v[i]) * (target[i] - v[i]);
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
				size_t n_bits = 0;
				float target[7], x[7 * BQK_LANES] = {0}, y[7 * BQK_LANES], cost[7], found[7], v[7];
				float scale[BQK_LANES] = {0.5f}, xv[BQK_LANES], vv[BQK_LANES];
				int32_t decisions[7 * BQK_LANES];
				double best = 1e30;

				for (size_t i = 0; i < m; i++)
					n_bits += bits[i];
				if (n_bits > 14)
					continue;
				with("m=%zu most=%d trial=%d", m, most, trial);
				for (size_t i = 0; i < m; i++)
				{
					target[i] = random_normal(&state) * deviation[i] * 1.5f;
					x[i * BQK_LANES] = 2.0f * target[i] / deviation[i];
					cost[i] = deviation[i] * deviation[i];
				}
				bqk_kernels_scalar.trellis(x, scale, bits, cost, m, y, decisions, xv, vv);
				for (size_t i = 0; i < m; i++)
					found[i] = y[i * BQK_LANES] * deviation[i];
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
	float *plevels = guard_place(&glevels, N_CODES * t->dim * sizeof(float), at);
	float *pwork = guard_place(&gwork, bqk_trellis_work(t->dim) * sizeof(float), at);

	memset(pcodes, 0xee, N_CODES * t->code_nbytes);
	CHECK_INT(bqk_trellis_encode(t, prows, N_CODES, rounds, pcodes, prescale, plevels, pwork), BQK_OK);
	memcpy(out_codes, pcodes, N_CODES * t->code_nbytes);
	memcpy(out_rescale, prescale, N_CODES * sizeof(float));
	memcpy(found_levels, plevels, N_CODES * t->dim * sizeof(float));
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
	CHECK_INT(bqk_trellis_encode(&t, rows, N_CODES, 2, codes, rescale, found_levels, work), BQK_OK);
	for (size_t c = 0; c < N_CODES; c++)
	{
		CHECK_INT(bqk_trellis_encode(&t, rows + c * t.dim, 1, 2, one, &f, levels, work), BQK_OK);
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
			CHECK_INT(bqk_trellis_encode(&t, rows, N_CODES, 2, codes, rescale, found_levels, work), BQK_OK);
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
				CHECK_SAME(found_levels + c * t.dim, plevels + c * t.dim, t.dim * sizeof(float));
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
			CHECK_INT(bqk_trellis_encode(&t, rows, N_CODES, rounds, codes, rescale, found_levels, work), BQK_OK);
			CHECK_INT(bqk_trellis_decode(&t, codes, N_CODES, levels), BQK_OK);
			for (size_t c = 0; c < N_CODES; c++)
			{
				double oo = 0.0, ov = 0.0, vv = 0.0, cosine;

				for (size_t i = 0; i < t.dim; i++)
				{
					double o = rows[c * t.dim + i], v = levels[c * t.dim + i];

					oo += o * o;
					ov += o * v;
					vv += v * v;
				}
				cosine = oo > 0.0 ? ov / sqrt(oo * vv) : 0.0;
				with("most=%d rounds=%d code=%zu: %.9f after %.9f", most, rounds, c, cosine, before[c]);
				CHECK(cosine >= before[c] - 1e-6);
				before[c] = cosine;
			}
		}
	}
}

/* Levels rise, are symmetric, and reach the error on Gaussian axes that bits are allocated by. */
static void
levels_fit_a_gaussian_axis(void)
{
	static const double distortion[8] = {0.3062, 0.08623, 0.02361, 0.006231, 0.001595, 4.093e-4, 1.06e-4, 2.719e-5};
	enum
	{
		AXES = 500,
		BATCHES = 25
	};
	static float y[AXES * BQK_LANES], target[AXES * BQK_LANES], one[AXES];
	float scale[BQK_LANES], xv[BQK_LANES], vv[BQK_LANES];
	static int32_t u[AXES * BQK_LANES];
	static uint8_t rate[AXES];
	uint64_t state = 21;

	for (size_t l = 0; l < BQK_LANES; l++)
		scale[l] = 1.0f;
	for (int r = 1; r <= 8; r++)
	{
		double error = 0.0;

		with("bits=%d", r);
		for (int i = 1; i < 2 << r; i++)
		{
			CHECK(bqk_trellis_level(r, i) > bqk_trellis_level(r, i - 1));
			CHECK(bqk_trellis_level(r, i) == -bqk_trellis_level(r, (2 << r) - 1 - i));
		}
		memset(rate, r, sizeof(rate));
		for (size_t i = 0; i < AXES; i++)
			one[i] = 1.0f;
		for (int batch = 0; batch < BATCHES; batch++)
		{
			for (size_t i = 0; i < COUNT(y); i++)
				target[i] = random_normal(&state);
			bqk_active()->trellis(target, scale, rate, one, AXES, y, u, xv, vv);
			for (size_t i = 0; i < COUNT(y); i++)
			{
				CHECK(y[i] == bqk_trellis_level(r, u[i]));
				error += (double) (y[i] - target[i]) * (double) (y[i] - target[i]);
			}
		}
		error /= (double) COUNT(y) * BATCHES;
		with("bits=%d: error %g, expected %g", r, error, distortion[r - 1]);
		CHECK(fabs(error / distortion[r - 1] - 1.0) < 0.03);
	}
}

/* The bound between two levels of a subset lies half way; a window holds the four levels about its target. */
static void
bounds_lie_between_levels(void)
{
	uint64_t state = 5;

	for (int r = 2; r <= BQK_TRELLIS_LISTED; r++)
		for (int s = 0; s < 4; s++)
			for (int f = 1; f < 1 << (r - 1); f++)
			{
				float below = bqk_trellis_level(r, 4 * f - 4 + s), above = bqk_trellis_level(r, 4 * f + s);

				with("bits=%d subset=%d f=%d", r, s, f);
				CHECK(fabsf(bqk_trellis_between[(r == 2 ? 0 : 4) + 4 * (f - 1) + s] - 0.5f * (below + above)) < 1e-6f);
			}
	for (int r = BQK_TRELLIS_LISTED + 1; r <= 8; r++)
		for (int i = 0; i < 2000; i++)
		{
			float x[BQK_LANES] = {0}, y[BQK_LANES], one[1] = {1.0f}, scale[BQK_LANES] = {1.0f}, xv[BQK_LANES],
				  vv[BQK_LANES];
			float top = bqk_trellis_level(r, (2 << r) - 1), least = INFINITY, error;
			uint8_t rate[1] = {(uint8_t) r};
			int32_t u[BQK_LANES];

			x[0] = random_normal(&state) * 1.5f;
			x[0] = x[0] > top ? top : x[0] < -top ? -top : x[0];
			bqk_kernels_scalar.trellis(x, scale, rate, one, 1, y, u, xv, vv);
			for (int v = 0; v < 2 << r; v++) /* one axis: its code is its trellis bit */
				if (v % 4 == 0 || v % 4 == 2)
				{
					error = fabsf(x[0] - bqk_trellis_level(r, v));
					least = error < least ? error : least;
				}
			/* at 8 bits the inverse is off by up to 0.77 of a level's width: the level two steps further may be taken
			 */
			with("bits=%d x=%g: level %g", r, (double) x[0], (double) y[0]);
			CHECK(fabsf(x[0] - y[0]) <=
				  least + (r < 7 ? 0.25f : 1.6f) * (bqk_trellis_level(r, u[0] | 1) - bqk_trellis_level(r, u[0] & ~1)));
		}
}

static void
what_is_no_model_is_refused(void)
{
	bqk_trellis t = trellis_of(8, 2, 0), bad;

	CHECK_INT(bqk_trellis_encode(&t, rows, 1, 1, codes, rescale, found_levels, work), BQK_OK);
	CHECK_INT(bqk_trellis_encode(&t, rows, 1, 0, codes, rescale, found_levels, work), BQK_EINVAL);
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
		CHECK_INT(bqk_trellis_encode(&bad, rows, 1, 1, codes, rescale, found_levels, work), BQK_EINVAL);
		CHECK_INT(bqk_trellis_decode(&bad, codes, 1, levels), BQK_EINVAL);
	}
	bad = t;
	bad.dim = 0;
	CHECK_INT(bqk_trellis_encode(&bad, rows, 1, 1, codes, rescale, found_levels, work), BQK_EINVAL);
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
	RUN(what_is_no_model_is_refused);
	RUN(search_finds_the_least_error_of_all_codes);
	RUN(codes_match_across_isas_and_stay_in_bounds);
	RUN(codes_do_not_depend_on_their_neighbours);
	RUN(decoded_levels_give_the_factor_and_the_cosine_of_their_bits);
	RUN(more_rounds_never_lower_the_cosine);
	RUN(levels_fit_a_gaussian_axis);
	RUN(bounds_lie_between_levels);
	return finish();
}
