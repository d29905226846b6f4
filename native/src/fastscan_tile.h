/* FastScan for several queries; included by fastscan_kernel.h. A few blocks are split into nibbles once for all: a
 * look-up takes them from memory as its operand, and a query's tables serve all codes of the blocks. With 64 queries
 * that is .70 to .75 of the time of four at a time that share the nibbles of one block in registers, with four 1.0 to
 * 1.15. */

/* Blocks of a tile: two take 1.1 of the time of four, of eight the sums would not fit 16 registers. */
#define TILE 4
/* Queries whose sums of 16 bits are kept together. */
#define WIDE_QUERIES 8

/* Of two look-ups each: sub-codes of the blocks' codes. */
typedef struct nibbles
{
	vec of[TILE][2][VECTORS];
} nibbles;

/* The look-ups of trellis rows. */
INLINE void
split_trellis_rows(nibbles *out, const uint8_t *blocks, size_t stride, size_t n_blocks, size_t n_trellis, size_t first,
				   size_t last)
{
	for (size_t b = 0; b < n_blocks; b++, blocks += stride)
		for (size_t i = first; i < last; i++)
		{
			vec low[2][VECTORS], high[2][VECTORS];

			split_trellis(blocks, n_trellis, i, low, high);
			for (size_t p = 0; p < 2; p++)
				for (size_t v = 0; v < VECTORS; v++)
				{
					out[2 * (i - first) + p].of[b][0][v] = low[p][v];
					out[2 * (i - first) + p].of[b][1][v] = high[p][v];
				}
		}
}

/* Of other rows. What follows the blocks is fetched. */
INLINE void
split_rows(nibbles *out, const uint8_t *rows, size_t stride, size_t n_blocks, size_t n_rows)
{
	for (size_t b = 0; b < n_blocks; b++, rows += stride)
		for (size_t i = 0; i < n_rows; i++)
		{
			const uint8_t *row = rows + i * BQK_SCAN_BLOCK;

			__builtin_prefetch((const void *) ((uintptr_t) row + n_blocks * stride));
			split(row, out[i].of[b][0], out[i].of[b][1]);
		}
}

INLINE void
add_pairs(vec (*bytes)[VECTORS], const nibbles *of, size_t n_pairs, size_t n_blocks, const uint8_t *luts)
{
	for (size_t p = 0; p < n_pairs; p++, luts += 32)
	{
		vec t = table(luts), u = table(luts + 16);

		UNROLLED
		for (size_t b = 0; b < n_blocks; b++)
			add_pair(bytes[b], t, u, of[p].of[b][0], of[p].of[b][1]);
	}
	/* or gcc moves each sum to another register every time */
	UNROLLED
	for (size_t b = 0; b < n_blocks; b++)
		for (size_t v = 0; v < VECTORS; v++)
			pin(bytes[b] + v);
}

/* n_blocks: a constant in each copy. */
INLINE void
scan_narrow(const bqk_scan_rows *rows, size_t first, size_t n_blocks, bqk_scan_found *found, size_t n_queries)
{
	size_t n_trellis = rows->n_trellis, n_pairs = rows->n_rows + n_trellis;
	size_t stride = (rows->n_rows + rows->n_factors) * BQK_SCAN_BLOCK;
	const uint8_t *blocks = rows->blocks + first * stride;
	nibbles of[BQK_SCAN_NARROW / 2 + 1];

	split_trellis_rows(of, blocks, stride, n_blocks, n_trellis, 0, n_trellis);
	split_rows(of + 2 * n_trellis, blocks + n_trellis * BQK_SCAN_BLOCK, stride, n_blocks,
			   rows->n_rows - n_trellis + rows->n_factors);
	for (size_t q = 0; q < n_queries; q++)
	{
		vec bytes[TILE][VECTORS];

		UNROLLED
		for (size_t b = 0; b < n_blocks; b++)
			clear(bytes[b]);
		add_pairs(bytes, of, n_pairs, n_blocks, found[q].luts);
		UNROLLED
		for (size_t b = 0; b < n_blocks; b++)
			emit_narrow(bytes[b], found + q, (uint32_t) ((first + b) * BQK_SCAN_BLOCK), rows->n_factors,
						of[n_pairs].of[b][0], of[n_pairs].of[b][1]);
	}
}

/* A chunk of one sort. */
INLINE void
add_chunk(wide_sums (*s)[TILE], const nibbles *of, size_t n_pairs, size_t n_blocks, const bqk_scan_found *found,
		  size_t n_queries, size_t lut, int is_first)
{
	for (size_t q = 0; q < n_queries; q++)
	{
		vec bytes[TILE][VECTORS];

		UNROLLED
		for (size_t b = 0; b < n_blocks; b++)
			clear(bytes[b]);
		add_pairs(bytes, of, n_pairs, n_blocks, found[q].luts + lut);
		UNROLLED
		for (size_t b = 0; b < n_blocks; b++)
			widen(s[q] + b, bytes[b], is_first);
	}
}

/* At most WIDE_QUERIES. */
INLINE void
scan_wide(const bqk_scan_rows *rows, size_t first, size_t n_blocks, bqk_scan_found *found, size_t n_queries)
{
	size_t n_trellis = rows->n_trellis, n_plain = rows->n_rows - n_trellis, last;
	size_t stride = (rows->n_rows + rows->n_factors) * BQK_SCAN_BLOCK;
	const uint8_t *blocks = rows->blocks + first * stride, *plain = blocks + n_trellis * BQK_SCAN_BLOCK;
	nibbles of[BQK_SCAN_CHUNK / 2];
	wide_sums s[WIDE_QUERIES][TILE];

	for (size_t i = 0; i < n_trellis; i = last)
	{
		last = chunk_end(i, n_trellis, BQK_SCAN_CHUNK_TRELLIS);
		split_trellis_rows(of, blocks, stride, n_blocks, n_trellis, i, last);
		add_chunk(s, of, 2 * (last - i), n_blocks, found, n_queries, i * 64, i == 0);
	}
	for (size_t i = 0; i < n_plain; i = last)
	{
		last = chunk_end(i, n_plain, BQK_SCAN_CHUNK_ROWS);
		split_rows(of, plain + i * BQK_SCAN_BLOCK, stride, n_blocks, last - i);
		add_chunk(s, of, last - i, n_blocks, found, n_queries, n_trellis * 64 + i * 32, i + n_trellis == 0);
	}
	split_rows(of, blocks + rows->n_rows * BQK_SCAN_BLOCK, stride, n_blocks, rows->n_factors);
	for (size_t q = 0; q < n_queries; q++)
		for (size_t b = 0; b < n_blocks; b++)
			emit_wide(s[q] + b, found + q, (uint32_t) ((first + b) * BQK_SCAN_BLOCK), rows->n_factors, of->of[b][0],
					  of->of[b][1]);
}
