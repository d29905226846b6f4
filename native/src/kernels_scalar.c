/* The oracle: float and integer kernels in plain C, one coordinate at a time. */
#include "products.h"
#include "trellis.h"

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

/* Of the window of four levels about x, one of each subset, the first. */
static int
window(const bqk_compander *k, float x)
{
	float y = x > -k->top ? x : -k->top, y2, t, at;

	y = y < k->top ? y : k->top;
	y2 = y * y;
	t = y * (k->p + y2 * (k->q + y2 * k->r)) / (1.0f + y2 * (k->v + y2 * k->w));
	at = (t + 1.0f) / k->width - 1.5f; /* exact: a power of two */
	at = at > 0.0f ? at : 0.0f;
	return (int) (at < k->most ? at : k->most);
}

/* Squared distances of x to the levels of a window; level u has subset u % 4. */
static void
window_distances(const bqk_compander *k, float x, int first, float d[4])
{
	float t = (float) (first + 2) * k->width - 1.0f, t2 = t * t, t4 = t2 * t2, t8 = t4 * t4;
	float e = x - t * (k->a + k->b * t2 + k->c * t8), slope = k->slope_a + k->slope_b * t2 + k->slope_c * t8;
	float curve = t * (k->curve_b + k->curve_c * (t4 * t2)), near = e - curve, far = e - 9.0f * curve;
	float errors[4] = {far + 3.0f * slope, near + slope, near - slope, far - 3.0f * slope};

	for (int i = 0; i < 4; i++)
		d[(first + i) % 4] = errors[i] * errors[i];
}

/* Level number f of a subset whose levels are listed, the nearest to x. */
static int
listed(int bits, float x, int subset)
{
	const float *between = bqk_trellis_between + (bits == 2 ? 0 : 4) + subset;

	if (bits == 1)
		return 0;
	if (bits == 2)
		return x > between[0];
	return (x > between[0]) + (x > between[4]) + (x > between[8]);
}

static void
distances(int bits, float x, float d[4], int *first)
{
	if (bits > BQK_TRELLIS_LISTED)
	{
		*first = window(bqk_compander_of(bits), x);
		window_distances(bqk_compander_of(bits), x, *first, d);
	}
	else
		for (int subset = 0; subset < 4; subset++)
		{
			float e = x - bqk_trellis_level(bits, 4 * listed(bits, x, subset) + subset);

			d[subset] = e * e;
		}
}

static void
trellis_lane(const float *x, float scale, const uint8_t *bits, const float *weight, size_t m, float *y, int32_t *u,
			 float *xv, float *vv)
{
	float cost[BQK_TRELLIS_STATES];
	int state = 0;

	for (int s = 0; s < BQK_TRELLIS_STATES; s++)
		cost[s] = s ? BQK_TRELLIS_FAR : 0.0f;
	for (size_t i = m; i-- > 0;)
	{
		float d[4], next[BQK_TRELLIS_STATES];
		int32_t taken = 0;
		int first;

		y[i * BQK_LANES] = x[i * BQK_LANES] * scale;
		distances(bits[i], y[i * BQK_LANES], d, &first);
		for (int subset = 0; subset < 4; subset++)
			d[subset] *= weight[i];
		for (int s = 0; s < BQK_TRELLIS_STATES; s++)
		{
			float zero = cost[s / 2] + d[bqk_trellis_subset(s, 0)], one = cost[s / 2 + 4] + d[bqk_trellis_subset(s, 1)];

			next[s] = one < zero ? one : zero;
			taken |= (one < zero) << s;
		}
		memcpy(cost, next, sizeof(cost));
		u[i * BQK_LANES] = taken;
	}
	for (int s = 1; s < BQK_TRELLIS_STATES; s++)
		state = cost[s] < cost[state] ? s : state;
	for (size_t i = 0; i < m; i++)
	{
		int older = u[i * BQK_LANES] >> state & 1, subset = bqk_trellis_subset(state, older);
		float target = y[i * BQK_LANES], level, weighted;

		if (bits[i] > BQK_TRELLIS_LISTED)
		{
			int first = window(bqk_compander_of(bits[i]), target);

			u[i * BQK_LANES] = first + ((subset - first) & 3);
		}
		else
			u[i * BQK_LANES] = 4 * listed(bits[i], target, subset) + subset;
		level = bqk_trellis_level(bits[i], u[i * BQK_LANES]);
		weighted = weight[i] * level;
		*xv += weighted * x[i * BQK_LANES];
		*vv += weighted * level;
		y[i * BQK_LANES] = level;
		state = state >> 1 | older << 2;
	}
}

static void
trellis(const float *x, const float *scale, const uint8_t *bits, const float *weight, size_t m, float *y, int32_t *u,
		float *xv, float *vv)
{
	for (size_t l = 0; l < BQK_LANES; l++)
	{
		xv[l] = vv[l] = 0.0f;
		trellis_lane(x + l, scale[l], bits, weight, m, y + l, u + l, xv + l, vv + l);
	}
}

static void
pack_trellis(const bqk_trellis *t, const int32_t *u, size_t n, uint8_t *codes)
{
	memset(codes, 0, n * t->code_nbytes);
	for (size_t l = 0; l < n; l++, codes += t->code_nbytes)
	{
		size_t at = t->dim;
		int b1 = 0, b2 = 0, b3 = 0;

		for (size_t i = t->dim; i-- > 0;)
		{
			int b = (u[i * BQK_LANES + l] >> 1 & 1) ^ b1 ^ b3;

			codes[i / 8] |= (uint8_t) (b << (i % 8));
			b3 = b2;
			b2 = b1;
			b1 = b;
		}
		for (int p = 1; p < t->bits[0]; p++)
			for (size_t i = 0; i < bqk_trellis_plane(t->bits, t->dim, p); i++, at++)
				codes[at / 8] |= (uint8_t) ((u[i * BQK_LANES + l] >> (t->bits[i] + 1 - p) & 1) << (at % 8));
	}
}

static void
round_pairs(const float *x, float power, float scale, size_t dim, int32_t *out)
{
	uint32_t *pair = (uint32_t *) out;

	for (size_t i = 0; i < dim; i++)
	{
		uint32_t value = (uint32_t) (bqk_rounded_value(x[i], power, scale) & 0xffff);

		if (i % 2)
			pair[i / 2] |= value << 16;
		else
			pair[i / 2] = value;
	}
}

static void
multiply(const int32_t *pairs, const int16_t *columns, size_t n_pairs, size_t n_groups, int32_t *sums)
{
	const int16_t *x = (const int16_t *) pairs;

	memset(sums, 0, n_groups * BQK_COLUMN_GROUP * BQK_LANES * sizeof(*sums));
	for (size_t g = 0; g < n_groups; g++, sums += BQK_COLUMN_GROUP * BQK_LANES)
		for (size_t p = 0; p < n_pairs; p++, columns += 2 * BQK_COLUMN_GROUP)
			for (size_t j = 0; j < BQK_COLUMN_GROUP; j++)
				for (size_t l = 0; l < BQK_LANES; l++)
					for (size_t i = 0; i < 2; i++)
						sums[j * BQK_LANES + l] += x[2 * (p * BQK_LANES + l) + i] * columns[2 * j + i];
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
	nearest_codeword,
	bqk_lut4_scalar,
};
