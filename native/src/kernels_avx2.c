/* AVX2: 8 floats, 32 bytes. Codes are read whole blocks at a time; the last, partial block is
 * copied to the stack, so that nothing beyond a code's last byte is touched. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,popcnt")
#endif

#define W 8
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

	for (; i + 8 <= dim; i += 8)
		code[i / 8] =
			(uint8_t) _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(x + i), _mm256_setzero_ps(), _CMP_GT_OQ));
	if (i < dim)
		code[i / 8] = 0;
	for (; i < dim; i++)
		code[i / 8] |= (uint8_t) ((x[i] > 0.0f) << (i % 8));
}

static inline int32_t
add_lanes(__m256i v)
{
	__m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));

	s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
	s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
	return _mm_cvtsi128_si32(s);
}

/* Bytes 0xff where the bit of w is set. */
static inline __m256i
bits_to_bytes(uint32_t w)
{
	const __m256i spread = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
	const __m256i select = _mm256_set1_epi64x((int64_t) 0x8040201008040201);
	__m256i v = _mm256_shuffle_epi8(_mm256_set1_epi32((int) w), spread);

	return _mm256_cmpeq_epi8(_mm256_and_si256(v, select), select);
}

/* Sums of pairs of the signed bytes z whose bit is set: at most 2 * 127 each. */
static inline __m256i
masked_pairs(uint32_t w, const int8_t *z)
{
	__m256i v = _mm256_and_si256(bits_to_bytes(w), _mm256_loadu_si256((const __m256i *) z));

	return _mm256_maddubs_epi16(_mm256_set1_epi8(1), v);
}

/* Words whose pairs 16 bits hold: 129 * 254 < 2^15. */
#define PAIR_WORDS 129

static void
dot1(const uint8_t *codes, size_t stride, size_t n, const int8_t *z, size_t dim, int32_t *out)
{
	size_t nbytes = (dim + 7) / 8, whole = nbytes / 4;

	for (size_t c = 0; c < n; c++, codes += stride)
	{
		__m256i acc = _mm256_setzero_si256(), pairs;
		uint32_t w = 0;

		for (size_t at = 0; at < whole; at += PAIR_WORDS)
		{
			size_t end = whole - at < PAIR_WORDS ? whole : at + PAIR_WORDS;

			pairs = _mm256_setzero_si256();
			for (size_t i = at; i < end; i++)
			{
				memcpy(&w, codes + i * 4, 4);
				pairs = _mm256_add_epi16(pairs, masked_pairs(w, z + i * 32));
			}
			acc = _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
		}
		if (whole * 4 < nbytes)
		{
			w = 0;
			memcpy(&w, codes + whole * 4, nbytes - whole * 4);
			pairs = masked_pairs(w, z + whole * 32);
			acc = _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
		}
		out[c] = add_lanes(acc);
	}
}

static inline __m128i
load_tail16(const uint8_t *p, size_t nbytes)
{
	uint64_t lo = 0, hi = 0;

	memcpy(&lo, p, nbytes < 8 ? nbytes : 8);
	if (nbytes > 8)
		memcpy(&hi, p + 8, nbytes - 8);
	return _mm_set_epi64x((int64_t) hi, (int64_t) lo);
}

static inline __m256i
load_tail(const uint8_t *p, size_t nbytes)
{
	uint8_t buf[32] = {0};

	memcpy(buf, p, nbytes);
	return _mm256_loadu_si256((const __m256i *) buf);
}

/* 64 level indices of one block. */
typedef struct block
{
	__m256i lo, hi;
} block;

static inline block
spread2(__m128i v)
{
	const __m256i three = _mm256_set1_epi8(3);
	__m256i even = _mm256_set_m128i(_mm_srli_epi16(v, 2), v);

	return (block) {_mm256_and_si256(even, three), _mm256_and_si256(_mm256_srli_epi16(even, 4), three)};
}

static inline block
spread4(__m256i v)
{
	const __m256i low = _mm256_set1_epi8(15);

	return (block) {_mm256_and_si256(v, low), _mm256_and_si256(_mm256_srli_epi16(v, 4), low)};
}

/* Levels up to 15 times i8: a pair reaches at most 2 * 15 * 127 = 3,810, two of them 7,620: no saturation. */
static inline __m256i
block_dot(__m256i acc, block u, const int8_t *z)
{
	__m256i lo = _mm256_maddubs_epi16(u.lo, _mm256_loadu_si256((const __m256i *) z));
	__m256i hi = _mm256_maddubs_epi16(u.hi, _mm256_loadu_si256((const __m256i *) (z + 32)));

	return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_add_epi16(lo, hi), _mm256_set1_epi16(1)));
}

static void
dot2(const uint8_t *codes, size_t stride, size_t n, const int8_t *z, size_t dim, int32_t *out)
{
	size_t nbytes = (dim + 3) / 4;

	for (size_t c = 0; c < n; c++, codes += stride)
	{
		__m256i acc = _mm256_setzero_si256();
		size_t i = 0;

		for (; i + 16 <= nbytes; i += 16)
			acc = block_dot(acc, spread2(_mm_loadu_si128((const __m128i *) (codes + i))), z + i * 4);
		if (i < nbytes)
			acc = block_dot(acc, spread2(load_tail16(codes + i, nbytes - i)), z + i * 4);
		out[c] = add_lanes(acc);
	}
}

static void
dot4(const uint8_t *codes, size_t stride, size_t n, const int8_t *z, size_t dim, int32_t *out)
{
	size_t nbytes = (dim + 1) / 2;

	for (size_t c = 0; c < n; c++, codes += stride)
	{
		__m256i acc = _mm256_setzero_si256();
		size_t i = 0;

		for (; i + 32 <= nbytes; i += 32)
			acc = block_dot(acc, spread4(_mm256_loadu_si256((const __m256i *) (codes + i))), z + i * 2);
		if (i < nbytes)
			acc = block_dot(acc, spread4(load_tail(codes + i, nbytes - i)), z + i * 2);
		out[c] = add_lanes(acc);
	}
}

/* u8 times i8 in 16-bit halves, because a pair of bytes would reach 64,770 and saturate. */
static inline __m256i
byte_dot(__m256i acc, __m128i u, const int8_t *z)
{
	__m256i v = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *) z));

	return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_cvtepu8_epi16(u), v));
}

static void
dot8(const uint8_t *codes, size_t stride, size_t n, const int8_t *z, size_t dim, int32_t *out)
{
	for (size_t c = 0; c < n; c++, codes += stride)
	{
		__m256i acc = _mm256_setzero_si256();
		size_t i = 0;

		for (; i + 16 <= dim; i += 16)
			acc = byte_dot(acc, _mm_loadu_si128((const __m128i *) (codes + i)), z + i);
		if (i < dim)
			acc = byte_dot(acc, load_tail16(codes + i, dim - i), z + i);
		out[c] = add_lanes(acc);
	}
}

static void
sym1(const uint8_t *codes, size_t stride, size_t n, const uint8_t *code, size_t dim, int32_t *out)
{
	size_t nbytes = (dim + 7) / 8;

	for (size_t c = 0; c < n; c++, codes += stride)
	{
		uint64_t a, b;
		int32_t hamming = 0;
		size_t i = 0;

		for (; i + 8 <= nbytes; i += 8)
		{
			memcpy(&a, codes + i, 8);
			memcpy(&b, code + i, 8);
			hamming += (int32_t) _mm_popcnt_u64(a ^ b);
		}
		if (i < nbytes)
		{
			a = b = 0;
			memcpy(&a, codes + i, nbytes - i);
			memcpy(&b, code + i, nbytes - i);
			hamming += (int32_t) _mm_popcnt_u64(a ^ b);
		}
		out[c] = (int32_t) dim - 2 * hamming;
	}
}

/* Accumulates sum ua ub (a pair reaches at most 450, two of them 900) and sum ua + ub (at most 60 a byte). */
static inline void
block_sym(__m256i *prod, __m256i *sum, block a, block b)
{
	__m256i p = _mm256_add_epi16(_mm256_maddubs_epi16(a.lo, b.lo), _mm256_maddubs_epi16(a.hi, b.hi));
	__m256i s = _mm256_add_epi8(_mm256_add_epi8(a.lo, a.hi), _mm256_add_epi8(b.lo, b.hi));

	*prod = _mm256_add_epi32(*prod, _mm256_madd_epi16(p, _mm256_set1_epi16(1)));
	*sum = _mm256_add_epi64(*sum, _mm256_sad_epu8(s, _mm256_setzero_si256()));
}

/* sum (2a - M)(2b - M) = 4 sum ab - 2M sum (a + b) + M^2 dim. The result is below 2^30 at 8 bits and 16,000
 * dimensions; intermediate terms may wrap, which unsigned arithmetic undoes. */
static inline int32_t
centred(__m256i prod, __m256i sum, uint32_t m, size_t dim)
{
	return (int32_t) (4 * (uint32_t) add_lanes(prod) - 2 * m * (uint32_t) add_lanes(sum) + m * m * (uint32_t) dim);
}

static void
sym2(const uint8_t *codes, size_t stride, size_t n, const uint8_t *code, size_t dim, int32_t *out)
{
	size_t nbytes = (dim + 3) / 4;

	for (size_t c = 0; c < n; c++, codes += stride)
	{
		__m256i prod = _mm256_setzero_si256(), sum = prod;
		size_t i = 0;

		for (; i + 16 <= nbytes; i += 16)
			block_sym(&prod, &sum, spread2(_mm_loadu_si128((const __m128i *) (codes + i))),
					  spread2(_mm_loadu_si128((const __m128i *) (code + i))));
		if (i < nbytes)
			block_sym(&prod, &sum, spread2(load_tail16(codes + i, nbytes - i)),
					  spread2(load_tail16(code + i, nbytes - i)));
		out[c] = centred(prod, sum, 3, dim);
	}
}

static void
sym4(const uint8_t *codes, size_t stride, size_t n, const uint8_t *code, size_t dim, int32_t *out)
{
	size_t nbytes = (dim + 1) / 2;

	for (size_t c = 0; c < n; c++, codes += stride)
	{
		__m256i prod = _mm256_setzero_si256(), sum = prod;
		size_t i = 0;

		for (; i + 32 <= nbytes; i += 32)
			block_sym(&prod, &sum, spread4(_mm256_loadu_si256((const __m256i *) (codes + i))),
					  spread4(_mm256_loadu_si256((const __m256i *) (code + i))));
		if (i < nbytes)
			block_sym(&prod, &sum, spread4(load_tail(codes + i, nbytes - i)), spread4(load_tail(code + i, nbytes - i)));
		out[c] = centred(prod, sum, 15, dim);
	}
}

/* A pair of products reaches 130,050. */
static inline void
byte_sym(__m256i *prod, __m256i *sum, __m128i a, __m128i b)
{
	__m256i p = _mm256_madd_epi16(_mm256_cvtepu8_epi16(a), _mm256_cvtepu8_epi16(b));

	*prod = _mm256_add_epi32(*prod, p);
	*sum = _mm256_add_epi64(*sum, _mm256_sad_epu8(_mm256_set_m128i(a, b), _mm256_setzero_si256()));
}

static void
sym8(const uint8_t *codes, size_t stride, size_t n, const uint8_t *code, size_t dim, int32_t *out)
{
	for (size_t c = 0; c < n; c++, codes += stride)
	{
		__m256i prod = _mm256_setzero_si256(), sum = prod;
		size_t i = 0;

		for (; i + 16 <= dim; i += 16)
			byte_sym(&prod, &sum, _mm_loadu_si128((const __m128i *) (codes + i)),
					 _mm_loadu_si128((const __m128i *) (code + i)));
		if (i < dim)
			byte_sym(&prod, &sum, load_tail16(codes + i, dim - i), load_tail16(code + i, dim - i));
		out[c] = centred(prod, sum, 255, dim);
	}
}

/* Adds 128 dimensions of all four planes. Tables give 1, 2, 4 and -8 times the set bits of a nibble; a byte's sum
 * lies in -64..16, a lane's in -16,000..4,000 after 125 steps. */
static inline __m256i
planes_sum(__m256i acc, __m128i bits, const uint8_t *planes)
{
	const __m256i low = _mm256_set1_epi8(15);
	const __m128i ones = _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
	const __m128i fours = _mm_slli_epi16(ones, 2), eights = _mm_slli_epi16(ones, 3);
	const __m256i table01 = _mm256_set_m128i(_mm_add_epi8(ones, ones), ones);
	const __m256i table23 = _mm256_set_m128i(_mm_sub_epi8(_mm_setzero_si128(), eights), fours);
	__m256i code = _mm256_broadcastsi128_si256(bits);
	__m256i a = _mm256_and_si256(code, _mm256_loadu_si256((const __m256i *) planes));
	__m256i b = _mm256_and_si256(code, _mm256_loadu_si256((const __m256i *) (planes + 32)));
	__m256i sa = _mm256_add_epi8(_mm256_shuffle_epi8(table01, _mm256_and_si256(a, low)),
								 _mm256_shuffle_epi8(table01, _mm256_and_si256(_mm256_srli_epi16(a, 4), low)));
	__m256i sb = _mm256_add_epi8(_mm256_shuffle_epi8(table23, _mm256_and_si256(b, low)),
								 _mm256_shuffle_epi8(table23, _mm256_and_si256(_mm256_srli_epi16(b, 4), low)));

	return _mm256_add_epi16(acc, _mm256_maddubs_epi16(_mm256_set1_epi8(1), _mm256_add_epi8(sa, sb)));
}

static void
dot_planes(const uint8_t *codes, size_t stride, size_t n, const uint8_t *planes, size_t dim, int32_t *out)
{
	size_t nbytes = (dim + 7) / 8;

	for (size_t c = 0; c < n; c++, codes += stride)
	{
		__m256i acc = _mm256_setzero_si256();
		size_t i = 0;

		for (; i + 16 <= nbytes; i += 16)
			acc = planes_sum(acc, _mm_loadu_si128((const __m128i *) (codes + i)), planes + i * 4);
		if (i < nbytes)
			acc = planes_sum(acc, load_tail16(codes + i, nbytes - i), planes + i * 4);
		out[c] = add_lanes(_mm256_madd_epi16(acc, _mm256_set1_epi16(1)));
	}
}

/* Eight sums at a time: as many as the two multipliers of current cores need, and half the registers. */
static void
multiply(const int32_t *pairs, const int16_t *columns, size_t n_pairs, size_t n_groups, int32_t *sums)
{
	for (size_t g = 0; g < n_groups; g++, sums += BQK_COLUMN_GROUP * BQK_LANES)
	{
		__m256i acc[2 * BQK_COLUMN_GROUP];

		UNROLLED
		for (size_t j = 0; j < 2 * BQK_COLUMN_GROUP; j++)
			acc[j] = _mm256_setzero_si256();
		for (size_t p = 0; p < n_pairs; p++, columns += 2 * BQK_COLUMN_GROUP)
		{
			__m256i lo = _mm256_loadu_si256((const __m256i *) (pairs + p * BQK_LANES));
			__m256i hi = _mm256_loadu_si256((const __m256i *) (pairs + p * BQK_LANES + 8));

			UNROLLED
			for (size_t j = 0; j < BQK_COLUMN_GROUP; j++)
			{
				int32_t pair;
				__m256i column;

				memcpy(&pair, columns + 2 * j, sizeof(pair));
				column = _mm256_set1_epi32(pair);
				acc[2 * j] = _mm256_add_epi32(acc[2 * j], _mm256_madd_epi16(lo, column));
				acc[2 * j + 1] = _mm256_add_epi32(acc[2 * j + 1], _mm256_madd_epi16(hi, column));
			}
		}
		UNROLLED
		for (size_t j = 0; j < 2 * BQK_COLUMN_GROUP; j++)
			_mm256_storeu_si256((__m256i *) (sums + 8 * j), acc[j]);
	}
}

const bqk_kernels bqk_kernels_avx2 = {
	"avx2",
	bqk_cpu_avx2,
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
