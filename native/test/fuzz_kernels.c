/* Random arguments for some time: every instruction set against the scalar kernels, which must give the same bits.
 * fuzz_kernels KERNEL SECONDS [SEED]; the parameters of a failure are printed with it. */
#include "check.h"
#include "fastscan.h"
#include "scan_trellis.h"
#include "topk.h"

#include <math.h>
#include <time.h>

#define MAX_DIM 400
#define MAX_N 70
#define MAX_ROWS 80
#define MAX_BLOCKS 11
#define MAX_QUERIES 11

static guarded gcodes, gquery, gout;
static uint8_t bytes[1 << 18];
static uint64_t state;

static size_t
below(size_t n)
{
	return (size_t) (random_bits(&state) % n);
}

/* Bytes of one of several sorts: extremes break sums that fit on average. */
static void
fill(uint8_t *out, size_t n)
{
	size_t kind = below(4);

	for (size_t i = 0; i < n; i++)
		out[i] = kind == 0 ? 0 : kind == 1 ? 255 : kind == 2 ? (uint8_t) (below(2) * 255) : (uint8_t) below(256);
}

static void
same_dots(void)
{
	int bits = 1 << below(4);
	size_t dim = 1 + below(MAX_DIM), n = 1 + below(MAX_N), nbytes = bqk_nbytes(dim, bits);
	side at = (side) below(N_SIDES);
	int32_t expected[MAX_N], *out = guard_place(&gout, n * sizeof(*out), at);
	const uint8_t *codes;
	const int8_t *z;
	size_t nz = bqk_query_nbytes(dim, 8);

	fill(bytes, n * nbytes);
	if (dim * (size_t) bits % 8)
		for (size_t i = 0; i < n; i++)
			bytes[i * nbytes + nbytes - 1] &= (uint8_t) ((1u << dim * (size_t) bits % 8) - 1);
	codes = guard_copy(&gcodes, bytes, n * nbytes, at);
	memset(bytes, 0, nz);
	for (size_t i = 0; i < dim; i++)
		bytes[bqk_query_position(bits, i)] = (uint8_t) (int8_t) ((int) below(255) - 127);
	z = guard_copy(&gquery, bytes, nz, at);
	for (const bqk_kernels *const *k = tables(); *k; k++)
	{
		with("dot %s bits=%d dim=%zu n=%zu", (*k)->name, bits, dim, n);
		bqk_kernels_scalar.dot[bqk_width(bits)](codes, nbytes, n, z, dim, expected);
		(*k)->dot[bqk_width(bits)](codes, nbytes, n, z, dim, out);
		CHECK_SAME(out, expected, n * sizeof(*out));
		bqk_kernels_scalar.sym[bqk_width(bits)](codes, nbytes, n, codes, dim, expected);
		(*k)->sym[bqk_width(bits)](codes, nbytes, n, codes, dim, out);
		CHECK_SAME(out, expected, n * sizeof(*out));
	}
}

static void
same_fastscan(void)
{
	static uint8_t luts[MAX_QUERIES * MAX_ROWS * 64];
	static uint32_t positions[2][MAX_QUERIES][MAX_BLOCKS * BQK_SCAN_BLOCK];
	static uint16_t sums[2][MAX_QUERIES][MAX_BLOCKS * BQK_SCAN_BLOCK];
	static float values[MAX_ROWS * 64];
	static uint8_t factor_luts[32];
	size_t n_rows = 1 + below(MAX_ROWS), n_trellis = below(n_rows + 1), n_blocks = 1 + below(MAX_BLOCKS);
	size_t n_queries = 1 + below(MAX_QUERIES), n = n_blocks * BQK_SCAN_BLOCK, n_entries, n_factors = below(2);
	side at = (side) below(N_SIDES);
	bqk_scan_rows rows;
	const uint8_t *placed;

	n_trellis = n_trellis < 3 ? 0 : n_trellis;
	n_entries = (2 * n_rows + 2 * n_trellis) * 16;
	for (size_t q = 0; q < n_queries; q++)
	{
		float delta, top, scale = below(2) ? 1.0f : 0.01f;

		for (size_t i = 0; i < n_entries; i++)
			values[i] = ((float) below(2001) - 1000.0f) * (below(40) ? scale : 1.0f);
		CHECK_INT(bqk_scan_lut(values, n_rows, n_trellis, luts + q * n_entries, &delta, &top), BQK_OK);
	}
	for (size_t i = 0; i < sizeof(factor_luts); i++)
		factor_luts[i] = (uint8_t) below(128);
	fill(bytes, n * (n_rows + n_factors));
	rows = (bqk_scan_rows) {guard_copy(&gcodes, bytes, n * (n_rows + n_factors), at),
							n_blocks,
							n_rows,
							n_trellis,
							n_factors,
							(int) below(2)};
	placed = guard_copy(&gquery, luts, n_queries * n_entries, at);
	for (const bqk_kernels *const *k = tables(); *k; k++)
	{
		bqk_scan_found found[2][MAX_QUERIES];
		uint32_t threshold = below(3) ? (uint32_t) below(n_rows * 100) : UINT16_MAX;

		with("fastscan %s rows=%zu trellis=%zu factors=%zu blocks=%zu queries=%zu threshold=%u", (*k)->name, n_rows,
			 n_trellis, n_factors, n_blocks, n_queries, threshold);
		if (threshold > bqk_scan_largest(n_rows, n_trellis))
			threshold = bqk_scan_largest(n_rows, n_trellis);
		for (size_t side_ = 0; side_ < 2; side_++)
			for (size_t q = 0; q < n_queries; q++)
				found[side_][q] = (bqk_scan_found) {placed + q * n_entries, threshold, positions[side_][q],
													sums[side_][q],         0,         factor_luts};
		bqk_fastscan_scalar(&rows, found[0], n_queries);
		CHECK_INT(bqk_isa_select((*k)->name), BQK_OK);
		bqk_fastscan()(&rows, found[1], n_queries);
		for (size_t q = 0; q < n_queries; q++)
		{
			CHECK_INT(found[1][q].n, found[0][q].n);
			CHECK_SAME(positions[1][q], positions[0][q], found[0][q].n * sizeof(uint32_t));
			CHECK_SAME(sums[1][q], sums[0][q], found[0][q].n * sizeof(uint16_t));
		}
	}
	bqk_isa_select(NULL);
}

static void
same_lut4(void)
{
	size_t m = 1 + below(300), n = 1 + below(MAX_N), n_queries = 1 + below(3);
	side at = (side) below(N_SIDES);
	uint32_t expected[3 * MAX_N], *out = guard_place(&gout, n_queries * n * sizeof(*out), at);
	const uint8_t *codes, *luts;

	fill(bytes, n * ((m + 1) / 2));
	codes = guard_copy(&gcodes, bytes, n * ((m + 1) / 2), at);
	fill(bytes, n_queries * m * 16);
	luts = guard_copy(&gquery, bytes, n_queries * m * 16, at);
	bqk_lut4_scalar(codes, n, m, luts, n_queries, expected);
	for (const bqk_kernels *const *k = tables(); *k; k++)
	{
		with("lut4 %s subspaces=%zu n=%zu queries=%zu", (*k)->name, m, n, n_queries);
		(*k)->lut4(codes, n, m, luts, n_queries, out);
		CHECK_SAME(out, expected, n_queries * n * sizeof(*out));
	}
}

static void
same_products(void)
{
	static uint8_t bits[MAX_DIM];
	static float deviation[MAX_DIM], q[MAX_DIM], levels[1024], z[4 * MAX_DIM];
	bqk_trellis t = {(uint32_t) (1 + below(MAX_DIM)), 0, bits, deviation};
	size_t n_bits = 0, run = 1 + below(20);
	int most = 1 + (int) below(8);
	const uint8_t *code;
	float expected;

	for (size_t i = 0; i < t.dim; i++)
	{
		most -= i % run == 0 && most > 1 && below(2);
		bits[i] = (uint8_t) most;
		n_bits += bits[i];
		deviation[i] = (float) (1 + below(1000)) * 0.01f;
		q[i] = (float) below(2001) - 1000.0f;
	}
	t.code_nbytes = (uint32_t) ((n_bits + 7) / 8 + below(3));
	fill(bytes, t.code_nbytes);
	code = guard_copy(&gcodes, bytes, t.code_nbytes, (side) below(N_SIDES));
	memset(z, 0, sizeof(z));
	bqk_scan_trellis_query(&t, q, z);
	bqk_scan_levels(&t, levels);
	expected = bqk_trellis_product_scalar(&t, levels, code, z);
	for (const bqk_kernels *const *k = tables(); *k; k++)
	{
		float found = (*k)->trellis_product(&t, levels, code, z);

		with("product %s dim=%u bits=%d run=%zu", (*k)->name, t.dim, bits[0], run);
		CHECK_SAME(&found, &expected, sizeof(found));
	}
}

static int
order(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *) a, y = *(const uint64_t *) b;

	return x < y ? -1 : x > y;
}

static void
same_topk(void)
{
	static uint64_t sorted[2000];
	size_t n = 1 + below(COUNT(sorted)), k = 1 + below(300), expected = n < k ? n : k, kind = below(4);
	bqk_topk t = {guard_place(&gout, bqk_topk_capacity(k) * sizeof(uint64_t), AT_END), 0, k, INFINITY};

	with("topk n=%zu k=%zu kind=%zu", n, k, kind);
	for (size_t i = 0; i < n; i++)
	{
		float d = kind == 0   ? 1.0f
				  : kind == 1 ? (float) below(5)
				  : kind == 2 ? (float) i
							  : (float) below(1 << 20) - 5e5f;

		sorted[i] = bqk_topk_entry(d, (uint32_t) (n - i));
		bqk_topk_push(&t, d, (uint32_t) (n - i));
	}
	qsort(sorted, n, sizeof(*sorted), order);
	CHECK_INT(bqk_topk_finish(&t), expected);
	CHECK_SAME(t.entries, sorted, expected * sizeof(*sorted));
}

int
main(int argc, char **argv)
{
	static const struct
	{
		const char *name;
		void (*once)(void);
	} kernels[] = {{"dot", same_dots},
				   {"fastscan", same_fastscan},
				   {"lut4", same_lut4},
				   {"topk", same_topk},
				   {"product", same_products}};
	double seconds = argc > 2 ? atof(argv[2]) : 0.0;
	time_t start = time(NULL);
	size_t rounds = 0;

	gcodes = guard_new(sizeof(bytes));
	gquery = guard_new(sizeof(bytes));
	gout = guard_new(sizeof(bytes));
	state = argc > 3 ? strtoull(argv[3], NULL, 10) : 1;
	for (size_t i = 0; i < COUNT(kernels); i++)
		if (argc > 1 && strcmp(argv[1], kernels[i].name) == 0)
		{
			do
				kernels[i].once();
			while (++rounds % 16 || difftime(time(NULL), start) < seconds);
			printf("%s: %zu rounds\n", argv[1], rounds);
			return finish();
		}
	fprintf(stderr, "usage: fuzz_kernels dot|fastscan|lut4|topk|product SECONDS [SEED]\n");
	return 2;
}
