/* Integers and corrective factors to distances: the one place where estimates are computed.
 *
 * A code's levels are k_i = u_i - M/2 with M = 2^bits - 1; f_rescale = w |o|^2 / <o,k>, where o is the
 * residual and w the weight of the inner product in the metric (-2 for l2, else -1). The query is
 * q_i ~ delta z_i, so that <k,q> ~ delta (sum u_i z_i - M/2 sum z_i). */
#include "bqk.h"

#include <math.h>

static inline float
max_level(int bits)
{
	return (float) ((1 << bits) - 1);
}

float
bqk_estimate(int bits, const bqk_query *query, int32_t dot, const bqk_factors *f)
{
	float kq = query->delta * ((float) dot - 0.5f * max_level(bits) * (float) query->sum_z);

	return f->f_add + query->g_add + f->f_rescale * kq;
}

/* cos(pi t) for t in [0, 1], Taylor about 1/2 to degree 11: |error| < 6e-8 in exact arithmetic.
 * Not libm's, whose last bit differs between versions. */
static inline float
cos_pi(float t)
{
	float x = 3.14159265f * (0.5f - t), y = x * x;

	return x * (1.0f + y * (-1.6666667e-1f + y * (8.3333333e-3f + y * (-1.9841270e-4f + y * (2.7557319e-6f + y * -2.5052108e-8f)))));
}

/* |o| from the stored factors. For ip f_add is -<c,o>, so |o| comes from f_rescale through the
 * expected cosine between a 1-bit code and a rotated vector, sqrt(2/pi), which |o| matches
 * within 1 % at dim >= 100. */
static inline float
residual_norm(int bits, int metric, size_t dim, const bqk_factors *f)
{
	if (metric != BQK_IP)
		return sqrtf(metric == BQK_L2 ? f->f_add : 2.0f * f->f_add);
	if (bits == 1)
		return -f->f_rescale * 0.5f * 0.79788456f * sqrtf((float) dim);
	return 0.0f;
}

float
bqk_estimate_sym(int bits, int metric, size_t dim, int32_t sym, const bqk_factors *a, const bqk_factors *b)
{
	float w = metric == BQK_L2 ? -2.0f : -1.0f;

	if (bits == 1)
	{
		/* sym = dim - 2 Hamming; the angle between residuals is pi Hamming / dim (Goemans & Williamson). */
		float t = 0.5f - 0.5f * (float) sym / (float) dim;
		float oo = residual_norm(bits, metric, dim, a) * residual_norm(bits, metric, dim, b) * cos_pi(t);

		return a->f_add + b->f_add + w * oo;
	}
	return a->f_add + b->f_add + a->f_rescale * b->f_rescale * (0.25f * (float) sym) / w;
}

/* Gao & Long 2024, theorem 3.2: |<o,q> - estimate| <= |o| |q| sqrt((1 - c^2) / c^2) eps0 / sqrt(dim - 1)
 * with c = <o,k> / (|o| |k|). */
float
bqk_error(int bits, int metric, size_t dim, int32_t self, const bqk_factors *f, const bqk_query *query)
{
	float w = metric == BQK_L2 ? 2.0f : 1.0f;
	float ratio = fabsf(f->f_rescale) / w; /* |o|^2 / <o,k> */
	float knorm = 0.5f * sqrtf((float) self); /* |k| */
	float tail;

	if (ratio == 0.0f || dim < 2)
		return 0.0f;
	if (metric == BQK_IP)
	{
		/* |o| / c = ratio |k|; 1 - c^2 at its expectation, the distortion of the best uniform
		 * quantiser of a Gaussian (Max 1960). */
		static const float one_minus_c2[9] = {0, .3634f, .1188f, .03744f, .01154f, .003495f, .001040f, .0003043f, .0000876f};

		tail = ratio * knorm * sqrtf(one_minus_c2[bits]);
	}
	else
	{
		float n2 = metric == BQK_L2 ? f->f_add : 2.0f * f->f_add;
		float r2 = ratio * knorm * ratio * knorm - n2; /* |o|^2 (1/c^2 - 1) */

		tail = r2 > 0.0f ? sqrtf(r2) : 0.0f;
	}
	return w * tail * query->g_error / sqrtf((float) (dim - 1));
}

/* Codes are handled in runs, so that integers stay in the first cache level. */
#define RUN 256

int
bqk_estimate_n(const bqk_model *model, const bqk_query *query, const int8_t *z, const uint8_t *codes,
			   const bqk_factors *factors, size_t n, float *out)
{
	size_t nbytes = bqk_code_nbytes(model->dim, model->bits);
	int32_t dot[RUN];

	for (size_t i = 0; i < n; i += RUN)
	{
		size_t run = n - i < RUN ? n - i : RUN;
		int status = bqk_dot(model->bits, model->dim, codes + i * nbytes, nbytes, run, z, dot);

		if (status != BQK_OK)
			return status;
		for (size_t j = 0; j < run; j++)
			out[i + j] = bqk_estimate(model->bits, query, dot[j], factors + i + j);
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
