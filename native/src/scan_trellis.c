/* Products of single trellis codes with float queries: queries, levels, and the scalar kernel, which is the oracle.
 */
#include "scan_trellis.h"
#include "trellis.h"

#include <string.h>

size_t
bqk_scan_trellis_nbytes(const bqk_trellis *t)
{
	size_t padded = bqk_trellis_padded(t);

	return sizeof(bqk_trellis_query) + padded * (sizeof(float) + sizeof(uint32_t) + t->bits[0] - 1u) +
		   padded / BQK_SCAN_AXES;
}

/* Bits descend from axis to axis. */
static uint8_t
kind_of(const bqk_trellis *t, size_t first)
{
	size_t last = first + BQK_SCAN_AXES < t->dim ? first + BQK_SCAN_AXES - 1 : t->dim - 1u;

	if (first >= t->dim)
		return 1;
	if (t->bits[first] > BQK_SCAN_MAX_RATE)
		return BQK_SCAN_EACH;
	return t->bits[first] <= 3 && t->bits[first] == t->bits[last] ? t->bits[first] : BQK_SCAN_GATHERED;
}

void
bqk_scan_trellis_query(const bqk_trellis *t, const float *q, void *z)
{
	bqk_trellis_query *query = z;
	size_t at = t->dim, m = t->dim;

	for (size_t i = 0; i < bqk_trellis_padded(t); i++)
		query->q[i] = i < t->dim ? q[i] * t->deviation[i] : 0.0f;
	if (query->plane[8] != 0) /* what follows depends on the trellis alone */
		return;
	for (int p = 1; p < 9; p++)
	{
		while (m > 0 && t->bits[m - 1] <= p)
			m--;
		query->plane[p] = (uint32_t) at;
		at += m;
	}
	for (int p = 1; p < t->bits[0]; p++)
	{
		uint8_t *places = bqk_trellis_places(t, query, p);

		for (size_t i = 0; i < bqk_trellis_padded(t); i++)
		{
			int bits = i < t->dim ? t->bits[i] : 0;

			places[i] = p < bits && bits <= BQK_SCAN_MAX_RATE ? (uint8_t) (1 << (bits + 1 - p)) : 0;
		}
	}
	for (size_t i = 0; i < bqk_trellis_padded(t); i++)
		bqk_trellis_starts(t, query)[i] = i < t->dim ? (uint32_t) bqk_levels_at(t->bits[i]) : 0;
	for (size_t i = 0; i < bqk_trellis_padded(t); i += BQK_SCAN_AXES)
		bqk_trellis_kinds(t, query)[i / BQK_SCAN_AXES] = kind_of(t, i);
}

size_t
bqk_scan_levels_count(const bqk_trellis *t)
{
	return bqk_levels_at(t->bits[0] + 1);
}

void
bqk_scan_levels(const bqk_trellis *t, float *levels)
{
	for (int bits = 1; bits <= t->bits[0]; bits++)
		for (int u = 0; u < 2 << bits; u++)
			levels[bqk_levels_at(bits) + (size_t) u] = bqk_trellis_level(bits, u);
}

static inline unsigned
bit_at(const uint8_t *code, size_t at)
{
	return code[at / 8] >> (at % 8) & 1u;
}

float
bqk_trellis_product_scalar(const bqk_trellis *t, const float *levels, const uint8_t *code, const void *z)
{
	const bqk_trellis_query *query = z;
	unsigned b1 = 0, b2 = 0, b3 = 0;
	float lane[BQK_LANES] = {0};

	/* Lanes add up from the last axis to the first: the trellis is read that way. */
	for (size_t i = t->dim; i-- > 0;)
	{
		unsigned b = bit_at(code, i), u = 2 * (b ^ b1 ^ b3) + b2;
		int bits = t->bits[i];

		for (int p = 1; p < bits; p++)
			u += bit_at(code, query->plane[p] + i) << (bits + 1 - p);
		lane[i % BQK_LANES] += levels[bqk_levels_at(bits) + u] * query->q[i];
		b3 = b2;
		b2 = b1;
		b1 = b;
	}
	return bqk_fold(lane);
}

int
bqk_trellis_levels(int bits, float *levels)
{
	if (bits < 1 || bits > 8)
		return BQK_EINVAL;
	for (int u = 0; u < 2 << bits; u++)
		levels[u] = bqk_trellis_level(bits, u);
	return BQK_OK;
}
