/* Searches in stages against estimates of every code, on every instruction set: codes, blocks, factors and ids touch
 * guard pages. */
#include "check.h"
#include "fastscan.h"

#include <math.h>

#define MAX_DIM 200
#define MAX_N 300
#define MAX_BLOCKS 6
#define MAX_K 20
#define N_QUERIES 6

static guarded gcodes, gblocks, gfactors, gids, gwork;
static uint8_t codes[MAX_N * MAX_DIM / 8 + MAX_N], packed[MAX_BLOCKS * 33 * BQK_SCAN_BLOCK];
static bqk_factors factors[MAX_N];
static uint32_t ids[MAX_BLOCKS * BQK_SCAN_BLOCK], source[MAX_DIM + 16], axis[MAX_DIM + 8];
static float coef[MAX_DIM + 8], base[MAX_DIM], variance[MAX_DIM], reach[MAX_DIM], q[N_QUERIES][MAX_DIM];
static int8_t z[N_QUERIES][256];
static uint8_t luts[N_QUERIES][MAX_DIM * 8 + 512];

static float
uniform(uint64_t *state)
{
	return (float) (random_bits(state) % 20001) / 10000.0f - 1.0f;
}

/* The first `taken` bits of 1-bit codes; what the others add is bounded by half a coordinate each. */
static void
prepare(bqk_scan_query *out, size_t dim, size_t taken, size_t n_rows, const float *g_add, const float *g_weight)
{
	bqk_scan_stage stage = {n_rows, 0, dim, axis, coef, base, variance, reach};
	static float work[(MAX_DIM + 8) * 8];

	CHECK(bqk_scan_prepare_work(&stage) <= COUNT(work));
	for (size_t i = 0; i < n_rows * 8; i++)
	{
		axis[i] = source[i] = i < taken ? (uint32_t) i : BQK_SCAN_NONE;
		coef[i] = 1.0f;
	}
	for (size_t i = 0; i < dim; i++)
	{
		base[i] = i < taken ? -0.5f : 0.0f;
		variance[i] = i < taken ? 0.0f : 0.25f;
		reach[i] = i < taken ? 0.0f : 0.5f;
	}
	for (size_t j = 0; j < N_QUERIES; j++)
	{
		int32_t sum = 0;

		memset(z[j], 0, sizeof(z[j]));
		for (size_t i = 0; i < dim; i++)
		{
			z[j][bqk_query_position(1, i)] = (int8_t) (q[j][i] * 127.0f);
			q[j][i] = (float) z[j][bqk_query_position(1, i)] / 127.0f;
			sum += z[j][bqk_query_position(1, i)];
		}
		out[j] = (bqk_scan_query) {.luts = luts[j],
								   .z = z[j],
								   .unit = 1.0f / 127.0f,
								   .shift = 0.5f * (float) sum,
								   .g_add = g_add,
								   .g_weight = g_weight + j};
		CHECK_INT(bqk_scan_prepare(&stage, q[j], INFINITY, luts[j], &out[j].delta, &out[j].top, work), BQK_OK);
	}
}

static float
estimate(const bqk_scan_query *query, size_t dim, size_t i)
{
	int32_t dot;

	bqk_kernels_scalar.dot[0](codes + i * bqk_nbytes(dim, 1), 0, 1, query->z, dim, &dot);
	return query->g_weight[0] * factors[i].f_add + query->g_add[0] +
		   factors[i].f_rescale * (query->unit * ((float) dot - query->shift));
}

/* The k best by insertion: smaller distance, then smaller id. */
static size_t
best_of(const bqk_scan_query *query, size_t dim, size_t n, size_t k, const uint8_t *filter, float *d, uint32_t *id)
{
	size_t found = 0;

	for (size_t i = 0; i < n; i++)
	{
		float one = estimate(query, dim, i);
		size_t at = found;

		if (filter && !(filter[i / 8] >> i % 8 & 1))
			continue;
		while (at > 0 && one < d[at - 1])
			at--;
		if (at >= k)
			continue;
		found = found < k ? found + 1 : k;
		memmove(d + at + 1, d + at, (found - 1 - at) * sizeof(*d));
		memmove(id + at + 1, id + at, (found - 1 - at) * sizeof(*id));
		d[at] = one;
		id[at] = (uint32_t) i;
	}
	return found;
}

/* Codes in bins by their number: what a bin says of its codes is true, if not narrow. */
static void
fill_bins(size_t n, size_t n_blocks, size_t n_rows, float *bins)
{
	for (size_t i = 0; i < 16; i++)
	{
		bins[i] = bins[32 + i] = 1e6f;
		bins[16 + i] = 0.0f;
		bins[48 + i] = -1e6f;
	}
	for (size_t i = 0; i < n; i++)
	{
		float inverse = -1.0f / factors[i].f_rescale, ratio = factors[i].f_add * inverse;
		size_t a = i % 16, b = i / 3 % 16;

		bins[a] = fminf(bins[a], inverse * 0.999999f);
		bins[16 + a] = fmaxf(bins[16 + a], inverse * 1.000001f);
		bins[32 + b] = fminf(bins[32 + b], ratio - fabsf(ratio) * 1e-6f);
		bins[48 + b] = fmaxf(bins[48 + b], ratio + fabsf(ratio) * 1e-6f);
	}
	for (size_t i = 0; i < n_blocks * BQK_SCAN_BLOCK; i++)
		if (ids[i] != BQK_SCAN_NONE)
			packed[(i / BQK_SCAN_BLOCK * (n_rows + 1) + n_rows) * BQK_SCAN_BLOCK + i % BQK_SCAN_BLOCK] =
				(uint8_t) (ids[i] % 16 | ids[i] / 3 % 16 << 4);
}

static void
compare(const char *isa, size_t dim, size_t taken, size_t n, size_t k, int reversed, int binned, const uint8_t *filter,
		side at)
{
	static float bins[64];
	size_t n_rows = (taken + 7) / 8, nbytes = bqk_nbytes(dim, 1), n_blocks = (n + BQK_SCAN_BLOCK - 1) / BQK_SCAN_BLOCK;
	/* 1 as under l2; under ip a query may lie across the centroid, or on its other side */
	const float g_weight[N_QUERIES] = {1.0f, 0.0f, -0.75f, 30.0f, -1e-3f, -1.0f};
	float g_add[1] = {0.25f}, d[N_QUERIES * MAX_K], expected[MAX_K + 1];
	uint32_t found[N_QUERIES * MAX_K], expected_ids[MAX_K + 1];
	uint64_t n_full[N_QUERIES];
	bqk_segment segment = {0, (uint32_t) n_blocks, 0, -1.0f, 1.0f, binned ? 1e-4f : 0.0f, 1.1f};
	bqk_scan_query queries[N_QUERIES];
	bqk_scan scan = {.n = n,
					 .n_rows = n_rows,
					 .segments = &segment,
					 .n_segments = 1,
					 .code_nbytes = nbytes,
					 .kind = BQK_SCAN_LEVELS,
					 .bits = 1,
					 .dim = dim};

	prepare(queries, dim, taken, n_rows, g_add, g_weight);
	for (size_t i = 0; i < n_blocks * BQK_SCAN_BLOCK; i++)
		ids[i] = i >= n ? BQK_SCAN_NONE : (uint32_t) (reversed ? n - 1 - i : i);
	for (size_t i = 0; i < 8; i++)
		source[n_rows * 8 + i] = BQK_SCAN_NONE;
	CHECK_INT(bqk_scan_pack(codes, nbytes, ids, n_blocks, source, n_rows + (size_t) binned, packed), BQK_OK);
	if (binned)
		fill_bins(n, n_blocks, n_rows, bins);
	scan.factor_bins = binned ? bins : NULL;
	scan.blocks = guard_copy(&gblocks, packed, n_blocks * (n_rows + (size_t) binned) * BQK_SCAN_BLOCK, at);
	scan.ids = reversed ? guard_copy(&gids, ids, n_blocks * BQK_SCAN_BLOCK * sizeof(*ids), at) : NULL;
	scan.codes = guard_copy(&gcodes, codes, n * nbytes, at);
	scan.factors = guard_copy(&gfactors, factors, n * sizeof(*factors), at);
	CHECK_INT(bqk_isa_select(isa), BQK_OK);
	CHECK_INT(bqk_scan_search(&scan, 0, 1, queries, N_QUERIES, k, filter,
							  guard_place(&gwork, bqk_scan_work(N_QUERIES, k), AT_END), d, found, n_full),
			  BQK_OK);
	for (size_t j = 0; j < N_QUERIES; j++)
	{
		size_t m = best_of(queries + j, dim, n, k, filter, expected, expected_ids);

		CHECK(n_full[j] <= 2 * n);
		for (size_t i = 0; i < k; i++)
		{
			CHECK_INT(found[j * k + i], i < m ? expected_ids[i] : BQK_SCAN_NONE);
			if (i < m)
				CHECK_SAME(d + j * k + i, expected + i, sizeof(*d));
		}
	}
}

static void
searches_are_sorts_of_estimates(void)
{
	uint64_t state = 21;
	uint8_t filter[MAX_N / 8 + 1];

	for (size_t dim = 1; dim <= MAX_DIM; dim += dim < 18 ? 1 : 13)
		for (int kind = 0; kind < 4; kind++)
			for (const bqk_kernels *const *isa = tables(); *isa; isa++)
			{
				size_t n = 1 + random_bits(&state) % MAX_N, k = 1 + random_bits(&state) % (n < MAX_K ? n : MAX_K);
				size_t taken = kind == 0 ? dim : 1 + random_bits(&state) % dim;
				int reversed = random_bits(&state) % 2, filtered = random_bits(&state) % 2;
				int binned = kind < 2 && random_bits(&state) % 2;
				side at = (side) (random_bits(&state) % N_SIDES);

				memset(codes, 0, sizeof(codes));
				for (size_t i = 0; i < n; i++)
				{
					for (size_t b = 0; b < dim; b++)
						codes[i * bqk_nbytes(dim, 1) + b / 8] |= (uint8_t) (random_bits(&state) % 2 << b % 8);
					/* kind 2: ties, and codes of no length */
					factors[i].f_add = kind == 2 ? 0.0f : uniform(&state);
					factors[i].f_rescale = kind == 2 && i % 3 ? 0.0f : -fabsf(uniform(&state)) - 1e-4f;
					if (kind == 3) /* the first are the nearest: every forecast is too low */
						factors[i] = (bqk_factors) {(float) i / MAX_N, -1e-4f};
				}
				for (size_t j = 0; j < N_QUERIES; j++)
					for (size_t i = 0; i < dim; i++)
						q[j][i] = j == 1 ? 0.0f : uniform(&state);
				for (size_t i = 0; i < sizeof(filter); i++)
					filter[i] = (uint8_t) random_bits(&state);
				with("%s dim=%zu taken=%zu n=%zu k=%zu kind=%d reversed=%d binned=%d filtered=%d at=%s", (*isa)->name,
					 dim, taken, n, k, kind, reversed, binned, filtered, side_names[at]);
				compare((*isa)->name, dim, taken, n, k, reversed, binned, filtered ? filter : NULL, at);
			}
	bqk_isa_select(NULL);
}

int
main(void)
{
	gcodes = guard_new(sizeof(codes));
	gblocks = guard_new(sizeof(packed));
	gfactors = guard_new(sizeof(factors));
	gids = guard_new(sizeof(ids));
	gwork = guard_new(bqk_scan_work(N_QUERIES, MAX_K));
	RUN(searches_are_sorts_of_estimates);
	return finish();
}
