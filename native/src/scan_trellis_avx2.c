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

static inline vec
add_products(vec sum, const float *levels, const float *q)
{
	return _mm256_add_ps(sum, _mm256_mul_ps(_mm256_loadu_ps(levels), _mm256_loadu_ps(q)));
}

static inline __attribute__((always_inline)) vec
add_levels(vec sum, int bits, const float *levels, uint64_t u, const float *q)
{
	const float *of_bits = levels + bqk_levels_at(bits);
	__m256i at = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long) u));
	vec v;

	if (bits == 1)
		v = _mm256_permutevar8x32_ps(_mm256_broadcast_ps((const __m128 *) of_bits), at);
	else if (bits == 2)
		v = _mm256_permutevar8x32_ps(_mm256_loadu_ps(of_bits), at);
	else if (bits == 3)
		v = _mm256_blendv_ps(_mm256_permutevar8x32_ps(_mm256_loadu_ps(of_bits), at),
							 _mm256_permutevar8x32_ps(_mm256_loadu_ps(of_bits + 8), at),
							 _mm256_castsi256_ps(_mm256_slli_epi32(at, 28)));
	else
		v = _mm256_i32gather_ps(of_bits, at, 4);
	return _mm256_add_ps(sum, _mm256_mul_ps(v, _mm256_loadu_ps(q)));
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
