/* The trellis search on W vectors at a time, one per lane; included by the SIMD files after float_kernels.h.
 * Every step is elementwise, so each lane's path is the scalar one, bit for bit. */
#include "trellis.h"

static inline vf
pick(vi mask, vf a, vf b)
{
	return (vf) ((mask & (vi) a) | (~mask & (vi) b));
}

/* Nearest level of a subset to x, both counted from level 0. */
static inline vf
nearest(vf x, vf subset, float last)
{
	vf place = vmin(vmax((x - subset) * splat(0.25f) + splat(0.5f), splat(0.0f)), splat(last + 0.5f));

	return __builtin_convertvector(__builtin_convertvector(place, vi), vf) * splat(4.0f) + subset;
}

static inline void
trellis_lanes(float *y, const uint8_t *bits, const float *weight, size_t m, int32_t *decisions)
{
	vf cost[BQK_TRELLIS_STATES];
	vi state = {0};

	for (int s = 0; s < BQK_TRELLIS_STATES; s++)
		cost[s] = splat(s ? BQK_TRELLIS_FAR : 0.0f);
	for (size_t i = m; i-- > 0;)
	{
		vf x = load(y + i * BQK_LANES) + splat(bqk_trellis_middle(bits[i])), d[4], next[BQK_TRELLIS_STATES];
		vi taken = {0};

		for (int subset = 0; subset < 4; subset++)
		{
			vf e = x - nearest(x, splat((float) subset), bqk_trellis_last(bits[i]));

			d[subset] = e * e * splat(weight[i]);
		}
		for (int s = 0; s < BQK_TRELLIS_STATES; s++)
		{
			vf zero = cost[s / 2] + d[bqk_trellis_subset(s, 0)], one = cost[s / 2 + 4] + d[bqk_trellis_subset(s, 1)];
			vi better = one < zero;

			next[s] = pick(better, one, zero);
			taken |= better & (1 << s);
		}
		memcpy(cost, next, sizeof(cost));
		*(vi *) (decisions + i * BQK_LANES) = taken;
	}
	for (int s = 1; s < BQK_TRELLIS_STATES; s++)
	{
		vi better = cost[s] < cost[0];

		cost[0] = pick(better, cost[s], cost[0]);
		state = (better & s) | (~better & state);
	}
	for (size_t i = 0; i < m; i++)
	{
		float middle = bqk_trellis_middle(bits[i]);
		vf x = load(y + i * BQK_LANES) + splat(middle);
		vi older = (*(vi *) (decisions + i * BQK_LANES) >> state) & 1;
		vi subset = ((state ^ (state >> 1) ^ older) & 1) * 2 + (state >> 2);

		store(y + i * BQK_LANES,
			  nearest(x, __builtin_convertvector(subset, vf), bqk_trellis_last(bits[i])) - splat(middle));
		state = (state >> 1) | (older << 2);
	}
}

static void
trellis(float *y, const uint8_t *bits, const float *weight, size_t m, int32_t *decisions)
{
	for (size_t l = 0; l < BQK_LANES; l += W)
		trellis_lanes(y + l, bits, weight, m, decisions + l);
}
