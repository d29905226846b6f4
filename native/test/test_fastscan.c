/* FastScan on every instruction set against its definition, for adversarial codes and tables, any number of rows and
 * of queries; blocks, tables and results touch guard pages. Then the bounds that keep its sums in range. */
#include "check.h"
#include "fastscan.h"

#include <math.h>

#define MAX_ROWS 90
#define MAX_BLOCKS 9
#define MAX_CODES (MAX_BLOCKS * BQK_SCAN_BLOCK)
#define MAX_LOOKUPS (4 * MAX_ROWS)
#define MAX_QUERIES 9

enum
{
	RANDOM,
	ZERO,
	FULL,  /* all bits set */
	LARGE, /* tables that reach the largest sum of a chunk */
	CUT,   /* chunks of more */
	N_KINDS
};

static guarded gblocks, gluts, gpositions, gsums;
static uint8_t blocks[MAX_BLOCKS * (MAX_ROWS + 1) * BQK_SCAN_BLOCK];
static uint8_t luts[MAX_QUERIES][MAX_LOOKUPS * 16], factor_luts[MAX_QUERIES][32];
static float values[MAX_LOOKUPS * 16];

#if defined(BQK_SIMDE)
void bqk_fastscan_emulated(const bqk_scan_rows *rows, bqk_scan_found *found, size_t n_queries);
#endif

static bqk_scan_fn
kernel_of(const bqk_kernels *k)
{
	bqk_scan_fn fn;

	CHECK_INT(bqk_isa_select(k->name), BQK_OK);
	fn = bqk_fastscan();
#if defined(BQK_SIMDE)
	if (fn == bqk_fastscan_avx2)
		fn = bqk_fastscan_emulated;
#endif
	bqk_isa_select(NULL);
	return fn;
}

/* Bit `axis` of a code's trellis bits. */
static unsigned
trellis_bit(const uint8_t *block, size_t n_trellis, size_t axis, size_t c)
{
	return axis < 8 * n_trellis ? block[axis % n_trellis * BQK_SCAN_BLOCK + c] >> axis / n_trellis & 1 : 0;
}

/* The sum by its definition: axis by axis, chunk by chunk. */
static uint32_t
defined_sum(const uint8_t *block, size_t n_rows, size_t n_trellis, const uint8_t *lut, size_t c)
{
	uint32_t sum = 0, chunk = 0;

	for (size_t row = 0; row < n_rows; row++)
	{
		size_t in_sort = row < n_trellis ? row : row - n_trellis;

		if (!bqk_scan_is_narrow(n_rows, n_trellis) &&
			in_sort % (row < n_trellis ? BQK_SCAN_CHUNK_TRELLIS : BQK_SCAN_CHUNK_ROWS) == 0)
		{
			sum += chunk < 255 ? chunk : 255;
			chunk = 0;
		}
		for (size_t half = 0; half < 2; half++, lut += 16)
		{
			chunk += lut[block[row * BQK_SCAN_BLOCK + c] >> 4 * half & 15];
			if (row < n_trellis && half)
				for (size_t h = 0; h < 2; h++)
				{
					unsigned nibble = 0;

					for (size_t bit = 0; bit < 4; bit++)
					{
						size_t axis = row + (4 * h + bit) * n_trellis;

						nibble |= (trellis_bit(block, n_trellis, axis, c) ^ trellis_bit(block, n_trellis, axis + 1, c) ^
								   trellis_bit(block, n_trellis, axis + 3, c))
								  << bit;
					}
					lut += 16;
					chunk += lut[nibble];
				}
		}
	}
	return sum + (chunk < 255 ? chunk : 255);
}

/* The threshold of a code, by its definition: what the two look-ups of its factors leave. */
static uint32_t
defined_limit(const uint8_t *factors, const uint8_t *lut, uint32_t threshold, size_t c)
{
	int64_t limit = threshold;

	if (lut)
		limit -= lut[factors[c] & 15] + lut[16 + (factors[c] >> 4)];
	return limit < 0 ? 0 : (uint32_t) limit;
}

/* The j-th code of a scan: where blocks are fetched ahead, each quarter gives a block in turn. */
static size_t
place_of(size_t j, size_t n_blocks, int ahead)
{
	size_t block = j / BQK_SCAN_BLOCK, quarter = n_blocks / 4;

	if (ahead && block < 4 * quarter)
		block = block % 4 * quarter + block / 4;
	return block * BQK_SCAN_BLOCK + j % BQK_SCAN_BLOCK;
}

static void
compare(const bqk_kernels *k, size_t n_blocks, size_t n_rows, size_t n_trellis, size_t n_queries, uint32_t threshold,
		int with_factors, side at)
{
	size_t n = n_blocks * BQK_SCAN_BLOCK, n_entries = (2 * n_rows + 2 * n_trellis) * 16;
	size_t stride = n_rows + (with_factors ? 1 : 0);
	bqk_scan_rows rows = {guard_copy(&gblocks, blocks, n * stride, at),
						  n_blocks,
						  n_rows,
						  n_trellis,
						  with_factors ? 1 : 0,
						  (int) (n_rows % 2)};
	static uint8_t tables[MAX_QUERIES * MAX_LOOKUPS * 16];
	const uint8_t *placed;
	uint32_t *positions = guard_place(&gpositions, n_queries * n * sizeof(*positions), at);
	uint16_t *sums = guard_place(&gsums, n_queries * n * sizeof(*sums), at);
	bqk_scan_found found[MAX_QUERIES];

	for (size_t q = 0; q < n_queries; q++)
		memcpy(tables + q * n_entries, luts[q], n_entries);
	placed = guard_copy(&gluts, tables, n_queries * n_entries, at);
	for (size_t q = 0; q < n_queries; q++)
		found[q] = (bqk_scan_found) {placed + q * n_entries, threshold, positions + q * n,
									 sums + q * n,           99,        with_factors ? factor_luts[q] : NULL};
	kernel_of(k)(&rows, found, n_queries);
	for (size_t q = 0; q < n_queries; q++)
	{
		size_t next = 0;

		for (size_t j = 0; j < n; j++)
		{
			size_t i = place_of(j, n_blocks, n_queries == 1 && rows.ahead);
			const uint8_t *block = blocks + i / BQK_SCAN_BLOCK * stride * BQK_SCAN_BLOCK;
			uint32_t sum = defined_sum(block, n_rows, n_trellis, luts[q], i % BQK_SCAN_BLOCK);

			CHECK(sum <= bqk_scan_largest(n_rows, n_trellis));
			if (sum > defined_limit(block + n_rows * BQK_SCAN_BLOCK, with_factors ? factor_luts[q] : NULL, threshold,
									i % BQK_SCAN_BLOCK))
				continue;
			CHECK(next < found[q].n);
			if (next >= found[q].n)
				return;
			CHECK_INT(found[q].positions[next], i);
			CHECK_INT(found[q].sums[next++], sum);
		}
		CHECK_INT(found[q].n, next);
	}
}

/* Tables whose chunks may reach 255, by entries of 5 or by two of 127, or would exceed it. */
static void
fill(int kind, size_t n_lookups, uint64_t *state)
{
	for (size_t i = 0; i < sizeof(blocks); i++)
		blocks[i] = kind == RANDOM || kind == LARGE || kind == CUT ? (uint8_t) random_bits(state)
					: kind == FULL                                 ? 255
																   : 0;
	for (size_t q = 0; q < MAX_QUERIES; q++)
		for (size_t m = 0; m < n_lookups; m++)
			for (size_t j = 0; j < 16; j++)
				luts[q][m * 16 + j] = kind == LARGE  ? (m % BQK_SCAN_CHUNK / 2 == q ? (j % 2 ? BQK_SCAN_ENTRY : 0) : 0)
									  : kind == CUT  ? (uint8_t) (random_bits(state) % (16u << q % 4))
									  : kind == FULL ? 5
									  : kind == ZERO ? 0
													 : (uint8_t) (random_bits(state) % 6);
	for (size_t q = 0; q < MAX_QUERIES; q++)
		for (size_t j = 0; j < 32; j++)
			factor_luts[q][j] = (uint8_t) (random_bits(state) % (kind == CUT ? BQK_SCAN_ENTRY + 1 : 16));
}

static void
sums_equal_their_definition_and_stay_in_bounds(void)
{
	uint64_t state = 5;

	for (size_t n_rows = 1; n_rows <= MAX_ROWS; n_rows += n_rows < 12 ? 1 : 7)
		for (int kind = 0; kind < N_KINDS; kind++)
			for (int with_trellis = 0; with_trellis < 3; with_trellis++)
			{
				size_t n_trellis = with_trellis == 0 ? 0 : with_trellis == 1 ? n_rows : n_rows / 2;

				if (with_trellis && n_trellis < 3)
					continue;
				fill(kind, 2 * n_rows + 2 * n_trellis, &state);
				for (size_t n_blocks = 1; n_blocks <= MAX_BLOCKS; n_blocks += n_blocks < 3 ? 1 : 6)
					for (size_t n_queries = 1; n_queries <= MAX_QUERIES; n_queries += n_queries < 2 ? 1 : 7)
						for (const bqk_kernels *const *k = tables(); *k; k++)
						{
							uint32_t largest = bqk_scan_largest(n_rows, n_trellis);
							uint32_t thresholds[] = {largest, 0}, some = (uint32_t) (n_rows * 2 * 3);
							side at = (side) (state % N_SIDES);

							random_bits(&state);
							with("%s rows=%zu trellis=%zu blocks=%zu queries=%zu kind=%d at=%s", (*k)->name, n_rows,
								 n_trellis, n_blocks, n_queries, kind, side_names[at]);
							some = some < largest ? some : largest;
							compare(*k, n_blocks, n_rows, n_trellis, n_queries, thresholds[state % 2], 0, at);
							compare(*k, n_blocks, n_rows, n_trellis, n_queries, some, state % 4 > 0, at);
						}
			}
}

/* What fastscan.h derives: sums of 16 bits reach 65,535 at most, and a look-up is off by half a step where it is not
 * cut off, which is only to be where it stands out of its chunk. Random codes are hardly ever cut off. */
static void
rounded_tables_cannot_overflow(void)
{
	static const float scales[] = {0.0f, 1e-38f, 1e-3f, 1.0f, 1e20f};
	uint64_t state = 11;

	for (size_t n_rows = 1; n_rows <= MAX_ROWS; n_rows += 3)
		for (size_t a = 0; a < COUNT(scales); a++)
			for (int one_large = 0; one_large < 2; one_large++)
			{
				size_t n_trellis = n_rows >= 6 ? n_rows / 2 : 0, n_lookups = 2 * n_rows + 2 * n_trellis, chunk;
				size_t largest_chunk = bqk_scan_is_narrow(n_rows, n_trellis) ? n_lookups : BQK_SCAN_CHUNK;
				size_t sort_ends = bqk_scan_is_narrow(n_rows, n_trellis) ? n_lookups : 4 * n_trellis;
				uint32_t total = 0, n_cut = 0, n_sums = 0;
				double exact = 0.0, high_sum = 0.0;
				float delta, top;

				with("rows=%zu scale=%g one_large=%d", n_rows, (double) scales[a], one_large);
				for (size_t i = 0; i < n_lookups * 16; i++)
					values[i] = scales[a] * ((float) (random_bits(&state) % 2001) / 1000.0f - 1.0f) *
								(one_large && i / 16 != 1 ? 0.01f : 1.0f);
				CHECK_INT(bqk_scan_lut(values, n_rows, n_trellis, luts[0], &delta, &top), BQK_OK);
				for (size_t m = 0; m < n_lookups; m++)
				{
					uint8_t largest = 0;
					float high = values[m * 16];

					for (size_t j = 0; j < 16; j++)
					{
						largest = luts[0][m * 16 + j] > largest ? luts[0][m * 16 + j] : largest;
						high = values[m * 16 + j] > high ? values[m * 16 + j] : high;
					}
					for (size_t j = 0; j < 16; j++)
					{
						double off = (double) high - values[m * 16 + j] - (double) delta * luts[0][m * 16 + j];

						CHECK(off >= -0.5001 * delta - 1e-6 * scales[a] - 1e-36);
						if (luts[0][m * 16 + j] < BQK_SCAN_ENTRY)
							CHECK(off <= 0.5001 * delta + 1e-6 * scales[a] + 1e-36);
						else
							CHECK(one_large || n_rows == 1);
					}
					high_sum += high;
					total += largest;
				}
				for (size_t code = 0; code < 200; code++)
					for (size_t m = 0; m < n_lookups; m += chunk)
					{
						uint32_t reached = 0;

						for (chunk = 0; chunk < largest_chunk && m + chunk < (m < sort_ends ? sort_ends : n_lookups);
							 chunk++)
							reached += luts[0][(m + chunk) * 16 + random_bits(&state) % 16];
						n_cut += reached > 255;
						n_sums++;
					}
				CHECK(n_cut <= (one_large ? n_sums / 5 : largest_chunk == n_lookups ? n_sums / 8 : n_sums / 12));
				CHECK(bqk_scan_is_narrow(n_rows, n_trellis) || total <= UINT16_MAX);
				exact = high_sum - top;
				CHECK((exact < 0 ? -exact : exact) <= 1e-5 * scales[a] * (double) n_lookups);
			}
}

static void
entry_points_refuse_what_they_cannot_take(void)
{
	float delta, top;
	uint32_t source[8] = {0, 1, 2, 3, 4, 5, 6, 8}, ids[BQK_SCAN_BLOCK];
	uint8_t code = 0xff, block[BQK_SCAN_BLOCK];

	with("-");
	values[3] = INFINITY;
	CHECK_INT(bqk_scan_lut(values, 1, 0, luts[0], &delta, &top), BQK_ERANGE);
	values[3] = 0.0f;
	CHECK_INT(bqk_scan_lut(values, 1, 2, luts[0], &delta, &top), BQK_EINVAL);
	CHECK_INT(bqk_scan_lut(values, BQK_SCAN_LOOKUPS, 0, luts[0], &delta, &top), BQK_EINVAL);
	for (size_t c = 0; c < BQK_SCAN_BLOCK; c++)
		ids[c] = c == 5 ? 0 : BQK_SCAN_NONE;
	CHECK_INT(bqk_scan_pack(&code, 1, ids, 1, source, 1, block), BQK_EINVAL);
	source[7] = BQK_SCAN_NONE;
	CHECK_INT(bqk_scan_pack(&code, 1, ids, 1, source, 1, block), BQK_OK);
	for (size_t c = 0; c < BQK_SCAN_BLOCK; c++)
		CHECK_INT(block[c], c == 5 ? 0x7f : 0);
}

int
main(void)
{
	gblocks = guard_new(sizeof(blocks));
	gluts = guard_new(sizeof(luts));
	gpositions = guard_new(MAX_QUERIES * MAX_CODES * sizeof(uint32_t));
	gsums = guard_new(MAX_QUERIES * MAX_CODES * sizeof(uint16_t));
	RUN(entry_points_refuse_what_they_cannot_take);
	RUN(rounded_tables_cannot_overflow);
	RUN(sums_equal_their_definition_and_stay_in_bounds);
	return finish();
}
