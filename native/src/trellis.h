/* The trellis of trellis-coded quantization (Marcellin & Fischer, IEEE Trans. Comm. 1990), 8 states.
 *
 * An axis of R bits has 2^(R+1) levels u = 4 f + 2 z1 + z0: twice as many as its bits can name. R - 1 free
 * bits give f; one trellis bit b per axis gives the subset (z1, z0) together with the bits of the axes that follow:
 *     z0[i] = b[i+2],  z1[i] = b[i] ^ b[i+1] ^ b[i+3]      (Ungerboeck's code h0 = 13, h1 = 04, octal),
 * with b = 0 beyond the last axis. The state at axis i is s = b[i] + 2 b[i+1] + 4 b[i+2]; the search runs from
 * the last axis to the first, so that the axes of least variance have the fewest choices.
 *
 * Levels are those of a Gaussian axis of deviation 1, wider apart where it is rare: a code of fixed length gains 0.3 dB
 * at 2 bits, 1 at 3 and 4 at 8 over equal steps. Up to 3 bits they are Lloyd's (120,000 draws). From 4 bits on they
 * are a polynomial of the place t = (2 u + 1) / 2^(R+1) - 1 in (-1, 1), fitted for the least error. */
#ifndef BQK_TRELLIS_H
#define BQK_TRELLIS_H

#include "bqk.h"

#define BQK_TRELLIS_STATES 8
/* Cost of a state that cannot be: above any path's cost, and sums of it stay finite. */
#define BQK_TRELLIS_FAR 1e30f

#pragma GCC visibility push(hidden)

/* Subset 2 z1 + z0 of the branch into state s whose bit b[i+3] is `older`. */
static inline int
bqk_trellis_subset(int s, int older)
{
	return ((s ^ (s >> 1) ^ older) & 1) * 2 + (s >> 2);
}

/* Axes of more bits than this have their levels from the polynomial. */
#define BQK_TRELLIS_LISTED 3

/* Levels at 1, 2 and 3 bits, ascending; those of R bits begin at 2^(R + 1) - 4. */
static const float bqk_trellis_listed[28] = {-1.195f, -0.357f, 0.357f,  1.195f,  -1.868f, -1.070f, -0.600f,
											 -0.194f, 0.194f,  0.600f,  1.070f,  1.868f,  -2.518f, -1.816f,
											 -1.369f, -1.057f, -0.779f, -0.549f, -0.317f, -0.112f, 0.112f,
											 0.317f,  0.549f,  0.779f,  1.057f,  1.369f,  1.816f,  2.518f};

/* Half way between levels f - 1 and f of subset s: at 2 bits f = 1 at s, at 3 bits f = 1, 2, 3 at 4 f + s. */
static const float bqk_trellis_between[16] = {-0.837f,  -0.235f, 0.235f, 0.837f,  -1.6485f, -1.1825f, -0.843f, -0.5845f,
											  -0.3335f, -0.116f, 0.116f, 0.3335f, 0.5845f,  0.843f,   1.1825f, 1.6485f};

/* level = t (a + b t^2 + c t^8) of the place t in (-1, 1), and about t + o
 *     level + o (a + 3 b t^2 + 9 c t^8) + o^2 t (3 b + 36 c t^6).
 * The inverse is t = x (p + q x^2 + r x^4) / (1 + v x^2 + w x^4) within 0.014, 0.03, 0.08, 0.27 and 0.77 of a level's
 * width at 4 to 8 bits, fitted for the least largest error. */
typedef struct bqk_compander
{
	float a, b, c;
	float p, q, r, v, w;
	float top;                       /* level at t = 1 */
	float slope_a, slope_b, slope_c; /* of the derivative, times half a level's width */
	float curve_b, curve_c;          /* of half the second derivative, times its square */
	float width;                     /* of a level, in t */
	float most;                      /* first level of the last window */
} bqk_compander;

#define BQK_COMPANDER(bits, a, b, c, p, q, r, v, w)                                                                    \
	{a,                                                                                                                \
	 b,                                                                                                                \
	 c,                                                                                                                \
	 p,                                                                                                                \
	 q,                                                                                                                \
	 r,                                                                                                                \
	 v,                                                                                                                \
	 w,                                                                                                                \
	 a + b + c,                                                                                                        \
	 a / (2 << bits),                                                                                                  \
	 3.0f * b / (2 << bits),                                                                                           \
	 9.0f * c / (2 << bits),                                                                                           \
	 3.0f * b / (4 << 2 * bits),                                                                                       \
	 36.0f * c / (4 << 2 * bits),                                                                                      \
	 1.0f / (1 << bits),                                                                                               \
	 (2 << bits) - 4}

/* By bits, from 4 on. */
static const bqk_compander bqk_companders[5] = {
	BQK_COMPANDER(4, 1.6397f, 0.7060f, 1.0065f, 0.605222f, -0.0161335f, -0.00089794f, 0.0966134f, -0.00828002f),
	BQK_COMPANDER(5, 1.7667f, 0.6342f, 1.3270f, 0.561298f, 0.177969f, 0.00666247f, 0.396294f, 0.0496405f),
	BQK_COMPANDER(6, 1.7638f, 0.6870f, 1.6510f, 0.560282f, 0.46359f, 0.0155266f, 0.896942f, 0.127754f),
	BQK_COMPANDER(7, 1.7847f, 0.6970f, 2.1038f, 0.546464f, 1.85127f, 0.0580642f, 3.31777f, 0.514181f),
	BQK_COMPANDER(8, 1.8497f, 0.5523f, 2.4991f, 0.521487f, 1.41775f, 0.0432182f, 2.54894f, 0.396161f),
};

static inline const bqk_compander *
bqk_compander_of(int bits)
{
	return bqk_companders + bits - BQK_TRELLIS_LISTED - 1;
}

/* Level u of an axis of `bits` bits. */
static inline float
bqk_trellis_level(int bits, int u)
{
	if (bits <= BQK_TRELLIS_LISTED)
		return bqk_trellis_listed[(2 << bits) - 4 + u];
	else
	{
		const bqk_compander *k = bqk_compander_of(bits);
		float t = ((float) u + 0.5f) * k->width - 1.0f, t2 = t * t, t4 = t2 * t2;

		return t * (k->a + k->b * t2 + k->c * (t4 * t4));
	}
}

/* BQK_LANES vectors, one per lane. */
typedef struct bqk_trellis_lanes
{
	float *x;       /* coordinates in deviations; room for dim rows of lanes */
	float *y;       /* likewise: levels found, in deviations */
	int32_t *u;     /* their numbers */
	float *weight;  /* dim squared deviations */
	float *inverse; /* dim inverse deviations */
	float total;    /* sum of the weights */
} bqk_trellis_lanes;

int bqk_trellis_ok(const bqk_trellis *t);
/* `work` holds bqk_trellis_work(dim) numbers of 4 bytes. */
void bqk_trellis_lanes_init(bqk_trellis_lanes *lanes, const bqk_trellis *t, void *work);
/* Levels of x of squared length norm2[BQK_LANES], and rescale[BQK_LANES] = |o| / |levels|: first the levels nearest to
 * a vector at the scale where the levels fit, then in turn the best scale for the levels and the best levels for the
 * scale. Neither step lowers the cosine. */
void bqk_trellis_search(const bqk_trellis_lanes *lanes, const bqk_trellis *t, const float *norm2, int rounds,
						float *rescale);
static inline size_t
bqk_trellis_bits(const bqk_trellis *t)
{
	size_t n = 0;

	for (size_t i = 0; i < t->dim; i++)
		n += t->bits[i];
	return n;
}

/* Of m axes those of more than p bits: they have the first place, because bits descend. */
static inline size_t
bqk_trellis_plane(const uint8_t *bits, size_t m, int p)
{
	while (m > 0 && bits[m - 1] <= p)
		m--;
	return m;
}

#pragma GCC visibility pop

#endif
