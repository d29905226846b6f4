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
add8(vec a, vec b)
{
	return vaddq_u8(a, b);
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

static inline vec
less8(vec a, vec b)
{
	return vqsubq_u8(a, b);
}

static inline vec
less16(vec a, vec b)
{
	return vreinterpretq_u8_u16(vqsubq_u16(vreinterpretq_u16_u8(a), vreinterpretq_u16_u8(b)));
}

static inline vec
all8(uint32_t x)
{
	return vdupq_n_u8((uint8_t) x);
}

static inline vec
all16(uint32_t x)
{
	return vreinterpretq_u8_u16(vdupq_n_u16((uint16_t) x));
}

static inline void
emit8(const vec *sums, const vec *limits, uint32_t at, bqk_scan_found *found)
{
	for (size_t v = 0; v < VECTORS; v++)
	{
		uint8x16_t over = vqsubq_u8(sums[v], limits[v]);
		uint8_t lane[16], by[16];

		if (vminvq_u8(over) > 0)
			continue;
		vst1q_u8(lane, sums[v]);
		vst1q_u8(by, over);
		for (uint32_t c = 0; c < 16; c++)
			if (by[c] == 0)
			{
				found->positions[found->n] = at + (uint32_t) v * 16 + c;
				found->sums[found->n++] = lane[c];
			}
	}
}

static inline void
emit16(const vec *even, const vec *odd, const vec *even_limits, const vec *odd_limits, uint32_t at,
	   bqk_scan_found *found)
{
	for (size_t v = 0; v < VECTORS; v++)
	{
		uint16x8_t a = vreinterpretq_u16_u8(even[v]), b = vreinterpretq_u16_u8(odd[v]);
		uint16x8_t over[2] = {vqsubq_u16(a, vreinterpretq_u16_u8(even_limits[v])),
							  vqsubq_u16(b, vreinterpretq_u16_u8(odd_limits[v]))};
		uint16_t lane[16], by[16];

		if (vminvq_u16(vminq_u16(over[0], over[1])) > 0)
			continue;
		vst1q_u16(lane, vzip1q_u16(a, b));
		vst1q_u16(lane + 8, vzip2q_u16(a, b));
		vst1q_u16(by, vzip1q_u16(over[0], over[1]));
		vst1q_u16(by + 8, vzip2q_u16(over[0], over[1]));
		for (uint32_t c = 0; c < 16; c++)
			if (by[c] == 0)
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
