/* Trellis-coded quantization: scale and levels of a vector, packing, and integer dots with a prepared query. */
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
bqk_trellis_bits(const bqk_trellis *t)
{
	return count_bits(t);
}

size_t
bqk_trellis_work(size_t dim)
{
	return (3 * BQK_LANES + 1) * dim;
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

static inline int
get_bit(const uint8_t *code, size_t at)
{
	return code[at / 8] >> (at % 8) & 1;
}

static inline void
put_bit(uint8_t *code, size_t at, int bit)
{
	code[at / 8] |= (uint8_t) (bit << (at % 8));
}

/* Trellis bits first, axis by axis; then plane 1 with the highest free bit of every axis of 2 bits or more, plane 2
 * with the next one of those of 3 or more, and so on. `levels` has a stride of BQK_LANES. */
static void
pack(const bqk_trellis *t, const float *levels, uint8_t *code)
{
	size_t at = t->dim;
	int b1 = 0, b2 = 0, b3 = 0;

	memset(code, 0, t->code_nbytes);
	for (size_t i = t->dim; i-- > 0;)
	{
		int u = (int) (levels[i * BQK_LANES] + bqk_trellis_middle(t->bits[i]));
		int b = (u >> 1 & 1) ^ b1 ^ b3;

		put_bit(code, i, b);
		b3 = b2;
		b2 = b1;
		b1 = b;
	}
	for (int p = 1; p < t->bits[0]; p++)
	{
		size_t m = plane_size(t, p);

		for (size_t i = 0; i < m; i++)
		{
			int u = (int) (levels[i * BQK_LANES] + bqk_trellis_middle(t->bits[i]));

			put_bit(code, at + i, u >> (t->bits[i] + 1 - p) & 1);
		}
		at += m;
	}
}

/* Up to BQK_LANES vectors, one per lane: first the levels nearest to the vector at the scale where the steps fit, then
 * in turn the best scale for the levels and the best levels for the scale. Neither step lowers the cosine. */
static void
encode_lanes(const bqk_trellis *t, const float *o, size_t n, int rounds, uint8_t *codes, float *rescale, float *work)
{
	const bqk_kernels *kern = bqk_active();
	size_t m = t->dim;
	float *x = work, *y = x + m * BQK_LANES, *weight = y + 2 * m * BQK_LANES;
	int32_t *decisions = (int32_t *) (y + m * BQK_LANES);
	float scale[BQK_LANES], kept[BQK_LANES] = {0}, weighted[BQK_LANES] = {0}, norm2[BQK_LANES] = {0};

	for (size_t i = 0; i < m; i++)
	{
		weight[i] = t->weight[i] * t->step[i] * t->step[i];
		for (size_t l = 0; l < BQK_LANES; l++)
		{
			float v = l < n ? o[l * m + i] : 0.0f;

			x[i * BQK_LANES + l] = v;
			kept[l] += v * v;
			weighted[l] += t->weight[i] * v * v;
		}
	}
	for (size_t l = 0; l < BQK_LANES; l++)
		scale[l] = weighted[l] > 0.0f ? t->norm / sqrtf(weighted[l]) : 0.0f;
	for (int round = 0; round < rounds; round++)
	{
		float ov[BQK_LANES] = {0}, vv[BQK_LANES] = {0};

		for (size_t i = 0; i < m; i++)
			for (size_t l = 0; l < BQK_LANES; l++)
				y[i * BQK_LANES + l] = x[i * BQK_LANES + l] * scale[l] / t->step[i];
		kern->trellis(y, t->bits, weight, m, decisions);
		memset(norm2, 0, sizeof(norm2));
		for (size_t i = 0; i < m; i++)
			for (size_t l = 0; l < BQK_LANES; l++)
			{
				float v = y[i * BQK_LANES + l] * t->step[i];

				norm2[l] += v * v;
				ov[l] += t->weight[i] * v * x[i * BQK_LANES + l];
				vv[l] += t->weight[i] * v * v;
			}
		for (size_t l = 0; l < BQK_LANES; l++)
			scale[l] = ov[l] > 0.0f ? vv[l] / ov[l] : scale[l];
	}
	for (size_t l = 0; l < n; l++)
	{
		rescale[l] = sqrtf(kept[l] / norm2[l]); /* no level is zero */
		pack(t, y + l, codes + l * t->code_nbytes);
	}
}

int
bqk_trellis_encode(const bqk_trellis *t, const float *o, size_t n, int rounds, uint8_t *codes, float *rescale,
				   float *work)
{
	if (!trellis_ok(t) || rounds < 1)
		return BQK_EINVAL;
	for (size_t i = 0; i < n; i += BQK_LANES)
		encode_lanes(t, o + i * t->dim, n - i < BQK_LANES ? n - i : BQK_LANES, rounds, codes + i * t->code_nbytes,
					 rescale + i, work);
	return BQK_OK;
}

int
bqk_trellis_decode(const bqk_trellis *t, const uint8_t *codes, size_t n, float *levels)
{
	if (!trellis_ok(t))
		return BQK_EINVAL;
	for (size_t c = 0; c < n; c++, codes += t->code_nbytes, levels += t->dim)
	{
		size_t at = t->dim;
		int b1 = 0, b2 = 0, b3 = 0;

		for (size_t i = t->dim; i-- > 0;)
		{
			int b = get_bit(codes, i);

			levels[i] = (float) (2 * (b ^ b1 ^ b3) + b2) - bqk_trellis_middle(t->bits[i]);
			b3 = b2;
			b2 = b1;
			b1 = b;
		}
		for (int p = 1; p < t->bits[0]; p++)
		{
			size_t m = plane_size(t, p);

			for (size_t i = 0; i < m; i++)
				levels[i] += (float) (get_bit(codes, at + i) << (t->bits[i] + 1 - p));
			at += m;
		}
		for (size_t i = 0; i < t->dim; i++)
			levels[i] *= t->step[i];
	}
	return BQK_OK;
}

size_t
bqk_trellis_query_nbytes(const bqk_trellis *t)
{
	return bqk_query_nbytes(count_bits(t), 8) + bqk_query_nbytes(t->dim, 8);
}

static inline int8_t
round_to_i8(float v)
{
	return (int8_t) (v + (v < 0.0f ? -0.5f : 0.5f));
}

int
bqk_trellis_query(const bqk_trellis *t, const float *q, int8_t *z, float *delta, float *offset)
{
	int8_t *derived;
	size_t at = t->dim;
	float max = 0.0f, inv;
	double sum = 0.0;

	if (!trellis_ok(t))
		return BQK_EINVAL;
	derived = z + bqk_query_nbytes(count_bits(t), 8);
	memset(z, 0, bqk_trellis_query_nbytes(t));
	for (size_t i = 0; i < t->dim; i++)
	{
		float r = q[i] * t->step[i], top = fabsf(r) * (float) (1 << t->bits[i]);

		max = top > max ? top : max;
		sum -= (double) (bqk_trellis_middle(t->bits[i]) * r);
	}
	*offset = (float) sum;
	*delta = max / 127.0f;
	inv = *delta > 0.0f ? 1.0f / *delta : 0.0f;
	if (!(inv < INFINITY)) /* a query of denormals: its dot is zero for every purpose */
		inv = *delta = 0.0f;
	for (size_t i = 0; i < t->dim; i++)
	{
		float r = q[i] * t->step[i] * inv;

		derived[i] = round_to_i8(2.0f * r);
		if (i + 2 < t->dim)
			z[i + 2] = round_to_i8(r);
	}
	for (int p = 1; p < t->bits[0]; p++)
	{
		size_t m = plane_size(t, p);

		for (size_t i = 0; i < m; i++)
			z[at + i] = round_to_i8(q[i] * t->step[i] * inv * (float) (1 << (t->bits[i] + 1 - p)));
		at += m;
	}
	return BQK_OK;
}

/* z1 of 64 axes from the trellis bits w and those of the next 64 axes. */
static inline uint64_t
derive(uint64_t w, uint64_t next)
{
	return w ^ (w >> 1 | next << 63) ^ (w >> 3 | next << 61);
}

/* Codes whose derived plane is held at a time: 2,000 bytes each at BQK_MAX_DIM. */
#define DERIVED_CODES 8
#define DERIVED_WORDS ((BQK_MAX_DIM + 63) / 64)

static void
derive_plane(const uint8_t *code, size_t m, uint64_t *out)
{
	uint64_t w = 0, next = 0;
	size_t words = (m + 63) / 64, nbytes = (m + 7) / 8;

	for (size_t i = words; i-- > 0; next = w)
	{
		size_t left = nbytes - i * 8;

		w = 0;
		memcpy(&w, code + i * 8, left < 8 ? left : 8);
		if (i == words - 1 && m % 64)
			w &= (UINT64_C(1) << m % 64) - 1;
		out[i] = derive(w, next);
	}
}

/* z0 is a trellis bit two axes on, so the stored bits take its weight; only z1 has to be derived. Magnitudes add up to
 * at most 127 * (8 * 16,000 + 16,000) < 2^25. */
int
bqk_trellis_dot(const bqk_trellis *t, const uint8_t *codes, size_t n, const int8_t *z, int32_t *out)
{
	const bqk_kernels *kern = bqk_active();
	uint64_t plane[DERIVED_CODES * DERIVED_WORDS];
	int32_t derived[DERIVED_CODES];
	size_t m = t->dim, n_bits, words = (m + 63) / 64;

	if (!trellis_ok(t))
		return BQK_EINVAL;
	n_bits = count_bits(t);
	kern->dot[0](codes, t->code_nbytes, n, z, n_bits, out);
	z += bqk_query_nbytes(n_bits, 8);
	for (size_t c = 0; c < n; c += DERIVED_CODES)
	{
		size_t some = n - c < DERIVED_CODES ? n - c : DERIVED_CODES;

		for (size_t k = 0; k < some; k++)
			derive_plane(codes + (c + k) * t->code_nbytes, m, plane + k * words);
		kern->dot[0]((const uint8_t *) plane, words * 8, some, z, m, derived);
		for (size_t k = 0; k < some; k++)
			out[c + k] += derived[k];
	}
	return BQK_OK;
}

int32_t
bqk_trellis_dot_one(const uint8_t *code, size_t m, size_t n_bits, const int8_t *z)
{
	const bqk_kernels *kern = bqk_active();
	uint64_t plane[DERIVED_WORDS];
	int32_t stored, derived;

	kern->dot[0](code, 0, 1, z, n_bits, &stored);
	derive_plane(code, m, plane);
	kern->dot[0]((const uint8_t *) plane, 0, 1, z + bqk_query_nbytes(n_bits, 8), m, &derived);
	return stored + derived;
}
