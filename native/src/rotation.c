/* Seeded rotation: the signs of its rounds, and its use on many vectors. */
#include "bqk.h"

#include <math.h>
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

void
bqk_hadamard(float *x, size_t n)
{
	for (size_t h = 1; h < n; h *= 2)
		for (size_t i = 0; i < n; i += 2 * h)
			for (size_t j = i; j < i + h; j++)
			{
				float a = x[j], b = x[j + h];

				x[j] = a + b;
				x[j + h] = a - b;
			}
}

/* Every step of a round is its own inverse. Decoding is no hot path: one implementation serves every ISA. */
static void
unrotate(const float *signs, size_t dim, float *x)
{
	size_t p = bqk_hadamard_size(dim), half = dim / 2;
	float scale = 1.0f / sqrtf((float) p);

	for (size_t round = BQK_ROUNDS; round-- > 0;)
	{
		const float *s = signs + round * dim;
		size_t from = round % 2 ? dim - p : 0;

		if (bqk_givens_round(dim, p, round))
			for (size_t i = 0; i < half; i++)
			{
				float a = x[i], b = x[i + half];

				x[i] = (a + b) * 0.70710678f;
				x[i + half] = (a - b) * 0.70710678f;
			}
		bqk_hadamard(x + from, p);
		for (size_t i = 0; i < dim; i++)
			x[i] *= i >= from && i < from + p ? s[i] * scale : s[i];
	}
}

int
bqk_unrotate(const bqk_model *model, const float *x, size_t n, float *out)
{
	size_t dim = model->dim;

	if (dim == 0 || dim > BQK_MAX_DIM)
		return BQK_EINVAL;
	memcpy(out, x, n * dim * sizeof(float));
	if (model->signs)
		for (size_t i = 0; i < n; i++)
			unrotate(model->signs, dim, out + i * dim);
	return BQK_OK;
}
