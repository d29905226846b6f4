/* FastScan with AVX-512: 64 bytes, one register to a row. BQK_SIMDE: its instructions emulated, for the tests of
 * machines without them. */
#if defined(__x86_64__)
#if defined(BQK_SIMDE)
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#elif defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl")
#endif

#include "fastscan.h"

#if !defined(BQK_SIMDE)
#include <immintrin.h>
#endif

#define VECTORS 1

typedef __m512i vec;

static inline vec
load(const uint8_t *p)
{
	return _mm512_loadu_si512(p);
}

static inline vec
table(const uint8_t *p)
{
	return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *) p));
}

static inline vec
lookup(vec t, vec v)
{
	return _mm512_shuffle_epi8(t, v);
}

static inline vec
low_nibbles(vec v)
{
	return _mm512_and_si512(v, _mm512_set1_epi8(15));
}

static inline vec
high_nibbles(vec v)
{
	return _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15));
}

static inline vec
halved(vec v)
{
	return _mm512_and_si512(_mm512_srli_epi16(v, 1), _mm512_set1_epi8(127));
}

static inline vec
add8(vec a, vec b)
{
	return _mm512_add_epi8(a, b);
}

static inline vec
sum8(vec a, vec b)
{
	return _mm512_adds_epu8(a, b);
}

static inline vec
sum16(vec a, vec b)
{
	return _mm512_add_epi16(a, b);
}

static inline vec xor (vec a, vec b)
{
	return _mm512_xor_si512(a, b);
}

static inline void
pin(vec *v)
{
#if defined(BQK_SIMDE)
	(void) v;
#else
	__asm__("" : "+v"(*v));
#endif
}

static inline vec
zero(void)
{
	return _mm512_setzero_si512();
}

static inline vec
even16(vec both, vec odd)
{
	return _mm512_sub_epi16(both, _mm512_slli_epi16(odd, 8));
}

static inline vec
odd16(vec v)
{
	return _mm512_srli_epi16(v, 8);
}

static inline vec
less8(vec a, vec b)
{
	return _mm512_subs_epu8(a, b);
}

static inline vec
less16(vec a, vec b)
{
	return _mm512_subs_epu16(a, b);
}

static inline vec
all8(uint32_t x)
{
	return _mm512_set1_epi8((char) (uint8_t) x);
}

static inline vec
all16(uint32_t x)
{
	return _mm512_set1_epi16((int16_t) (uint16_t) x);
}

static inline void
emit8(const vec *sums, const vec *limits, uint32_t at, bqk_scan_found *found)
{
	uint64_t mask = _mm512_cmple_epu8_mask(sums[0], limits[0]);
	uint8_t lane[64];

	if (!mask)
		return;
	_mm512_storeu_si512(lane, sums[0]);
	bqk_scan_append(found, at, mask, lane);
}

static inline void
emit16(const vec *even, const vec *odd, const vec *even_limits, const vec *odd_limits, uint32_t at,
	   bqk_scan_found *found)
{
	__mmask32 mask[2] = {_mm512_cmple_epu16_mask(even[0], even_limits[0]),
						 _mm512_cmple_epu16_mask(odd[0], odd_limits[0])};
	uint64_t all;
	uint16_t lane[2][32];

	if (!(mask[0] | mask[1]))
		return;
	/* code 2 j is the even sum j, code 2 j + 1 the odd one */
	all = 0;
	for (int parity = 0; parity < 2; parity++)
		for (uint32_t m = mask[parity]; m; m &= m - 1)
			all |= UINT64_C(1) << (2 * __builtin_ctz(m) + parity);
	_mm512_storeu_si512(lane[0], even[0]);
	_mm512_storeu_si512(lane[1], odd[0]);
	for (; all; all &= all - 1)
	{
		uint32_t c = (uint32_t) __builtin_ctzll(all);

		found->positions[found->n] = at + c;
		found->sums[found->n++] = lane[c % 2][c / 2];
	}
}

#include "fastscan_kernel.h"

void
bqk_fastscan_avx512(const bqk_scan_rows *rows, bqk_scan_found *found, size_t n_queries)
{
	scan_groups(rows, found, n_queries);
}

#if defined(BQK_SIMDE)
#elif defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
