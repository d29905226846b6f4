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
#include "rotation_kernel.h"
#include "scan_trellis.h"
#include "trellis_kernel.h"
#include "lanes_kernel.h"

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

/* 16 code bytes to 64 level indices, by shifts of 0, 2, 4, 6. Bits that cross a byte are masked off. */
static inline __m512i
spread2(__m128i v)
{
	const __m512i shifts = _mm512_set_epi32(6, 6, 6, 6, 4, 4, 4, 4, 2, 2, 2, 2, 0, 0, 0, 0);

	return _mm512_and_si512(_mm512_srlv_epi32(_mm512_broadcast_i32x4(v), shifts), _mm512_set1_epi8(3));
}

/* 32 code bytes to 64 level indices: even coordinates in the low half, odd ones in the high half. */
static inline __m512i
spread4(__m256i v)
{
	__m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(v), _mm256_srli_epi16(v, 4), 1);

	return _mm512_and_si512(both, _mm512_set1_epi8(15));
}

/* Bytes of a block; the last one of a code may be partial. */
static inline __m512i
block2(const uint8_t *p, size_t nbytes)
{
	return spread2(nbytes >= 16 ? _mm_loadu_si128((const __m128i *) p)
								: _mm_maskz_loadu_epi8((__mmask16) ((1u << nbytes) - 1), p));
}

static inline __m512i
block4(const uint8_t *p, size_t nbytes)
{
	return spread4(nbytes >= 32 ? _mm256_loadu_si256((const __m256i *) p)
								: _mm256_maskz_loadu_epi8((UINT32_C(1) << nbytes) - 1, p));
}

static inline __m512i
block8(const uint8_t *p, size_t nbytes)
{
	return nbytes >= 64 ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi8((UINT64_C(1) << nbytes) - 1, p);
}

/* Unsigned levels times signed query bytes, 64 at a time. */
#define DOT(bits)                                                                                                      \
	static void dot##bits(const uint8_t *codes, size_t stride, size_t n, const int8_t *z, size_t dim, int32_t *out)    \
	{                                                                                                                  \
		size_t nbytes = bqk_nbytes(dim, bits);                                                                         \
                                                                                                                       \
		for (size_t c = 0; c < n; c++, codes += stride)                                                                \
		{                                                                                                              \
			__m512i acc = _mm512_setzero_si512();                                                                      \
                                                                                                                       \
			for (size_t i = 0; i < nbytes; i += 8 * bits)                                                              \
				acc = _mm512_dpbusd_epi32(acc, block##bits(codes + i, nbytes - i),                                     \
										  _mm512_loadu_si512(z + i * 8 / bits));                                       \
			out[c] = _mm512_reduce_add_epi32(acc);                                                                     \
		}                                                                                                              \
	}

DOT(2)
DOT(4)
DOT(8)

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

/* sum (2a - M)(2b - M) = 4 sum ab - 2M (sum a + sum b) + M^2 dim. The second factor of a product has to be
 * signed, so b is shifted by 128, which adds 128 sum a back. The result is below 2^30 at 8 bits and 16,000
 * dimensions; intermediate terms may wrap, which unsigned arithmetic undoes. */
static inline int32_t
centred(__m512i prod, __m512i sum_a, __m512i sum_b, uint32_t m, size_t dim)
{
	uint32_t a = (uint32_t) _mm512_reduce_add_epi32(sum_a), b = (uint32_t) _mm512_reduce_add_epi32(sum_b);
	uint32_t ab = (uint32_t) _mm512_reduce_add_epi32(prod) + 128 * a;

	return (int32_t) (4 * ab - 2 * m * (a + b) + m * m * (uint32_t) dim);
}

#define SYM(bits)                                                                                                      \
	static void sym##bits(const uint8_t *codes, size_t stride, size_t n, const uint8_t *code, size_t dim,              \
						  int32_t *out)                                                                                \
	{                                                                                                                  \
		const __m512i one = _mm512_set1_epi8(1), half = _mm512_set1_epi8((char) 0x80);                                 \
		size_t nbytes = bqk_nbytes(dim, bits);                                                                         \
                                                                                                                       \
		for (size_t c = 0; c < n; c++, codes += stride)                                                                \
		{                                                                                                              \
			__m512i prod = _mm512_setzero_si512(), sum_a = prod, sum_b = prod;                                         \
                                                                                                                       \
			for (size_t i = 0; i < nbytes; i += 8 * bits)                                                              \
			{                                                                                                          \
				__m512i a = block##bits(codes + i, nbytes - i), b = block##bits(code + i, nbytes - i);                 \
                                                                                                                       \
				prod = _mm512_dpbusd_epi32(prod, a, _mm512_xor_si512(b, half));                                        \
				sum_a = _mm512_dpbusd_epi32(sum_a, a, one);                                                            \
				sum_b = _mm512_dpbusd_epi32(sum_b, b, one);                                                            \
			}                                                                                                          \
			out[c] = centred(prod, sum_a, sum_b, (1u << bits) - 1, dim);                                               \
		}                                                                                                              \
	}

SYM(2)
SYM(4)
SYM(8)

/* 128 dimensions at a time: two 64-bit lanes of each plane. */
static void
dot_planes(const uint8_t *codes, size_t stride, size_t n, const uint8_t *planes, size_t dim, int32_t *out)
{
	const __m512i shifts = _mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3);
	size_t nbytes = (dim + 7) / 8;

	for (size_t c = 0; c < n; c++, codes += stride)
	{
		__m512i acc = _mm512_setzero_si512();

		for (size_t i = 0; i < nbytes; i += 16)
		{
			__m128i bits = nbytes - i >= 16 ? _mm_loadu_si128((const __m128i *) (codes + i))
											: _mm_maskz_loadu_epi8((__mmask16) ((1u << (nbytes - i)) - 1), codes + i);
			__m512i set = _mm512_and_si512(_mm512_broadcast_i64x2(bits), _mm512_loadu_si512(planes + i * 4));

			acc = _mm512_add_epi64(acc, _mm512_popcnt_epi64(set));
		}
		acc = _mm512_sllv_epi64(acc, shifts);
		acc = _mm512_mask_sub_epi64(acc, 0xc0, _mm512_setzero_si512(), acc);
		out[c] = (int32_t) _mm512_reduce_add_epi64(acc);
	}
}

/* Two groups at a time, eight sums: as many as hide the latency of a product. */
static void
multiply(const int32_t *pairs, const int16_t *columns, size_t n_pairs, size_t n_groups, int32_t *sums)
{
	for (size_t g = 0; g < n_groups; g += 2)
	{
		const size_t group = 2 * BQK_COLUMN_GROUP * n_pairs, n = g + 1 < n_groups ? 2 : 1;
		const int16_t *first = columns + g * group, *second = first + (n - 1) * group;
		__m512i acc[2 * BQK_COLUMN_GROUP];

		UNROLLED
		for (size_t j = 0; j < 2 * BQK_COLUMN_GROUP; j++)
			acc[j] = _mm512_setzero_si512();
		for (size_t p = 0; p < n_pairs; p++)
		{
			__m512i x = _mm512_loadu_si512(pairs + p * BQK_LANES);

			UNROLLED
			for (size_t j = 0; j < BQK_COLUMN_GROUP; j++)
			{
				int32_t a, b;

				memcpy(&a, first + 2 * (BQK_COLUMN_GROUP * p + j), sizeof(a));
				memcpy(&b, second + 2 * (BQK_COLUMN_GROUP * p + j), sizeof(b));
				acc[j] = _mm512_dpwssd_epi32(acc[j], x, _mm512_set1_epi32(a));
				acc[BQK_COLUMN_GROUP + j] = _mm512_dpwssd_epi32(acc[BQK_COLUMN_GROUP + j], x, _mm512_set1_epi32(b));
			}
		}
		for (size_t j = 0; j < n * BQK_COLUMN_GROUP; j++)
			_mm512_storeu_si512(sums + (g * BQK_COLUMN_GROUP + j) * BQK_LANES, acc[j]);
	}
}

const bqk_kernels bqk_kernels_avx512 = {
	"avx512",
	bqk_cpu_avx512,
	norm2,
	dotf,
	dots,
	residual,
	rotate,
	sums,
	pack1,
	score,
	pack,
	{dot1, dot2, dot4, dot8},
	{sym1, sym2, sym4, sym8},
	dot_planes,
	dot_float,
	trellis,
	pack_trellis,
	round_pairs,
	multiply,
	coordinates,
	nearest_lists,
	saq_sums,
	nearest_codeword,
	bqk_lut4_avx2,
	bqk_trellis_product_avx2,
};

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
