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

/* The next row to fetch of each part. */
typedef struct fetches
{
	uintptr_t next[BQK_SCAN_PARTS];
} fetches;

/* both: pairs of bytes as 16-bit numbers, modulo 2^16, so that widening need not part the even ones. */
typedef struct wide_sums
{
	vec both[VECTORS], odd[VECTORS];
} wide_sums;

/* While the blocks of a turn are scanned, those of the next are fetched, with the last turn the next run's first, if
 * that is as long. A fetch may name any address: the last ones lie beyond the blocks. */
static inline __attribute__((always_inline)) size_t
block_ahead(const bqk_scan_rows *rows, size_t at, fetches *f)
{
	size_t nbytes = (rows->n_rows + rows->n_factors) * BQK_SCAN_BLOCK, part = rows->n_blocks / BQK_SCAN_PARTS;
	size_t next = at / BQK_SCAN_PARTS + 1;

	if (at % BQK_SCAN_PARTS == 0)
		for (size_t p = 0; p < BQK_SCAN_PARTS; p++)
			f->next[p] = (uintptr_t) rows->blocks + ((next < part ? next : rows->n_blocks) + p * part) * nbytes;
	return bqk_scan_block_at(rows, at);
}

/* A row, of the parts in turn. */
static inline __attribute__((always_inline)) void
fetch_ahead(fetches *f)
{
	uintptr_t next = f->next[0];

	__builtin_prefetch((const void *) next);
	for (size_t p = 1; p < BQK_SCAN_PARTS; p++)
		f->next[p - 1] = f->next[p];
	f->next[BQK_SCAN_PARTS - 1] = next + BQK_SCAN_BLOCK;
}

static inline __attribute__((always_inline)) void
clear(vec (*bytes)[VECTORS], size_t n_queries)
{
	for (size_t q = 0; q < n_queries; q++)
		for (size_t v = 0; v < VECTORS; v++)
			bytes[q][v] = zero();
}

/* Ends a chunk, the first of a block or another. */
static inline __attribute__((always_inline)) void
widen(wide_sums *s, vec (*bytes)[VECTORS], size_t n_queries, int is_first)
{
	for (size_t q = 0; q < n_queries; q++)
		for (size_t v = 0; v < VECTORS; v++)
		{
			vec both = bytes[q][v], odd = odd16(both);

			s[q].both[v] = is_first ? both : sum16(s[q].both[v], both);
			s[q].odd[v] = is_first ? odd : sum16(s[q].odd[v], odd);
		}
	clear(bytes, n_queries);
}

/* Two tables, the sub-codes of all codes of a block. Sums that saturate share their execution units with look-ups on
 * Zen 3, others do not: half of them are others, .95 of the time. */
static inline __attribute__((always_inline)) void
add_pair(vec *bytes, const uint8_t *luts, const vec *low, const vec *high)
{
	vec t = table(luts), u = table(luts + 16);

	for (size_t v = 0; v < VECTORS; v++)
	{
		bytes[v] = sum8(bytes[v], add8(lookup(t, low[v]), lookup(u, high[v])));
		pin(bytes + v); /* row by row: all look-ups of several rows would not fit the registers */
	}
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
add_trellis_row(vec (*bytes)[VECTORS], const uint8_t *block, size_t n_trellis, size_t i, const bqk_scan_found *found,
				size_t n_queries, fetches *f, int ahead)
{
	vec row[VECTORS], low[VECTORS], high[VECTORS], derived_low[VECTORS], derived_high[VECTORS], next[2][VECTORS];

	if (ahead)
		fetch_ahead(f);
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
		add_pair(bytes[q], found[q].luts + i * 64, low, high);
		add_pair(bytes[q], found[q].luts + i * 64 + 32, derived_low, derived_high);
	}
}

/* One row and its tables, which luts then lie behind. */
static inline __attribute__((always_inline)) void
add_row(vec (*bytes)[VECTORS], const uint8_t *row, const uint8_t **luts, size_t n_queries, fetches *f, int ahead)
{
	vec low[VECTORS], high[VECTORS];

	if (ahead)
		fetch_ahead(f);
	split(row, low, high);
	for (size_t q = 0; q < n_queries; q++)
	{
		add_pair(bytes[q], luts[q], low, high);
		luts[q] += 32;
	}
}

static inline __attribute__((always_inline)) void
add_rows(vec (*bytes)[VECTORS], const uint8_t *rows, size_t n_rows, const uint8_t **luts, size_t n_queries, fetches *f,
		 int ahead)
{
	for (; n_rows >= 4; n_rows -= 4)
		UNROLLED
	for (size_t i = 0; i < 4; i++, rows += BQK_SCAN_BLOCK)
		add_row(bytes, rows, luts, n_queries, f, ahead);
	for (; n_rows > 0; n_rows--, rows += BQK_SCAN_BLOCK)
		add_row(bytes, rows, luts, n_queries, f, ahead);
}

/* Tables of the first row that is not of a trellis. */
static inline __attribute__((always_inline)) void
plain_tables(const uint8_t **luts, const bqk_scan_found *found, size_t n_queries, size_t n_trellis)
{
	for (size_t q = 0; q < n_queries; q++)
		luts[q] = found[q].luts + n_trellis * 64;
}

/* What the factors of a block's codes lower a query's threshold by. */
static inline __attribute__((always_inline)) void
lowered_by(vec *by, const uint8_t *luts, const vec *low, const vec *high)
{
	vec t = table(luts), u = table(luts + 16);

	for (size_t v = 0; v < VECTORS; v++)
		by[v] = add8(lookup(t, low[v]), lookup(u, high[v]));
}

/* Sums of 8 bits. */
static inline __attribute__((always_inline)) void
scan_narrow(const bqk_scan_rows *rows, bqk_scan_found *found, size_t n_queries, int ahead)
{
	size_t n_trellis = rows->n_trellis;
	const uint8_t *luts[BQK_SCAN_GROUP];
	fetches f;

	for (size_t at = 0; at < rows->n_blocks; at++)
	{
		size_t b = ahead ? block_ahead(rows, at, &f) : at;
		const uint8_t *block = rows->blocks + b * (rows->n_rows + rows->n_factors) * BQK_SCAN_BLOCK;
		vec bytes[BQK_SCAN_GROUP][VECTORS], low[VECTORS], high[VECTORS];

		clear(bytes, n_queries);
		for (size_t i = 0; i < n_trellis; i++)
			add_trellis_row(bytes, block, n_trellis, i, found, n_queries, &f, ahead);
		plain_tables(luts, found, n_queries, n_trellis);
		add_rows(bytes, block + n_trellis * BQK_SCAN_BLOCK, rows->n_rows - n_trellis, luts, n_queries, &f, ahead);
		if (ahead && rows->n_factors)
			fetch_ahead(&f);
		if (rows->n_factors)
			split(block + rows->n_rows * BQK_SCAN_BLOCK, low, high);
		for (size_t q = 0; q < n_queries; q++)
		{
			vec limits[VECTORS], by[VECTORS];

			for (size_t v = 0; v < VECTORS; v++)
				limits[v] = all8(found[q].threshold);
			if (rows->n_factors)
			{
				lowered_by(by, found[q].factor_luts, low, high);
				for (size_t v = 0; v < VECTORS; v++)
					limits[v] = less8(limits[v], by[v]);
			}
			emit8(bytes[q], limits, (uint32_t) (b * BQK_SCAN_BLOCK), found + q);
		}
	}
}

/* Sums of 16 bits, of chunks of 8. */
static inline __attribute__((always_inline)) void
scan_wide(const bqk_scan_rows *rows, bqk_scan_found *found, size_t n_queries, int ahead)
{
	size_t n_trellis = rows->n_trellis, n_plain = rows->n_rows - n_trellis, last;
	const uint8_t *luts[BQK_SCAN_GROUP];
	fetches f;

	for (size_t at = 0; at < rows->n_blocks; at++)
	{
		size_t b = ahead ? block_ahead(rows, at, &f) : at;
		const uint8_t *block = rows->blocks + b * (rows->n_rows + rows->n_factors) * BQK_SCAN_BLOCK;
		const uint8_t *plain = block + n_trellis * BQK_SCAN_BLOCK;
		wide_sums s[BQK_SCAN_GROUP];
		vec bytes[BQK_SCAN_GROUP][VECTORS], low[VECTORS], high[VECTORS];

		clear(bytes, n_queries);
		for (size_t i = 0; i < n_trellis; i = last)
		{
			last = i + BQK_SCAN_CHUNK_TRELLIS < n_trellis ? i + BQK_SCAN_CHUNK_TRELLIS : n_trellis;
			for (size_t j = i; j < last; j++)
				add_trellis_row(bytes, block, n_trellis, j, found, n_queries, &f, ahead);
			widen(s, bytes, n_queries, i == 0);
		}
		plain_tables(luts, found, n_queries, n_trellis);
		for (size_t i = 0; i < n_plain; i = last)
		{
			last = i + BQK_SCAN_CHUNK_ROWS < n_plain ? i + BQK_SCAN_CHUNK_ROWS : n_plain;
			add_rows(bytes, plain + i * BQK_SCAN_BLOCK, last - i, luts, n_queries, &f, ahead);
			widen(s, bytes, n_queries, i + n_trellis == 0);
		}
		if (ahead && rows->n_factors)
			fetch_ahead(&f);
		if (rows->n_factors)
			split(block + rows->n_rows * BQK_SCAN_BLOCK, low, high);
		for (size_t q = 0; q < n_queries; q++)
		{
			vec even[VECTORS], odd[VECTORS], by[VECTORS];

			for (size_t v = 0; v < VECTORS; v++)
				even[v] = odd[v] = all16(found[q].threshold);
			if (rows->n_factors)
			{
				lowered_by(by, found[q].factor_luts, low, high);
				for (size_t v = 0; v < VECTORS; v++)
				{
					even[v] = less16(even[v], even16(by[v], odd16(by[v])));
					odd[v] = less16(odd[v], odd16(by[v]));
				}
			}
			for (size_t v = 0; v < VECTORS; v++)
				s[q].both[v] = even16(s[q].both[v], s[q].odd[v]);
			emit16(s[q].both, s[q].odd, even, odd, (uint32_t) (b * BQK_SCAN_BLOCK), found + q);
		}
	}
}

/* The number of queries is a constant in each copy, so that sums stay in registers; a copy to a function, or there are
 * too few for all. Several queries take so long for a row that the hardware keeps up. */
#define COPY(name, scan, n_queries, ahead)                                                                             \
	static __attribute__((noinline)) void name(const bqk_scan_rows *rows, bqk_scan_found *found)                       \
	{                                                                                                                  \
		scan(rows, found, n_queries, ahead);                                                                           \
	}

COPY(narrow_one, scan_narrow, 1, 0)
COPY(narrow_one_ahead, scan_narrow, 1, 1)
COPY(narrow_two, scan_narrow, 2, 0)
COPY(narrow_three, scan_narrow, 3, 0)
COPY(narrow_four, scan_narrow, 4, 0)
COPY(wide_one, scan_wide, 1, 0)
COPY(wide_one_ahead, scan_wide, 1, 1)
COPY(wide_two, scan_wide, 2, 0)
COPY(wide_three, scan_wide, 3, 0)
COPY(wide_four, scan_wide, 4, 0)

static void
scan_groups(const bqk_scan_rows *rows, bqk_scan_found *found, size_t n_queries)
{
	static void (*const copies[2][BQK_SCAN_GROUP + 1])(const bqk_scan_rows *, bqk_scan_found *) = {
		{narrow_one_ahead, narrow_one, narrow_two, narrow_three, narrow_four},
		{wide_one_ahead, wide_one, wide_two, wide_three, wide_four}};
	int wide = !bqk_scan_is_narrow(rows->n_rows, rows->n_trellis);

	for (size_t q = 0; q < n_queries; q++)
		found[q].n = 0;
	copies[wide][n_queries == 1 && rows->ahead ? 0 : n_queries](rows, found);
}
