/* Products of trellis codes with AVX2: levels of up to 3 bits are permuted in registers, others are gathered. AVX-512
 * machines run this too. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif

#include "scan_trellis.h"

#include <immintrin.h>

typedef __m256 vec;

static inline vec
zero(void)
{
	return _mm256_setzero_ps();
}

typedef __m256i bytes;

static inline bytes
none(void)
{
	return _mm256_setzero_si256();
}

static inline bytes
pick(bytes sum, uint32_t bits, const uint8_t *places)
{
	const __m256i which = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3,
										   3, 3, 3, 3, 3, 3);
	const __m256i bit = _mm256_set1_epi64x((long long) 0x8040201008040201);
	__m256i v = _mm256_shuffle_epi8(_mm256_set1_epi32((int) bits), which);

	v = _mm256_cmpeq_epi8(_mm256_and_si256(v, bit), bit);
	return _mm256_or_si256(sum, _mm256_and_si256(v, _mm256_loadu_si256((const __m256i *) places)));
}

static inline void
put(bytes sum, uint8_t *out)
{
	_mm256_storeu_si256((__m256i *) out, sum);
}

static inline vec
add_products(vec sum, const float *levels, const float *q)
{
	return _mm256_add_ps(sum, _mm256_mul_ps(_mm256_loadu_ps(levels), _mm256_loadu_ps(q)));
}

static inline __attribute__((always_inline)) vec
add_levels(vec sum, int bits, const float *levels, const uint8_t *u, const float *q)
{
	const float *of_bits = levels + bqk_levels_at(bits);
	__m256i at = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *) u));
	vec v;

	if (bits == 1)
		v = _mm256_permutevar8x32_ps(_mm256_broadcast_ps((const __m128 *) of_bits), at);
	else if (bits == 2)
		v = _mm256_permutevar8x32_ps(_mm256_loadu_ps(of_bits), at);
	else
		v = _mm256_blendv_ps(_mm256_permutevar8x32_ps(_mm256_loadu_ps(of_bits), at),
							 _mm256_permutevar8x32_ps(_mm256_loadu_ps(of_bits + 8), at),
							 _mm256_castsi256_ps(_mm256_slli_epi32(at, 28)));
	return _mm256_add_ps(sum, _mm256_mul_ps(v, _mm256_loadu_ps(q)));
}

static inline vec
add_gathered(vec sum, const float *levels, const uint32_t *starts, const uint8_t *u, const float *q)
{
	__m256i at = _mm256_add_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *) u)),
								  _mm256_loadu_si256((const __m256i *) starts));

	return _mm256_add_ps(sum, _mm256_mul_ps(_mm256_i32gather_ps(levels, at, 4), _mm256_loadu_ps(q)));
}

static inline void
store(const vec *sums, float *out)
{
	_mm256_storeu_ps(out, sums[0]);
	_mm256_storeu_ps(out + 8, sums[1]);
}

#include "scan_trellis_kernel.h"

float
bqk_trellis_product_avx2(const bqk_trellis *t, const float *levels, const uint8_t *code, const void *z)
{
	return product(t, levels, code, z);
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
