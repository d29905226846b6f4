/* AVX-512 with VNNI and VPOPCNTDQ: 16 floats, 64 bytes. Masked loads read no byte beyond a code. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(                                                                                          \
	__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,popcnt"))),                   \
	apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,popcnt")
#endif

#define W 16
#include "float_kernels.h"

#include <immintrin.h>

static void
pack1(const float *x, size_t dim, uint8_t *code)
{
	size_t i = 0;

	for (; i + 16 <= dim; i += 16)
	{
		uint16_t m = _mm512_cmp_ps_mask(_mm512_loadu_ps(x + i), _mm512_setzero_ps(), _CMP_GT_OQ);

		memcpy(code + i / 8, &m, 2);
	}
	if (i < dim)
	{
		__mmask16 live = (__mmask16) ((1u << (dim - i)) - 1);
		uint16_t m = _mm512_mask_cmp_ps_mask(live, _mm512_maskz_loadu_ps(live, x + i), _mm512_setzero_ps(), _CMP_GT_OQ);

		memcpy(code + i / 8, &m, (dim - i + 7) / 8);
	}
}

static void
dot1(const uint8_t *codes, size_t stride, size_t n, const int8_t *z, size_t dim, int32_t *out)
{
	const __m512i one = _mm512_set1_epi8(1);
	size_t nbytes = (dim + 7) / 8;

	for (size_t c = 0; c < n; c++, codes += stride)
	{
		__m512i acc = _mm512_setzero_si512();
		uint64_t w;
		size_t i = 0;

		for (; i + 8 <= nbytes; i += 8)
		{
			memcpy(&w, codes + i, 8);
			acc = _mm512_dpbusd_epi32(acc, one, _mm512_maskz_loadu_epi8((__mmask64) w, z + i * 8));
		}
		if (i < nbytes)
		{
			w = 0;
			memcpy(&w, codes + i, nbytes - i);
			acc = _mm512_dpbusd_epi32(acc, one, _mm512_maskz_loadu_epi8((__mmask64) w, z + i * 8));
		}
		out[c] = _mm512_reduce_add_epi32(acc);
	}
}

/* Bytes of a partial half-block: nbytes - i < 32 of them. */
static inline __m256i
load_part(const uint8_t *p, size_t nbytes)
{
	return _mm256_maskz_loadu_epi8((__mmask32) ((UINT32_C(1) << nbytes) - 1), p);
}

/* 32 code bytes to 64 level indices: even coordinates in the low half, odd ones in the high half. */
static inline __m512i
nibbles(__m256i v)
{
	__m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(v), _mm256_srli_epi16(v, 4), 1);

	return _mm512_and_si512(both, _mm512_set1_epi8(15));
}

static void
dot4(const uint8_t *codes, size_t stride, size_t n, const int8_t *z, size_t dim, int32_t *out)
{
	size_t nbytes = (dim + 1) / 2;

	for (size_t c = 0; c < n; c++, codes += stride)
	{
		__m512i acc = _mm512_setzero_si512();
		size_t i = 0;

		for (; i + 32 <= nbytes; i += 32)
			acc = _mm512_dpbusd_epi32(acc, nibbles(_mm256_loadu_si256((const __m256i *) (codes + i))),
									  _mm512_loadu_si512(z + i * 2));
		if (i < nbytes)
			acc = _mm512_dpbusd_epi32(acc, nibbles(load_part(codes + i, nbytes - i)), _mm512_loadu_si512(z + i * 2));
		out[c] = _mm512_reduce_add_epi32(acc);
	}
}

/* Up to this many bytes, eight at a time beat a vector and its horizontal sum. */
#define SYM1_WORDS 128

static inline int32_t
hamming_words(const uint8_t *pa, const uint8_t *pb, size_t nbytes)
{
	uint64_t a, b;
	int64_t hamming = 0;
	size_t i = 0;

	for (; i + 8 <= nbytes; i += 8)
	{
		memcpy(&a, pa + i, 8);
		memcpy(&b, pb + i, 8);
		hamming += _mm_popcnt_u64(a ^ b);
	}
	if (i < nbytes)
	{
		a = b = 0;
		memcpy(&a, pa + i, nbytes - i);
		memcpy(&b, pb + i, nbytes - i);
		hamming += _mm_popcnt_u64(a ^ b);
	}
	return (int32_t) hamming;
}

static inline int32_t
hamming_vectors(const uint8_t *pa, const uint8_t *pb, size_t nbytes)
{
	__m512i acc = _mm512_setzero_si512();

	for (size_t i = 0; i < nbytes; i += 64)
	{
		__mmask64 live = nbytes - i >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << (nbytes - i)) - 1;
		__m512i a = _mm512_maskz_loadu_epi8(live, pa + i), b = _mm512_maskz_loadu_epi8(live, pb + i);

		acc = _mm512_add_epi64(acc, _mm512_popcnt_epi64(_mm512_xor_si512(a, b)));
	}
	return (int32_t) _mm512_reduce_add_epi64(acc);
}

static void
sym1(const uint8_t *codes, size_t stride, size_t n, const uint8_t *code, size_t dim, int32_t *out)
{
	size_t nbytes = (dim + 7) / 8;

	for (size_t c = 0; c < n; c++, codes += stride)
	{
		int32_t h = nbytes <= SYM1_WORDS ? hamming_words(codes, code, nbytes) : hamming_vectors(codes, code, nbytes);

		out[c] = (int32_t) dim - 2 * h;
	}
}

/* (2a - 15)(2b - 15) = 4ab - 30(a + b) + 225 */
static inline void
sym4_step(__m512i *prod, __m512i *sum, __m256i va, __m256i vb)
{
	const __m512i one = _mm512_set1_epi8(1);
	__m512i a = nibbles(va), b = nibbles(vb);

	*prod = _mm512_dpbusd_epi32(*prod, a, b);
	*sum = _mm512_dpbusd_epi32(*sum, _mm512_add_epi8(a, b), one);
}

static void
sym4(const uint8_t *codes, size_t stride, size_t n, const uint8_t *code, size_t dim, int32_t *out)
{
	size_t nbytes = (dim + 1) / 2;

	for (size_t c = 0; c < n; c++, codes += stride)
	{
		__m512i prod = _mm512_setzero_si512(), sum = prod;
		size_t i = 0;

		for (; i + 32 <= nbytes; i += 32)
			sym4_step(&prod, &sum, _mm256_loadu_si256((const __m256i *) (codes + i)),
					  _mm256_loadu_si256((const __m256i *) (code + i)));
		if (i < nbytes)
			sym4_step(&prod, &sum, load_part(codes + i, nbytes - i), load_part(code + i, nbytes - i));
		out[c] = 4 * _mm512_reduce_add_epi32(prod) - 30 * _mm512_reduce_add_epi32(sum) + 225 * (int32_t) dim;
	}
}

const bqk_kernels bqk_kernels_avx512 = {
	"avx512", bqk_cpu_avx512, norm2, dotf, residual, rotate, sums, pack1, score4, pack4, dot1, dot4, sym1, sym4,
};

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
