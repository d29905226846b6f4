/* FastScan on registers of any width; included by the SIMD files, which define before it
 *     VECTORS                registers to a row of 64 codes
 *     vec                    a register of bytes
 *     load(p)                a register from memory
 *     table(p)               16 bytes, repeated
 *     lookup(t, v)           entries of t by the low nibbles of v, whose high nibbles are zero
 *     low_nibbles(v), high_nibbles(v), halved(v)     v & 15, v >> 4, v >> 1 of bytes
 *     sum8(a, b)             sums of bytes, at most 255
 *     sum16(a, b), xor(a, b), zero()
 *     odd16(v)               odd bytes of v as 16-bit numbers
 *     even16(both, odd)      sums of even bytes, of sums of v as 16-bit numbers and of odd16(v)
 *     pin(v)                 makes the compiler compute *v here
 *     emit(even, odd, at, found)    appends what does not exceed the threshold
 * Sums stay in range by what fastscan.h derives. */
#include "fastscan.h"

/* Rows fetched ahead for a single query beyond the caches, which is done with a row before the hardware has fetched the
 * next page: a million 1-bit codes of 384 dimensions take .8 of the time. What lies in a cache takes 1.06 of it. */
#define AHEAD_ROWS 128

/* both: pairs of bytes as 16-bit numbers, modulo 2^16, so that widening need not part the even ones. */
typedef struct sums
{
	vec bytes[VECTORS], both[VECTORS], odd[VECTORS];
} sums;

/* A fetch may name any address: the last ones lie beyond the blocks. */
static inline __attribute__((always_inline)) void
fetch_ahead(const uint8_t *row)
{
	__builtin_prefetch((const void *) ((uintptr_t) row + AHEAD_ROWS * BQK_SCAN_BLOCK));
}

/* Ends a chunk, the first of a block or another. */
static inline __attribute__((always_inline)) void
widen(sums *s, size_t n_queries, int is_first)
{
	for (size_t q = 0; q < n_queries; q++)
		for (size_t v = 0; v < VECTORS; v++)
		{
			vec both = s[q].bytes[v], odd = odd16(both);

			s[q].both[v] = is_first ? both : sum16(s[q].both[v], both);
			s[q].odd[v] = is_first ? odd : sum16(s[q].odd[v], odd);
			s[q].bytes[v] = zero();
		}
}

/* One table, the sub-codes of all codes of a block. */
static inline __attribute__((always_inline)) void
add(sums *s, const uint8_t *lut, const vec *nibbles)
{
	vec t = table(lut);

	for (size_t v = 0; v < VECTORS; v++)
		s->bytes[v] = sum8(s->bytes[v], lookup(t, nibbles[v]));
}

static inline __attribute__((always_inline)) void
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
static inline __attribute__((always_inline)) void
trellis_row(const uint8_t *block, size_t n_trellis, size_t i, vec *out)
{
	for (size_t v = 0; v < VECTORS; v++)
		out[v] = i < n_trellis ? load(block + i * BQK_SCAN_BLOCK + v * sizeof(vec))
							   : halved(load(block + (i - n_trellis) * BQK_SCAN_BLOCK + v * sizeof(vec)));
}

static inline __attribute__((always_inline)) void
add_trellis_row(sums *s, const uint8_t *block, size_t n_trellis, size_t i, const bqk_scan_found *found,
				size_t n_queries)
{
	vec row[VECTORS], low[VECTORS], high[VECTORS], derived_low[VECTORS], derived_high[VECTORS], next[2][VECTORS];

	trellis_row(block, n_trellis, i, row);
	trellis_row(block, n_trellis, i + 1, next[0]);
	trellis_row(block, n_trellis, i + 3, next[1]);
	for (size_t v = 0; v < VECTORS; v++)
	{
		vec derived = xor(row[v], xor(next[0][v], next[1][v]));

		low[v] = low_nibbles(row[v]);
		high[v] = high_nibbles(row[v]);
		derived_low[v] = low_nibbles(derived);
		derived_high[v] = high_nibbles(derived);
	}
	for (size_t q = 0; q < n_queries; q++)
	{
		const uint8_t *lut = found[q].luts + i * 64;

		add(s + q, lut, low);
		add(s + q, lut + 16, high);
		add(s + q, lut + 32, derived_low);
		add(s + q, lut + 48, derived_high);
	}
}

static inline __attribute__((always_inline)) void
add_plain_row(sums *s, const uint8_t *plain, size_t i, const bqk_scan_found *found, size_t n_trellis, size_t n_queries,
			  int ahead)
{
	vec low[VECTORS], high[VECTORS];

	if (ahead)
		fetch_ahead(plain + i * BQK_SCAN_BLOCK);
	split(plain + i * BQK_SCAN_BLOCK, low, high);
	for (size_t q = 0; q < n_queries; q++)
	{
		const uint8_t *lut = found[q].luts + n_trellis * 64 + i * 32;

		add(s + q, lut, low);
		add(s + q, lut + 16, high);
		/* sums row by row: a tree of all look-ups of a chunk would not fit the registers */
		for (size_t v = 0; v < VECTORS; v++)
			pin(s[q].bytes + v);
	}
}

static inline __attribute__((always_inline)) void
scan(const bqk_scan_rows *rows, bqk_scan_found *found, size_t n_queries, int ahead)
{
	size_t n_trellis = rows->n_trellis, n_plain = rows->n_rows - n_trellis;
	size_t stride = (rows->n_rows + rows->n_factors) * BQK_SCAN_BLOCK;

	for (size_t b = 0; b < rows->n_blocks; b++)
	{
		const uint8_t *block = rows->blocks + b * stride;
		const uint8_t *plain = block + n_trellis * BQK_SCAN_BLOCK;
		sums s[BQK_SCAN_GROUP];

		for (size_t q = 0; q < n_queries; q++)
			for (size_t v = 0; v < VECTORS; v++)
				s[q].bytes[v] = zero();
		for (size_t first = 0; first < n_trellis; first += BQK_SCAN_CHUNK_TRELLIS)
		{
			size_t last = first + BQK_SCAN_CHUNK_TRELLIS < n_trellis ? first + BQK_SCAN_CHUNK_TRELLIS : n_trellis;

			for (size_t i = first; i < last; i++)
			{
				if (ahead)
					fetch_ahead(block + i * BQK_SCAN_BLOCK);
				add_trellis_row(s, block, n_trellis, i, found, n_queries);
			}
			if (first == 0)
				widen(s, n_queries, 1);
			else
				widen(s, n_queries, 0);
		}
		for (size_t first = 0; first < n_plain; first += BQK_SCAN_CHUNK_ROWS)
		{
			size_t last = first + BQK_SCAN_CHUNK_ROWS;

			if (last <= n_plain) /* their number is a constant */
#pragma GCC unroll 12
				for (size_t i = first; i < first + BQK_SCAN_CHUNK_ROWS; i++)
					add_plain_row(s, plain, i, found, n_trellis, n_queries, ahead);
			else if (n_queries > 1) /* .96 of the time; a single query is a little slower so */
#pragma GCC unroll 4
				for (size_t i = first; i < n_plain; i++)
					add_plain_row(s, plain, i, found, n_trellis, n_queries, ahead);
			else
				for (size_t i = first; i < n_plain; i++)
					add_plain_row(s, plain, i, found, n_trellis, n_queries, ahead);
			if (first + n_trellis == 0)
				widen(s, n_queries, 1);
			else
				widen(s, n_queries, 0);
		}
		if (rows->n_factors)
		{
			vec low[VECTORS], high[VECTORS];

			split(block + rows->n_rows * BQK_SCAN_BLOCK, low, high);
			for (size_t q = 0; q < n_queries; q++)
			{
				add(s + q, found[q].factor_luts, low);
				add(s + q, found[q].factor_luts + 16, high);
			}
			widen(s, n_queries, 0);
		}
		for (size_t q = 0; q < n_queries; q++)
		{
			for (size_t v = 0; v < VECTORS; v++)
				s[q].both[v] = even16(s[q].both[v], s[q].odd[v]);
			emit(s[q].both, s[q].odd, (uint32_t) (b * BQK_SCAN_BLOCK), found + q);
		}
	}
}

/* The number of queries is a constant in each copy, so that sums stay in registers. Several queries take so long for a
 * row that the hardware keeps up. */
static void
scan_groups(const bqk_scan_rows *rows, bqk_scan_found *found, size_t n_queries)
{
	for (size_t q = 0; q < n_queries; q++)
		found[q].n = 0;
	switch (n_queries)
	{
	case 1:
		if (rows->ahead)
			scan(rows, found, 1, 1);
		else
			scan(rows, found, 1, 0);
		break;
	case 2:
		scan(rows, found, 2, 0);
		break;
	case 3:
		scan(rows, found, 3, 0);
		break;
	case 4:
		scan(rows, found, 4, 0);
		break;
	}
}
