/* FastScan: codes into blocks, query look-up tables of 8 bits, and the scalar kernel, which is the oracle. Layout and
 * bounds: fastscan.h. */
#include "fastscan.h"

#include <math.h>
#include <string.h>

int
bqk_scan_pack(const uint8_t *codes, size_t code_nbytes, const uint32_t *ids, size_t n_blocks,
			  const uint32_t *source_bits, size_t n_rows, uint8_t *blocks)
{
	for (size_t i = 0; i < n_rows * 8; i++)
		if (source_bits[i] != BQK_SCAN_NONE && source_bits[i] / 8 >= code_nbytes)
			return BQK_EINVAL;
	memset(blocks, 0, n_blocks * n_rows * BQK_SCAN_BLOCK);
	for (size_t b = 0; b < n_blocks; b++, blocks += n_rows * BQK_SCAN_BLOCK, ids += BQK_SCAN_BLOCK)
		for (size_t c = 0; c < BQK_SCAN_BLOCK; c++)
		{
			const uint8_t *code;

			if (ids[c] == BQK_SCAN_NONE)
				continue;
			code = codes + (size_t) ids[c] * code_nbytes;
			for (size_t i = 0; i < n_rows * 8; i++)
				if (source_bits[i] != BQK_SCAN_NONE)
					blocks[i / 8 * BQK_SCAN_BLOCK + c] |=
						(uint8_t) ((code[source_bits[i] / 8] >> source_bits[i] % 8 & 1) << i % 8);
		}
	return BQK_OK;
}

/* Of the 16 entries of a look-up. */
typedef struct spread
{
	float low, high, mean, variance;
} spread;

/* Four at a time, for registers. */
static inline spread
spread_of(const float *values)
{
	float lows[4], highs[4], sums[4] = {0}, squares[4] = {0}, first = values[0];
	spread out;

	for (size_t i = 0; i < 4; i++)
		lows[i] = highs[i] = values[i];
	for (size_t j = 0; j < 16; j += 4)
		for (size_t i = 0; i < 4; i++)
		{
			float v = values[j + i], d = v - first; /* few digits are lost */

			lows[i] = v < lows[i] ? v : lows[i];
			highs[i] = v > highs[i] ? v : highs[i];
			sums[i] += d;
			squares[i] += d * d;
		}
	out.low = out.high = lows[0];
	for (size_t i = 0; i < 4; i++)
	{
		out.low = lows[i] < out.low ? lows[i] : out.low;
		out.high = highs[i] > out.high ? highs[i] : out.high;
	}
	out.mean = (sums[0] + sums[1] + sums[2] + sums[3]) / 16;
	out.variance = (squares[0] + squares[1] + squares[2] + squares[3]) / 16 - out.mean * out.mean;
	out.mean += first;
	return out;
}

/* What a chunk of look-ups has. */
typedef struct chunk
{
	double range, mean, variance;
} chunk;

/* Largest sum that need not be cut off. */
static double
reach_of(const chunk *c, double deviations)
{
	/* squares may be infinite, or zero, where ranges are not */
	return c->variance > 0.0 && c->variance < INFINITY ? c->mean + deviations * sqrt(c->variance) : c->range;
}

/* Trellis rows have four look-ups, other rows two. */
int
bqk_scan_lut(const float *values, size_t n_rows, size_t n_trellis, uint8_t *luts, float *delta, float *top)
{
	size_t n_derived = 4 * n_trellis, n_lookups = 2 * n_rows + 2 * n_trellis, in_chunk = 0;
	double largest = 0.0, all = 0.0, sum = 0.0, step;
	int narrow = bqk_scan_is_narrow(n_rows, n_trellis);
	chunk c = {0};
	float high, inv;

	if (n_trellis > n_rows || n_lookups > BQK_SCAN_LOOKUPS)
		return BQK_EINVAL;
	for (size_t m = 0; m < n_lookups; m++)
	{
		spread s = spread_of(values + m * 16);

		sum += s.high;
		memcpy(luts + m * 16, &s.high, sizeof(s.high)); /* for the second pass */
		c.range += (double) s.high - s.low;
		all += (double) s.high - s.low;
		c.mean += (double) s.high - s.mean;
		c.variance += s.variance;
		in_chunk++;
		if ((!narrow && (m + 1 == n_derived || in_chunk == BQK_SCAN_CHUNK)) || m + 1 == n_lookups)
		{
			largest = fmax(largest, reach_of(&c, narrow ? BQK_SCAN_DEVIATIONS_NARROW : BQK_SCAN_DEVIATIONS));
			c = (chunk) {0};
			in_chunk = 0;
		}
	}
	/* 1e-6: entries are computed in float32 */
	step = fmax(largest / 255.0, all / (65535.0 - 0.5 * (double) n_lookups)) * (1.0 + 1e-6);
	if (!(step < 1e30))
		return BQK_ERANGE;
	*delta = (float) step;
	*top = (float) sum;
	inv = *delta > 0.0f ? 1.0f / *delta : 0.0f;
	if (!(inv < INFINITY)) /* denormals: every code's sum is zero for every purpose */
		inv = *delta = 0.0f;
	for (size_t m = 0; m < n_lookups; m++)
	{
		memcpy(&high, luts + m * 16, sizeof(high));
		for (size_t j = 0; j < 16; j++)
		{
			float entry = (high - values[m * 16 + j]) * inv + 0.5f;

			luts[m * 16 + j] = (uint8_t) (int) (entry < BQK_SCAN_ENTRY ? entry : BQK_SCAN_ENTRY);
		}
	}
	return BQK_OK;
}

/* By way of variables: entries just stored one by one would have to be waited for as vectors. */
void
bqk_scan_values(const float *weights, size_t n_lookups, float *values)
{
	for (size_t m = 0; m < n_lookups; m++, weights += 4, values += 16)
	{
		float two[4] = {0.0f, weights[0], weights[1], weights[0] + weights[1]}, three[4];

		for (size_t j = 0; j < 4; j++)
		{
			three[j] = two[j] + weights[2];
			values[j] = two[j];
			values[4 + j] = three[j];
			values[8 + j] = two[j] + weights[3];
			values[12 + j] = three[j] + weights[3];
		}
	}
}

size_t
bqk_scan_prepare_work(const bqk_scan_stage *stage)
{
	return (2 * stage->n_rows + 2 * stage->n_trellis) * (4 + 16);
}

/* What a query's axes add to the bound. */
typedef struct totals
{
	double base, variance, reach, size;
} totals;

static inline void
add_axis(totals *t, const bqk_scan_stage *stage, const float *q, size_t i)
{
	double base = (double) stage->base[i] * q[i];

	t->base += base;
	t->size += fabs(base);
	t->variance += (double) stage->variance[i] * q[i] * q[i];
	t->reach += (double) stage->reach[i] * fabsf(q[i]);
}

/* In two sums each, which need not wait for each other. */
static totals
sum_axes(const bqk_scan_stage *stage, const float *q)
{
	totals even = {0}, odd = {0};
	size_t i = 0;

	for (; i + 2 <= stage->dim; i += 2)
	{
		add_axis(&even, stage, q, i);
		add_axis(&odd, stage, q, i + 1);
	}
	if (i < stage->dim)
		add_axis(&even, stage, q, i);
	return (totals) {even.base + odd.base, even.variance + odd.variance, even.reach + odd.reach, even.size + odd.size};
}

/* Rounding of L look-ups is off by delta / 2 each at most, by delta sqrt(L / 12) as a standard deviation. */
int
bqk_scan_prepare(const bqk_scan_stage *stage, const float *q, float eps0, uint8_t *luts, float *delta, float *top,
				 float *work)
{
	size_t n_lookups = 2 * stage->n_rows + 2 * stage->n_trellis;
	double slack;
	totals sums;
	float *values = work + n_lookups * 4;
	int status;

	for (size_t i = 0; i < n_lookups * 4; i++)
		work[i] = stage->axis[i] == BQK_SCAN_NONE ? 0.0f : stage->coef[i] * q[stage->axis[i]];
	bqk_scan_values(work, n_lookups, values);
	status = bqk_scan_lut(values, stage->n_rows, stage->n_trellis, luts, delta, top);
	if (status != BQK_OK)
		return status;
	sums = sum_axes(stage, q);
	sums.variance += (double) *delta * *delta * (double) n_lookups / 12.0;
	/* 1e-5: sums of float32 values */
	sums.reach += 0.5 * *delta * (double) n_lookups + 1e-5 * (sums.size + fabs((double) *top));
	slack = fmin(eps0 * sqrt(sums.variance), sums.reach);
	*top = (float) (*top + sums.base + slack);
	return BQK_OK;
}

static uint8_t
trellis_byte(const uint8_t *block, size_t n_trellis, size_t i, size_t c)
{
	return i < n_trellis ? block[i * BQK_SCAN_BLOCK + c] : block[(i - n_trellis) * BQK_SCAN_BLOCK + c] >> 1;
}

/* Ends a chunk. */
static void
add_chunk(uint32_t *sum, uint32_t *chunk)
{
	*sum += *chunk < 255 ? *chunk : 255;
	*chunk = 0;
}

static uint32_t
sum_of_code(const bqk_scan_rows *rows, const uint8_t *block, const bqk_scan_found *found, size_t c)
{
	const uint8_t *lut = found->luts;
	size_t n_trellis = rows->n_trellis;
	int narrow = bqk_scan_is_narrow(rows->n_rows, n_trellis);
	uint32_t sum = 0, chunk = 0;

	for (size_t i = 0; i < n_trellis; i++, lut += 64)
	{
		uint8_t bits = block[i * BQK_SCAN_BLOCK + c];

		chunk += lut[bits & 15] + lut[16 + (bits >> 4)];
		bits ^= trellis_byte(block, n_trellis, i + 1, c) ^ trellis_byte(block, n_trellis, i + 3, c);
		chunk += lut[32 + (bits & 15)] + lut[48 + (bits >> 4)];
		if (!narrow && (i + 1 == n_trellis || (i + 1) % BQK_SCAN_CHUNK_TRELLIS == 0))
			add_chunk(&sum, &chunk);
	}
	for (size_t i = n_trellis; i < rows->n_rows; i++, lut += 32)
	{
		uint8_t bits = block[i * BQK_SCAN_BLOCK + c];

		chunk += lut[bits & 15] + lut[16 + (bits >> 4)];
		if (!narrow && (i + 1 == rows->n_rows || (i + 1 - n_trellis) % BQK_SCAN_CHUNK_ROWS == 0))
			add_chunk(&sum, &chunk);
	}
	add_chunk(&sum, &chunk);
	return sum;
}

/* The threshold of a code. */
static uint32_t
limit_of_code(const bqk_scan_rows *rows, const uint8_t *block, const bqk_scan_found *found, size_t c)
{
	uint8_t bits;
	uint32_t by;

	if (!rows->n_factors)
		return found->threshold;
	bits = block[rows->n_rows * BQK_SCAN_BLOCK + c];
	by = (uint32_t) found->factor_luts[bits & 15] + found->factor_luts[16 + (bits >> 4)];
	return by < found->threshold ? found->threshold - by : 0;
}

void
bqk_fastscan_scalar(const bqk_scan_rows *rows, bqk_scan_found *found, size_t n_queries)
{
	size_t stride = (rows->n_rows + rows->n_factors) * BQK_SCAN_BLOCK;

	for (size_t q = 0; q < n_queries; q++)
	{
		bqk_scan_found *f = found + q;

		f->n = 0;
		for (size_t at = 0; at < rows->n_blocks; at++)
			for (size_t c = 0; c < BQK_SCAN_BLOCK; c++)
			{
				size_t b = n_queries == 1 && rows->ahead ? bqk_scan_block_at(rows, at) : at;
				const uint8_t *block = rows->blocks + b * stride;
				uint32_t sum = sum_of_code(rows, block, f, c);

				if (sum > limit_of_code(rows, block, f, c))
					continue;
				f->positions[f->n] = (uint32_t) (b * BQK_SCAN_BLOCK + c);
				f->sums[f->n++] = (uint16_t) sum;
			}
	}
}

bqk_scan_fn
bqk_fastscan(void)
{
	const char *isa = bqk_active()->name;

#if defined(__x86_64__)
	if (strcmp(isa, "avx512") == 0)
		return bqk_fastscan_avx512;
	if (strcmp(isa, "avx2") == 0)
		return bqk_fastscan_avx2;
#elif defined(__aarch64__)
	if (strcmp(isa, "neon") == 0)
		return bqk_fastscan_neon;
#endif
	(void) isa;
	return bqk_fastscan_scalar;
}
