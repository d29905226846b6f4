/* Products of single trellis codes with float queries.
 *
 * A query is the bit offset of every plane and, axis by axis, coordinate times deviation; then what depends on the
 * trellis alone: where the levels of every axis begin, what its bits count for, and how a group of axes is looked up.
 * Axis i goes to lane i % BQK_LANES, and lanes are folded by bqk_fold: all instruction sets add up in one order. Beyond
 * the last axis coordinates are zero, so that whatever bits lie there add nothing. */
#ifndef BQK_SCAN_TRELLIS_H
#define BQK_SCAN_TRELLIS_H

#include "bqk.h"

/* Axes whose levels are numbered together, and those whose levels are looked up together. */
#define BQK_SCAN_WORD 32
#define BQK_SCAN_AXES 8
/* Bits of the axes that SIMD kernels number: a byte. */
#define BQK_SCAN_MAX_RATE 7

#pragma GCC visibility push(hidden)

typedef struct bqk_trellis_query
{
	uint32_t plane[9]; /* first bit of plane p; that of plane 0 is 0, that of plane 8 the number of bits */
	float q[];         /* a multiple of BQK_SCAN_WORD, as of all that follows */
} bqk_trellis_query;

/* A group whose axes have 1, 2 or 3 bits each is of that kind. */
enum
{
	BQK_SCAN_GATHERED,  /* others of up to BQK_SCAN_MAX_RATE bits */
	BQK_SCAN_EACH = 255 /* some have more */
};

static inline size_t
bqk_trellis_padded(const bqk_trellis *t)
{
	return (t->dim + BQK_SCAN_WORD - 1) / BQK_SCAN_WORD * BQK_SCAN_WORD;
}

/* Where the levels of each axis begin in bqk_scan.levels. */
static inline uint32_t *
bqk_trellis_starts(const bqk_trellis *t, const bqk_trellis_query *query)
{
	return (uint32_t *) (uintptr_t) (query->q + bqk_trellis_padded(t));
}

/* What a bit of plane p > 0 counts for in the number of each axis' level, 0 for axes that have no bit there. */
static inline uint8_t *
bqk_trellis_places(const bqk_trellis *t, const bqk_trellis_query *query, int p)
{
	return (uint8_t *) (bqk_trellis_starts(t, query) + bqk_trellis_padded(t)) +
		   (size_t) (p - 1) * bqk_trellis_padded(t);
}

/* Of each group. */
static inline uint8_t *
bqk_trellis_kinds(const bqk_trellis *t, const bqk_trellis_query *query)
{
	return bqk_trellis_places(t, query, t->bits[0]);
}

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
