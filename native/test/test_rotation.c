/* The seeded rotation: orthogonal at every dim, with signs that the seed alone determines. */
#include "fixture.h"

#include <math.h>

static double
inner(const float *a, const float *b, size_t n)
{
	double sum = 0.0;

	for (size_t i = 0; i < n; i++)
		sum += (double) a[i] * (double) b[i];
	return sum;
}

static void
rotation_keeps_inner_products_and_unrotated_models_copy(void)
{
	static float out[2 * BQK_MAX_DIM];
	size_t dim;

	for (size_t d = 0; (dim = test_dim(d)) != 0; d++)
	{
		bqk_model m = model_of(dim, 1, BQK_L2, BQK_ROTATION_HADAMARD);
		double lengths, moved = 0.0;

		with("dim=%zu", dim);
		fill_normal(rows, 2 * dim, d + 1);
		lengths = sqrt(inner(rows, rows, dim) * inner(rows + dim, rows + dim, dim));
		CHECK_INT(bqk_rotate(&m, rows, 2, out), BQK_OK);
		CHECK(fabs(inner(out, out + dim, dim) - inner(rows, rows + dim, dim)) <= 1e-5 * lengths);
		CHECK(fabs(inner(out, out, dim) / inner(rows, rows, dim) - 1.0) <= 1e-5);
		for (size_t i = 0; i < dim; i++)
			moved += fabs((double) out[i] - (double) rows[i]);
		CHECK(dim < 8 || moved > 0.5 * (double) dim);
		m = model_of(dim, 1, BQK_L2, BQK_ROTATION_NONE);
		CHECK_INT(bqk_rotate(&m, rows, 2, out), BQK_OK);
		CHECK_SAME(out, rows, 2 * dim * sizeof(float));
	}
}

static void
signs_come_from_splitmix64(void)
{
	static float other[BQK_ROUNDS * 16];
	/* first outputs of the generator seeded with 0, and with 1234567 */
	const uint64_t seeds[] = {0, 1234567}, words[] = {UINT64_C(0xe220a8397b1dcdaf), UINT64_C(6457827717110365317)};
	float guard;

	CHECK_INT(bqk_signs_count(16), 64);
	for (size_t s = 0; s < COUNT(seeds); s++)
	{
		uint64_t word = 0;

		with("seed=%" PRIu64, seeds[s]);
		CHECK_INT(bqk_signs_init(16, seeds[s], other), BQK_OK);
		for (size_t i = 0; i < 64; i++)
		{
			CHECK(fabsf(other[i]) == 1.0f);
			word |= (uint64_t) (other[i] > 0.0f) << i;
		}
		CHECK(word == words[s]);
	}
	guard = signs[4 * 15] = 9.0f;
	CHECK_INT(bqk_signs_init(15, 0, signs), BQK_OK);
	CHECK(signs[4 * 15] == guard);
	CHECK_INT(bqk_signs_init(0, 0, signs), BQK_EINVAL);
	CHECK_INT(bqk_signs_init(BQK_MAX_DIM + 1, 0, signs), BQK_EINVAL);
}

int
main(void)
{
	RUN(rotation_keeps_inner_products_and_unrotated_models_copy);
	RUN(signs_come_from_splitmix64);
	return finish();
}
