/* FastScan with NEON: 16 bytes, four registers to a row. */
#if defined(__aarch64__)
#include "fastscan.h"

#include <arm_neon.h>

#define VECTORS 4

typedef uint8x16_t vec;

static inline vec
load(const uint8_t *p)
{
	return vld1q_u8(p);
}

static inline vec
table(const uint8_t *p)
{
	return vld1q_u8(p);
}

static inline vec
lookup(vec t, vec v)
{
	return vqtbl1q_u8(t, v);
}

static inline vec
low_nibbles(vec v)
{
	return vandq_u8(v, vdupq_n_u8(15));
}

static inline vec
high_nibbles(vec v)
{
	return vshrq_n_u8(v, 4);
}

static inline vec
halved(vec v)
{
	return vshrq_n_u8(v, 1);
}

static inline vec
sum8(vec a, vec b)
{
	return vqaddq_u8(a, b);
}

static inline vec
sum16(vec a, vec b)
{
	return vreinterpretq_u8_u16(vaddq_u16(vreinterpretq_u16_u8(a), vreinterpretq_u16_u8(b)));
}

static inline vec xor (vec a, vec b)
{
	return veorq_u8(a, b);
}

static inline void
pin(vec *v)
{
	__asm__("" : "+w"(*v));
}

static inline vec
zero(void)
{
	return vdupq_n_u8(0);
}

static inline vec
even16(vec both, vec odd)
{
	return vreinterpretq_u8_u16(vsubq_u16(vreinterpretq_u16_u8(both), vshlq_n_u16(vreinterpretq_u16_u8(odd), 8)));
}

static inline vec
odd16(vec v)
{
	return vreinterpretq_u8_u16(vshrq_n_u16(vreinterpretq_u16_u8(v), 8));
}

static inline void
emit(const vec *even, const vec *odd, uint32_t at, bqk_scan_found *found)
{
	for (size_t v = 0; v < VECTORS; v++)
	{
		uint16x8_t a = vreinterpretq_u16_u8(even[v]), b = vreinterpretq_u16_u8(odd[v]);
		uint16_t lane[16];

		if (vminvq_u16(vminq_u16(a, b)) > found->threshold)
			continue;
		vst1q_u16(lane, vzip1q_u16(a, b));
		vst1q_u16(lane + 8, vzip2q_u16(a, b));
		for (uint32_t c = 0; c < 16; c++)
			if (lane[c] <= found->threshold)
			{
				found->positions[found->n] = at + (uint32_t) v * 16 + c;
				found->sums[found->n++] = lane[c];
			}
	}
}

#include "fastscan_kernel.h"

void
bqk_fastscan_neon(const bqk_scan_rows *rows, bqk_scan_found *found, size_t n_queries)
{
	scan_groups(rows, found, n_queries);
}
#endif
