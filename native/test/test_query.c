/* Queries and estimates: identical on every instruction set, in bounds, and exact where they must be. */
#include "fixture.h"

#include <float.h>
#include <math.h>

#define MAX_Z (BQK_MAX_DIM * 4)
#define MANY 600

static const int all_query_bits[] = {4, 8, 32};
static float q[BQK_MAX_DIM];
static _Alignas(4) int8_t z[MAX_Z];
static bqk_query query;
static guarded gq, gz, gcodes, gfactors, gwork, gout;

typedef struct answers
{
	bqk_query query;
	int8_t z[MAX_Z];
	float estimate[N_ROWS], error[N_ROWS], one, sym;
} answers;

static void
prepare_ok(const bqk_model *m, int query_bits)
{
	CHECK_INT(bqk_query_prepare(m, q, query_bits, &query, z, work), BQK_OK);
}

static void
answer(const bqk_model *m, int query_bits, side at, answers *a)
{
	size_t dim = m->dim, nbytes = bqk_code_nbytes(dim, m->bits), z_nbytes = bqk_query_nbytes(dim, query_bits);
	const float *pq = guard_copy(&gq, q, dim * sizeof(float), at);
	const uint8_t *pcodes = guard_copy(&gcodes, codes, N_ROWS * nbytes, at);
	const bqk_factors *pf = guard_copy(&gfactors, factors, sizeof(factors), at);
	float *pwork = guard_place(&gwork, dim * sizeof(float), at), *out = guard_place(&gout, sizeof(a->estimate), at);
	int8_t *pz = guard_place(&gz, z_nbytes, at);

	memset(pz, 0xee, z_nbytes);
	CHECK_INT(bqk_query_prepare(m, pq, query_bits, &a->query, pz, pwork), BQK_OK);
	memcpy(a->z, pz, z_nbytes);
	CHECK_INT(bqk_estimate_n(m, &a->query, pz, pcodes, pf, N_ROWS, out), BQK_OK);
	memcpy(a->estimate, out, sizeof(a->estimate));
	CHECK_INT(bqk_error_n(m, &a->query, pcodes, pf, N_ROWS, out), BQK_OK);
	memcpy(a->error, out, sizeof(a->error));
	/* the last code lies against the guard page, or the first one does */
	a->one = bqk_distance(m->bits, dim, &a->query, pz, pcodes + (N_ROWS - 1) * nbytes, pf + N_ROWS - 1);
	a->sym = bqk_distance_sym(m->bits, m->metric, dim, pcodes, pf, pcodes + (N_ROWS - 1) * nbytes, pf + N_ROWS - 1);
}

static void
queries_and_estimates_match_across_isas_and_stay_in_bounds(void)
{
	static answers oracle, found;
	size_t dim;

	for (size_t d = 0; (dim = test_dim(d)) != 0; d++)
	{
		int query_bits = all_query_bits[d % COUNT(all_query_bits)];

		fill_normal(centroid, dim, d);
		fill_normal(rows, N_ROWS * dim, d + 1000);
		fill_normal(q, dim, d + 2000);
		EACH_MODEL(m, dim)
		{
			encode_ok(&m, N_ROWS);
			bqk_isa_select("scalar");
			answer(&m, query_bits, AT_END, &oracle);
			for (const bqk_kernels *const *k = tables(); *k; k++)
				for (side at = 0; at < N_SIDES; at++)
				{
					bqk_isa_select((*k)->name);
					with("%s dim=%zu bits=%d query_bits=%d metric=%d rotation=%d at=%s", (*k)->name, dim, m.bits,
						 query_bits, m.metric, m.rotation, side_names[at]);
					answer(&m, query_bits, at, &found);
					CHECK_SAME(&found.query, &oracle.query, sizeof(bqk_query));
					CHECK_SAME(found.z, oracle.z, bqk_query_nbytes(dim, query_bits));
					CHECK_SAME(found.estimate, oracle.estimate, sizeof(found.estimate));
					CHECK_SAME(found.error, oracle.error, sizeof(found.error));
					CHECK_SAME(&found.one, &oracle.estimate[N_ROWS - 1], sizeof(float));
					CHECK_SAME(&found.sym, &oracle.sym, sizeof(float));
				}
		}
	}
	bqk_isa_select(NULL);
}

static void
query_coordinates_fill_eight_bits_and_padding_is_zero(void)
{
	for (size_t dim = 1; dim <= 200; dim++)
	{
		fill_normal(centroid, dim, 1);
		fill_normal(q, dim, dim + 1000);
		EACH_MODEL(m, dim)
		{
			int32_t sum = 0, largest = 0;
			size_t n_zero = 0;

			with("dim=%zu bits=%d metric=%d rotation=%d", dim, m.bits, m.metric, m.rotation);
			memset(z, 0x55, sizeof(z));
			prepare_ok(&m, 8);
			for (size_t i = 0; i < bqk_query_nbytes(dim, 8); i++)
			{
				sum += z[i];
				largest = abs(z[i]) > largest ? abs(z[i]) : largest;
				n_zero += z[i] == 0;
			}
			CHECK_INT(sum, query.sum_z);
			/* of one dimension the centroid's share is all */
			CHECK_INT(largest, dim == 1 && m.metric == BQK_IP ? 0 : 127);
			CHECK(n_zero >= bqk_query_nbytes(dim, 8) - dim);
			CHECK_INT(z[bqk_query_nbytes(dim, 8)], 0x55);
			for (size_t i = dim; m.bits == 1 && i < bqk_query_nbytes(dim, 8); i++)
				CHECK_INT(z[i], 0);
		}
	}
}

static void
query_against_four_bit_codes_holds_even_then_odd_coordinates_of_a_block(void)
{
	enum
	{
		dim = 130
	};
	bqk_model m = model_of(dim, 4, BQK_L2, BQK_ROTATION_NONE);

	fill(centroid, dim, 0.0f);
	for (size_t i = 0; i < dim; i++)
		q[i] = i == 129 ? 127.0f : (float) (i % 100); /* delta = 1: z is the coordinate */
	prepare_ok(&m, 8);
	CHECK(query.delta == 1.0f);
	CHECK_INT(z[0], 0);
	CHECK_INT(z[1], 2);
	CHECK_INT(z[31], 62);
	CHECK_INT(z[32], 1);
	CHECK_INT(z[63], 63);
	CHECK_INT(z[64], 64);
	CHECK_INT(z[96], 65);
	CHECK_INT(z[127], 27);
	CHECK_INT(z[128], 28);
	CHECK_INT(z[128 + 32], 127);
	CHECK_INT(z[129], 0);
}

static int
plane_level(const uint8_t *planes, size_t i)
{
	const uint8_t *byte = planes + i / 128 * 64 + i % 128 / 8;
	int bit[4];

	for (size_t p = 0; p < 4; p++)
		bit[p] = byte[p * 16] >> (i % 8) & 1;
	return bit[0] + 2 * bit[1] + 4 * bit[2] - 8 * bit[3];
}

/* The layout and the rounding, stated on their own. */
static void
four_bit_queries_are_the_nearest_of_fifteen_levels(void)
{
	for (size_t dim = 1; dim <= 300; dim++)
	{
		fill(centroid, dim, 0.0f);
		fill_normal(q, dim, dim);
		for (size_t b = 0; b < COUNT(all_bits); b++)
		{
			bqk_model m = model_of(dim, all_bits[b], BQK_L2, BQK_ROTATION_NONE);
			float max = 0.0f;
			int32_t sum = 0, largest = 0;

			with("dim=%zu bits=%d", dim, m.bits);
			memset(z, 0x55, sizeof(z));
			prepare_ok(&m, 4);
			for (size_t i = 0; i < dim; i++)
				max = fabsf(q[i]) > max ? fabsf(q[i]) : max;
			CHECK(query.delta == max / 7.0f);
			for (size_t i = 0; i < dim; i++)
			{
				int level = m.bits == 1 ? plane_level((const uint8_t *) z, i) : z[bqk_query_position(m.bits, i)];

				CHECK(fabsf((float) level * query.delta - q[i]) <= 0.50001f * query.delta);
				sum += level;
				largest = abs(level) > largest ? abs(level) : largest;
			}
			CHECK_INT(sum, query.sum_z);
			CHECK_INT(largest, 7);
			for (size_t i = dim; m.bits == 1 && i < (dim + 127) / 128 * 128; i++)
				CHECK_INT(plane_level((const uint8_t *) z, i), 0);
			CHECK_INT(z[bqk_query_nbytes(dim, 4)], 0x55);
		}
	}
}

static void
float_queries_are_the_rotated_residual(void)
{
	for (size_t dim = 1; dim <= 200; dim++)
	{
		fill_normal(centroid, dim, 1);
		fill_normal(q, dim, dim + 1000);
		for (size_t b = 0; b < COUNT(all_bits); b++)
		{
			bqk_model m = model_of(dim, all_bits[b], BQK_L2, BQK_ROTATION_HADAMARD);

			with("dim=%zu bits=%d", dim, m.bits);
			prepare_ok(&m, 32);
			for (size_t i = 0; i < dim; i++)
				rows[dim + i] = q[i] - centroid[i];
			CHECK_INT(bqk_rotate(&m, rows + dim, 1, rows), BQK_OK);
			CHECK_SAME(z, rows, dim * sizeof(float));
			CHECK(query.delta == 0.0f);
			CHECK_INT(query.sum_z, 0);
		}
	}
}

static void
query_on_the_centroid_or_next_to_it_is_all_zero(void)
{
	const float offsets[] = {0.0f, FLT_TRUE_MIN, 1e-41f, FLT_MIN};

	fill(centroid, 60, 0.0f);
	for (size_t o = 0; o < COUNT(offsets); o++)
		EACH_MODEL(m, 60)
		{
			if (m.metric == BQK_COSINE && offsets[o] != 0.0f)
				continue;
			with("offset=%g bits=%d metric=%d rotation=%d", (double) offsets[o], m.bits, m.metric, m.rotation);
			fill(q, 60, offsets[o]);
			/* with 15 levels a step of FLT_MIN's size has a reciprocal */
			for (int query_bits = offsets[o] < FLT_MIN ? 4 : 8; query_bits <= 8; query_bits += 4)
			{
				prepare_ok(&m, query_bits);
				CHECK(query.delta == 0.0f);
				CHECK(query.g_add == 0.0f);
				CHECK(query.g_error == 0.0f);
				CHECK_INT(query.sum_z, 0);
				CHECK(all_zero(z, bqk_query_nbytes(60, query_bits)));
			}
		}
}

static void
query_too_large_to_square_is_refused(void)
{
	fill(centroid, 60, 1.0f);
	EACH_MODEL(m, 60)
	{
		with("bits=%d metric=%d rotation=%d", m.bits, m.metric, m.rotation);
		fill(q, 60, 1.0f);
		q[59] = FLT_MAX;
		if (m.metric == BQK_COSINE)
			prepare_ok(&m, 8);
		else
			CHECK_INT(bqk_query_prepare(&m, q, 8, &query, z, work), BQK_ERANGE);
	}
	fill(centroid, 60, 1e24f);
	fill(q, 60, 1e24f); /* |q - c|^2 is 0, <q, c> overflows */
	EACH_MODEL(m, 60)
	{
		with("inner product with the centroid, bits=%d metric=%d rotation=%d", m.bits, m.metric, m.rotation);
		if (m.metric != BQK_COSINE)
			CHECK_INT(bqk_query_prepare(&m, q, 8, &query, z, work), m.metric == BQK_IP ? BQK_ERANGE : BQK_OK);
	}
}

/* One dimension has two directions, and one bit tells them apart: nothing is estimated. */
static void
one_dimension_is_exact(void)
{
	const float values[] = {-3.0f, -0.5f, 0.25f, 2.0f, 7.0f};

	centroid[0] = 0.75f;
	for (size_t i = 0; i < COUNT(values); i++)
		for (size_t j = 0; j < COUNT(values); j++)
			EACH_MODEL(m, 1)
			{
				float x = values[i], y = values[j], expected = m.metric == BQK_L2 ? (x - y) * (x - y) : -x * y, found;

				if (m.metric == BQK_COSINE)
					expected = 1.0f - (x * y > 0.0f ? 1.0f : -1.0f);
				with("x=%g q=%g bits=%d metric=%d", (double) x, (double) y, m.bits, m.metric);
				rows[0] = x;
				q[0] = y;
				encode_ok(&m, 1);
				for (size_t b = 0; b < COUNT(all_query_bits); b++)
				{
					prepare_ok(&m, all_query_bits[b]);
					CHECK_INT(bqk_estimate_n(&m, &query, z, codes, factors, 1, &found), BQK_OK);
					CHECK(fabsf(found - expected) < 2e-5f);
					CHECK_INT(bqk_error_n(&m, &query, codes, factors, 1, &found), BQK_OK);
					CHECK(found == 0.0f);
				}
			}
}

static void
vector_on_the_centroid_is_estimated_exactly(void)
{
	fill(centroid, 90, 0.0f);
	centroid[7] = 1.0f;
	fill_normal(q, 90, 3);
	EACH_MODEL(m, 90)
	{
		float estimate, error;

		with("bits=%d metric=%d", m.bits, m.metric);
		memcpy(rows, centroid, sizeof(float) * 90);
		encode_ok(&m, 1);
		prepare_ok(&m, 8);
		CHECK_INT(bqk_estimate_n(&m, &query, z, codes, factors, 1, &estimate), BQK_OK);
		CHECK(estimate == query.g_add);
		CHECK_INT(bqk_error_n(&m, &query, codes, factors, 1, &error), BQK_OK);
		CHECK(error == 0.0f);
	}
}

/* bqk_estimate_n works in runs of 256. */
static void
many_estimates_equal_single_ones(void)
{
	static float estimate[MANY];
	static uint8_t many[MANY * 50]; /* 8 bits */
	static bqk_factors f[MANY];
	const size_t counts[] = {0, 1, 255, 256, 257, 512, 513, MANY};

	fill_normal(centroid, 50, 1);
	fill_normal(q, 50, 2);
	EACH_MODEL(m, 50)
	{
		size_t nbytes = bqk_code_nbytes(50, m.bits);

		for (size_t i = 0; i < MANY; i++)
		{
			fill_normal(rows, 50, i);
			CHECK_INT(bqk_encode(&m, rows, 1, many + i * nbytes, f + i, work, &bad), BQK_OK);
		}
		for (size_t c = 0; c < COUNT(counts); c++)
		{
			int query_bits = all_query_bits[c % COUNT(all_query_bits)];

			with("n=%zu bits=%d query_bits=%d metric=%d", counts[c], m.bits, query_bits, m.metric);
			prepare_ok(&m, query_bits);
			fill(estimate, MANY, -7.0f);
			CHECK_INT(bqk_estimate_n(&m, &query, z, many, f, counts[c], estimate), BQK_OK);
			for (size_t i = 0; i < MANY; i++)
				CHECK(estimate[i] ==
					  (i < counts[c] ? bqk_distance(m.bits, 50, &query, z, many + i * nbytes, f + i) : -7.0f));
		}
	}
}

/* Under ip estimates are linear in the query: exactly, where it is multiplied by a power of two or by -1, whatever the
 * centroid, the rows' lengths, and the query's place to the centroid. */
static void
inner_products_are_linear_in_the_query(void)
{
	static bqk_query first;
	static int8_t first_z[MAX_Z];
	float estimate[N_ROWS], error[N_ROWS], found[N_ROWS];

	for (int kind = 0; kind < 6; kind++)
		EACH_MODEL(m, 70)
		{
			if (m.metric != BQK_IP)
				continue;
			fill_normal(centroid, 70, 1);
			fill_normal(q, 70, 2);
			for (size_t i = 0; i < 70; i++)
			{
				centroid[i] *= kind == 1 ? 0.0f : (kind == 2 ? 1e3f : 1.0f);
				if (kind == 3) /* on the other side */
					q[i] -= 3.0f * centroid[i];
				if (kind == 4) /* across: <q, c> is 0 */
					q[i] = i % 2 ? -centroid[i - 1] : centroid[i + 1];
				if (kind == 5)
					q[i] = 0.0f;
			}
			for (size_t j = 0; j < N_ROWS; j++)
			{
				fill_normal(rows + j * 70, 70, 10 + j);
				for (size_t i = 0; i < 70; i++)
					rows[j * 70 + i] = (rows[j * 70 + i] + centroid[i]) * powf(10.0f, 3.0f * (float) j - 3.0f);
			}
			encode_ok(&m, N_ROWS);
			for (size_t b = 0; b < COUNT(all_query_bits); b++)
			{
				with("kind=%d bits=%d rotation=%d query_bits=%d", kind, m.bits, m.rotation, all_query_bits[b]);
				prepare_ok(&m, all_query_bits[b]);
				first = query;
				memcpy(first_z, z, sizeof(z));
				CHECK_INT(bqk_estimate_n(&m, &query, z, codes, factors, N_ROWS, estimate), BQK_OK);
				CHECK_INT(bqk_error_n(&m, &query, codes, factors, N_ROWS, error), BQK_OK);
				for (int e = -20; e <= 20; e += 10)
					for (int sign = -1; sign <= 1; sign += 2)
					{
						float scale = ldexpf((float) sign, e);

						for (size_t i = 0; i < 70; i++)
							q[i] *= scale;
						prepare_ok(&m, all_query_bits[b]);
						CHECK(query.g_weight == first.g_weight * scale);
						CHECK(query.g_error == first.g_error * fabsf(scale));
						CHECK(sign < 0 || all_query_bits[b] == 32 || memcmp(z, first_z, sizeof(z)) == 0);
						CHECK_INT(bqk_estimate_n(&m, &query, z, codes, factors, N_ROWS, found), BQK_OK);
						for (size_t j = 0; j < N_ROWS; j++)
							CHECK(found[j] == estimate[j] * scale);
						CHECK_INT(bqk_error_n(&m, &query, codes, factors, N_ROWS, found), BQK_OK);
						for (size_t j = 0; j < N_ROWS; j++)
							CHECK(fabsf(found[j] - error[j] * fabsf(scale)) <= 1e-6f * error[j] * fabsf(scale));
						for (size_t i = 0; i < 70; i++)
							q[i] /= scale;
					}
				if (kind == 5)
					CHECK(estimate[0] == 0.0f && estimate[N_ROWS - 1] == 0.0f);
			}
		}
}

static void
every_status_has_its_own_text(void)
{
	for (int a = BQK_OK; a <= BQK_ECHECKSUM; a++)
	{
		with("status=%d", a);
		CHECK(strcmp(bqk_strerror(a), "unknown status") != 0);
		for (int b = BQK_OK; b < a; b++)
			CHECK(strcmp(bqk_strerror(a), bqk_strerror(b)) != 0);
	}
	CHECK(strcmp(bqk_strerror(BQK_ECHECKSUM + 1), "unknown status") == 0);
}

int
main(void)
{
	gq = guard_new(sizeof(q));
	gz = guard_new(sizeof(z));
	gcodes = guard_new(sizeof(codes));
	gfactors = guard_new(sizeof(factors));
	gwork = guard_new(sizeof(work));
	gout = guard_new(N_ROWS * sizeof(float));
	RUN(queries_and_estimates_match_across_isas_and_stay_in_bounds);
	RUN(query_coordinates_fill_eight_bits_and_padding_is_zero);
	RUN(query_against_four_bit_codes_holds_even_then_odd_coordinates_of_a_block);
	RUN(four_bit_queries_are_the_nearest_of_fifteen_levels);
	RUN(float_queries_are_the_rotated_residual);
	RUN(query_on_the_centroid_or_next_to_it_is_all_zero);
	RUN(query_too_large_to_square_is_refused);
	RUN(one_dimension_is_exact);
	RUN(vector_on_the_centroid_is_estimated_exactly);
	RUN(many_estimates_equal_single_ones);
	RUN(inner_products_are_linear_in_the_query);
	RUN(every_status_has_its_own_text);
	return finish();
}
