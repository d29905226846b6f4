/* The kernel library's own view of itself: public declarations plus the table
 * that every instruction set fills. Everything is hidden, because the objects
 * are linked into a Python module and into a Postgres extension. */
#ifndef BQK_H
#define BQK_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(hidden)

#include "bqk_api.h"

/* Partial sums go to lane i % BQK_LANES and are folded 8, 4, 2, 1: one order on
 * every ISA, so that float results, and with them codes, are identical. */
#define BQK_LANES 16
/* Kernels read queries in blocks of 64 dimensions. */
#define BQK_BLOCK 64
/* Bit planes of a 4-bit query: 16 bytes of each plane for every 128 dimensions. */
#define BQK_PLANES 4
#define BQK_PLANE_NBYTES 16
#define BQK_ROUNDS 4

typedef struct bqk_sums
{
	float n2;  /* sum of squares */
	float l1;  /* sum of magnitudes */
	float max; /* largest magnitude */
} bqk_sums;

/* Columns that lie together: of each two coordinates the integers of all four. */
#define BQK_COLUMN_GROUP 4

/* BQK_LANES rows as pairs of integers (products.h), coordinates 2 p and 2 p + 1 of row l at p BQK_LANES + l. */
typedef struct bqk_rounded
{
	int32_t *pairs;
	int32_t *sums; /* of BQK_LANES rows with a column, column after column; room for bqk_padded(m) columns */
	int32_t *rows; /* room for four rows */
	float norm2[BQK_LANES];
	/* <x, c> = sum factor scale unit; the unit, a power of two, keeps the others normal however long x is */
	float factor[BQK_LANES], unit[BQK_LANES];
} bqk_rounded;

/* Sums over axes of share x y, share x x, length x x and length y y, a lane each. */
typedef struct bqk_saq_sums
{
	float xy[BQK_LANES], xx[BQK_LANES], kept[BQK_LANES], decoded[BQK_LANES];
} bqk_saq_sums;

/* n codes of `stride` bytes each against one query or one code; out[n]. */
typedef void (*bqk_dot_fn)(const uint8_t *codes, size_t stride, size_t n, const int8_t *z, size_t dim, int32_t *out);
typedef void (*bqk_sym_fn)(const uint8_t *codes, size_t stride, size_t n, const uint8_t *code, size_t dim,
						   int32_t *out);

/* Sums of 8-bit query LUTs over n codes of nibbles, n_subspaces to a code: out[query * n + code]. */
typedef void (*bqk_lut_fn)(const uint8_t *codes, size_t n, size_t n_subspaces, const uint8_t *luts, size_t n_queries,
						   uint32_t *out);

/* Bit widths 1, 2, 4, 8 in the order of bqk_width. */
#define BQK_WIDTHS 4

typedef struct bqk_kernels
{
	const char *name;
	int (*supported)(void);
	/* float kernels, fixed lane order */
	double (*norm2)(const float *x, size_t dim);
	float (*dotf)(const float *a, const float *b, size_t dim);
	/* dotf with each row of a matrix */
	void (*dots)(const float *x, const float *matrix, size_t rows, size_t dim, float *out);
	void (*residual)(const float *x, float scale, const float *centroid, size_t dim, float *out);
	void (*rotate)(const float *signs, size_t dim, float *x);
	void (*sums)(const float *x, size_t dim, bqk_sums *out);
	void (*pack1)(const float *x, size_t dim, uint8_t *code);
	/* <k,x> and <k,k> of the levels k that x / t rounds to, at 2, 4 or 8 bits */
	void (*score)(const float *x, size_t dim, int bits, float inv_t, float *kx, float *kk);
	void (*pack)(const float *x, size_t dim, int bits, float inv_t, uint8_t *code);
	/* integer kernels by bit width */
	bqk_dot_fn dot[BQK_WIDTHS];
	bqk_sym_fn sym[BQK_WIDTHS];
	/* dot of codes of 1 bit with the bit planes of a query: sum of 2^p popcount(plane p & code), plane 3 negative */
	void (*dot_planes)(const uint8_t *codes, size_t stride, size_t n, const uint8_t *planes, size_t dim, int32_t *out);
	/* <k, q> of the levels k = u - M / 2 with a float query, fixed lane order */
	void (*dot_float)(const uint8_t *codes, size_t stride, size_t n, int bits, const float *q, size_t dim, float *out);
	/* x: m rows of BQK_LANES vectors, in deviations. y: of the levels along the trellis those with the least sum of
	 * weight times squared distance to x scale, a scale per lane; u: their numbers; xv, vv: per lane the sums of weight
	 * x y and weight y y */
	void (*trellis)(const float *x, const float *scale, const uint8_t *bits, const float *weight, size_t m, float *y,
					int32_t *u, float *xv, float *vv);
	/* codes of the first n lanes of level numbers u: trellis bits first, axis by axis; then plane 1 with the highest
	 * free bit of every axis of 2 bits or more, plane 2 with the next one of those of 3 or more, and so on */
	void (*pack_trellis)(const bqk_trellis *t, const int32_t *u, size_t n, uint8_t *codes);
	/* a row as pairs of integers; sums of BQK_LANES rows with groups of columns */
	void (*round_pairs)(const float *x, float power, float scale, size_t dim, int32_t *out);
	void (*multiply)(const int32_t *pairs, const int16_t *columns, size_t n_pairs, size_t n_groups, int32_t *sums);
	/* m rows of lanes: sum factor scale unit; and per lane the sum of weight x x */
	void (*coordinates)(const bqk_rounded *r, const float *scale, const float *weight, size_t m, float *x,
						float *norm2);
	/* per lane the first of n columns with the least half_norm - sum factor scale unit */
	void (*nearest_lists)(const bqk_rounded *r, const float *scale, const float *half_norms, size_t n, int32_t *found);
	void (*saq_sums)(const float *x, const float *y, const float *share, const float *length, size_t m,
					 bqk_saq_sums *sums);
	/* of n codewords, n a multiple of BQK_LANES, coordinate j of codeword k at j n + k, the first that minimises
	 * |target - c|^2 + weight (shift - <direction, c>)^2 */
	uint32_t (*nearest)(const float *codewords, size_t n, size_t dim, const float *target, const float *direction,
						float weight, float shift);
	bqk_lut_fn lut4;
	/* product of a trellis code with a prepared query: scan_trellis.h */
	float (*trellis_product)(const bqk_trellis *t, const float *levels, const uint8_t *code, const void *z);
} bqk_kernels;

extern const bqk_kernels bqk_kernels_scalar;
#if defined(__x86_64__)
extern const bqk_kernels bqk_kernels_avx2;
extern const bqk_kernels bqk_kernels_avx512;
#elif defined(__aarch64__)
extern const bqk_kernels bqk_kernels_neon;
#endif

extern const bqk_kernels *_Atomic bqk_kernels_active;
const bqk_kernels *bqk_activate(void);

/* The table in use; chosen on first use. */
static inline const bqk_kernels *
bqk_active(void)
{
	const bqk_kernels *k = atomic_load_explicit(&bqk_kernels_active, memory_order_relaxed);

	return __builtin_expect(k != NULL, 1) ? k : bqk_activate();
}

void bqk_lut4_scalar(const uint8_t *codes, size_t n, size_t n_subspaces, const uint8_t *luts, size_t n_queries,
					 uint32_t *out);
#if defined(__x86_64__)
void
bqk_lut4_avx2(const uint8_t *codes, size_t n, size_t n_subspaces, const uint8_t *luts, size_t n_queries, uint32_t *out);
#endif

int bqk_cpu_avx2(void);
int bqk_cpu_avx512(void);
int bqk_cpu_neon(void);

/* bqk_bits_supported and bqk_code_nbytes for use inside the library and the extension. */
static inline int
bqk_bits_ok(int bits)
{
	return bits == 1 || bits == 2 || bits == 4 || bits == 8;
}

/* Place of a bit width in the kernel tables. */
static inline int
bqk_width(int bits)
{
	return __builtin_ctz((unsigned) bits);
}

static inline size_t
bqk_nbytes(size_t dim, int bits)
{
	return (dim * (size_t) bits + 7) / 8;
}

/* Widths that are stored as bit planes. */
static inline int
bqk_planes(int bits)
{
	return bits > 0 && bits < 8 && !bqk_bits_ok(bits);
}

/* Of the inner product of a query with a centroid: <q,c> / |c|^2. 0 for a centroid that is zero for every purpose,
 * as residuals are that short. */
static inline float
bqk_share(const bqk_kernels *kern, float product, const float *centroid, size_t dim)
{
	double n2 = kern->norm2(centroid, dim);

	return n2 >= 1e-30 ? (float) (product / n2) : 0.0f;
}

/* Hadamard transform of n values, a power of two, without its scale. */
void bqk_hadamard(float *x, size_t n);

/* Before a loop of at most 8 turns, whose number is a constant. */
#if defined(__clang__)
#define UNROLLED _Pragma("clang loop unroll(full)")
#else
#define UNROLLED _Pragma("GCC unroll 8")
#endif

/* Folds lanes in the one allowed order. */
static inline float
bqk_fold(float *lane)
{
	UNROLLED
	for (size_t h = BQK_LANES / 2; h > 0; h /= 2)
		UNROLLED
	for (size_t i = 0; i < h; i++)
		lane[i] += lane[i + h];
	return lane[0];
}

static inline double
bqk_fold_double(double *lane)
{
	UNROLLED
	for (size_t h = BQK_LANES / 2; h > 0; h /= 2)
		UNROLLED
	for (size_t i = 0; i < h; i++)
		lane[i] += lane[i + h];
	return lane[0];
}

/* Level index of one coordinate: round(x / t + M / 2) clamped to 0..M. */
static inline int
bqk_level(float x, int bits, float inv_t)
{
	float top = (float) ((1 << bits) - 1);
	float u = x * inv_t + 0.5f * (top + 1.0f);

	u = u < 0.0f ? 0.0f : (u > top ? top : u);
	return (int) u;
}

/* Level index of coordinate i of a code. */
static inline int
bqk_code_level(const uint8_t *code, int bits, size_t i)
{
	size_t at = i * (size_t) bits;

	return code[at / 8] >> (at % 8) & ((1 << bits) - 1);
}

/* Whether a query is held as bit planes: against 1-bit codes they beat int8 with AVX2 and AVX-512 from
 * 128 dimensions on, and take 21 NEON instructions for 56. */
static inline int
bqk_has_planes(int bits, int query_bits)
{
	return bits == 1 && query_bits == BQK_PLANES;
}

/* Where coordinate i of an int8 query lies. Kernels spread the code bytes of a block of 64 coordinates by shifts of 0,
 * bits, 2 bits, ...: first come the coordinates in the lowest bits of each byte, then the next ones. */
static inline size_t
bqk_query_position(int bits, size_t i)
{
	size_t per_byte = 8 / (size_t) bits;

	if (bits == 1) /* kernels turn bits into masks instead */
		return i;
	return (i & ~(size_t) 63) + (i % per_byte) * (64 / per_byte) + (i & 63) / per_byte;
}

/* Largest power of two <= dim. */
static inline size_t
bqk_hadamard_size(size_t dim)
{
	size_t p = 1;

	while (p * 2 <= dim)
		p *= 2;
	return p;
}

/* Whether a round ends with the Givens step. Only the middle rounds do: after the last transforms it
 * would leave unequal energies, and rotated unit vectors at dim 384, 768, 1000, 1536 would have a
 * kurtosis of 3.6, 4.2, 6.7, 5.0 instead of 3.0, 3.0, 2.8, 3.0. A power of two needs none. */
static inline int
bqk_givens_round(size_t dim, size_t hadamard_size, size_t round)
{
	return dim != hadamard_size && (round == 1 || round == 2);
}

#pragma GCC visibility pop

#endif
