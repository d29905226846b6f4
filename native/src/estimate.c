/* Integers and corrective factors to distances: the one place where estimates are computed.
 *
 * A code's levels are k_i = u_i - M/2 with M = 2^bits - 1; f_rescale = w |o|^2 / <o,k>, where o is the
 * residual and w the weight of the inner product in the metric (-2 for l2, else -1). The query is
 * q_i ~ delta z_i, so that <k,q> ~ delta (sum u_i z_i - M/2 sum z_i); a float query needs no such step. */
#include "bqk.h"

#include <math.h>

static inline float
max_level(int bits)
{
	return (float) ((1 << bits) - 1);
}

/* Codes are handled in runs, so that integers stay in the first cache level. */
#define RUN 256

/* <k,q> of up to RUN codes. */
static inline __attribute__((always_inline)) void
inner_products(int bits, size_t dim, const bqk_query *query, const void *z, const uint8_t *codes, size_t n, float *kq)
{
	const bqk_kernels *k = bqk_active();
	size_t nbytes = bqk_nbytes(dim, bits);
	int32_t dot[RUN];

	if (__builtin_expect(query->bits == 32, 0))
	{
		k->dot_float(codes, nbytes, n, bits, z, dim, kq);
		return;
	}
	if (__builtin_expect(bqk_has_planes(bits, query->bits), 0))
		k->dot_planes(codes, nbytes, n, z, dim, dot);
	else
		k->dot[bqk_width(bits)](codes, nbytes, n, z, dim, dot);
	for (size_t i = 0; i < n; i++)
		kq[i] = query->delta * ((float) dot[i] - 0.5f * max_level(bits) * (float) query->sum_z);
}

static inline float
estimate(const bqk_query *query, float kq, const bqk_factors *f)
{
	return query->g_weight * f->f_add + query->g_add + f->f_rescale * kq;
}

/* sin(pi s / 2) for s in [-1, 1]: minimax polynomial, |error| < 6e-7. Not libm's, whose last bit differs
 * between versions. */
static inline float
sin_half_pi(float s)
{
	float y = s * s;

	return s * (1.57079101f + y * (-0.64589285f + y * (0.0794343446f + y * -0.00433309529f)));
}

/* (c1 / 2)^2 with c1 = sqrt(2 / pi): see below. */
#define HALF_C1_SQUARED 0.159154943f

/* 1 bit: the angle between residuals is pi Hamming / dim (Goemans & Williamson 1995), and sym = dim - 2 Hamming,
 * so cos = sin(pi/2 sym / dim). |o| comes from f_rescale alone, without a square root: a code's cosine with a
 * rotated vector is c1, so |o| = |f_rescale / w| c1 sqrt(dim) / 2, within 1 % at dim >= 100; the angle is far
 * less certain. Several bits: the estimates f k of both residuals. */
static inline float
estimate_sym(int bits, int metric, size_t dim, int32_t sym, const bqk_factors *a, const bqk_factors *b)
{
	float inv_w = metric == BQK_L2 ? -0.5f : -1.0f;
	float inv_dim = 1.0f / (float) dim;
	float ff = a->f_rescale * b->f_rescale * inv_w;

	if (bits == 1)
		return a->f_add + b->f_add + ff * (HALF_C1_SQUARED * (float) dim) * sin_half_pi((float) sym * inv_dim);
	return a->f_add + b->f_add + ff * (0.25f * (float) sym);
}

float
bqk_estimate_sym(int bits, int metric, size_t dim, int32_t sym, const bqk_factors *a, const bqk_factors *b)
{
	return estimate_sym(bits, metric, dim, sym, a, b);
}

float
bqk_distance(int bits, size_t dim, const bqk_query *query, const void *z, const uint8_t *code, const bqk_factors *f)
{
	float kq;

	inner_products(bits, dim, query, z, code, 1, &kq);
	return estimate(query, kq, f);
}

float
bqk_distance_sym(int bits, int metric, size_t dim, const uint8_t *code_a, const bqk_factors *a, const uint8_t *code_b,
				 const bqk_factors *b)
{
	const bqk_kernels *k = bqk_active();
	int32_t sym;

	k->sym[bqk_width(bits)](code_b, 0, 1, code_a, dim, &sym);
	return estimate_sym(bits, metric, dim, sym, a, b);
}

/* Gao & Long 2024, theorem 3.2: the code's part of the error is |o| |q| sqrt((1 - c^2) / c^2) eps0 / sqrt(dim - 1)
 * with c = <o,k> / (|o| |k|). The query's rounding adds a uniform error of delta in every coordinate, |o| / c delta /
 * sqrt(12) in all: with 8 bits it counts only for codes of 8 bits, with 4 bits for all; delta of float queries is 0. */
float
bqk_error(int bits, int metric, size_t dim, int32_t self, const bqk_factors *f, const bqk_query *query)
{
	/* 1 - c^2 at its expectation by bit width, for ip, where |o| is not stored: the distortion of the best
	 * uniform quantiser of a Gaussian (Max 1960), from 5 bits on what codes reach at dim 1,024. */
	static const float expected[] = {1.0f, .3634f, .1188f, .03744f, .01154f, .0033f, .00092f, .00024f, .00006f};
	float w = metric == BQK_L2 ? 2.0f : 1.0f;
	float ratio = fabsf(f->f_rescale) / w;             /* |o|^2 / <o,k> */
	float scaled = ratio * 0.5f * sqrtf((float) self); /* ratio |k| = |o| / c */
	float tail2, code2, query2;

	if (ratio == 0.0f || dim < 2)
		return 0.0f;
	if (metric == BQK_IP)
		tail2 = scaled * scaled * expected[bits];
	else
		tail2 = scaled * scaled - (metric == BQK_L2 ? f->f_add : 2.0f * f->f_add);
	code2 = tail2 > 0.0f ? tail2 * query->g_error * query->g_error / (float) (dim - 1) : 0.0f;
	query2 = scaled * scaled * query->delta * query->delta * (1.0f / 12.0f);
	return w * sqrtf(code2 + query2);
}

int
bqk_estimate_n(const bqk_model *model, const bqk_query *query, const void *z, const uint8_t *codes,
			   const bqk_factors *factors, size_t n, float *out)
{
	size_t nbytes = bqk_code_nbytes(model->dim, model->bits);

	if (model->dim == 0 || model->dim > BQK_MAX_DIM || !bqk_bits_supported(model->bits))
		return BQK_EINVAL;
	for (size_t i = 0; i < n; i += RUN)
	{
		size_t run = n - i < RUN ? n - i : RUN;

		inner_products(model->bits, model->dim, query, z, codes + i * nbytes, run, out + i);
		for (size_t j = i; j < i + run; j++)
			out[j] = estimate(query, out[j], factors + j);
	}
	return BQK_OK;
}

int
bqk_error_n(const bqk_model *model, const bqk_query *query, const uint8_t *codes, const bqk_factors *factors, size_t n,
			float *out)
{
	size_t nbytes = bqk_code_nbytes(model->dim, model->bits);

	for (size_t i = 0; i < n; i++)
	{
		int32_t self;
		int status = bqk_sym(model->bits, model->dim, codes + i * nbytes, nbytes, 1, codes + i * nbytes, &self);

		if (status != BQK_OK)
			return status;
		out[i] = bqk_error(model->bits, model->metric, model->dim, self, factors + i, query);
	}
	return BQK_OK;
}
