/* The oracle: float and integer kernels in plain C, one coordinate at a time. */
#include "bqk.h"

#include <math.h>
#include <string.h>

static int
always(void)
{
	return 1;
}

static double
norm2(const float *x, size_t dim)
{
	double lane[BQK_LANES] = {0};

	for (size_t i = 0; i < dim; i++)
		lane[i % BQK_LANES] += (double) x[i] * (double) x[i];
	return bqk_fold_double(lane);
}

static float
dotf(const float *a, const float *b, size_t dim)
{
	float lane[BQK_LANES] = {0};

	for (size_t i = 0; i < dim; i++)
		lane[i % BQK_LANES] += a[i] * b[i];
	return bqk_fold(lane);
}

static void
residual(const float *x, float scale, const float *centroid, size_t dim, float *out)
{
	for (size_t i = 0; i < dim; i++)
		out[i] = x[i] * scale - centroid[i];
}

static void
hadamard(float *x, size_t n)
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

/* The transform spans the largest power of two, at the front in even rounds and at the back in odd
 * ones; in the middle rounds a Givens rotation by pi/4 mixes the halves. Any dim works, none is padded. */
static void
rotate(const float *signs, size_t dim, float *x)
{
	size_t p = bqk_hadamard_size(dim), half = dim / 2;
	float scale = 1.0f / sqrtf((float) p);

	for (size_t round = 0; round < BQK_ROUNDS; round++)
	{
		const float *s = signs + round * dim;
		size_t from = round % 2 ? dim - p : 0;

		for (size_t i = 0; i < dim; i++)
			x[i] *= i >= from && i < from + p ? s[i] * scale : s[i];
		hadamard(x + from, p);
		if (!bqk_givens_round(dim, p, round))
			continue;
		for (size_t i = 0; i < half; i++)
		{
			float a = x[i], b = x[i + half];

			x[i] = (a + b) * 0.70710678f;
			x[i + half] = (a - b) * 0.70710678f;
		}
	}
}

static void
sums(const float *x, size_t dim, bqk_sums *out)
{
	float n2[BQK_LANES] = {0}, l1[BQK_LANES] = {0}, max = 0.0f;

	for (size_t i = 0; i < dim; i++)
	{
		float a = fabsf(x[i]);

		n2[i % BQK_LANES] += x[i] * x[i];
		l1[i % BQK_LANES] += a;
		max = a > max ? a : max;
	}
	out->n2 = bqk_fold(n2);
	out->l1 = bqk_fold(l1);
	out->max = max;
}

static void
pack1(const float *x, size_t dim, uint8_t *code)
{
	memset(code, 0, (dim + 7) / 8);
	for (size_t i = 0; i < dim; i++)
		code[i / 8] |= (uint8_t) ((x[i] > 0.0f) << (i % 8));
}

static void
score(const float *x, size_t dim, int bits, float inv_t, float *kx, float *kk)
{
	float lane_kx[BQK_LANES] = {0}, lane_kk[BQK_LANES] = {0};
	float middle = 0.5f * (float) ((1 << bits) - 1);

	for (size_t i = 0; i < dim; i++)
	{
		float k = (float) bqk_level(x[i], bits, inv_t) - middle;

		lane_kx[i % BQK_LANES] += k * x[i];
		lane_kk[i % BQK_LANES] += k * k;
	}
	*kx = bqk_fold(lane_kx);
	*kk = bqk_fold(lane_kk);
}

static void
pack(const float *x, size_t dim, int bits, float inv_t, uint8_t *code)
{
	memset(code, 0, bqk_nbytes(dim, bits));
	for (size_t i = 0; i < dim; i++)
	{
		size_t at = i * (size_t) bits;

		code[at / 8] |= (uint8_t) (bqk_level(x[i], bits, inv_t) << (at % 8));
	}
}

static uint32_t
nearest(const float *codewords, size_t n, size_t dim, const float *target, const float *direction, float weight,
		float shift)
{
	float least = INFINITY;
	size_t found = 0;

	for (size_t k = 0; k < n; k++)
	{
		float sum = 0.0f, along = 0.0f;

		for (size_t j = 0; j < dim; j++)
		{
			float c = codewords[j * n + k], error = target[j] - c;

			sum += error * error;
			along += direction[j] * c;
		}
		along = shift - along;
		sum += weight * (along * along);
		if (sum < least)
		{
			least = sum;
			found = k;
		}
	}
	return (uint32_t) found;
}

static inline int
level(const uint8_t *code, int bits, size_t i)
{
	size_t at = i * (size_t) bits;

	return code[at / 8] >> (at % 8) & ((1 << bits) - 1);
}

static inline void
dot(int bits, const uint8_t *codes, size_t stride, size_t n, const int8_t *z, size_t dim, int32_t *out)
{
	for (size_t c = 0; c < n; c++, codes += stride)
	{
		int32_t s = 0;

		for (size_t i = 0; i < dim; i++)
			s += level(codes, bits, i) * z[bqk_query_position(bits, i)];
		out[c] = s;
	}
}

static inline void
sym(int bits, const uint8_t *codes, size_t stride, size_t n, const uint8_t *code, size_t dim, int32_t *out)
{
	int m = (1 << bits) - 1;

	for (size_t c = 0; c < n; c++, codes += stride)
	{
		int32_t s = 0;

		for (size_t i = 0; i < dim; i++)
			s += (2 * level(codes, bits, i) - m) * (2 * level(code, bits, i) - m);
		out[c] = s;
	}
}

#define WIDTH(bits)                                                                                                    \
	static void dot##bits(const uint8_t *codes, size_t stride, size_t n, const int8_t *z, size_t dim, int32_t *out)    \
	{                                                                                                                  \
		dot(bits, codes, stride, n, z, dim, out);                                                                      \
	}                                                                                                                  \
	static void sym##bits(const uint8_t *codes, size_t stride, size_t n, const uint8_t *code, size_t dim,              \
						  int32_t *out)                                                                                \
	{                                                                                                                  \
		sym(bits, codes, stride, n, code, dim, out);                                                                   \
	}

WIDTH(1)
WIDTH(2)
WIDTH(4)
WIDTH(8)

const bqk_kernels bqk_kernels_scalar = {
	"scalar",
	always,
	norm2,
	dotf,
	residual,
	rotate,
	sums,
	pack1,
	score,
	pack,
	{dot1, dot2, dot4, dot8},
	{sym1, sym2, sym4, sym8},
	nearest,
	bqk_lut4_scalar,
};
