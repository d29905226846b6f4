/* Popcounts of sign and strong planes against the product of levels +-1, +-2, one coordinate at a time. */
#include "check.h"

#define N_CODES 3
#define MAX_PLANE (BQK_MAX_DIM / 8)

static uint8_t codes[N_CODES * 2 * MAX_PLANE], other[2 * MAX_PLANE];
static guarded gcodes, gother, gints;

static int
level(const uint8_t *code, size_t plane, size_t i)
{
	int sign = code[i / 8] >> (i % 8) & 1, strong = code[plane + i / 8] >> (i % 8) & 1;

	return (sign ? 1 : -1) * (1 + strong);
}

static int64_t
product_of_levels(size_t dim, const uint8_t *a, const uint8_t *b)
{
	int64_t sum = 0;

	for (size_t i = 0; i < dim; i++)
		sum += level(a, (dim + 7) / 8, i) * level(b, (dim + 7) / 8, i);
	return sum;
}

static void
fill(uint8_t *code, size_t dim, uint64_t *state)
{
	size_t plane = (dim + 7) / 8;

	for (size_t i = 0; i < 2 * plane; i++)
		code[i] = state ? (uint8_t) random_bits(state) : 0xff;
	code[plane - 1] &= (uint8_t) (0xff >> (plane * 8 - dim));
	code[2 * plane - 1] &= (uint8_t) (0xff >> (plane * 8 - dim));
}

static void
popcounts_equal_the_product_of_levels_and_stay_in_bounds(void)
{
	uint64_t state = 5;
	size_t dim;

	for (size_t d = 0; (dim = test_dim(d)) != 0; d++)
	{
		size_t nbytes = 2 * ((dim + 7) / 8);

		for (size_t c = 0; c < N_CODES; c++)
			fill(codes + c * nbytes, dim, c ? &state : NULL);
		fill(other, dim, d % 2 ? &state : NULL);
		for (const bqk_kernels *const *k = tables(); *k; k++)
			for (side at = 0; at < N_SIDES; at++)
			{
				const uint8_t *pcodes = guard_copy(&gcodes, codes, N_CODES * nbytes, at);
				const uint8_t *pother = guard_copy(&gother, other, nbytes, at);
				int32_t *out = guard_place(&gints, N_CODES * sizeof(int32_t), at);

				with("%s dim=%zu at=%s", (*k)->name, dim, side_names[at]);
				CHECK_INT(bqk_isa_select((*k)->name), BQK_OK);
				CHECK_INT(bqk_sign_magnitude_sym(dim, pcodes, N_CODES, pother, out), BQK_OK);
				for (size_t c = 0; c < N_CODES; c++)
					CHECK_INT(out[c], product_of_levels(dim, codes + c * nbytes, other));
			}
	}
}

static void
dims_out_of_range_are_refused(void)
{
	int32_t out;

	CHECK_INT(bqk_sign_magnitude_sym(0, codes, 1, other, &out), BQK_EINVAL);
	CHECK_INT(bqk_sign_magnitude_sym(BQK_MAX_DIM + 1, codes, 1, other, &out), BQK_EINVAL);
}

int
main(void)
{
	gcodes = guard_new(sizeof(codes));
	gother = guard_new(sizeof(other));
	gints = guard_new(N_CODES * sizeof(int32_t));
	RUN(dims_out_of_range_are_refused);
	RUN(popcounts_equal_the_product_of_levels_and_stay_in_bounds);
	return finish();
}
