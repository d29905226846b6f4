/* The trellis search and the packing of its codes, lane by lane: the oracle of trellis_kernel.h. */
#include "trellis.h"

#include <string.h>

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
