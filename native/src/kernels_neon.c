/* NEON: 4 floats, 16 bytes. Codes are read whole blocks at a time; the last, partial block is copied to the
 * stack, so that nothing beyond a code's last byte is touched. */
#if defined(__aarch64__)
#define W 4
#include "float_kernels.h"
#include "rotation_kernel.h"
#include "scan_trellis.h"
#include "trellis_kernel.h"
#include "lanes_kernel.h"

#include <arm_neon.h>

static void
pack1(const float *x, size_t dim, uint8_t *code)
{
	const uint32x4_t low = {1, 2, 4, 8}, high = {16, 32, 64, 128};
	size_t i = 0;

	for (; i + 8 <= dim; i += 8)
	{
		uint32x4_t a = vandq_u32(vcgtzq_f32(vld1q_f32(x + i)), low);
		uint32x4_t b = vandq_u32(vcgtzq_f32(vld1q_f32(x + i + 4)), high);

		code[i / 8] = (uint8_t) vaddvq_u32(vorrq_u32(a, b));
	}
	if (i < dim)
		code[i / 8] = 0;
	for (; i < dim; i++)
		code[i / 8] |= (uint8_t) ((x[i] > 0.0f) << (i % 8));
}

static inline uint8x8_t
load_tail8(const uint8_t *p, size_t nbytes)
{
	uint8_t buf[8] = {0};

	memcpy(buf, p, nbytes);
	return vld1_u8(buf);
}

static inline uint8x16_t
load_tail(const uint8_t *p, size_t nbytes)
{
	uint8_t buf[16] = {0};

	memcpy(buf, p, nbytes);
	return vld1q_u8(buf);
}

/* The bytes of z whose bit is set in bytes `first` and first + 1 of a code. */
static inline int8x16_t
masked(uint8x16_t code, uint8_t first, const int8_t *z)
{
	const uint8x16_t select = vreinterpretq_u8_u64(vdupq_n_u64(UINT64_C(0x8040201008040201)));
	const uint8x16_t spread = vcombine_u8(vdup_n_u8(first), vdup_n_u8(first + 1));
	uint8x16_t mask = vtstq_u8(vqtbl1q_u8(code, spread), select);

	return vandq_s8(vreinterpretq_s8_u8(mask), vld1q_s8(z));
}

/* Adds the sum of the 64 signed bytes z whose bit is set: 4 pairs reach at most 8 * 127 = 1,016. */
static inline int32x4_t
masked_sum(int32x4_t acc, uint8x8_t bits, const int8_t *z)
{
	uint8x16_t code = vcombine_u8(bits, bits);
	int16x8_t pairs = vpaddlq_s8(masked(code, 0, z));

	pairs = vpadalq_s8(pairs, masked(code, 2, z + 16));
	pairs = vpadalq_s8(pairs, masked(code, 4, z + 32));
	pairs = vpadalq_s8(pairs, masked(code, 6, z + 48));
	return vpadalq_s16(acc, pairs);
}

static void
dot1(const uint8_t *codes, size_t stride, size_t n, const int8_t *z, size_t dim, int32_t *out)
{
	size_t nbytes = bqk_nbytes(dim, 1);

	for (size_t c = 0; c < n; c++, codes += stride)
	{
		int32x4_t acc = vdupq_n_s32(0);
		size_t i = 0;

		for (; i + 8 <= nbytes; i += 8)
			acc = masked_sum(acc, vld1_u8(codes + i), z + i * 8);
		if (i < nbytes)
			acc = masked_sum(acc, load_tail8(codes + i, nbytes - i), z + i * 8);
		out[c] = vaddvq_s32(acc);
	}
}

/* 64 level indices of one block, in the order of a query's coordinates. */
typedef struct block
{
	int8x16_t v[4];
} block;

static inline block
spread2(uint8x16_t c)
{
	const uint8x16_t three = vdupq_n_u8(3);

	return (block) {{vreinterpretq_s8_u8(vandq_u8(c, three)), vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(c, 2), three)),
					 vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(c, 4), three)), vreinterpretq_s8_u8(vshrq_n_u8(c, 6))}};
}

static inline block
spread4(uint8x16_t a, uint8x16_t b)
{
	const uint8x16_t low = vdupq_n_u8(15);

	return (block) {{vreinterpretq_s8_u8(vandq_u8(a, low)), vreinterpretq_s8_u8(vandq_u8(b, low)),
					 vreinterpretq_s8_u8(vshrq_n_u8(a, 4)), vreinterpretq_s8_u8(vshrq_n_u8(b, 4))}};
}

/* nbytes of a code, at most those of a block, to its levels. */
static inline block
block2(const uint8_t *p, size_t nbytes)
{
	return spread2(nbytes >= 16 ? vld1q_u8(p) : load_tail(p, nbytes));
}

static inline block
block4(const uint8_t *p, size_t nbytes)
{
	if (nbytes >= 32)
		return spread4(vld1q_u8(p), vld1q_u8(p + 16));
	if (nbytes >= 16)
		return spread4(vld1q_u8(p), load_tail(p + 16, nbytes - 16));
	return spread4(load_tail(p, nbytes), vdupq_n_u8(0));
}

static inline int16x8_t
multiply_add(int16x8_t s, int8x16_t a, int8x16_t b)
{
	return vmlal_high_s8(vmlal_s8(s, vget_low_s8(a), vget_low_s8(b)), a, b);
}

/* Adds the products of 64 signed bytes: 8 in a lane, at most 8 * 15 * 127 = 15,240 with levels and a query, and
 * 8 * 15 * 15 = 1,800 with doubled levels. Loops over the four vectors would stay loops at -O2. */
static inline int32x4_t
add_products(int32x4_t acc, block a, block b)
{
	int16x8_t s = multiply_add(vdupq_n_s16(0), a.v[0], b.v[0]);

	s = multiply_add(s, a.v[1], b.v[1]);
	s = multiply_add(s, a.v[2], b.v[2]);
	s = multiply_add(s, a.v[3], b.v[3]);
	return vpadalq_s16(acc, s);
}

static inline block
query_block(const int8_t *z)
{
	return (block) {{vld1q_s8(z), vld1q_s8(z + 16), vld1q_s8(z + 32), vld1q_s8(z + 48)}};
}

static inline int8x16_t
twice_less(int8x16_t u, int8_t m)
{
	return vsubq_s8(vaddq_s8(u, u), vdupq_n_s8(m));
}

/* 2u - M, in -M..M. */
static inline block
doubled(block u, int8_t m)
{
	return (block) {{twice_less(u.v[0], m), twice_less(u.v[1], m), twice_less(u.v[2], m), twice_less(u.v[3], m)}};
}

/* Coordinates that fill up the last block are level 0 in both codes, and add M^2 each. */
static inline int32_t
without_padding(int32x4_t acc, size_t padding, int32_t m)
{
	return vaddvq_s32(acc) - (int32_t) padding * m * m;
}

#define WIDTH(bits)                                                                                                    \
	static void dot##bits(const uint8_t *codes, size_t stride, size_t n, const int8_t *z, size_t dim, int32_t *out)    \
	{                                                                                                                  \
		size_t nbytes = bqk_nbytes(dim, bits);                                                                         \
                                                                                                                       \
		for (size_t c = 0; c < n; c++, codes += stride)                                                                \
		{                                                                                                              \
			int32x4_t acc = vdupq_n_s32(0);                                                                            \
                                                                                                                       \
			for (size_t i = 0; i < nbytes; i += 8 * bits)                                                              \
				acc = add_products(acc, block##bits(codes + i, nbytes - i), query_block(z + i * 8 / bits));            \
			out[c] = vaddvq_s32(acc);                                                                                  \
		}                                                                                                              \
	}                                                                                                                  \
	static void sym##bits(const uint8_t *codes, size_t stride, size_t n, const uint8_t *code, size_t dim,              \
						  int32_t *out)                                                                                \
	{                                                                                                                  \
		const int8_t m = (1 << bits) - 1;                                                                              \
		size_t nbytes = bqk_nbytes(dim, bits);                                                                         \
                                                                                                                       \
		for (size_t c = 0; c < n; c++, codes += stride)                                                                \
		{                                                                                                              \
			int32x4_t acc = vdupq_n_s32(0);                                                                            \
                                                                                                                       \
			for (size_t i = 0; i < nbytes; i += 8 * bits)                                                              \
				acc = add_products(acc, doubled(block##bits(codes + i, nbytes - i), m),                                \
								   doubled(block##bits(code + i, nbytes - i), m));                                     \
			out[c] = without_padding(acc, -dim % BQK_BLOCK, m);                                                        \
		}                                                                                                              \
	}

WIDTH(2)
WIDTH(4)

static inline int16x8_t
widen(uint8x8_t u)
{
	return vreinterpretq_s16_u16(vmovl_u8(u));
}

/* A sum over 16,000 dimensions stays below 16,000 * 255 * 127 = 2^28.95. */
static inline int32x4_t
byte_dot(int32x4_t acc, uint8x16_t u, const int8_t *z)
{
	int8x16_t v = vld1q_s8(z);
	int16x8_t u0 = widen(vget_low_u8(u)), u1 = widen(vget_high_u8(u));
	int16x8_t z0 = vmovl_s8(vget_low_s8(v)), z1 = vmovl_high_s8(v);

	acc = vmlal_s16(acc, vget_low_s16(u0), vget_low_s16(z0));
	acc = vmlal_high_s16(acc, u0, z0);
	acc = vmlal_s16(acc, vget_low_s16(u1), vget_low_s16(z1));
	return vmlal_high_s16(acc, u1, z1);
}

static void
dot8(const uint8_t *codes, size_t stride, size_t n, const int8_t *z, size_t dim, int32_t *out)
{
	for (size_t c = 0; c < n; c++, codes += stride)
	{
		int32x4_t acc = vdupq_n_s32(0);
		size_t i = 0;

		for (; i + 16 <= dim; i += 16)
			acc = byte_dot(acc, vld1q_u8(codes + i), z + i);
		if (i < dim)
			acc = byte_dot(acc, load_tail(codes + i, dim - i), z + i);
		out[c] = vaddvq_s32(acc);
	}
}

/* Bits that differ: a lane's pair of bytes reaches 16 in a step, 125 steps 2,000. */
static inline uint16x8_t
add_differing(uint16x8_t acc, uint8x16_t a, uint8x16_t b)
{
	return vpadalq_u8(acc, vcntq_u8(veorq_u8(a, b)));
}

static void
sym1(const uint8_t *codes, size_t stride, size_t n, const uint8_t *code, size_t dim, int32_t *out)
{
	size_t nbytes = bqk_nbytes(dim, 1);

	for (size_t c = 0; c < n; c++, codes += stride)
	{
		uint16x8_t acc = vdupq_n_u16(0);
		size_t i = 0;

		for (; i + 16 <= nbytes; i += 16)
			acc = add_differing(acc, vld1q_u8(codes + i), vld1q_u8(code + i));
		if (i < nbytes)
			acc = add_differing(acc, load_tail(codes + i, nbytes - i), load_tail(code + i, nbytes - i));
		out[c] = (int32_t) dim - 2 * (int32_t) vaddlvq_u16(acc);
	}
}

/* 2u - 255 takes 16 bits; with padding a sum stays below 16,016 * 255^2 = 2^29.96. */
static inline int32x4_t
byte_sym(int32x4_t acc, uint8x16_t a, uint8x16_t b)
{
	const int16x8_t m = vdupq_n_s16(255);
	int16x8_t a0 = vsubq_s16(vreinterpretq_s16_u16(vshll_n_u8(vget_low_u8(a), 1)), m);
	int16x8_t a1 = vsubq_s16(vreinterpretq_s16_u16(vshll_high_n_u8(a, 1)), m);
	int16x8_t b0 = vsubq_s16(vreinterpretq_s16_u16(vshll_n_u8(vget_low_u8(b), 1)), m);
	int16x8_t b1 = vsubq_s16(vreinterpretq_s16_u16(vshll_high_n_u8(b, 1)), m);

	acc = vmlal_s16(acc, vget_low_s16(a0), vget_low_s16(b0));
	acc = vmlal_high_s16(acc, a0, b0);
	acc = vmlal_s16(acc, vget_low_s16(a1), vget_low_s16(b1));
	return vmlal_high_s16(acc, a1, b1);
}

static void
sym8(const uint8_t *codes, size_t stride, size_t n, const uint8_t *code, size_t dim, int32_t *out)
{
	for (size_t c = 0; c < n; c++, codes += stride)
	{
		int32x4_t acc = vdupq_n_s32(0);
		size_t i = 0;

		for (; i + 16 <= dim; i += 16)
			acc = byte_sym(acc, vld1q_u8(codes + i), vld1q_u8(code + i));
		if (i < dim)
			acc = byte_sym(acc, load_tail(codes + i, dim - i), load_tail(code + i, dim - i));
		out[c] = without_padding(acc, -dim % 16, 255);
	}
}

/* Adds 128 dimensions of all four planes: a byte's sum lies in -64..56, a lane's in -16,000..14,000 after 125
 * steps. */
static inline int16x8_t
planes_sum(int16x8_t acc, uint8x16_t bits, const uint8_t *planes)
{
	uint8x16_t sum = vcntq_u8(vandq_u8(bits, vld1q_u8(planes)));

	sum = vaddq_u8(sum, vshlq_n_u8(vcntq_u8(vandq_u8(bits, vld1q_u8(planes + 16))), 1));
	sum = vaddq_u8(sum, vshlq_n_u8(vcntq_u8(vandq_u8(bits, vld1q_u8(planes + 32))), 2));
	sum = vsubq_u8(sum, vshlq_n_u8(vcntq_u8(vandq_u8(bits, vld1q_u8(planes + 48))), 3));
	return vpadalq_s8(acc, vreinterpretq_s8_u8(sum));
}

static void
dot_planes(const uint8_t *codes, size_t stride, size_t n, const uint8_t *planes, size_t dim, int32_t *out)
{
	size_t nbytes = bqk_nbytes(dim, 1);

	for (size_t c = 0; c < n; c++, codes += stride)
	{
		int16x8_t acc = vdupq_n_s16(0);
		size_t i = 0;

		for (; i + 16 <= nbytes; i += 16)
			acc = planes_sum(acc, vld1q_u8(codes + i), planes + i * 4);
		if (i < nbytes)
			acc = planes_sum(acc, load_tail(codes + i, nbytes - i), planes + i * 4);
		out[c] = vaddlvq_s16(acc);
	}
}

/* The first and the second number of the pairs of 16 rows times those of four columns. */
static void
multiply(const int32_t *pairs, const int16_t *columns, size_t n_pairs, size_t n_groups, int32_t *sums)
{
	for (size_t g = 0; g < n_groups; g++, sums += BQK_COLUMN_GROUP * BQK_LANES)
	{
		int32x4_t acc[BQK_COLUMN_GROUP * BQK_LANES / 4];

		for (size_t j = 0; j < BQK_COLUMN_GROUP * BQK_LANES / 4; j++)
			acc[j] = vdupq_n_s32(0);
		for (size_t p = 0; p < n_pairs; p++, columns += 2 * BQK_COLUMN_GROUP)
		{
			int16x8x2_t lo = vld2q_s16((const int16_t *) (pairs + p * BQK_LANES));
			int16x8x2_t hi = vld2q_s16((const int16_t *) (pairs + p * BQK_LANES + 8));

			UNROLLED
			for (size_t j = 0; j < BQK_COLUMN_GROUP; j++)
			{
				UNROLLED
				for (size_t i = 0; i < 2; i++)
				{
					int16_t c = columns[2 * j + i];

					acc[4 * j] = vmlal_n_s16(acc[4 * j], vget_low_s16(lo.val[i]), c);
					acc[4 * j + 1] = vmlal_n_s16(acc[4 * j + 1], vget_high_s16(lo.val[i]), c);
					acc[4 * j + 2] = vmlal_n_s16(acc[4 * j + 2], vget_low_s16(hi.val[i]), c);
					acc[4 * j + 3] = vmlal_n_s16(acc[4 * j + 3], vget_high_s16(hi.val[i]), c);
				}
			}
		}
		for (size_t j = 0; j < BQK_COLUMN_GROUP * BQK_LANES / 4; j++)
			vst1q_s32(sums + 4 * j, acc[j]);
	}
}

const bqk_kernels bqk_kernels_neon = {
	"neon",
	bqk_cpu_neon,
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
	bqk_lut4_scalar,
	bqk_trellis_product_neon,
};
#endif
