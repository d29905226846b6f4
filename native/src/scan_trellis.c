/* Products of single trellis codes with float queries, by look-ups of 4 bits: of the stored bits, and of the plane that
 * the trellis derives. A query's coordinates differ so much between principal axes that 8 bits for all of them would
 * cost recall. */
#include "scan_trellis.h"
#include "trellis.h"

#include <math.h>
#include <string.h>

size_t
bqk_scan_trellis_values(const bqk_trellis *t)
{
	return ((bqk_trellis_bits(t) + 3) / 4 + ((size_t) t->dim + 3) / 4) * 16;
}

/* The 8-bit query is off by coarse_unit / 2 at most in each of the bits, by coarse_unit sqrt(bits / 12) as a standard
 * deviation. */
int
bqk_scan_trellis_query(const bqk_trellis *t, const float *q, float eps0, float *work, float *values, int8_t *coarse,
					   bqk_scan_query *query)
{
	size_t n_bits = bqk_trellis_bits(t), m = t->dim, at = m, n_stored = (n_bits + 3) / 4, n_derived = (m + 3) / 4;
	float *derived = work + n_stored * 4;
	double sum = 0.0, all = (double) (n_bits + m);
	int status = bqk_trellis_query(t, q, coarse, &query->coarse_unit, &query->coarse_offset);

	if (status != BQK_OK)
		return status;
	query->coarse_offset += (float) (query->coarse_unit * fmin(eps0 * sqrt(all / 12.0), 0.5 * all));
	memset(work, 0, (n_stored + n_derived) * 4 * sizeof(float));
	for (size_t i = 0; i < m; i++)
	{
		float r = q[i] * t->step[i];

		sum -= (double) bqk_trellis_middle(t->bits[i]) * r;
		derived[i] = 2.0f * r;
		if (i + 2 < m)
			work[i + 2] = r;
	}
	for (int p = 1; p < t->bits[0]; p++)
		for (size_t i = 0; i < m && t->bits[i] > p; i++)
			work[at++] = q[i] * t->step[i] * (float) (1 << (t->bits[i] + 1 - p));
	query->offset = (float) sum;
	bqk_scan_values(work, n_stored + n_derived, values);
	return BQK_OK;
}

static inline uint64_t
word_at(const uint8_t *code, size_t nbytes)
{
	uint64_t w = 0;

	if (nbytes >= 8)
		memcpy(&w, code, 8);
	else
		memcpy(&w, code, nbytes);
	return w;
}

/* Adds the look-ups of up to 16 nibbles, four sums side by side. */
static inline void
add_word(uint64_t w, const float *values, size_t n, float *sum)
{
	size_t j = 0;

	for (; j + 4 <= n; j += 4, w >>= 16, values += 64)
	{
		sum[0] += values[w & 15];
		sum[1] += values[16 + (w >> 4 & 15)];
		sum[2] += values[32 + (w >> 8 & 15)];
		sum[3] += values[48 + (w >> 12 & 15)];
	}
	for (; j < n; j++, w >>= 4, values += 16)
		sum[j % 4] += values[w & 15];
}

/* Bits beyond the last one may be set in the last byte; their weights are zero, and the first 64 axes beyond the last
 * axis are taken for zeros by the trellis. */
float
bqk_scan_trellis_product(const uint8_t *code, size_t code_nbytes, size_t m, size_t n_bits, const float *values)
{
	size_t n_stored = (n_bits + 3) / 4, n_derived = (m + 3) / 4, words = (m + 63) / 64;
	float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
	const float *derived = values + n_stored * 16;
	uint64_t w = 0, next;

	for (size_t j = 0, at = 0; j < n_stored; j += 16, at += 8)
		add_word(word_at(code + at, code_nbytes - at), values + j * 16, n_stored - j < 16 ? n_stored - j : 16, sum);
	for (size_t i = 0; i < words; i++)
	{
		size_t left = n_derived - i * 16;

		w = i ? w : word_at(code, code_nbytes);
		next = (i + 1) * 8 < code_nbytes ? word_at(code + (i + 1) * 8, code_nbytes - (i + 1) * 8) : 0;
		if (i + 1 == words)
		{
			next = 0;
			w &= m % 64 ? (UINT64_C(1) << m % 64) - 1 : UINT64_MAX;
		}
		else if (i + 2 == words && m % 64)
			next &= (UINT64_C(1) << m % 64) - 1;
		add_word(w ^ (w >> 1 | next << 63) ^ (w >> 3 | next << 61), derived + i * 256, left < 16 ? left : 16, sum);
		w = next;
	}
	return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}
