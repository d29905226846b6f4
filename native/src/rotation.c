/* Seeded rotation: the signs of its rounds, and its use on many vectors. */
#include "bqk.h"

#include <string.h>

/* splitmix64 (Steele, Lea, Flood 2014): 64 signs from each step. */
static uint64_t
splitmix64(uint64_t *state)
{
	uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

size_t
bqk_signs_count(size_t dim)
{
	return BQK_ROUNDS * dim;
}

int
bqk_signs_init(size_t dim, uint64_t seed, float *signs)
{
	uint64_t state = seed;

	if (dim == 0 || dim > BQK_MAX_DIM)
		return BQK_EINVAL;
	for (size_t i = 0; i < BQK_ROUNDS * dim;)
	{
		uint64_t word = splitmix64(&state);

		for (int j = 0; j < 64 && i < BQK_ROUNDS * dim; j++, i++)
			signs[i] = (word >> j) & 1 ? 1.0f : -1.0f;
	}
	return BQK_OK;
}

int
bqk_rotate(const bqk_model *model, const float *x, size_t n, float *out)
{
	const bqk_kernels *k = bqk_active();
	size_t dim = model->dim;

	if (dim == 0 || dim > BQK_MAX_DIM)
		return BQK_EINVAL;
	memcpy(out, x, n * dim * sizeof(float));
	if (model->signs)
		for (size_t i = 0; i < n; i++)
			k->rotate(model->signs, dim, out + i * dim);
	return BQK_OK;
}
