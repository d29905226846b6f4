/* AVX2: 32 codes of nibbles against one table of 16 entries by a shuffle. Codes lie row by row, so a block of them is
 * transposed once and then read for every query. AVX-512 machines run this too. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif

#include "bqk.h"

#include <immintrin.h>
#include <string.h>

#define BLOCK 32
/* Subspaces whose sums fit 16 bits: 256 * 255 = 65,280. */
#define CHUNK 256

static inline __m256i
look_up(const uint8_t *table, __m256i nibbles)
{
	return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *) table)), nibbles);
}

/* Adds the sums of 32 codes over n_subspaces <= CHUNK; byte b of code c lies at bytes[b][c]. */
static void
add_chunk(uint8_t (*bytes)[BLOCK], size_t n_subspaces, const uint8_t *lut, uint32_t *sums)
{
	const __m256i low = _mm256_set1_epi8(15);
	/* 16-bit sums of whole pairs, modulo 2^16, and of their high bytes: the low bytes' is the difference. */
	__m256i both = _mm256_setzero_si256(), odd = both, even;
	uint16_t lane[2][BLOCK / 2];

	for (size_t m = 0; m < n_subspaces; m += 2)
	{
		__m256i pair = _mm256_loadu_si256((const __m256i *) bytes[m / 2]);
		__m256i v = look_up(lut + m * 16, _mm256_and_si256(pair, low));

		both = _mm256_add_epi16(both, v);
		odd = _mm256_add_epi16(odd, _mm256_srli_epi16(v, 8));
		if (m + 1 == n_subspaces)
			break;
		v = look_up(lut + m * 16 + 16, _mm256_and_si256(_mm256_srli_epi16(pair, 4), low));
		both = _mm256_add_epi16(both, v);
		odd = _mm256_add_epi16(odd, _mm256_srli_epi16(v, 8));
	}
	even = _mm256_sub_epi16(both, _mm256_slli_epi16(odd, 8));
	_mm256_storeu_si256((__m256i *) lane[0], even);
	_mm256_storeu_si256((__m256i *) lane[1], odd);
	for (size_t c = 0; c < BLOCK; c++)
		sums[c] += lane[c % 2][c / 2];
}

void
bqk_lut4_avx2(const uint8_t *codes, size_t n, size_t n_subspaces, const uint8_t *luts, size_t n_queries, uint32_t *out)
{
	size_t nbytes = (n_subspaces + 1) / 2;

	memset(out, 0, n_queries * n * sizeof(*out));
	for (size_t first = 0; first < n; first += BLOCK)
		for (size_t m = 0; m < n_subspaces; m += CHUNK)
		{
			uint8_t bytes[CHUNK / 2][BLOCK] = {{0}};
			size_t count = n - first < BLOCK ? n - first : BLOCK;
			size_t width = n_subspaces - m < CHUNK ? n_subspaces - m : CHUNK;

			for (size_t c = 0; c < count; c++)
				for (size_t b = 0; b < (width + 1) / 2; b++)
					bytes[b][c] = codes[(first + c) * nbytes + m / 2 + b];
			for (size_t q = 0; q < n_queries; q++)
			{
				uint32_t sums[BLOCK] = {0};

				add_chunk(bytes, width, luts + (q * n_subspaces + m) * 16, sums);
				for (size_t c = 0; c < count; c++)
					out[q * n + first + c] += sums[c];
			}
		}
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
