/* The trellis of trellis-coded quantization (Marcellin & Fischer, IEEE Trans. Comm. 1990), 8 states.
 *
 * An axis of R bits has 2^(R+1) uniform levels u = 4 f + 2 z1 + z0: twice as many as its bits can name. R - 1 free
 * bits give f; one trellis bit b per axis gives the subset (z1, z0) together with the bits of the axes that follow:
 *     z0[i] = b[i+2],  z1[i] = b[i] ^ b[i+1] ^ b[i+3]      (Ungerboeck's code h0 = 13, h1 = 04, octal),
 * with b = 0 beyond the last axis. The state at axis i is s = b[i] + 2 b[i+1] + 4 b[i+2]; the search runs from
 * the last axis to the first, so that the axes of least variance have the fewest choices. */
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

/* Levels are u - middle. */
static inline float
bqk_trellis_middle(int bits)
{
	return 0.5f * (float) ((2 << bits) - 1);
}

/* Largest f. */
static inline float
bqk_trellis_last(int bits)
{
	return (float) ((1 << (bits - 1)) - 1);
}

/* bqk_trellis_dot of one code of m axes and n_bits bits; arguments are not checked. */
int32_t bqk_trellis_dot_one(const uint8_t *code, size_t m, size_t n_bits, const int8_t *z);

#pragma GCC visibility pop

#endif
