/* FastScan for one query; included by fastscan_kernel.h. A row is split into nibbles in registers. */

/* The next row to fetch of each part. */
typedef struct fetches
{
	uintptr_t next[BQK_SCAN_PARTS];
} fetches;

/* While the blocks of a turn are scanned, those of the next are fetched, with the last turn the next run's first, if
 * that is as long. A fetch may name any address: the last ones lie beyond the blocks. */
INLINE size_t
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
INLINE void
fetch_ahead(fetches *f)
{
	uintptr_t next = f->next[0];

	__builtin_prefetch((const void *) next);
	for (size_t p = 1; p < BQK_SCAN_PARTS; p++)
		f->next[p - 1] = f->next[p];
	f->next[BQK_SCAN_PARTS - 1] = next + BQK_SCAN_BLOCK;
}

INLINE void
add_trellis_rows(vec *bytes, const uint8_t *block, size_t n_trellis, size_t first, size_t last, const uint8_t *luts,
				 fetches *f, int ahead)
{
	for (size_t i = first; i < last; i++)
	{
		vec low[2][VECTORS], high[2][VECTORS];

		if (ahead)
			fetch_ahead(f);
		split_trellis(block, n_trellis, i, low, high);
		for (size_t p = 0; p < 2; p++)
			add_pair(bytes, table(luts + i * 64 + p * 32), table(luts + i * 64 + p * 32 + 16), low[p], high[p]);
	}
}

INLINE void
add_row(vec *bytes, const uint8_t *row, const uint8_t *lut, fetches *f, int ahead)
{
	vec low[VECTORS], high[VECTORS];

	if (ahead)
		fetch_ahead(f);
	split(row, low, high);
	add_pair(bytes, table(lut), table(lut + 16), low, high);
	for (size_t v = 0; v < VECTORS; v++)
		pin(bytes + v); /* row by row: all look-ups of several rows would not fit the registers */
}

INLINE void
add_rows(vec *bytes, const uint8_t *rows, size_t n_rows, const uint8_t *luts, fetches *f, int ahead)
{
	for (; n_rows >= 4; n_rows -= 4)
		UNROLLED
	for (size_t i = 0; i < 4; i++, rows += BQK_SCAN_BLOCK, luts += 32)
		add_row(bytes, rows, luts, f, ahead);
	for (; n_rows > 0; n_rows--, rows += BQK_SCAN_BLOCK, luts += 32)
		add_row(bytes, rows, luts, f, ahead);
}

INLINE void
scan_one(const bqk_scan_rows *rows, bqk_scan_found *found, int wide, int ahead)
{
	size_t n_trellis = rows->n_trellis, n_plain = rows->n_rows - n_trellis, last;
	const uint8_t *luts = found->luts, *plain_luts = luts + n_trellis * 64;
	fetches f = {{0}};

	for (size_t at = 0; at < rows->n_blocks; at++)
	{
		size_t b = ahead ? block_ahead(rows, at, &f) : at;
		const uint8_t *block = rows->blocks + b * (rows->n_rows + rows->n_factors) * BQK_SCAN_BLOCK;
		const uint8_t *plain = block + n_trellis * BQK_SCAN_BLOCK;
		uint32_t position = (uint32_t) (b * BQK_SCAN_BLOCK);
		vec bytes[VECTORS], low[VECTORS], high[VECTORS];
		wide_sums s;

		clear(bytes);
		for (size_t i = 0; i < n_trellis; i = last)
		{
			last = wide ? chunk_end(i, n_trellis, BQK_SCAN_CHUNK_TRELLIS) : n_trellis;
			add_trellis_rows(bytes, block, n_trellis, i, last, luts, &f, ahead);
			if (wide)
			{
				widen(&s, bytes, i == 0);
				clear(bytes);
			}
		}
		for (size_t i = 0; i < n_plain; i = last)
		{
			last = wide ? chunk_end(i, n_plain, BQK_SCAN_CHUNK_ROWS) : n_plain;
			add_rows(bytes, plain + i * BQK_SCAN_BLOCK, last - i, plain_luts + i * 32, &f, ahead);
			if (wide)
			{
				widen(&s, bytes, i + n_trellis == 0);
				clear(bytes);
			}
		}
		if (ahead && rows->n_factors)
			fetch_ahead(&f);
		if (rows->n_factors)
			split(block + rows->n_rows * BQK_SCAN_BLOCK, low, high);
		if (wide)
			emit_wide(&s, found, position, rows->n_factors, low, high);
		else
			emit_narrow(bytes, found, position, rows->n_factors, low, high);
	}
}
