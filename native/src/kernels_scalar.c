/* The oracle: float and integer kernels in plain C, one coordinate at a time. */
#include "lanes_scalar.h"
#include "scan_trellis.h"
#include "trellis_scalar.h"

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
dots(const float *x, const float *matrix, size_t rows, size_t dim, float *out)
{
	for (size_t r = 0; r < rows; r++)
		out[r] = dotf(x, matrix + r * dim, dim);
}

static void
residual(const float *x, float scale, const float *centroid, size_t dim, float *out)
{
	for (size_t i = 0; i < dim; i++)
		out[i] = x[i] * scale - centroid[i];
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
		bqk_hadamard(x + from, p);
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
nearest_codeword(const float *codewords, size_t n, size_t dim, const float *target, const float *direction,
				 float weight, float shift)
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

static inline void
dot(int bits, const uint8_t *codes, size_t stride, size_t n, const int8_t *z, size_t dim, int32_t *out)
{
	for (size_t c = 0; c < n; c++, codes += stride)
	{
		int32_t s = 0;

		for (size_t i = 0; i < dim; i++)
			s += bqk_code_level(codes, bits, i) * z[bqk_query_position(bits, i)];
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
			s += (2 * bqk_code_level(codes, bits, i) - m) * (2 * bqk_code_level(code, bits, i) - m);
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

static void
dot_planes(const uint8_t *codes, size_t stride, size_t n, const uint8_t *planes, size_t dim, int32_t *out)
{
	static const int32_t weight[BQK_PLANES] = {1, 2, 4, -8};
	size_t nbytes = bqk_nbytes(dim, 1);

	for (size_t c = 0; c < n; c++, codes += stride)
	{
		int32_t s = 0;

		for (size_t i = 0; i < nbytes; i++)
		{
			size_t at = i / BQK_PLANE_NBYTES * BQK_PLANES * BQK_PLANE_NBYTES + i % BQK_PLANE_NBYTES;

			for (size_t p = 0; p < BQK_PLANES; p++)
				s += weight[p] * __builtin_popcount(codes[i] & planes[at + p * BQK_PLANE_NBYTES]);
		}
		out[c] = s;
	}
}

static void
dot_float(const uint8_t *codes, size_t stride, size_t n, int bits, const float *q, size_t dim, float *out)
{
	float middle = 0.5f * (float) ((1 << bits) - 1);

	for (size_t c = 0; c < n; c++, codes += stride)
	{
		float lane[BQK_LANES] = {0};

		for (size_t i = 0; i < dim; i++)
			lane[i % BQK_LANES] += ((float) bqk_code_level(codes, bits, i) - middle) * q[i];
		out[c] = bqk_fold(lane);
	}
}

const bqk_kernels bqk_kernels_scalar = {
	"scalar",
	always,
	norm2,
	dotf,
	dots,
	residual,
	rotate,
	sums,
	pack1,
	score,
	pack,
	{dot1, dot2, dot4, dot8},
	{sym1, sym2, sym4, sym8},
	dot_planes,
	dot_float,
	trellis,
	pack_trellis,
	round_pairs,
	multiply,
	coordinates,
	nearest_lists,
	saq_sums,
	nearest_codeword,
	bqk_lut4_scalar,
	bqk_trellis_product_scalar,
};
