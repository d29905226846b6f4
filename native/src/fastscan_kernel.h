/* FastScan on registers of any width; included by the SIMD files, which define before it
 *     VECTORS                registers to a row of 64 codes
 *     vec                    a register of bytes
 *     load(p)                a register from memory
 *     table(p)               16 bytes, repeated
 *     lookup(t, v)           entries of t by the low nibbles of v, whose high nibbles are zero
 *     low_nibbles(v), high_nibbles(v), halved(v)     v & 15, v >> 4, v >> 1 of bytes
 *     add8(a, b)             sums of bytes, none above 255
 *     sum8(a, b)             sums of bytes, at most 255
 *     sum16(a, b), xor(a, b), zero()
 *     odd16(v)               odd bytes of v as 16-bit numbers
 *     even16(both, odd)      sums of even bytes, of sums of v as 16-bit numbers and of odd16(v)
 *     pin(v)                 makes the compiler compute *v here
 *     less8(a, b), less16(a, b)    differences, at least 0
 *     all8(x), all16(x)      registers of one number
 *     emit8(sums, limits, at, found)    appends what does not exceed its limit
 *     emit16(even, odd, even_limits, odd_limits, at, found)
 * Sums stay in range by what fastscan.h derives. */
#include "fastscan.h"

#define INLINE static inline __attribute__((always_inline))

/* both: pairs of bytes as 16-bit numbers, modulo 2^16, so that widening need not part the even ones. */
typedef struct wide_sums
{
	vec both[VECTORS], odd[VECTORS];
} wide_sums;

INLINE void
clear(vec *bytes)
{
	for (size_t v = 0; v < VECTORS; v++)
		bytes[v] = zero();
}

/* Where a chunk of rows that begins at i ends, of n. */
INLINE size_t
chunk_end(size_t i, size_t n, size_t chunk)
{
	return n - i < chunk ? n : i + chunk;
}

/* Ends a chunk, the first of a block or another. */
INLINE void
widen(wide_sums *s, const vec *bytes, int is_first)
{
	for (size_t v = 0; v < VECTORS; v++)
	{
		vec both = bytes[v], odd = odd16(both);

		s->both[v] = is_first ? both : sum16(s->both[v], both);
		s->odd[v] = is_first ? odd : sum16(s->odd[v], odd);
	}
}

/* Two tables, the sub-codes of all codes of a block. Sums that saturate share their execution units with look-ups on
 * Zen 3, others do not: half of them are others, .95 of the time. */
INLINE void
add_pair(vec *bytes, vec t, vec u, const vec *low, const vec *high)
{
	UNROLLED
	for (size_t v = 0; v < VECTORS; v++)
		bytes[v] = sum8(bytes[v], add8(lookup(t, low[v]), lookup(u, high[v])));
}

INLINE void
split(const uint8_t *row, vec *low, vec *high)
{
	for (size_t v = 0; v < VECTORS; v++)
	{
		vec bytes = load(row + v * sizeof(vec));

		pin(&bytes); /* or it would be loaded for each */
		low[v] = low_nibbles(bytes);
		high[v] = high_nibbles(bytes);
	}
}

/* Trellis row i of a block; beyond the last the first ones by one bit. */
INLINE void
trellis_row(const uint8_t *block, size_t n_trellis, size_t i, vec *out)
{
	for (size_t v = 0; v < VECTORS; v++)
		out[v] = i < n_trellis ? load(block + i * BQK_SCAN_BLOCK + v * sizeof(vec))
							   : halved(load(block + (i - n_trellis) * BQK_SCAN_BLOCK + v * sizeof(vec)));
}

/* Nibbles of trellis row i, and of the plane derived from it. */
INLINE void
split_trellis(const uint8_t *block, size_t n_trellis, size_t i, vec (*low)[VECTORS], vec (*high)[VECTORS])
{
	vec row[VECTORS], next[2][VECTORS];

	trellis_row(block, n_trellis, i, row);
	trellis_row(block, n_trellis, i + 1, next[0]);
	trellis_row(block, n_trellis, i + 3, next[1]);
	for (size_t v = 0; v < VECTORS; v++)
	{
		vec derived = xor(row[v], xor(next[0][v], next[1][v]));

		low[0][v] = low_nibbles(row[v]);
		high[0][v] = high_nibbles(row[v]);
		low[1][v] = low_nibbles(derived);
		high[1][v] = high_nibbles(derived);
	}
}

/* What the factors of a block's codes lower a query's threshold by. */
INLINE void
lowered_by(vec *by, const bqk_scan_found *found, const vec *low, const vec *high)
{
	vec t = table(found->factor_luts), u = table(found->factor_luts + 16);

	for (size_t v = 0; v < VECTORS; v++)
		by[v] = add8(lookup(t, low[v]), lookup(u, high[v]));
}

/* Appends the codes whose sums of 8 bits do not exceed what is left of the threshold. */
INLINE void
emit_narrow(const vec *sums, bqk_scan_found *found, uint32_t at, size_t n_factors, const vec *low, const vec *high)
{
	vec limits[VECTORS], by[VECTORS];

	for (size_t v = 0; v < VECTORS; v++)
		limits[v] = all8(found->threshold);
	if (n_factors)
	{
		lowered_by(by, found, low, high);
		for (size_t v = 0; v < VECTORS; v++)
			limits[v] = less8(limits[v], by[v]);
	}
	emit8(sums, limits, at, found);
}

/* The same of 16 bits. */
INLINE void
emit_wide(wide_sums *s, bqk_scan_found *found, uint32_t at, size_t n_factors, const vec *low, const vec *high)
{
	vec even[VECTORS], odd[VECTORS], by[VECTORS];

	for (size_t v = 0; v < VECTORS; v++)
		even[v] = odd[v] = all16(found->threshold);
	if (n_factors)
	{
		lowered_by(by, found, low, high);
		for (size_t v = 0; v < VECTORS; v++)
		{
			vec by_odd = odd16(by[v]);

			even[v] = less16(even[v], even16(by[v], by_odd));
			odd[v] = less16(odd[v], by_odd);
		}
	}
	for (size_t v = 0; v < VECTORS; v++)
		s->both[v] = even16(s->both[v], s->odd[v]);
	emit16(s->both, s->odd, even, odd, at, found);
}

#include "fastscan_one.h"
#include "fastscan_tile.h"

/* A copy to a function, or there are too few registers for all. */
#define COPY_ONE(name, wide, ahead)                                                                                    \
	static __attribute__((noinline)) void name(const bqk_scan_rows *rows, bqk_scan_found *found)                       \
	{                                                                                                                  \
		scan_one(rows, found, wide, ahead);                                                                            \
	}
#define COPY_TILE(name, scan, n_blocks)                                                                                \
	static __attribute__((noinline)) void name(const bqk_scan_rows *rows, size_t first, bqk_scan_found *found,         \
											   size_t n_queries)                                                       \
	{                                                                                                                  \
		scan(rows, first, n_blocks, found, n_queries);                                                                 \
	}

COPY_ONE(narrow_one, 0, 0)
COPY_ONE(narrow_one_ahead, 0, 1)
COPY_ONE(wide_one, 1, 0)
COPY_ONE(wide_one_ahead, 1, 1)
COPY_TILE(narrow_tile, scan_narrow, TILE)
COPY_TILE(narrow_block, scan_narrow, 1)
COPY_TILE(wide_tile, scan_wide, TILE)
COPY_TILE(wide_block, scan_wide, 1)

static void
scan_groups(const bqk_scan_rows *rows, bqk_scan_found *found, size_t n_queries)
{
	static void (*const ones[2][2])(const bqk_scan_rows *, bqk_scan_found *) = {{narrow_one, narrow_one_ahead},
																				{wide_one, wide_one_ahead}};
	static void (*const tiles[2][2])(const bqk_scan_rows *, size_t, bqk_scan_found *,
									 size_t) = {{narrow_tile, narrow_block}, {wide_tile, wide_block}};
	int wide = !bqk_scan_is_narrow(rows->n_rows, rows->n_trellis);
	size_t together = wide ? WIDE_QUERIES : n_queries;

	for (size_t q = 0; q < n_queries; q++)
		found[q].n = 0;
	if (n_queries == 1)
	{
		ones[wide][rows->ahead != 0](rows, found);
		return;
	}
	for (size_t b = 0, n; b < rows->n_blocks; b += n)
	{
		n = rows->n_blocks - b < TILE ? 1 : TILE;
		for (size_t q = 0; q < n_queries; q += together)
			tiles[wide][n == 1](rows, b, found + q, n_queries - q < together ? n_queries - q : together);
	}
}
