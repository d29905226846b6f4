/* The trellis search on W vectors at a time, one per lane; included by the SIMD files after float_kernels.h.
 * Every step is elementwise, so each lane's path is the scalar one, bit for bit. */
#include "trellis.h"

static inline vf
pick(vi mask, vf a, vf b)
{
	return (vf) ((mask & (vi) a) | (~mask & (vi) b));
}

/* Levels at t: bqk_trellis_level's polynomial. */
static inline vf
compand(const bqk_compander *k, vf t)
{
	vf t2 = t * t, t4 = t2 * t2;

	return t * (splat(k->a) + splat(k->b) * t2 + splat(k->c) * (t4 * t4));
}

/* Place of x among the levels, level 0 at 0: kernels_scalar.c's place_of. */
static inline vf
place_of(int bits, vf x)
{
	const bqk_compander *k = bqk_companders + bits - BQK_TRELLIS_LISTED - 1;
	vf top = splat(k->a + k->b + k->c), y = vmin(vmax(x, -top), top), y2 = y * y;
	vf t = y * (splat(k->p) + splat(k->q) * y2) / (splat(1.0f) + splat(k->r) * y2), t2 = t * t, t4 = t2 * t2;
	vf slope = splat(k->a) + splat(3.0f * k->b) * t2 + splat(9.0f * k->c) * (t4 * t4);

	t = t - (compand(k, t) - y) / slope;
	return (t + splat(1.0f)) * splat((float) (1 << bits)) - splat(0.5f);
}

/* The level of a subset whose place is nearest, f of it in *f. */
static inline vf
companded(int bits, vf place, vf subset, vi *f)
{
	vf at = vmin(vmax((place - subset) * splat(0.25f) + splat(0.5f), splat(0.0f)),
				 splat((float) bqk_trellis_last(bits) + 0.5f));
	vf t;

	*f = __builtin_convertvector(at, vi);
	t = (__builtin_convertvector(*f, vf) * splat(4.0f) + subset) * splat(2.0f / (float) (2 << bits)) +
		splat(1.0f / (float) (2 << bits) - 1.0f);
	return compand(bqk_companders + bits - BQK_TRELLIS_LISTED - 1, t);
}

/* Squared distance of x to the nearest level of each subset. */
static inline void
distances(int bits, vf x, vf d[4])
{
	if (bits <= BQK_TRELLIS_LISTED)
	{
		for (int subset = 0; subset < 4; subset++)
		{
			vf e = x - splat(bqk_trellis_level(bits, subset));

			d[subset] = e * e;
			for (int f = 1; f <= bqk_trellis_last(bits); f++)
			{
				e = x - splat(bqk_trellis_level(bits, 4 * f + subset));
				d[subset] = vmin(e * e, d[subset]);
			}
		}
	}
	else
	{
		vf place = place_of(bits, x);
		vi f;

		for (int subset = 0; subset < 4; subset++)
		{
			vf e = x - companded(bits, place, splat((float) subset), &f);

			d[subset] = e * e;
		}
	}
}

/* Level numbers of the levels nearest to x of one subset per lane; the levels in *level. */
static inline vi
nearest(int bits, vf x, vi subset, vf *level)
{
	vi f = {0};

	if (bits <= BQK_TRELLIS_LISTED)
	{
		vf least = splat(BQK_TRELLIS_FAR);

		for (int u = 0; u < 2 << bits; u++)
		{
			vf v = splat(bqk_trellis_level(bits, u)), e = x - v;
			vi better = (subset == u % 4) & (e * e < least);

			least = pick(better, e * e, least);
			*level = pick(better, v, *level);
			f = (better & (u / 4)) | (~better & f);
		}
	}
	else
		*level = companded(bits, place_of(bits, x), __builtin_convertvector(subset, vf), &f);
	return f * 4 + subset;
}

static inline void
trellis_lanes(float *y, const uint8_t *bits, const float *weight, size_t m, int32_t *u)
{
	vf cost[BQK_TRELLIS_STATES];
	vi state = {0};

	for (int s = 0; s < BQK_TRELLIS_STATES; s++)
		cost[s] = splat(s ? BQK_TRELLIS_FAR : 0.0f);
	for (size_t i = m; i-- > 0;)
	{
		vf d[4], next[BQK_TRELLIS_STATES];
		vi taken = {0};

		/* a constant number of bits makes straight code */
		switch (bits[i])
		{
		case 1:
			distances(1, load(y + i * BQK_LANES), d);
			break;
		case 2:
			distances(2, load(y + i * BQK_LANES), d);
			break;
		case 3:
			distances(3, load(y + i * BQK_LANES), d);
			break;
		default:
			distances(bits[i], load(y + i * BQK_LANES), d);
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
		vi older = (*(vi *) (u + i * BQK_LANES) >> state) & 1;
		vf level = {0};

		*(vi *) (u + i * BQK_LANES) =
			nearest(bits[i], load(y + i * BQK_LANES), ((state ^ (state >> 1) ^ older) & 1) * 2 + (state >> 2), &level);
		store(y + i * BQK_LANES, level);
		state = (state >> 1) | (older << 2);
	}
}

static void
trellis(float *y, const uint8_t *bits, const float *weight, size_t m, int32_t *u)
{
	for (size_t l = 0; l < BQK_LANES; l += W)
		trellis_lanes(y + l, bits, weight, m, u + l);
}
