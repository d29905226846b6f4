/* Products of single trellis codes with float queries: a table of level times query for every axis. */
#include "scan_trellis.h"
#include "trellis.h"

size_t
bqk_scan_trellis_values(const bqk_trellis *t)
{
	size_t n = 0;

	for (size_t i = 0; i < t->dim; i++)
		n += (size_t) 2 << t->bits[i];
	return n;
}

void
bqk_scan_trellis_query(const bqk_trellis *t, const float *q, float *values)
{
	for (size_t i = 0; i < t->dim; i++)
	{
		float scaled = q[i] * t->deviation[i];

		for (int u = 0; u < 2 << t->bits[i]; u++)
			*values++ = bqk_trellis_level(t->bits[i], u) * scaled;
	}
}

static inline unsigned
bit_at(const uint8_t *code, size_t at)
{
	return code[at / 8] >> (at % 8) & 1u;
}

float
bqk_scan_trellis_product(const bqk_trellis *t, const uint8_t *code, const float *values)
{
	uint16_t u[BQK_MAX_DIM];
	size_t m = t->dim, at = m, i;
	unsigned b1 = 0, b2 = 0, b3 = 0;
	float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};

	for (i = m; i-- > 0;)
	{
		unsigned b = bit_at(code, i);

		u[i] = (uint16_t) (2 * (b ^ b1 ^ b3) + b2);
		b3 = b2;
		b2 = b1;
		b1 = b;
	}
	for (int p = 1; p < t->bits[0]; p++)
	{
		for (i = 0; i < m && t->bits[i] > p; i++)
			u[i] = (uint16_t) (u[i] + (bit_at(code, at + i) << (t->bits[i] + 1 - p)));
		at += i;
	}
	for (i = 0; i < m; values += (size_t) 2 << t->bits[i], i++)
		sum[i % 4] += values[u[i]];
	return (sum[0] + sum[1]) + (sum[2] + sum[3]);
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
