/* Products of trellis codes with NEON: levels of up to 3 bits are looked up byte by byte in registers. */
#if defined(__aarch64__)
#include "scan_trellis.h"

#include <arm_neon.h>

typedef float32x4x2_t vec;

static inline vec
zero(void)
{
	return (vec) {{vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)}};
}

typedef uint8x16x2_t bytes;

static inline bytes
none(void)
{
	return (bytes) {{vdupq_n_u8(0), vdupq_n_u8(0)}};
}

static inline bytes
pick(bytes sum, uint32_t bits, const uint8_t *places)
{
	uint8x8_t bit = vcreate_u8(UINT64_C(0x8040201008040201));

	for (size_t i = 0; i < 2; i++)
	{
		uint8x16_t v = vcombine_u8(vdup_n_u8((uint8_t) (bits >> 16 * i)), vdup_n_u8((uint8_t) (bits >> (16 * i + 8))));

		v = vtstq_u8(v, vcombine_u8(bit, bit));
		sum.val[i] = vorrq_u8(sum.val[i], vandq_u8(v, vld1q_u8(places + 16 * i)));
	}
	return sum;
}

static inline void
put(bytes sum, uint8_t *out)
{
	vst1q_u8(out, sum.val[0]);
	vst1q_u8(out + 16, sum.val[1]);
}

static inline vec
add_pair(vec sum, float32x4_t low, float32x4_t high, const float *q)
{
	sum.val[0] = vaddq_f32(sum.val[0], vmulq_f32(low, vld1q_f32(q)));
	sum.val[1] = vaddq_f32(sum.val[1], vmulq_f32(high, vld1q_f32(q + 4)));
	return sum;
}

static inline vec
add_products(vec sum, const float *levels, const float *q)
{
	return add_pair(sum, vld1q_f32(levels), vld1q_f32(levels + 4), q);
}

/* Four of the levels, by the first bytes' numbers. */
static inline __attribute__((always_inline)) float32x4_t
four(int bits, const uint8_t *levels, uint8x16_t u, unsigned half)
{
	static const uint8_t which[2][16] = {{0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3},
										 {4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7}};
	static const uint8_t bytes[16] = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};
	uint8x16_t at = vaddq_u8(vshlq_n_u8(vqtbl1q_u8(u, vld1q_u8(which[half])), 2), vld1q_u8(bytes));

	if (bits == 1)
		return vreinterpretq_f32_u8(vqtbl1q_u8(vld1q_u8(levels), at));
	if (bits == 2)
		return vreinterpretq_f32_u8(vqtbl2q_u8((uint8x16x2_t) {{vld1q_u8(levels), vld1q_u8(levels + 16)}}, at));
	return vreinterpretq_f32_u8(vqtbl4q_u8(
		(uint8x16x4_t) {{vld1q_u8(levels), vld1q_u8(levels + 16), vld1q_u8(levels + 32), vld1q_u8(levels + 48)}}, at));
}

static inline __attribute__((always_inline)) vec
add_levels(vec sum, int bits, const float *levels, const uint8_t *u, const float *q)
{
	const float *of_bits = levels + bqk_levels_at(bits);
	uint8x16_t both = vcombine_u8(vld1_u8(u), vdup_n_u8(0));

	return add_pair(sum, four(bits, (const uint8_t *) of_bits, both, 0), four(bits, (const uint8_t *) of_bits, both, 1),
					q);
}

static inline vec
add_gathered(vec sum, const float *levels, const uint32_t *starts, const uint8_t *u, const float *q)
{
	float found[BQK_SCAN_AXES];

	for (size_t j = 0; j < BQK_SCAN_AXES; j++)
		found[j] = levels[starts[j] + u[j]];
	return add_products(sum, found, q);
}

static inline void
store(const vec *sums, float *out)
{
	for (size_t i = 0; i < 4; i++)
		vst1q_f32(out + 4 * i, sums[i / 2].val[i % 2]);
}

#include "scan_trellis_kernel.h"

float
bqk_trellis_product_neon(const bqk_trellis *t, const float *levels, const uint8_t *code, const void *z)
{
	return product(t, levels, code, z);
}
#endif
