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
 * A block may end with a row of factors (scan.c): its two look-ups are of their own, up to 255 together, in a chunk of
 * their own.
 *
 * Sums cannot overflow. Look-ups are added in 8 bits in chunks of at most BQK_SCAN_CHUNK, where a sum that would exceed
 * 255 is 255, then in 16 bits. A sum that was cut off says less of its code than it could, but nothing untrue: sums
 * bound distances from below. Entries of a look-up of range r are round((top - v) / delta) <= r / delta + 1/2, or 255
 * where that is less. For every chunk delta >= min(sum of r, mean + BQK_SCAN_DEVIATIONS deviations of the sum) / (255 -
 * BQK_SCAN_CHUNK / 2) with the mean and the deviation of random sub-codes, so that only far codes are cut off: a chunk
 * of 24 look-ups has the delta of one of 16 that are never. For all L look-ups delta >= (sum of r) / (65,535 - 255 - L
 * / 2), so that with the factors' 255 they reach 65,535 at most. */
#ifndef BQK_FASTSCAN_H
#define BQK_FASTSCAN_H

#include "bqk.h"

/* Rows per chunk: 24 look-ups, two of a row's nibbles or four where a derived plane comes with them. */
#define BQK_SCAN_CHUNK_ROWS 12
#define BQK_SCAN_CHUNK_TRELLIS 6
#define BQK_SCAN_CHUNK 24
#define BQK_SCAN_DEVIATIONS 2.0
/* Queries that share the look at a code's nibbles. */
#define BQK_SCAN_GROUP 4

#pragma GCC visibility push(hidden)

/* What a kernel reads. */
typedef struct bqk_scan_rows
{
	const uint8_t *blocks;
	size_t n_blocks;
	size_t n_rows;
	size_t n_trellis;
	size_t n_factors; /* 1 where a row of factors follows, else 0 */
	int ahead;        /* whether to fetch what follows, also beyond these blocks */
} bqk_scan_rows;

/* Positions, counted from the first block, of the codes whose sum is at most the threshold, rising, and their sums;
 * there is room for every code. luts: 32 bytes to a row, 64 to a trellis row. */
typedef struct bqk_scan_found
{
	const uint8_t *luts;
	uint32_t threshold;
	uint32_t *positions;
	uint16_t *sums;
	size_t n;
	const uint8_t *factor_luts; /* 32 bytes for the row of factors */
} bqk_scan_found;

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
