/* Products of single trellis codes with float queries, eight axes at a time.
 *
 * A query is the bit offset of every plane and, axis by axis, coordinate times deviation. Axis i goes to lane
 * i % BQK_LANES, and lanes are folded by bqk_fold: all instruction sets add up in one order. Beyond the last axis
 * coordinates are zero, so that whatever bits lie there add nothing. */
#ifndef BQK_SCAN_TRELLIS_H
#define BQK_SCAN_TRELLIS_H

#include "bqk.h"

/* Axes to a group. */
#define BQK_SCAN_AXES 8
/* Bits of the groups that SIMD kernels take whole: the number of a level is a byte. */
#define BQK_SCAN_MAX_RATE 7

#pragma GCC visibility push(hidden)

typedef struct bqk_trellis_query
{
	uint32_t plane[8]; /* first bit of plane p; that of plane 0 is 0 */
	float q[];         /* a multiple of BQK_LANES */
} bqk_trellis_query;

/* Where the levels of axes of `bits` bits begin in bqk_scan.levels. */
static inline size_t
bqk_levels_at(int bits)
{
	return ((size_t) 2 << bits) - 4;
}

#if defined(__x86_64__)
float bqk_trellis_product_avx2(const bqk_trellis *t, const float *levels, const uint8_t *code, const void *z);
#elif defined(__aarch64__)
float bqk_trellis_product_neon(const bqk_trellis *t, const float *levels, const uint8_t *code, const void *z);
#endif
float bqk_trellis_product_scalar(const bqk_trellis *t, const float *levels, const uint8_t *code, const void *z);

#pragma GCC visibility pop

#endif
