/* FastScan with AVX2: 32 bytes, two registers to a row. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif

#include "fastscan.h"

#include <immintrin.h>

#define VECTORS 2

typedef __m256i vec;

static inline vec
load(const uint8_t *p)
{
	return _mm256_loadu_si256((const __m256i *) p);
}

static inline vec
table(const uint8_t *p)
{
	return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *) p));
}

static inline vec
lookup(vec t, vec v)
{
	return _mm256_shuffle_epi8(t, v);
}

static inline vec
low_nibbles(vec v)
{
	return _mm256_and_si256(v, _mm256_set1_epi8(15));
}

static inline vec
high_nibbles(vec v)
{
	return _mm256_and_si256(_mm256_srli_epi16(v, 4), _mm256_set1_epi8(15));
}

static inline vec
halved(vec v)
{
	return _mm256_and_si256(_mm256_srli_epi16(v, 1), _mm256_set1_epi8(127));
}

static inline vec
add8(vec a, vec b)
{
	return _mm256_add_epi8(a, b);
}

static inline vec
sum8(vec a, vec b)
{
	return _mm256_adds_epu8(a, b);
}

static inline vec
sum16(vec a, vec b)
{
	return _mm256_add_epi16(a, b);
}

static inline vec xor (vec a, vec b)
{
	return _mm256_xor_si256(a, b);
}

static inline void
pin(vec *v)
{
	__asm__("" : "+x"(*v));
}

static inline vec
zero(void)
{
	return _mm256_setzero_si256();
}

static inline vec
even16(vec both, vec odd)
{
	return _mm256_sub_epi16(both, _mm256_slli_epi16(odd, 8));
}

static inline vec
odd16(vec v)
{
	return _mm256_srli_epi16(v, 8);
}

static inline vec
less8(vec a, vec b)
{
	return _mm256_subs_epu8(a, b);
}

static inline vec
less16(vec a, vec b)
{
	return _mm256_subs_epu16(a, b);
}

static inline vec
all8(uint32_t x)
{
	return _mm256_set1_epi8((char) (uint8_t) x);
}

static inline vec
all16(uint32_t x)
{
	return _mm256_set1_epi16((int16_t) (uint16_t) x);
}

static inline void
emit8(const vec *sums, const vec *limits, uint32_t at, bqk_scan_found *found)
{
	vec over[VECTORS] = {less8(sums[0], limits[0]), less8(sums[1], limits[1])};
	uint64_t mask = 0;
	uint8_t lane[64];

	if (!_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_min_epu8(over[0], over[1]), zero())))
		return;
	for (size_t v = 0; v < VECTORS; v++)
	{
		mask |= (uint64_t) (uint32_t) _mm256_movemask_epi8(_mm256_cmpeq_epi8(over[v], zero())) << 32 * v;
		_mm256_storeu_si256((__m256i *) (lane + 32 * v), sums[v]);
	}
	bqk_scan_append(found, at, mask, lane);
}

static inline void
emit16(const vec *even, const vec *odd, const vec *even_limits, const vec *odd_limits, uint32_t at,
	   bqk_scan_found *found)
{
	vec over[2][VECTORS], least = _mm256_set1_epi8(-1);

	for (size_t v = 0; v < VECTORS; v++)
	{
		over[0][v] = less16(even[v], even_limits[v]);
		over[1][v] = less16(odd[v], odd_limits[v]);
		least = _mm256_min_epu16(least, _mm256_min_epu16(over[0][v], over[1][v]));
	}
	if (!_mm256_movemask_epi8(_mm256_cmpeq_epi16(least, zero())))
		return;
	for (size_t v = 0; v < VECTORS; v++)
	{
		/* codes 0-7 and 16-23, 8-15 and 24-31: what packing the masks brings into order */
		vec a = _mm256_unpacklo_epi16(even[v], odd[v]), b = _mm256_unpackhi_epi16(even[v], odd[v]);
		vec low = _mm256_cmpeq_epi16(_mm256_unpacklo_epi16(over[0][v], over[1][v]), zero());
		vec high = _mm256_cmpeq_epi16(_mm256_unpackhi_epi16(over[0][v], over[1][v]), zero());
		uint32_t mask = (uint32_t) _mm256_movemask_epi8(_mm256_packs_epi16(low, high));
		uint16_t lane[32];

		if (!mask)
			continue;
		_mm256_storeu_si256((__m256i *) lane, _mm256_permute2x128_si256(a, b, 0x20));
		_mm256_storeu_si256((__m256i *) (lane + 16), _mm256_permute2x128_si256(a, b, 0x31));
		for (; mask; mask &= mask - 1)
		{
			uint32_t c = (uint32_t) __builtin_ctz(mask);

			found->positions[found->n] = at + (uint32_t) v * 32 + c;
			found->sums[found->n++] = lane[c];
		}
	}
}

#include "fastscan_kernel.h"

void
bqk_fastscan_avx2(const bqk_scan_rows *rows, bqk_scan_found *found, size_t n_queries)
{
	scan_groups(rows, found, n_queries);
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
