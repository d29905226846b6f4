/* Steps of SAQ encoding on BQK_LANES rows around the search; included by the SIMD files after float_kernels.h. Results
 * are those of lanes_scalar.h, bit for bit: every lane adds up axis after axis. */
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

static void
coordinates(const bqk_rounded *r, const float *scale, const float *weight, size_t m, float *x, float *norm2)
{
	for (size_t l = 0; l < BQK_LANES; l += W)
	{
		vf factor = load(r->factor + l), unit = load(r->unit + l), sum = {0};

		for (size_t i = 0; i < m; i++)
		{
			vi product = *(const vi *) (r->sums + i * BQK_LANES + l);
			vf v = __builtin_convertvector(product, vf) * factor * scale[i] * unit;

			sum += weight[i] * v * v;
			store(x + i * BQK_LANES + l, v);
		}
		store(norm2 + l, sum);
	}
}

static void
nearest_lists(const bqk_rounded *r, const float *scale, const float *half_norms, size_t n, int32_t *found)
{
	for (size_t l = 0; l < BQK_LANES; l += W)
	{
		vf factor = load(r->factor + l), unit = load(r->unit + l), least = splat(INFINITY);
		vi at = {0};

		for (size_t j = 0; j < n; j++)
		{
			vi product = *(const vi *) (r->sums + j * BQK_LANES + l), less;
			vf half = half_norms[j] - __builtin_convertvector(product, vf) * factor * scale[j] * unit;

			less = half < least;
			least = vmin(half, least);
			at = (less & (int32_t) j) | (~less & at);
		}
		*(vi *) (found + l) = at;
	}
}

static void
saq_sums(const float *x, const float *y, const float *share, const float *length, size_t m, bqk_saq_sums *sums)
{
	for (size_t l = 0; l < BQK_LANES; l += W)
	{
		vf xy = {0}, xx = {0}, kept = {0}, decoded = {0};

		for (size_t i = 0; i < m; i++)
		{
			vf a = load(x + i * BQK_LANES + l), b = load(y + i * BQK_LANES + l), shared = share[i] * a;

			xy += shared * b;
			xx += shared * a;
			kept += length[i] * a * a;
			decoded += length[i] * b * b;
		}
		store(sums->xy + l, xy);
		store(sums->xx + l, xx);
		store(sums->kept + l, kept);
		store(sums->decoded + l, decoded);
	}
}
