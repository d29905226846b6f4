/* Golden vectors, reproduced bit for bit by every instruction set: test_golden golden.bin, a file that
 * flatten_golden.py makes of tests/golden. */
#include "fixture.h"

#define MAX_FILE (1 << 20)
#define N_CASES 70
#define N_VECTORS 5

typedef struct block
{
	const uint8_t *data;
	size_t nbytes;
} block;

static _Alignas(8) uint8_t file[MAX_FILE];
static size_t file_nbytes, at;

static block
next(void)
{
	uint32_t nbytes;
	block b;

	if (file_nbytes - at < 8)
		return (block) {0};
	memcpy(&nbytes, file + at, 4);
	b = (block) {file + at + 8, nbytes};
	at += 8 + (nbytes + 7) / 8 * 8;
	if (at > file_nbytes)
	{
		fprintf(stderr, "golden file: a block of %u bytes passes its end\n", nbytes);
		exit(2);
	}
	return b;
}

#define CHECK_BLOCK(expected, found, size)                                                                             \
	do                                                                                                                 \
	{                                                                                                                  \
		CHECK_INT((expected).nbytes, size);                                                                            \
		CHECK_SAME((expected).data, found, (size) < (expected).nbytes ? (size) : (expected).nbytes);                   \
	} while (0)

static void
reproduce_query(const bqk_model *m, const float *q, const uint8_t *case_codes, const bqk_factors *case_factors)
{
	static int8_t z[BQK_MAX_DIM + BQK_BLOCK];
	block terms = next(), levels = next(), dot = next(), estimate = next(), error = next();
	size_t nbytes = bqk_code_nbytes(m->dim, m->bits);
	int32_t dots[N_VECTORS];
	float out[N_VECTORS];
	bqk_query query;

	CHECK_INT(bqk_query_prepare(m, q, 8, &query, z, work), BQK_OK);
	CHECK_BLOCK(terms, &query, offsetof(bqk_query, bits));
	CHECK_BLOCK(levels, z, bqk_query_nbytes(m->dim, 8));
	CHECK_INT(bqk_dot(m->bits, m->dim, case_codes, nbytes, N_VECTORS, z, dots), BQK_OK);
	CHECK_BLOCK(dot, dots, sizeof(dots));
	CHECK_INT(bqk_estimate_n(m, &query, z, case_codes, case_factors, N_VECTORS, out), BQK_OK);
	CHECK_BLOCK(estimate, out, sizeof(out));
	CHECK_INT(bqk_error_n(m, &query, case_codes, case_factors, N_VECTORS, out), BQK_OK);
	CHECK_BLOCK(error, out, sizeof(out));
}

static void
reproduce_case(const bqk_kernels *k)
{
	static uint8_t case_codes[N_VECTORS * 384];
	static bqk_factors case_factors[N_VECTORS];
	block model = next(), x = next(), queries = next(), expected_codes = next(), expected_factors = next();
	block rotated = next();
	bqk_model m = {0};

	CHECK_INT(bqk_model_read(model.data, model.nbytes, &m), BQK_OK);
	if (m.rotation)
	{
		CHECK_INT(bqk_signs_init(m.dim, m.seed, signs), BQK_OK);
		m.signs = signs;
	}
	with("%s dim=%u bits=%d metric=%d rotation=%d", k->name, m.dim, m.bits, m.metric, m.rotation);
	CHECK_INT(x.nbytes, N_VECTORS * m.dim * sizeof(float));
	CHECK_INT(queries.nbytes, 2 * m.dim * sizeof(float));
	CHECK_INT(bqk_encode(&m, (const float *) (const void *) x.data, N_VECTORS, case_codes, case_factors, work, &bad),
			  BQK_OK);
	CHECK_BLOCK(expected_codes, case_codes, N_VECTORS * bqk_code_nbytes(m.dim, m.bits));
	CHECK_BLOCK(expected_factors, case_factors, sizeof(case_factors));
	CHECK_INT(bqk_rotate(&m, (const float *) (const void *) x.data, 1, rows), BQK_OK);
	if (m.metric == BQK_L2)
		CHECK_BLOCK(rotated, rows, m.dim * sizeof(float));
	for (size_t i = 0; i < 2; i++)
		reproduce_query(&m, (const float *) (const void *) queries.data + i * m.dim, case_codes, case_factors);
}

static void
every_isa_reproduces_the_golden_vectors(void)
{
	for (const bqk_kernels *const *k = tables(); *k; k++)
	{
		size_t n = 0;

		CHECK_INT(bqk_isa_select((*k)->name), BQK_OK);
		for (at = 0; at < file_nbytes; n++)
			reproduce_case(*k);
		with("%s", (*k)->name);
		CHECK_INT(n, N_CASES);
	}
	bqk_isa_select(NULL);
}

int
main(int argc, char **argv)
{
	FILE *f = argc == 2 ? fopen(argv[1], "rb") : NULL;

	if (f == NULL)
	{
		fprintf(stderr, "usage: test_golden golden.bin\n");
		return 2;
	}
	file_nbytes = fread(file, 1, sizeof(file), f);
	if (ferror(f) || !feof(f))
	{
		fprintf(stderr, "%s: expected a readable file of less than %d bytes\n", argv[1], MAX_FILE);
		return 2;
	}
	fclose(f);
	RUN(every_isa_reproduces_the_golden_vectors);
	return finish();
}
