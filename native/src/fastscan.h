/* FastScan (Andre, Kermarrec & Le Scouarnec, "Quicker ADC", PAMI 2021): sums of query look-up tables over sub-codes of
 * 4 bits, the tables in registers, a byte shuffle as the look-up.
 *
 * A block holds BQK_SCAN_BLOCK codes, row by row: byte c of a row has two sub-codes of code c, the low nibble and the
 * high one. 64 codes are a cache line to a row, one AVX-512, two AVX2 and four NEON registers.
 *
 * The first n_trellis rows of a block may be bits of a trellis (trellis.h): axis i is bit i / n_trellis of row
 * i % n_trellis, so that the bits of the next axes are the next rows and the plane that is not stored,
 *     z1[i] = b[i] ^ b[i+1] ^ b[i+3],
 * is the exclusive or of three rows, two sub-codes more. Beyond the last such row lie the first ones shifted by a bit.
 *
 * A block may end with a row of factors (scan_limits.c), whose two look-ups lower the threshold of a code.
 *
 * Look-ups are added in 8 bits, where a sum that would exceed 255 is 255: those of a stage of BQK_SCAN_NARROW look-ups
 * at most, which are its sums, or chunks of BQK_SCAN_CHUNK of one sort, which are added in 16 bits. A sum that was cut
 * off says less of its code than it could, but nothing untrue: sums bound distances from below. Entries of a look-up of
 * range r are round((top - v) / delta) <= r / delta + 1/2, or BQK_SCAN_ENTRY where that is less: two of them do not
 * pass 255. delta >= (mean + some deviations of the sum) / 255, of every chunk, with the mean and the deviation of
 * random sub-codes, so that only far codes are cut off. 16 bits cannot overflow: for all L look-ups delta >= (sum of r)
 * / (65,535 - L / 2).
 *
 * More look-ups in 8 bits have larger steps: L of four bits of one weight have steps of L / 64 of it, which add (L /
 * 64)^2 / 48 of its variance to the sum's, 5 % with 96. */
#ifndef BQK_FASTSCAN_H
#define BQK_FASTSCAN_H

#include "bqk.h"

#define BQK_SCAN_NARROW 96
#define BQK_SCAN_CHUNK 48
/* Its rows: two look-ups of a row's nibbles or four where a derived plane comes with them. */
#define BQK_SCAN_CHUNK_ROWS 24
#define BQK_SCAN_CHUNK_TRELLIS 12
#define BQK_SCAN_ENTRY 127
/* What a sum of 8 bits reaches above the mean. Of a whole stage only sums within the threshold count: half of all codes
 * are within that of the first runs, hardly any within the last. */
#define BQK_SCAN_DEVIATIONS 2.0
#define BQK_SCAN_DEVIATIONS_NARROW 1.5
/* Queries that share a look at the codes. */
#define BQK_SCAN_GROUP 64
/* Parts of a run that a single query beyond the caches scans in turns, a block of each. Memory answers several streams
 * sooner than one, which the hardware fetches no further than its page: four, fetched ahead row by row in turn, are
 * read 1.5 times as fast as one from memory and 1.7 times from memory and the last-level cache. A million codes take .7
 * to .8 of the time, with two parts 1.1 of that of four, with eight 1.05 to 1.1. What lies in a cache takes 1.04 of it.
 */
#define BQK_SCAN_PARTS 4

#pragma GCC visibility push(hidden)

/* Whether sums have 8 bits. */
static inline int
bqk_scan_is_narrow(size_t n_rows, size_t n_trellis)
{
	return n_rows + n_trellis <= BQK_SCAN_NARROW / 2;
}

/* Largest sum of a code. */
static inline uint32_t
bqk_scan_largest(size_t n_rows, size_t n_trellis)
{
	return bqk_scan_is_narrow(n_rows, n_trellis) ? UINT8_MAX : UINT16_MAX;
}

/* What a kernel reads. */
typedef struct bqk_scan_rows
{
	const uint8_t *blocks;
	size_t n_blocks;
	size_t n_rows;
	size_t n_trellis;
	size_t n_factors; /* 1 where a row of factors follows, else 0 */
	int ahead;        /* for a single query: whether to fetch what follows, also beyond these blocks */
} bqk_scan_rows;

/* Which block comes at such a place: of the parts in turn, then what they leave. */
static inline size_t
bqk_scan_block_at(const bqk_scan_rows *rows, size_t at)
{
	size_t part = rows->n_blocks / BQK_SCAN_PARTS;

	return at < part * BQK_SCAN_PARTS ? at % BQK_SCAN_PARTS * part + at / BQK_SCAN_PARTS : at;
}

/* Positions, counted from the first block, of the codes whose sum is at most the threshold less the look-ups of their
 * factors, or zero if those are more, and their sums; there is room for every code. Rising, but of a single query's
 * blocks that are fetched ahead: those have the order of bqk_scan_block_at. luts: 32 bytes to a row, 64 to a trellis
 * row; no entry exceeds BQK_SCAN_ENTRY, no threshold bqk_scan_largest. */
typedef struct bqk_scan_found
{
	const uint8_t *luts;
	uint32_t threshold;
	uint32_t *positions;
	uint16_t *sums;
	size_t n;
	const uint8_t *factor_luts; /* 32 bytes for the row of factors */
} bqk_scan_found;

/* Appends the codes of a block, the first of which lies at `at`, whose bits are set. */
static inline void
bqk_scan_append(bqk_scan_found *found, uint32_t at, uint64_t mask, const uint8_t *sums)
{
	for (; mask; mask &= mask - 1)
	{
		uint32_t c = (uint32_t) __builtin_ctzll(mask);

		found->positions[found->n] = at + c;
		found->sums[found->n++] = sums[c];
	}
}

/* For n_queries <= BQK_SCAN_GROUP. */
typedef void (*bqk_scan_fn)(const bqk_scan_rows *rows, bqk_scan_found *found, size_t n_queries);

void bqk_fastscan_scalar(const bqk_scan_rows *rows, bqk_scan_found *found, size_t n_queries);
#if defined(__x86_64__)
void bqk_fastscan_avx2(const bqk_scan_rows *rows, bqk_scan_found *found, size_t n_queries);
void bqk_fastscan_avx512(const bqk_scan_rows *rows, bqk_scan_found *found, size_t n_queries);
#elif defined(__aarch64__)
void bqk_fastscan_neon(const bqk_scan_rows *rows, bqk_scan_found *found, size_t n_queries);
#endif

/* The kernel of the instruction set in use. */
bqk_scan_fn bqk_fastscan(void);

#pragma GCC visibility pop

#endif
