/* Integer kernels of every instruction set, scalar included, against their definition. Codes and queries end at a
 * guard page, or start after one: no byte beyond a code's last or a query's last block is touched. */
#include "check.h"

#define N_CODES 3
#define MAX_CODE_NBYTES BQK_MAX_DIM
#define STRIDE_GAP 5

enum
{
	CODE_RANDOM,
	CODE_ZERO,
	CODE_FULL,
	CODE_55,
	CODE_AA,
	CODE_0F,
	CODE_F0,
	N_CODE_KINDS
};

enum
{
	Z_RANDOM,
	Z_MAX,
	Z_MIN,
	Z_ALTERNATING,
	Z_ZERO,
	N_Z_KINDS
};

static int
level(int bits, const uint8_t *code, size_t i)
{
	size_t per_byte = 8 / (size_t) bits;

	return code[i / per_byte] >> (i % per_byte * (size_t) bits) & ((1 << bits) - 1);
}

/* Not inlined: gcc 12 at -O3 loses track of the arrays and warns. */
__attribute__((noinline)) static void
fill_code(int bits, size_t dim, int kind, uint8_t *code, uint64_t *state)
{
	static const uint8_t pattern[N_CODE_KINDS] = {0, 0x00, 0xff, 0x55, 0xaa, 0x0f, 0xf0};
	size_t nbytes = bqk_nbytes(dim, bits), spare = nbytes * 8 - dim * (size_t) bits;

	for (size_t i = 0; i < nbytes; i++)
		code[i] = kind == CODE_RANDOM ? (uint8_t) random_bits(state) : pattern[kind];
	code[nbytes - 1] &= (uint8_t) (0xff >> spare);
}

/* Where a kernel looks for coordinate i: stated here on its own, from the description of the layout. */
static size_t
z_position(int bits, size_t i)
{
	size_t block = i / 64 * 64, within = i % 64, per_byte = 8 / (size_t) bits;

	return bits == 1 ? i : block + within % per_byte * (64 / per_byte) + within / per_byte;
}

static int8_t
z_value(int kind, size_t i, uint64_t *state)
{
	switch (kind)
	{
	case Z_RANDOM:
		return (int8_t) ((int) (random_bits(state) % 255) - 127);
	case Z_MAX:
		return 127;
	case Z_MIN:
		return -127;
	case Z_ALTERNATING:
		return i % 2 ? -127 : 127;
	}
	return 0;
}

static int8_t logical_z[BQK_MAX_DIM], z[BQK_MAX_DIM + BQK_BLOCK];
static uint8_t codes[N_CODES * (MAX_CODE_NBYTES + STRIDE_GAP)], other[MAX_CODE_NBYTES];
static guarded gcodes, gother, gz, gints;

/* The definitions, one coordinate at a time and in 64 bits. */
static int64_t
defined_dot(int bits, size_t dim, const uint8_t *code)
{
	int64_t sum = 0;

	for (size_t i = 0; i < dim; i++)
		sum += (int64_t) level(bits, code, i) * logical_z[i];
	return sum;
}

static int64_t
defined_sym(int bits, size_t dim, const uint8_t *a, const uint8_t *b)
{
	int64_t sum = 0, m = (1 << bits) - 1;

	for (size_t i = 0; i < dim; i++)
		sum += (2 * level(bits, a, i) - m) * (2 * level(bits, b, i) - m);
	return sum;
}

static void
int_compare(const bqk_kernels *k, int bits, size_t dim, size_t stride, side at)
{
	size_t nbytes = bqk_nbytes(dim, bits), total = (N_CODES - 1) * stride + nbytes;
	const uint8_t *pcodes = guard_copy(&gcodes, codes, total, at), *pother = guard_copy(&gother, other, nbytes, at);
	const int8_t *pz = guard_copy(&gz, z, bqk_query_nbytes(dim, 8), at);
	int32_t *out = guard_place(&gints, N_CODES * sizeof(int32_t), at);

	memset(out, 0xee, N_CODES * sizeof(int32_t));
	k->dot[bqk_width(bits)](pcodes, stride, N_CODES, pz, dim, out);
	for (size_t c = 0; c < N_CODES; c++)
		CHECK_INT(out[c], defined_dot(bits, dim, codes + c * stride));
	memset(out, 0xee, N_CODES * sizeof(int32_t));
	k->sym[bqk_width(bits)](pcodes, stride, N_CODES, pother, dim, out);
	for (size_t c = 0; c < N_CODES; c++)
		CHECK_INT(out[c], defined_sym(bits, dim, codes + c * stride, other));
}

static void
int_case(int bits, size_t dim, int code_kind, int z_kind, uint64_t *state)
{
	size_t nbytes = bqk_nbytes(dim, bits);
	size_t stride = nbytes + (code_kind % 2 ? STRIDE_GAP : 0);

	memset(codes, 0xee, sizeof(codes)); /* what lies between two codes does not count */
	fill_code(bits, dim, CODE_RANDOM, codes, state);
	fill_code(bits, dim, CODE_FULL, codes + stride, state);
	fill_code(bits, dim, code_kind, codes + 2 * stride, state); /* the one that touches the guard page */
	fill_code(bits, dim, z_kind == Z_RANDOM ? CODE_RANDOM : code_kind, other, state);
	memset(z, 0, sizeof(z));
	for (size_t i = 0; i < dim; i++)
	{
		logical_z[i] = z_value(z_kind, i, state);
		z[z_position(bits, i)] = logical_z[i];
	}
	for (const bqk_kernels *const *k = tables(); *k; k++)
		for (side at = 0; at < N_SIDES; at++)
		{
			with("%s bits=%d dim=%zu code=%d z=%d at=%s", (*k)->name, bits, dim, code_kind, z_kind, side_names[at]);
			int_compare(*k, bits, dim, stride, at);
		}
}

static void
integer_kernels_equal_their_definition_and_stay_in_bounds(void)
{
	uint64_t state = 2;
	size_t dim;

	for (size_t d = 0; (dim = test_dim(d)) != 0; d++)
		for (int bits = 1; bits <= 8; bits *= 2)
			for (int code_kind = 0; code_kind < N_CODE_KINDS; code_kind++)
				for (int z_kind = 0; z_kind < N_Z_KINDS; z_kind++)
					int_case(bits, dim, code_kind, z_kind, &state);
}

static int8_t
plane_value(int kind, size_t i, uint64_t *state)
{
	switch (kind)
	{
	case Z_RANDOM:
		return (int8_t) ((int) (random_bits(state) % 16) - 8);
	case Z_MAX:
		return 7;
	case Z_MIN:
		return -8;
	case Z_ALTERNATING:
		return i % 2 ? -8 : 7;
	}
	return 0;
}

/* All four-bit levels, -8 too: what the planes of 128 dimensions, 16 bytes each, are defined to mean. */
static void
plane_case(size_t dim, int code_kind, int z_kind, uint64_t *state)
{
	size_t nbytes = bqk_nbytes(dim, 1), planes_nbytes = (dim + 127) / 128 * 64;
	size_t stride = nbytes + (code_kind % 2 ? STRIDE_GAP : 0), total = (N_CODES - 1) * stride + nbytes;
	uint8_t *planes = (uint8_t *) z;

	memset(codes, 0xee, sizeof(codes));
	fill_code(1, dim, CODE_RANDOM, codes, state);
	fill_code(1, dim, CODE_FULL, codes + stride, state);
	fill_code(1, dim, code_kind, codes + 2 * stride, state);
	memset(z, 0, sizeof(z));
	for (size_t i = 0; i < dim; i++)
	{
		logical_z[i] = plane_value(z_kind, i, state);
		for (size_t p = 0; p < 4; p++)
			planes[i / 128 * 64 + p * 16 + i % 128 / 8] |= (uint8_t) (((unsigned) logical_z[i] >> p & 1) << (i % 8));
	}
	for (const bqk_kernels *const *k = tables(); *k; k++)
		for (side at = 0; at < N_SIDES; at++)
		{
			const uint8_t *pcodes = guard_copy(&gcodes, codes, total, at);
			const uint8_t *pplanes = guard_copy(&gz, planes, planes_nbytes, at);
			int32_t *out = guard_place(&gints, N_CODES * sizeof(int32_t), at);

			with("%s dim=%zu code=%d z=%d at=%s", (*k)->name, dim, code_kind, z_kind, side_names[at]);
			memset(out, 0xee, N_CODES * sizeof(int32_t));
			(*k)->dot_planes(pcodes, stride, N_CODES, pplanes, dim, out);
			for (size_t c = 0; c < N_CODES; c++)
				CHECK_INT(out[c], defined_dot(1, dim, codes + c * stride));
		}
}

static void
bit_plane_kernels_equal_their_definition_and_stay_in_bounds(void)
{
	uint64_t state = 3;
	size_t dim;

	for (size_t d = 0; (dim = test_dim(d)) != 0; d++)
		for (int code_kind = 0; code_kind < N_CODE_KINDS; code_kind++)
			for (int z_kind = 0; z_kind < N_Z_KINDS; z_kind++)
				plane_case(dim, code_kind, z_kind, &state);
}

/* Largest magnitudes any input can reach: derived bounds, not another implementation. */
static void
extreme_codes_reach_the_closed_form(void)
{
	size_t dim;

	for (size_t d = 0; (dim = test_dim(d)) != 0; d++)
		for (int bits = 1; bits <= 8; bits *= 2)
		{
			int64_t m = (1 << bits) - 1;
			int32_t out;

			fill_code(bits, dim, CODE_FULL, codes, NULL);
			fill_code(bits, dim, CODE_ZERO, other, NULL);
			memset(z, 0, sizeof(z));
			for (size_t i = 0; i < dim; i++)
				z[z_position(bits, i)] = -127;
			for (const bqk_kernels *const *k = tables(); *k; k++)
			{
				with("%s bits=%d dim=%zu", (*k)->name, bits, dim);
				(*k)->dot[bqk_width(bits)](codes, 0, 1, z, dim, &out);
				CHECK_INT(out, -127 * m * (int64_t) dim);
				(*k)->sym[bqk_width(bits)](codes, 0, 1, codes, dim, &out);
				CHECK_INT(out, m * m * (int64_t) dim);
				(*k)->sym[bqk_width(bits)](codes, 0, 1, other, dim, &out);
				CHECK_INT(out, -m * m * (int64_t) dim);
			}
		}
}

static void
integer_entry_points_refuse_what_kernels_cannot_take(void)
{
	int32_t out = 7;

	memset(codes, 0, sizeof(codes));
	memset(z, 0, sizeof(z));
	CHECK_INT(bqk_dot(1, 65, codes, 9, 1, z, &out), BQK_OK);
	CHECK_INT(bqk_dot(1, 65, codes, 8, 1, z, &out), BQK_EINVAL);
	CHECK_INT(bqk_dot(4, 65, codes, 32, 1, z, &out), BQK_EINVAL);
	CHECK_INT(bqk_dot(3, 65, codes, 64, 1, z, &out), BQK_EINVAL);
	CHECK_INT(bqk_dot(0, 65, codes, 64, 1, z, &out), BQK_EINVAL);
	CHECK_INT(bqk_dot(1, 0, codes, 9, 1, z, &out), BQK_EINVAL);
	CHECK_INT(bqk_dot(1, BQK_MAX_DIM + 1, codes, MAX_CODE_NBYTES, 1, z, &out), BQK_EINVAL);
	CHECK_INT(bqk_sym(1, 65, codes, 9, 1, codes, &out), BQK_OK);
	CHECK_INT(bqk_sym(1, 65, codes, 8, 1, codes, &out), BQK_EINVAL);
	CHECK_INT(bqk_sym(4, 65, codes, 32, 1, codes, &out), BQK_EINVAL);
	CHECK_INT(bqk_sym(16, 65, codes, 99, 1, codes, &out), BQK_EINVAL);
	CHECK_INT(bqk_sym(4, 0, codes, 9, 1, codes, &out), BQK_EINVAL);
	CHECK_INT(bqk_sym(4, BQK_MAX_DIM + 1, codes, MAX_CODE_NBYTES + 1, 1, codes, &out), BQK_EINVAL);
	out = 7;
	CHECK_INT(bqk_dot(1, 65, codes, 9, 0, z, &out), BQK_OK);
	CHECK_INT(out, 7);
}

int
main(void)
{
	gcodes = guard_new(sizeof(codes));
	gother = guard_new(sizeof(other));
	gz = guard_new(sizeof(z));
	gints = guard_new(N_CODES * sizeof(int32_t));
	RUN(integer_entry_points_refuse_what_kernels_cannot_take);
	RUN(integer_kernels_equal_their_definition_and_stay_in_bounds);
	RUN(bit_plane_kernels_equal_their_definition_and_stay_in_bounds);
	RUN(extreme_codes_reach_the_closed_form);
	return finish();
}
