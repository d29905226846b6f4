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

/* Levels above 0 at 1, 2 and 3 bits; those of R bits begin at 2^R - 2. */
static const float bqk_trellis_listed[14] = {0.357f, 1.195f, 0.194f, 0.600f, 1.070f, 1.868f, 0.112f,
											 0.317f, 0.549f, 0.779f, 1.057f, 1.369f, 1.816f, 2.518f};

/* level = t (a + b t^2 + c t^8); a first guess of its inverse is t = x (p + q x^2) / (1 + r x^2). */
typedef struct bqk_compander
{
	float a, b, c, p, q, r;
} bqk_compander;

/* By bits, from 4 on. */
static const bqk_compander bqk_companders[5] = {
	{1.6397f, 0.7060f, 1.0065f, 0.60604f, 0.01942f, 0.15731f},
	{1.7667f, 0.6342f, 1.3270f, 0.56965f, 0.01306f, 0.13084f},
	{1.7638f, 0.6870f, 1.6510f, 0.57069f, 0.01544f, 0.14383f},
	{1.7847f, 0.6970f, 2.1038f, 0.56633f, 0.01586f, 0.14896f},
	{1.8497f, 0.5523f, 2.4991f, 0.55611f, 0.01359f, 0.13927f},
};

/* Level u of an axis of `bits` bits. */
static inline float
bqk_trellis_level(int bits, int u)
{
	int n = 2 << bits, twice = 2 * u + 1 - n;

	if (bits <= BQK_TRELLIS_LISTED)
	{
		float v = bqk_trellis_listed[(n >> 1) - 2 + (twice < 0 ? -twice : twice) / 2];

		return twice < 0 ? -v : v;
	}
	else
	{
		const bqk_compander *k = bqk_companders + bits - BQK_TRELLIS_LISTED - 1;
		float t = (float) twice / (float) n, t2 = t * t, t4 = t2 * t2;

		return t * (k->a + k->b * t2 + k->c * (t4 * t4));
	}
}

/* Largest f. */
static inline int
bqk_trellis_last(int bits)
{
	return (1 << (bits - 1)) - 1;
}

#pragma GCC visibility pop

#endif
