/* Steps of SAQ encoding on BQK_LANES rows around the search: the oracle of lanes_kernel.h. */
#include "products.h"

#include <math.h>
#include <string.h>

static void
round_pairs(const float *x, float power, float scale, size_t dim, int32_t *out)
{
	uint32_t *pair = (uint32_t *) out;

	for (size_t i = 0; i < dim; i++)
	{
		uint32_t value = (uint32_t) (bqk_rounded_value(x[i], power, scale) & 0xffff);

		if (i % 2)
			pair[i / 2] |= value << 16;
		else
			pair[i / 2] = value;
	}
}

static void
multiply(const int32_t *pairs, const int16_t *columns, size_t n_pairs, size_t n_groups, int32_t *sums)
{
	const int16_t *x = (const int16_t *) pairs;

	memset(sums, 0, n_groups * BQK_COLUMN_GROUP * BQK_LANES * sizeof(*sums));
	for (size_t g = 0; g < n_groups; g++, sums += BQK_COLUMN_GROUP * BQK_LANES)
		for (size_t p = 0; p < n_pairs; p++, columns += 2 * BQK_COLUMN_GROUP)
			for (size_t j = 0; j < BQK_COLUMN_GROUP; j++)
				for (size_t l = 0; l < BQK_LANES; l++)
					for (size_t i = 0; i < 2; i++)
						sums[j * BQK_LANES + l] += x[2 * (p * BQK_LANES + l) + i] * columns[2 * j + i];
}

static void
coordinates(const bqk_rounded *r, const float *scale, const float *weight, size_t m, float *x, float *norm2)
{
	memset(norm2, 0, BQK_LANES * sizeof(float));
	for (size_t i = 0; i < m * BQK_LANES; i++)
	{
		size_t l = i % BQK_LANES;

		x[i] = (float) r->sums[i] * r->factor[l] * scale[i / BQK_LANES] * r->unit[l];
		norm2[l] += weight[i / BQK_LANES] * x[i] * x[i];
	}
}

static void
nearest_lists(const bqk_rounded *r, const float *scale, const float *half_norms, size_t n, int32_t *found)
{
	float least[BQK_LANES];

	for (size_t l = 0; l < BQK_LANES; l++)
	{
		least[l] = INFINITY;
		found[l] = 0;
	}
	for (size_t i = 0; i < n * BQK_LANES; i++)
	{
		size_t l = i % BQK_LANES, j = i / BQK_LANES;
		float half = half_norms[j] - (float) r->sums[i] * r->factor[l] * scale[j] * r->unit[l];

		if (half < least[l])
		{
			least[l] = half;
			found[l] = (int32_t) j;
		}
	}
}

static void
saq_sums(const float *x, const float *y, const float *share, const float *length, size_t m, bqk_saq_sums *sums)
{
	memset(sums, 0, sizeof(*sums));
	for (size_t i = 0; i < m * BQK_LANES; i++)
	{
		size_t l = i % BQK_LANES, axis = i / BQK_LANES;
		float shared = share[axis] * x[i];

		sums->xy[l] += shared * y[i];
		sums->xx[l] += shared * x[i];
		sums->kept[l] += length[axis] * x[i] * x[i];
		sums->decoded[l] += length[axis] * y[i] * y[i];
	}
}
