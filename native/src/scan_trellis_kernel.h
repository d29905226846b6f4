/* Products of trellis codes on registers; included by the SIMD files, which define before it
 *     vec                       eight floats
 *     zero()
 *     add_levels(sum, bits, levels, u, q)    sum + level * q of eight axes; u has the number of a level in each byte
 *     store(sums, out)          sums of even and of odd groups to BQK_LANES floats
 * A byte with a bit of each of eight axes becomes eight bytes by a table; a group whose axes differ in bits, or have
 * more than a byte can number, is read axis by axis. Groups go from the last to the first, as in the scalar kernel. */
#include "scan_trellis.h"

#include <string.h>

/* Bit i of the byte is the lowest bit of byte i. */
#define S1(b)                                                                                                          \
	((uint64_t) ((b) & 1) | (uint64_t) ((b) >> 1 & 1) << 8 | (uint64_t) ((b) >> 2 & 1) << 16 |                         \
	 (uint64_t) ((b) >> 3 & 1) << 24 | (uint64_t) ((b) >> 4 & 1) << 32 | (uint64_t) ((b) >> 5 & 1) << 40 |             \
	 (uint64_t) ((b) >> 6 & 1) << 48 | (uint64_t) ((b) >> 7 & 1) << 56)
#define S4(b) S1(b), S1((b) + 1), S1((b) + 2), S1((b) + 3)
#define S16(b) S4(b), S4((b) + 4), S4((b) + 8), S4((b) + 12)
#define S64(b) S16(b), S16((b) + 16), S16((b) + 32), S16((b) + 48)

static const uint64_t spread[256] = {S64(0), S64(64), S64(128), S64(192)};

/* 64 bits from byte `at` on, zeros beyond the code. */
static inline uint64_t
word_at(const uint8_t *code, size_t nbytes, size_t at)
{
	uint64_t word = 0;

	if (at + 8 <= nbytes)
		memcpy(&word, code + at, 8);
	else
		for (size_t i = at; i < nbytes; i++)
			word |= (uint64_t) code[i] << 8 * (i - at);
	return word;
}

/* Eight bits of a plane. Bits beyond the code belong to no axis. */
static inline unsigned
byte_at(const uint8_t *code, size_t nbytes, size_t bit)
{
	size_t at = bit / 8;
	unsigned both = code[at];

	if (bit % 8 && at + 1 < nbytes)
		both |= (unsigned) code[at + 1] << 8;
	return both >> bit % 8 & 255;
}

/* Numbers of the levels of a group's axes, all of them of `bits` bits; low: the bits of the trellis. */
static inline __attribute__((always_inline)) uint64_t
numbers(const uint8_t *code, size_t nbytes, const bqk_trellis_query *query, int bits, size_t first, uint64_t low)
{
	for (int p = bits - 1; p >= 1; p--)
		low |= spread[byte_at(code, nbytes, query->plane[p] + first)] << (bits + 1 - p);
	return low;
}

/* sum + level * q of axes of unlike bits. */
static inline vec
add_each(vec sum, const bqk_trellis *t, const float *levels, const uint8_t *code, const bqk_trellis_query *query,
		 size_t first, uint64_t low)
{
	float found[BQK_SCAN_AXES] = {0};

	for (size_t j = 0; j < BQK_SCAN_AXES && first + j < t->dim; j++)
	{
		size_t i = first + j, u = low >> 8 * j & 3;
		int bits = t->bits[i];

		for (int p = 1; p < bits; p++)
		{
			size_t bit = query->plane[p] + i;

			u += (size_t) (code[bit / 8] >> bit % 8 & 1) << (bits + 1 - p);
		}
		found[j] = levels[bqk_levels_at(bits) + u];
	}
	return add_products(sum, found, query->q + first);
}

static inline float
product(const bqk_trellis *t, const float *levels, const uint8_t *code, const void *z)
{
	const bqk_trellis_query *query = z;
	size_t nbytes = t->code_nbytes, dim = t->dim;
	uint64_t next = 0; /* the 64 axes after those of the word */
	vec sums[2] = {zero(), zero()};
	float lane[BQK_LANES];

	for (size_t w = (dim + 63) / 64; w-- > 0;)
	{
		size_t left = dim - w * 64, n = left < 64 ? left : 64;
		uint64_t b = word_at(code, nbytes, w * 8) & (n < 64 ? ((uint64_t) 1 << n) - 1 : UINT64_MAX);
		uint64_t z0 = b >> 2 | next << 62, z1 = b ^ (b >> 1 | next << 63) ^ (b >> 3 | next << 61);

		for (size_t g = (n + 7) / 8; g-- > 0;)
		{
			size_t first = w * 64 + g * 8, last = first + 7 < dim ? first + 7 : dim - 1;
			uint64_t low = spread[z0 >> g * 8 & 255] | spread[z1 >> g * 8 & 255] << 1;
			const float *q = query->q + first;
			vec *sum = sums + g % 2;

			if (t->bits[first] != t->bits[last] || t->bits[first] > BQK_SCAN_MAX_RATE)
				*sum = add_each(*sum, t, levels, code, query, first, low);
			else
				switch (t->bits[first])
				{
				case 1:
					*sum = add_levels(*sum, 1, levels, low, q);
					break;
				case 2:
					*sum = add_levels(*sum, 2, levels, numbers(code, nbytes, query, 2, first, low), q);
					break;
				case 3:
					*sum = add_levels(*sum, 3, levels, numbers(code, nbytes, query, 3, first, low), q);
					break;
				default:
					*sum = add_levels(*sum, t->bits[first], levels,
									  numbers(code, nbytes, query, t->bits[first], first, low), q);
				}
		}
		next = b;
	}
	store(sums, lane);
	return bqk_fold(lane);
}
