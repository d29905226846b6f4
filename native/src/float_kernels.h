/* Float kernels on vectors of W floats, included by every SIMD file after it has set the target
 * and W (4, 8 or 16). Each result is bit for bit that of kernels_scalar.c: elementwise steps round alike on any
 * width, and sums keep BQK_LANES partial sums, folded in one order. No fused multiply-add. */
#include "bqk.h"

#if W > 4
#include <immintrin.h>
#endif
#include <math.h>
#include <string.h>

typedef float vf __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef double vd __attribute__((vector_size(W * 4), aligned(8), may_alias));

/* Vectors that make up the lanes of one sum. */
#define V (BQK_LANES / W)
/* At -O2, Postgres's level, loops over them would keep the sums in memory: they are UNROLLED. */

/* f(j, x) of every lane j. */
#define EACH4(f, j, x) f(j, x), f(j + 1, x), f(j + 2, x), f(j + 3, x)
#if W == 4
#define EACH(f, x) EACH4(f, 0, x)
#elif W == 8
#define EACH(f, x) EACH4(f, 0, x), EACH4(f, 4, x)
#else
#define EACH(f, x) EACH4(f, 0, x), EACH4(f, 4, x), EACH4(f, 8, x), EACH4(f, 12, x)
#endif

static inline vf
load(const float *x)
{
	return *(const vf *) x;
}

static inline void
store(float *x, vf v)
{
	*(vf *) x = v;
}

static inline vf
splat(float x)
{
	return x - (vf) {0};
}

static inline vf
vmax(vf a, vf b)
{
#if W == 8
	return (vf) _mm256_max_ps((__m256) a, (__m256) b);
#elif W == 16
	return (vf) _mm512_max_ps((__m512) a, (__m512) b);
#else
	vi m = a > b;

	return (vf) ((m & (vi) a) | (~m & (vi) b));
#endif
}

static inline vf
vmin(vf a, vf b)
{
#if W == 8
	return (vf) _mm256_min_ps((__m256) a, (__m256) b);
#elif W == 16
	return (vf) _mm512_min_ps((__m512) a, (__m512) b);
#else
	vi m = a < b;

	return (vf) ((m & (vi) a) | (~m & (vi) b));
#endif
}

static inline vf
vabs(vf x)
{
	return (vf) ((vi) x & 0x7fffffff);
}

static double
norm2(const float *x, size_t dim)
{
	double lane[BQK_LANES] = {0};
	vd acc[2 * V] = {0};
	size_t i = 0;

	for (; i + BQK_LANES <= dim; i += BQK_LANES)
	{
		UNROLLED
		for (size_t v = 0; v < 2 * V; v++)
		{
			typedef float half __attribute__((vector_size(W * 2), aligned(4), may_alias));
			vd d = __builtin_convertvector(*(const half *) (x + i + v * (W / 2)), vd);

			acc[v] += d * d;
		}
	}
	memcpy(lane, acc, sizeof(lane));
	for (; i < dim; i++)
		lane[i % BQK_LANES] += (double) x[i] * (double) x[i];
	return bqk_fold_double(lane);
}

static float
dotf(const float *a, const float *b, size_t dim)
{
	float lane[BQK_LANES];
	vf acc[V] = {0};
	size_t i = 0;

	for (; i + BQK_LANES <= dim; i += BQK_LANES)
	{
		UNROLLED
		for (size_t v = 0; v < V; v++)
			acc[v] += load(a + i + v * W) * load(b + i + v * W);
	}
	memcpy(lane, acc, sizeof(lane));
	for (; i < dim; i++)
		lane[i % BQK_LANES] += a[i] * b[i];
	return bqk_fold(lane);
}

/* dotf with every row of a matrix; four rows side by side hide the latency of additions. */
static void
dots(const float *x, const float *matrix, size_t rows, size_t dim, float *out)
{
	size_t r = 0;

	for (; r + 4 <= rows; r += 4, matrix += 4 * dim)
	{
		float lane[4][BQK_LANES];
		vf acc[4][V] = {{{0}}};
		size_t i = 0;

		for (; i + BQK_LANES <= dim; i += BQK_LANES)
		{
			UNROLLED
			for (size_t v = 0; v < V; v++)
			{
				vf at = load(x + i + v * W);

				acc[0][v] += at * load(matrix + i + v * W);
				acc[1][v] += at * load(matrix + dim + i + v * W);
				acc[2][v] += at * load(matrix + 2 * dim + i + v * W);
				acc[3][v] += at * load(matrix + 3 * dim + i + v * W);
			}
		}
		memcpy(lane, acc, sizeof(lane));
		for (size_t j = 0; j < 4; j++)
		{
			for (size_t k = i; k < dim; k++)
				lane[j][k % BQK_LANES] += x[k] * matrix[j * dim + k];
			out[r + j] = bqk_fold(lane[j]);
		}
	}
	for (; r < rows; r++, matrix += dim)
		out[r] = dotf(x, matrix, dim);
}

static void
residual(const float *x, float scale, const float *centroid, size_t dim, float *out)
{
	size_t i = 0;

	for (; i + W <= dim; i += W)
		store(out + i, load(x + i) * scale - load(centroid + i));
	for (; i < dim; i++)
		out[i] = x[i] * scale - centroid[i];
}

static void
sums(const float *x, size_t dim, bqk_sums *out)
{
	float lane_n2[BQK_LANES], lane_l1[BQK_LANES], lane_max[BQK_LANES], max = 0.0f;
	vf n2[V] = {0}, l1[V] = {0}, mx[V] = {0};
	size_t i = 0;

	for (; i + BQK_LANES <= dim; i += BQK_LANES)
	{
		UNROLLED
		for (size_t v = 0; v < V; v++)
		{
			vf a = load(x + i + v * W), b = vabs(a);

			n2[v] += a * a;
			l1[v] += b;
			mx[v] = vmax(b, mx[v]);
		}
	}
	memcpy(lane_n2, n2, sizeof(n2));
	memcpy(lane_l1, l1, sizeof(l1));
	memcpy(lane_max, mx, sizeof(mx));
	for (size_t j = 0; j < BQK_LANES; j++)
		max = lane_max[j] > max ? lane_max[j] : max;
	for (; i < dim; i++)
	{
		float a = fabsf(x[i]);

		lane_n2[i % BQK_LANES] += x[i] * x[i];
		lane_l1[i % BQK_LANES] += a;
		max = a > max ? a : max;
	}
	out->n2 = bqk_fold(lane_n2);
	out->l1 = bqk_fold(lane_l1);
	out->max = max;
}

static inline vi
levels(vf x, int bits, float inv_t)
{
	float top = (float) ((1 << bits) - 1);
	vf u = x * inv_t + 0.5f * (top + 1.0f);

	return __builtin_convertvector(vmin(vmax(u, splat(0.0f)), splat(top)), vi);
}

static void
score(const float *x, size_t dim, int bits, float inv_t, float *kx, float *kk)
{
	float lane_kx[BQK_LANES], lane_kk[BQK_LANES];
	float middle = 0.5f * (float) ((1 << bits) - 1);
	vf akx[V] = {0}, akk[V] = {0};
	size_t i = 0;

	for (; i + BQK_LANES <= dim; i += BQK_LANES)
	{
		UNROLLED
		for (size_t v = 0; v < V; v++)
		{
			vf a = load(x + i + v * W);
			vf k = __builtin_convertvector(levels(a, bits, inv_t), vf) - middle;

			akx[v] += k * a;
			akk[v] += k * k;
		}
	}
	memcpy(lane_kx, akx, sizeof(akx));
	memcpy(lane_kk, akk, sizeof(akk));
	for (; i < dim; i++)
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
	typedef uint8_t bytes __attribute__((vector_size(W)));
	size_t per_byte = 8 / (size_t) bits;
	size_t i = 0;

	for (; i + W <= dim; i += W)
	{
		bytes u = __builtin_convertvector(levels(load(x + i), bits, inv_t), bytes);

		for (size_t j = 0; j < W / per_byte; j++)
		{
			unsigned byte = 0;

			for (size_t l = 0; l < per_byte; l++)
				byte |= (unsigned) u[j * per_byte + l] << (l * (size_t) bits);
			code[i / per_byte + j] = (uint8_t) byte;
		}
	}
	if (i < dim)
		memset(code + i / per_byte, 0, bqk_nbytes(dim, bits) - i / per_byte);
	for (; i < dim; i++)
		code[i / per_byte] |= (uint8_t) (bqk_level(x[i], bits, inv_t) << (i % per_byte * (size_t) bits));
}

/* Levels v * W, v * W + 1, ... of 16 that start at `code`, less M / 2: exact, as they are below 2^8. */
#define WORD(j, v) (int32_t) word[((v) * W + (j)) * (size_t) bits / 32]
#define SHIFT(j, v) (int32_t) (((v) * W + (j)) * (size_t) bits % 32)
static inline vf
centred_levels(const uint8_t *code, int bits, size_t v)
{
	typedef uint8_t bytes __attribute__((vector_size(W), aligned(1), may_alias));
	typedef uint16_t halves __attribute__((vector_size(W * 2)));
	uint32_t word[2];
	vi u;

	if (bits == 8) /* in two steps: gcc takes u8 to i32 apart */
		u = __builtin_convertvector(__builtin_convertvector(*(const bytes *) (code + v * W), halves), vi);
	else
	{
		if (bits == 1) /* a load of four bytes would wait for a store of two */
			word[0] = (uint32_t) code[0] | (uint32_t) code[1] << 8;
		else
			memcpy(word, code, 2 * (size_t) bits);
		u = (vi) {EACH(WORD, v)} >> (vi) {EACH(SHIFT, v)} & ((1 << bits) - 1);
	}
	return __builtin_convertvector(u, vf) - 0.5f * (float) ((1 << bits) - 1);
}

static inline __attribute__((always_inline)) void
dot_float_bits(const uint8_t *codes, size_t stride, size_t n, int bits, const float *q, size_t dim, float *out)
{
	float middle = 0.5f * (float) ((1 << bits) - 1);

	for (size_t c = 0; c < n; c++, codes += stride)
	{
		float lane[BQK_LANES];
		vf acc[V] = {0};
		size_t i = 0;

		for (; i + BQK_LANES <= dim; i += BQK_LANES)
		{
			UNROLLED
			for (size_t v = 0; v < V; v++)
				acc[v] += centred_levels(codes + i / 8 * (size_t) bits, bits, v) * load(q + i + v * W);
		}
		memcpy(lane, acc, sizeof(lane));
		for (; i < dim; i++)
			lane[i % BQK_LANES] += ((float) bqk_code_level(codes, bits, i) - middle) * q[i];
		out[c] = bqk_fold(lane);
	}
}

static void
dot_float(const uint8_t *codes, size_t stride, size_t n, int bits, const float *q, size_t dim, float *out)
{
	switch (bits)
	{
	case 1:
		dot_float_bits(codes, stride, n, 1, q, dim, out);
		return;
	case 2:
		dot_float_bits(codes, stride, n, 2, q, dim, out);
		return;
	case 4:
		dot_float_bits(codes, stride, n, 4, q, dim, out);
		return;
	default:
		dot_float_bits(codes, stride, n, 8, q, dim, out);
	}
}

/* Lane l sees codewords l, W + l, ... and keeps its first smallest cost; of the lanes the lowest codeword wins. */
static uint32_t
nearest_codeword(const float *codewords, size_t n, size_t dim, const float *target, const float *direction,
				 float weight, float shift)
{
	vf best = splat(INFINITY);
	vi at = {0}, block = {0};
	float cost[W], least = INFINITY;
	int32_t index[W], found = 0;

	for (size_t k = 0; k < n; k += W, block += W)
	{
		vf sum = {0}, along = {0};
		vi less;

		for (size_t j = 0; j < dim; j++)
		{
			vf c = load(codewords + j * n + k), error = target[j] - c;

			sum += error * error;
			along += direction[j] * c;
		}
		along = shift - along;
		sum += weight * (along * along);
		less = sum < best;
		best = (vf) ((less & (vi) sum) | (~less & (vi) best));
		at = (less & block) | (~less & at);
	}
	memcpy(cost, &best, sizeof(cost));
	memcpy(index, &at, sizeof(index));
	for (int32_t l = 0; l < W; l++)
		if (cost[l] < least || (cost[l] == least && index[l] + l < found))
		{
			least = cost[l];
			found = index[l] + l;
		}
	return (uint32_t) found;
}
