/* Rows rounded to pairs of integers (products.h); included by the SIMD files after float_kernels.h. */
#include "products.h"

static void
round_pairs(const float *x, float power, float scale, size_t dim, int32_t *out)
{
	typedef int16_t halves __attribute__((vector_size(W * 2), aligned(4), may_alias));
	int16_t tail[2 * W] = {0};
	size_t i = 0;

	for (; i + W <= dim; i += W)
	{
		vi a = __builtin_convertvector(load(x + i) * power * scale + 32768.5f, vi) - 32768;

		*(halves *) (out + i / 2) = __builtin_convertvector(a, halves);
	}
	for (size_t j = i; j < dim; j++)
		tail[j - i] = (int16_t) bqk_rounded_value(x[j], power, scale);
	memcpy(out + i / 2, tail, bqk_pairs(dim - i) * sizeof(*out));
}
