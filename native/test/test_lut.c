/* Sums of query look-up tables on every instruction set against their definition; codes, tables and sums touch guard
 * pages. */
#include "check.h"

#define MAX_N 100
#define MAX_SUBSPACES 600
#define N_QUERIES 3

enum
{
	RANDOM,
	ZERO,
	FULL, /* every entry 255, every code 255: the largest sum */
	N_KINDS
};

static guarded gcodes, gluts, gout;
static uint8_t codes[MAX_N * MAX_SUBSPACES], luts[N_QUERIES * MAX_SUBSPACES * 256];
static float float_luts[N_QUERIES * MAX_SUBSPACES * 256];

static size_t
entry(int bits, size_t n_subspaces, size_t q, size_t i, size_t m)
{
	size_t nbytes = (n_subspaces * (size_t) bits + 7) / 8;
	const uint8_t *code = codes + i * nbytes;
	size_t k = bits == 8 ? code[m] : (size_t) (m % 2 ? code[m / 2] >> 4 : code[m / 2] & 15);

	return ((q * n_subspaces + m) << bits) + k;
}

static void
compare(const char *isa, int bits, size_t n, size_t n_subspaces, side at)
{
	size_t nbytes = (n_subspaces * (size_t) bits + 7) / 8, n_entries = N_QUERIES * n_subspaces << bits;
	const uint8_t *pcodes = guard_copy(&gcodes, codes, n * nbytes, at);
	uint32_t *out = guard_place(&gout, N_QUERIES * n * sizeof(*out), at);
	float *float_out = (float *) (void *) out;

	CHECK_INT(bqk_isa_select(isa), BQK_OK);
	memset(out, 0xee, N_QUERIES * n * sizeof(*out));
	CHECK_INT(bqk_lut_scan(bits, pcodes, n, n_subspaces, guard_copy(&gluts, luts, n_entries, at), N_QUERIES, out),
			  BQK_OK);
	for (size_t q = 0; q < N_QUERIES; q++)
		for (size_t i = 0; i < n; i++)
		{
			uint32_t sum = 0;

			for (size_t m = 0; m < n_subspaces; m++)
				sum += luts[entry(bits, n_subspaces, q, i, m)];
			CHECK_INT(out[q * n + i], sum);
		}
	CHECK_INT(bqk_lut_scan_float(bits, pcodes, n, n_subspaces,
								 guard_copy(&gluts, float_luts, n_entries * sizeof(float), at), N_QUERIES, float_out),
			  BQK_OK);
	for (size_t q = 0; q < N_QUERIES; q++)
		for (size_t i = 0; i < n; i++)
		{
			float sum = 0.0f;

			for (size_t m = 0; m < n_subspaces; m++)
				sum += float_luts[entry(bits, n_subspaces, q, i, m)];
			CHECK_SAME(float_out + q * n + i, &sum, sizeof(sum));
		}
}

static void
sums_equal_their_definition_and_stay_in_bounds(void)
{
	static const size_t ns[] = {1, 3, 4, 31, 32, 33, MAX_N}, widths[] = {1, 2, 3, 96, 255, 256, 257, MAX_SUBSPACES};
	uint64_t state = 9;

	for (int kind = 0; kind < N_KINDS; kind++)
	{
		for (size_t i = 0; i < sizeof(codes); i++)
			codes[i] = kind == RANDOM ? (uint8_t) random_bits(&state) : kind == FULL ? 255 : 0;
		for (size_t i = 0; i < sizeof(luts); i++)
		{
			luts[i] = kind == RANDOM ? (uint8_t) random_bits(&state) : kind == FULL ? 255 : 0;
			float_luts[i] = (float) luts[i] * 0.37f - 20.0f;
		}
		for (size_t a = 0; a < COUNT(ns); a++)
			for (size_t b = 0; b < COUNT(widths); b++)
				for (int bits = 4; bits <= 8; bits += 4)
					for (const bqk_kernels *const *k = tables(); *k; k++)
						for (side at = 0; at < N_SIDES; at++)
						{
							with("%s bits=%d n=%zu n_subspaces=%zu kind=%d at=%s", (*k)->name, bits, ns[a], widths[b],
								 kind, side_names[at]);
							compare((*k)->name, bits, ns[a], widths[b], at);
						}
	}
	bqk_isa_select(NULL);
}

static void
entry_points_refuse_what_they_cannot_take(void)
{
	uint32_t out = 7;
	float float_out = 7.0f;

	for (int bits = 0; bits <= 9; bits++)
	{
		with("bits=%d", bits);
		CHECK_INT(bqk_lut_scan(bits, codes, 1, 1, luts, 1, &out), bits == 4 || bits == 8 ? BQK_OK : BQK_EINVAL);
		CHECK_INT(bqk_lut_scan_float(bits, codes, 1, 1, float_luts, 1, &float_out),
				  bits == 4 || bits == 8 ? BQK_OK : BQK_EINVAL);
	}
	CHECK_INT(bqk_lut_scan(8, codes, 1, 0, luts, 1, &out), BQK_EINVAL);
	CHECK_INT(bqk_lut_scan(4, codes, 1, BQK_MAX_DIM + 1, luts, 1, &out), BQK_EINVAL);
	CHECK_INT(bqk_lut_scan_float(8, codes, 1, 0, float_luts, 1, &float_out), BQK_EINVAL);
	out = 7;
	CHECK_INT(bqk_lut_scan(4, codes, 0, 3, luts, 1, &out), BQK_OK);
	CHECK_INT(bqk_lut_scan(4, codes, 1, 3, luts, 0, &out), BQK_OK);
	CHECK_INT(out, 7);
}

int
main(void)
{
	gcodes = guard_new(sizeof(codes));
	gluts = guard_new(sizeof(float_luts));
	gout = guard_new(N_QUERIES * MAX_N * sizeof(uint32_t));
	RUN(entry_points_refuse_what_they_cannot_take);
	RUN(sums_equal_their_definition_and_stay_in_bounds);
	return finish();
}
