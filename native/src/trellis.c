/* Trellis-coded quantization: scale and levels of a vector, packing and unpacking; the product with the axes before it.
 */
#include "trellis.h"

#include <math.h>
#include <string.h>

static size_t
count_bits(const bqk_trellis *t)
{
	size_t n = 0;

	for (size_t i = 0; i < t->dim; i++)
		n += t->bits[i];
	return n;
}

static int
trellis_ok(const bqk_trellis *t)
{
	if (t->dim == 0 || t->dim > BQK_MAX_DIM)
		return 0;
	for (size_t i = 0; i < t->dim; i++)
		if (t->bits[i] < 1 || t->bits[i] > 8 || (i > 0 && t->bits[i] > t->bits[i - 1]))
			return 0;
	return count_bits(t) <= 8 * (size_t) t->code_nbytes;
}

size_t
bqk_trellis_work(size_t dim)
{
	return (3 * BQK_LANES + 2) * dim;
}

/* Axes of more than p bits: they have the first place, because bits descend. */
static size_t
plane_size(const bqk_trellis *t, int p)
{
	size_t m = t->dim;

	while (m > 0 && t->bits[m - 1] <= p)
		m--;
	return m;
}

/* Bits of BQK_LANES codes, written from the last to the first. */
typedef struct writer
{
	uint64_t word[BQK_LANES];
	size_t at; /* bits before the last one written */
	size_t n, nbytes;
	uint8_t *codes;
} writer;

static inline void
flush(writer *w)
{
	size_t byte = w->at / 8, left = w->nbytes - byte;

	for (size_t l = 0; l < w->n; l++)
		memcpy(w->codes + l * w->nbytes + byte, &w->word[l], left < 8 ? left : 8);
	memset(w->word, 0, sizeof(w->word));
}

static inline void
put_bits(writer *w, const int32_t *bit)
{
	for (size_t l = 0; l < BQK_LANES; l++)
		w->word[l] = w->word[l] << 1 | (uint64_t) bit[l];
	if (--w->at % 64 == 0)
		flush(w);
}

/* Trellis bits first, axis by axis; then plane 1 with the highest free bit of every axis of 2 bits or more, plane 2
 * with the next one of those of 3 or more, and so on. `u` has a stride of BQK_LANES. */
static void
pack(const bqk_trellis *t, const int32_t *u, size_t n, uint8_t *codes)
{
	writer w = {.at = count_bits(t), .n = n, .nbytes = t->code_nbytes, .codes = codes};
	int32_t b1[BQK_LANES] = {0}, b2[BQK_LANES] = {0}, b3[BQK_LANES] = {0}, bit[BQK_LANES];

	memset(codes, 0, n * t->code_nbytes);
	for (int p = t->bits[0] - 1; p >= 1; p--)
		for (size_t i = plane_size(t, p); i-- > 0;)
		{
			for (size_t l = 0; l < BQK_LANES; l++)
				bit[l] = u[i * BQK_LANES + l] >> (t->bits[i] + 1 - p) & 1;
			put_bits(&w, bit);
		}
	for (size_t i = t->dim; i-- > 0;)
	{
		for (size_t l = 0; l < BQK_LANES; l++)
		{
			bit[l] = (u[i * BQK_LANES + l] >> 1 & 1) ^ b1[l] ^ b3[l];
			b3[l] = b2[l];
			b2[l] = b1[l];
			b1[l] = bit[l];
		}
		put_bits(&w, bit);
	}
}

/* Up to BQK_LANES vectors, one per lane: first the levels nearest to the vector at the scale where the levels fit, then
 * in turn the best scale for the levels and the best levels for the scale. Neither step lowers the cosine. */
static void
encode_lanes(const bqk_trellis *t, const float *o, size_t n, int rounds, uint8_t *codes, float *rescale, float *levels,
			 float *work)
{
	const bqk_kernels *kern = bqk_active();
	size_t m = t->dim;
	/* x: coordinates in deviations; y: the same at the scale of the search, then levels */
	float *x = work, *y = x + m * BQK_LANES, *weight = y + 2 * m * BQK_LANES, *inverse = weight + m;
	int32_t *u = (int32_t *) (y + m * BQK_LANES);
	float scale[BQK_LANES], norm2[BQK_LANES] = {0}, total = 0.0f;

	for (size_t i = 0; i < m; i++)
	{
		weight[i] = t->deviation[i] * t->deviation[i];
		inverse[i] = 1.0f / t->deviation[i];
		total += weight[i];
	}
	if (n < BQK_LANES)
		memset(x, 0, m * BQK_LANES * sizeof(float));
	for (size_t l = 0; l < n; l++)
		for (size_t i = 0; i < m; i++)
			x[i * BQK_LANES + l] = o[l * m + i] * inverse[i];
	for (size_t i = 0; i < m; i++)
		for (size_t l = 0; l < BQK_LANES; l++)
			norm2[l] += weight[i] * x[i * BQK_LANES + l] * x[i * BQK_LANES + l];
	for (size_t l = 0; l < BQK_LANES; l++)
		scale[l] = norm2[l] > 0.0f ? sqrtf(total / norm2[l]) : 0.0f;
	for (int round = 0; round < rounds; round++)
	{
		float xv[BQK_LANES] = {0}, vv[BQK_LANES] = {0};

		for (size_t i = 0; i < m * BQK_LANES; i += BQK_LANES)
			for (size_t l = 0; l < BQK_LANES; l++)
				y[i + l] = x[i + l] * scale[l];
		kern->trellis(y, t->bits, weight, m, u);
		for (size_t i = 0; i < m; i++)
			for (size_t l = 0; l < BQK_LANES; l++)
			{
				float v = y[i * BQK_LANES + l], wv = weight[i] * v;

				xv[l] += wv * x[i * BQK_LANES + l];
				vv[l] += wv * v;
			}
		for (size_t l = 0; l < BQK_LANES; l++)
		{
			if (l < n)
				rescale[l] = sqrtf(norm2[l] / vv[l]); /* no level is zero */
			scale[l] = xv[l] > 0.0f ? vv[l] / xv[l] : scale[l];
		}
	}
	for (size_t l = 0; l < n; l++)
		for (size_t i = 0; i < m; i++)
			levels[l * m + i] = y[i * BQK_LANES + l] * t->deviation[i];
	pack(t, u, n, codes);
}

int
bqk_trellis_encode(const bqk_trellis *t, const float *o, size_t n, int rounds, uint8_t *codes, float *rescale,
				   float *levels, float *work)
{
	if (!trellis_ok(t) || rounds < 1)
		return BQK_EINVAL;
	for (size_t i = 0; i < n; i += BQK_LANES)
		encode_lanes(t, o + i * t->dim, n - i < BQK_LANES ? n - i : BQK_LANES, rounds, codes + i * t->code_nbytes,
					 rescale + i, levels + i * t->dim, work);
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

	if (!trellis_ok(t))
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
			size_t m = plane_size(t, p);

			for (size_t i = 0; i < m; i++)
				u[i] += get_bit(codes, at + i) << (t->bits[i] + 1 - p);
			at += m;
		}
		for (size_t i = 0; i < t->dim; i++)
			levels[i] = bqk_trellis_level(t->bits[i], u[i]) * t->deviation[i];
	}
	return BQK_OK;
}

void
bqk_project(const float *x, size_t n, const float *matrix, size_t dim, size_t m, float *out)
{
	bqk_active()->project(x, n, matrix, dim, m, out);
}
