/* Limits of the sums of a scan; scan_limits.h. */
#include "scan_limits.h"
#include "fastscan.h"

#include <math.h>
#include <string.h>

/* fmaxf is a call into libm. */
static inline float
larger(float a, float b)
{
	return a > b ? a : b;
}

/* Largest sum that a code of the segment may have whose bound, in floats, does not exceed the distance:
 *     w f_add + g_add - scale (top - delta sum) <= distance
 * <=> delta sum <= top - r / scale - w f_add / scale,    r = g_add - distance.
 * Where the query's weight w is negative, the codes of the largest f_add come first.
 * With bins the largest sum is that of the code with the least quotients, and two look-ups say how far below it others'
 * are; an entry above BQK_SCAN_ENTRY can be cut down to it. Where that sum passes what sums can be, by `over`, a code's
 * limit is had from the largest that they can be, if both entries are lower by as much. Without bins the quotients are
 * those of the segment's extremes. Entries are computed in float32: each is off by at most 4 * 2^-23 of the largest
 * number that it comes from, over delta, and by 127 * 2^-23.
 * Rounding: a bound is five operations on numbers up to `size`, each off by at most 2^-24 of it. */
void
bqk_scan_set_limits(const bqk_scan *scan, const bqk_segment *segment, const bqk_scan_query *query, float distance,
					bqk_scan_limits *out)
{
	double g_add = query->g_add[segment->list], r, size, limit, inv;
	float weight = query->g_weight[segment->list];
	float part[32], least[2], largest = 0.0f, slope, step, over;
	const float *bins = scan->factor_bins, *inverse;
	uint32_t most = bqk_scan_largest(scan->n_rows, scan->n_trellis);

	memset(out->luts, 0, sizeof(out->luts));
	out->sum = most;
	if (!(query->delta > 0.0f) || !(segment->scale_min > 0.0f) || distance == INFINITY)
		return;
	size = fabs((double) weight) * fmax(fabs((double) segment->f_add_min), fabs((double) segment->f_add_max)) +
		   fabs(g_add) + segment->scale_max * (fabs((double) query->top) + (double) query->delta * most);
	r = g_add - distance - size * 0x1p-20;
	inv = 1.0 / query->delta;
	if (!bins)
	{
		double least_add = (double) weight * (weight < 0.0f ? segment->f_add_max : segment->f_add_min);
		double room = -(r + least_add), scale = room >= 0 ? segment->scale_min : segment->scale_max;

		limit = (query->top + room / scale) * inv + 1.0;
		out->sum = limit < 0 ? -1 : limit < most ? (int64_t) limit : most;
		return;
	}
	inverse = r >= 0 ? bins : bins + 16;
	slope = (float) r;
	step = (float) inv;
	for (size_t i = 0; i < 16; i++)
	{
		part[i] = slope * inverse[i];
		part[16 + i] = weight * bins[(weight < 0.0f ? 48 : 32) + i];
		largest = larger(largest, larger(fabsf(part[i]), fabsf(part[16 + i])));
	}
	for (size_t j = 0; j < 2; j++)
	{
		least[j] = part[16 * j];
		for (size_t i = 1; i < 16; i++)
			least[j] = part[16 * j + i] < least[j] ? part[16 * j + i] : least[j];
	}
	limit = ((double) query->top - least[0] - least[1] + largest * 0x1p-20) * inv + 0x1p-14;
	if (limit < 0)
	{
		out->sum = -1;
		return;
	}
	over = limit > most ? (float) ((limit - most) * (1.0 + 0x1p-20)) : 0.0f;
	out->sum = limit < most ? (int64_t) limit : most;
	for (size_t i = 0; i < 32; i++)
	{
		float entry = (part[i] - least[i / 16]) * step - over;

		entry = larger(entry, 0.0f);
		out->luts[i] = (uint8_t) (int) (entry < BQK_SCAN_ENTRY ? entry : BQK_SCAN_ENTRY);
	}
}
