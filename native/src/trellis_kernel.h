/* The trellis search on W vectors at a time, one per lane; included by the SIMD files after float_kernels.h.
 * Every step is elementwise, so each lane's path is the scalar one, bit for bit. */
#include "trellis.h"

/* a where the mask is set, else b. */
static inline vf
pick(vi mask, vf a, vf b)
{
#if W == 8
	return (vf) _mm256_blendv_ps((__m256) b, (__m256) a, (__m256) mask);
#elif W == 16
	return (vf) _mm512_mask_blend_ps(_mm512_movepi32_mask((__m512i) mask), (__m512) b, (__m512) a);
#else
	return (vf) ((mask & (vi) a) | (~mask & (vi) b));
#endif
}

/* table[i] of 4, 8 or 16 numbers. */
static inline vf
lookup(const float *table, int n, vi i)
{
#if W == 8
	if (n == 4)
		return (vf) _mm256_permutevar_ps(_mm256_broadcast_ps((const __m128 *) table), (__m256i) i);
	else
	{
		vf low = (vf) _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), (__m256i) i);

		return n == 8 ? low : pick(i > 7, (vf) _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), (__m256i) i), low);
	}
#elif W == 16
	__m512 v = n == 4   ? _mm512_broadcast_f32x4(_mm_loadu_ps(table))
			   : n == 8 ? _mm512_broadcast_f32x8(_mm256_loadu_ps(table))
						: _mm512_loadu_ps(table);

	return (vf) _mm512_permutexvar_ps((__m512i) i, v);
#else
	(void) n;
	return (vf) {table[i[0]], table[i[1]], table[i[2]], table[i[3]]};
#endif
}

/* kernels_scalar.c's window: of the four levels about x the first. */
static inline vf
window(const bqk_compander *k, vf x)
{
	vf y = vmin(vmax(x, splat(-k->top)), splat(k->top)), y2 = y * y;
	vf t = y * (k->p + y2 * (k->q + y2 * k->r)) / (1.0f + y2 * (k->v + y2 * k->w));
	vf at = (t + 1.0f) * (1.0f / k->width) - 1.5f;

	return vmin(vmax(at, splat(0.0f)), splat(k->most));
}

/* Squared distance of x to the nearest level of each subset; numbers of windows' first levels in *first. */
static inline void
companded(const bqk_compander *k, vf x, vf d[4], vi *first)
{
	vi from = __builtin_convertvector(window(k, x), vi), odd = -(from & 1), half = -(from >> 1 & 1);
	vf t = __builtin_convertvector(from + 2, vf) * k->width - 1.0f, t2 = t * t, t4 = t2 * t2, t8 = t4 * t4;
	vf e = x - t * (k->a + k->b * t2 + k->c * t8), slope = k->slope_a + k->slope_b * t2 + k->slope_c * t8;
	vf curve = t * (k->curve_b + k->curve_c * (t4 * t2)), near = e - curve, far = e - 9.0f * curve;
	vf e0 = far + 3.0f * slope, e1 = near + slope, e2 = near - slope, e3 = far - 3.0f * slope;
	vf a0 = pick(odd, e3, e0), a1 = pick(odd, e0, e1), a2 = pick(odd, e1, e2), a3 = pick(odd, e2, e3);

	*first = from;
	d[0] = pick(half, a2, a0);
	d[1] = pick(half, a3, a1);
	d[2] = pick(half, a0, a2);
	d[3] = pick(half, a1, a3);
	for (int subset = 0; subset < 4; subset++)
		d[subset] = d[subset] * d[subset];
}

/* The same where levels are listed: kernels_scalar.c's `listed`. */
static inline void
distances(int bits, vf x, vf d[4])
{
	for (int subset = 0; subset < 4; subset++)
	{
		const float *between = bqk_trellis_between + (bits == 2 ? 0 : 4) + subset;
		vf level = splat(bqk_trellis_level(bits, subset)), e;

		for (int f = 1; f < 1 << (bits - 1); f++)
			level = pick(x > between[4 * (f - 1)], splat(bqk_trellis_level(bits, 4 * f + subset)), level);
		e = x - level;
		d[subset] = e * e;
	}
}

/* Numbers of the levels of one subset per lane that are nearest to x; the levels in *level. */
static inline vi
nearest(int bits, vf x, vi subset, vf *level)
{
	const float *between = bqk_trellis_between + (bits == 2 ? 0 : 4);
	vi u = subset;

	for (int f = 1; f < 1 << (bits - 1); f++)
		u -= (x > lookup(between + 4 * (f - 1), 4, subset)) * 4;
	*level = lookup(bqk_trellis_listed + (2 << bits) - 4, 2 << bits, u);
	return u;
}

/* The same from the first levels of windows. */
static inline vi
nearest_companded(const bqk_compander *k, vi first, vi subset, vf *level)
{
	vi u = first + ((subset - first) & 3);
	vf t = (__builtin_convertvector(u, vf) + 0.5f) * k->width - 1.0f, t2 = t * t, t4 = t2 * t2;

	*level = t * (k->a + k->b * t2 + k->c * (t4 * t4));
	return u;
}

static inline void
trellis_lanes(const float *x, vf scale, const uint8_t *bits, const float *weight, size_t m, float *y, int32_t *u,
			  vf *xv, vf *vv)
{
	vf cost[BQK_TRELLIS_STATES];
	vi state = {0};

	for (int s = 0; s < BQK_TRELLIS_STATES; s++)
		cost[s] = splat(s ? BQK_TRELLIS_FAR : 0.0f);
	for (size_t i = m; i-- > 0;)
	{
		vf d[4], next[BQK_TRELLIS_STATES], target = load(x + i * BQK_LANES) * scale;
		vi taken = {0};

		store(y + i * BQK_LANES, target);
		/* a constant number of bits makes straight code */
		switch (bits[i])
		{
		case 1:
			distances(1, target, d);
			break;
		case 2:
			distances(2, target, d);
			break;
		case 3:
			distances(3, target, d);
			break;
		default:
			companded(bqk_compander_of(bits[i]), target, d, (vi *) (y + i * BQK_LANES));
		}
		for (int subset = 0; subset < 4; subset++)
			d[subset] = d[subset] * splat(weight[i]);
		UNROLLED
		for (int s = 0; s < BQK_TRELLIS_STATES; s++)
		{
			vf zero = cost[s / 2] + d[bqk_trellis_subset(s, 0)], one = cost[s / 2 + 4] + d[bqk_trellis_subset(s, 1)];

			next[s] = vmin(one, zero);
			taken |= (one < zero) & (1 << s);
		}
		memcpy(cost, next, sizeof(cost));
		*(vi *) (u + i * BQK_LANES) = taken;
	}
	for (int s = 1; s < BQK_TRELLIS_STATES; s++)
	{
		vi better = cost[s] < cost[0];

		cost[0] = pick(better, cost[s], cost[0]);
		state = (better & s) | (~better & state);
	}
	for (size_t i = 0; i < m; i++)
	{
		vi *number = (vi *) (u + i * BQK_LANES), older = (*number >> state) & 1, subset;
		vf target = load(y + i * BQK_LANES), level, weighted;

		subset = ((state ^ (state >> 1) ^ older) & 1) * 2 + (state >> 2);
		switch (bits[i])
		{
		case 1:
			*number = nearest(1, target, subset, &level);
			break;
		case 2:
			*number = nearest(2, target, subset, &level);
			break;
		case 3:
			*number = nearest(3, target, subset, &level);
			break;
		default:
			*number = nearest_companded(bqk_compander_of(bits[i]), (vi) target, subset, &level);
		}
		weighted = splat(weight[i]) * level;
		*xv += weighted * load(x + i * BQK_LANES);
		*vv += weighted * level;
		store(y + i * BQK_LANES, level);
		state = (state >> 1) | (older << 2);
	}
}

static void
trellis(const float *x, const float *scale, const uint8_t *bits, const float *weight, size_t m, float *y, int32_t *u,
		float *xv, float *vv)
{
	for (size_t l = 0; l < BQK_LANES; l += W)
	{
		vf sum_xv = {0}, sum_vv = {0};

		trellis_lanes(x + l, load(scale + l), bits, weight, m, y + l, u + l, &sum_xv, &sum_vv);
		store(xv + l, sum_xv);
		store(vv + l, sum_vv);
	}
}

/* Writes the 32 bits of each lane that come after `at` bits of its code. */
static inline void
flush_words(vi word, size_t at, size_t n, size_t nbytes, uint8_t *codes)
{
	size_t byte = at / 8, left = nbytes - byte;
	int32_t bits[W];

	*(vi *) bits = word;
	for (size_t l = 0; l < n; l++)
		if (left >= 4)
			memcpy(codes + l * nbytes + byte, bits + l, 4); /* in one store */
		else
			memcpy(codes + l * nbytes + byte, bits + l, left);
}

/* From the last bit to the first, so that a lane's next bit is the lowest of its word. */
static inline void
pack_lanes(const bqk_trellis *t, const int32_t *u, size_t n, uint8_t *codes)
{
	size_t at = bqk_trellis_bits(t);
	vi word = {0}, b1 = {0}, b2 = {0}, b3 = {0};

	for (int p = t->bits[0] - 1; p >= 1; p--)
		for (size_t i = bqk_trellis_plane(t->bits, t->dim, p); i-- > 0;)
		{
			word = (word << 1) | ((*(const vi *) (u + i * BQK_LANES) >> (t->bits[i] + 1 - p)) & 1);
			if (--at % 32 == 0)
				flush_words(word, at, n, t->code_nbytes, codes);
		}
	for (size_t i = t->dim; i-- > 0;)
	{
		vi bit = ((*(const vi *) (u + i * BQK_LANES) >> 1) ^ b1 ^ b3) & 1;

		b3 = b2;
		b2 = b1;
		b1 = bit;
		word = (word << 1) | bit;
		if (--at % 32 == 0)
			flush_words(word, at, n, t->code_nbytes, codes);
	}
}

static void
pack_trellis(const bqk_trellis *t, const int32_t *u, size_t n, uint8_t *codes)
{
	memset(codes, 0, n * t->code_nbytes);
	for (size_t l = 0; l < n; l += W)
		pack_lanes(t, u + l, n - l < W ? n - l : W, codes + l * t->code_nbytes);
}
