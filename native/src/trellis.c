/* Trellis-coded quantization: scale and levels of a vector, packing and unpacking. */
#include "trellis.h"

#include <math.h>
#include <string.h>

int
bqk_trellis_ok(const bqk_trellis *t)
{
	if (t->dim == 0 || t->dim > BQK_MAX_DIM)
		return 0;
	for (size_t i = 0; i < t->dim; i++)
		if (t->bits[i] < 1 || t->bits[i] > 8 || (i > 0 && t->bits[i] > t->bits[i - 1]))
			return 0;
	return bqk_trellis_bits(t) <= 8 * (size_t) t->code_nbytes;
}

size_t
bqk_trellis_work(size_t dim)
{
	return (3 * BQK_LANES + 2) * dim;
}

void
bqk_trellis_lanes_init(bqk_trellis_lanes *lanes, const bqk_trellis *t, void *work)
{
	size_t m = t->dim;

	lanes->x = work;
	lanes->y = lanes->x + m * BQK_LANES;
	lanes->u = (int32_t *) (lanes->y + m * BQK_LANES);
	lanes->weight = lanes->y + 2 * m * BQK_LANES;
	lanes->inverse = lanes->weight + m;
	lanes->total = 0.0f;
	for (size_t i = 0; i < m; i++)
	{
		lanes->weight[i] = t->deviation[i] * t->deviation[i];
		lanes->inverse[i] = 1.0f / t->deviation[i];
		lanes->total += lanes->weight[i];
	}
}

void
bqk_trellis_search(const bqk_trellis_lanes *lanes, const bqk_trellis *t, const float *norm2, int rounds, float *rescale)
{
	float scale[BQK_LANES];

	for (size_t l = 0; l < BQK_LANES; l++)
		scale[l] = norm2[l] > 0.0f ? sqrtf(lanes->total / norm2[l]) : 0.0f;
	for (int round = 0; round < rounds; round++)
	{
		float xv[BQK_LANES], vv[BQK_LANES];

		bqk_active()->trellis(lanes->x, scale, t->bits, lanes->weight, t->dim, lanes->y, lanes->u, xv, vv);
		for (size_t l = 0; l < BQK_LANES; l++)
		{
			rescale[l] = sqrtf(norm2[l] / vv[l]); /* no level is zero */
			scale[l] = xv[l] > 0.0f ? vv[l] / xv[l] : scale[l];
		}
	}
}

int
bqk_trellis_encode(const bqk_trellis *t, const float *o, size_t n, int rounds, uint8_t *codes, float *rescale,
				   float *levels, float *work)
{
	const size_t m = t->dim;
	bqk_trellis_lanes lanes;

	if (!bqk_trellis_ok(t) || rounds < 1)
		return BQK_EINVAL;
	bqk_trellis_lanes_init(&lanes, t, work);
	for (size_t first = 0; first < n; first += BQK_LANES)
	{
		size_t rows = n - first < BQK_LANES ? n - first : BQK_LANES;
		float lengths[BQK_LANES], norm2[BQK_LANES] = {0};

		if (rows < BQK_LANES)
			memset(lanes.x, 0, m * BQK_LANES * sizeof(float));
		for (size_t l = 0; l < rows; l++)
			for (size_t i = 0; i < m; i++)
				lanes.x[i * BQK_LANES + l] = o[(first + l) * m + i] * lanes.inverse[i];
		for (size_t i = 0; i < m * BQK_LANES; i++)
			norm2[i % BQK_LANES] += lanes.weight[i / BQK_LANES] * lanes.x[i] * lanes.x[i];
		bqk_trellis_search(&lanes, t, norm2, rounds, lengths);
		memcpy(rescale + first, lengths, rows * sizeof(float));
		for (size_t l = 0; l < rows; l++)
			for (size_t i = 0; i < m; i++)
				levels[(first + l) * m + i] = lanes.y[i * BQK_LANES + l] * t->deviation[i];
		bqk_active()->pack_trellis(t, lanes.u, rows, codes + first * t->code_nbytes);
	}
	return BQK_OK;
}

static inline int
get_bit(const uint8_t *code, size_t at)
{
	return code[at / 8] >> (at % 8) & 1;
}

int
bqk_trellis_decode(const bqk_trellis *t, const uint8_t *codes, size_t n, float *levels)
{
	int u[BQK_MAX_DIM];

	if (!bqk_trellis_ok(t))
		return BQK_EINVAL;
	for (size_t c = 0; c < n; c++, codes += t->code_nbytes, levels += t->dim)
	{
		size_t at = t->dim;
		int b1 = 0, b2 = 0, b3 = 0;

		for (size_t i = t->dim; i-- > 0;)
		{
			int b = get_bit(codes, i);

			u[i] = 2 * (b ^ b1 ^ b3) + b2;
			b3 = b2;
			b2 = b1;
			b1 = b;
		}
		for (int p = 1; p < t->bits[0]; p++)
		{
			size_t m = bqk_trellis_plane(t->bits, t->dim, p);

			for (size_t i = 0; i < m; i++)
				u[i] += get_bit(codes, at + i) << (t->bits[i] + 1 - p);
			at += m;
		}
		for (size_t i = 0; i < t->dim; i++)
			levels[i] = bqk_trellis_level(t->bits[i], u[i]) * t->deviation[i];
	}
	return BQK_OK;
}
