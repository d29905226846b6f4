/* Products of trellis codes on registers; included by the SIMD files, which define before it
 *     vec                       eight floats
 *     zero()
 *     bytes                     BQK_SCAN_WORD bytes
 *     none()
 *     pick(sum, bits, places)   sum | places of the bytes whose bit is set
 *     put(sum, out)
 *     add_levels(sum, bits, levels, u, q)    sum + level * q of eight axes of up to 3 bits; u has the number of a level
 *                                            in each byte
 *     add_gathered(sum, levels, starts, u, q)    the same of axes of other bits, whose levels begin at the starts
 *     add_products(sum, levels, q)           the same of levels that were looked up
 *     store(sums, out)          sums of even and of odd groups to BQK_LANES floats
 * Groups go from the last to the first, as in the scalar kernel. */
#include "scan_trellis.h"

#include <string.h>

/* 64 bits from byte `at` < nbytes on, zeros beyond the code. */
static inline uint64_t
word_at(const uint8_t *code, size_t nbytes, size_t at)
{
	uint64_t word = 0;

	if (at + 8 <= nbytes)
		memcpy(&word, code + at, 8);
	else if (nbytes >= 8)
	{
		memcpy(&word, code + nbytes - 8, 8);
		word >>= 8 * (at + 8 - nbytes);
	}
	else
		memcpy(&word, code + at, nbytes - at);
	return word;
}

/* sum + level * q of axes of more bits than a byte can number; u: what is known of their numbers. */
static inline vec
add_each(vec sum, const bqk_trellis *t, const float *levels, const uint8_t *code, const bqk_trellis_query *query,
		 size_t first, const uint8_t *u)
{
	float found[BQK_SCAN_AXES] = {0};

	for (size_t j = 0; j < BQK_SCAN_AXES && first + j < t->dim; j++)
	{
		size_t i = first + j, number = u[j];
		int bits = t->bits[i];

		for (int p = 1; p < bits && bits > BQK_SCAN_MAX_RATE; p++)
		{
			size_t bit = query->plane[p] + i;

			number += (size_t) (code[bit / 8] >> bit % 8 & 1) << (bits + 1 - p);
		}
		found[j] = levels[bqk_levels_at(bits) + number];
	}
	return add_products(sum, found, query->q + first);
}

/* Numbers of the levels of the axes from `first` on, less what axes of more bits than a byte can number have beyond
 * the trellis. */
static inline void
number_levels(const bqk_trellis *t, const uint8_t *code, const bqk_trellis_query *query, size_t first, uint64_t z0,
			  uint64_t z1, uint8_t *u)
{
	static const uint8_t one[BQK_SCAN_WORD] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
											   1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
	static const uint8_t two[BQK_SCAN_WORD] = {2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2,
											   2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2};
	bytes sum = pick(pick(none(), (uint32_t) z0, one), (uint32_t) z1, two);

	for (int p = 1; p < t->bits[0] && query->plane[p] + first < query->plane[p + 1]; p++)
	{
		size_t bit = query->plane[p] + first;

		sum = pick(sum, (uint32_t) (word_at(code, t->code_nbytes, bit / 8) >> bit % 8),
				   bqk_trellis_places(t, query, p) + first);
	}
	put(sum, u);
}

/* sum + level * q of the axes first ... first + 7. */
static inline __attribute__((always_inline)) vec
add_group(vec sum, const bqk_trellis *t, const float *levels, const uint8_t *code, const bqk_trellis_query *query,
		  size_t first, const uint8_t *u)
{
	const float *q = query->q + first;

	switch (bqk_trellis_kinds(t, query)[first / BQK_SCAN_AXES])
	{
	case 1:
		return add_levels(sum, 1, levels, u, q);
	case 2:
		return add_levels(sum, 2, levels, u, q);
	case 3:
		return add_levels(sum, 3, levels, u, q);
	case BQK_SCAN_GATHERED:
		return add_gathered(sum, levels, bqk_trellis_starts(t, query) + first, u, q);
	}
	return add_each(sum, t, levels, code, query, first, u);
}

static inline float
product(const bqk_trellis *t, const float *levels, const uint8_t *code, const void *z)
{
	const bqk_trellis_query *query = z;
	size_t dim = t->dim;
	uint64_t next = 0; /* the 64 axes after those of the word */
	vec even = zero(), odd = zero(), sums[2];
	float lane[BQK_LANES];

	for (size_t w = (dim + 63) / 64; w-- > 0;)
	{
		size_t left = dim - w * 64, n = left < 64 ? left : 64, g = (n + 7) / 8;
		uint64_t b = word_at(code, t->code_nbytes, w * 8) & (n < 64 ? ((uint64_t) 1 << n) - 1 : UINT64_MAX);
		uint64_t z0 = b >> 2 | next << 62, z1 = b ^ (b >> 1 | next << 63) ^ (b >> 3 | next << 61);
		uint8_t u[64];

		for (size_t half = 0; half < n; half += BQK_SCAN_WORD)
			number_levels(t, code, query, w * 64 + half, z0 >> half, z1 >> half, u + half);
		if (g % 2)
		{
			g--;
			even = add_group(even, t, levels, code, query, w * 64 + g * 8, u + g * 8);
		}
		while (g > 0)
		{
			g -= 2;
			odd = add_group(odd, t, levels, code, query, w * 64 + g * 8 + 8, u + g * 8 + 8);
			even = add_group(even, t, levels, code, query, w * 64 + g * 8, u + g * 8);
		}
		next = b;
	}
	sums[0] = even;
	sums[1] = odd;
	store(sums, lane);
	return bqk_fold(lane);
}
