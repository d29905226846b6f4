/* Models and vectors that the tests of the public functions share. */
#ifndef FIXTURE_H
#define FIXTURE_H

#include "check.h"

#define N_ROWS 3
#define MAX_CODE_NBYTES BQK_MAX_DIM

static const int all_bits[] = {1, 2, 4, 8};
static float centroid[BQK_MAX_DIM], signs[BQK_ROUNDS * BQK_MAX_DIM], rows[N_ROWS * BQK_MAX_DIM], work[BQK_MAX_DIM];
static uint8_t codes[N_ROWS * MAX_CODE_NBYTES];
static bqk_factors factors[N_ROWS];
static size_t bad;

/* A rotated or unrotated model over the shared arrays. */
static inline bqk_model
model_of(size_t dim, int bits, int metric, int rotation)
{
	bqk_signs_init(dim, dim, signs);
	return (bqk_model) {.dim = (uint32_t) dim,
						.bits = (uint8_t) bits,
						.metric = (uint8_t) metric,
						.rotation = (uint8_t) rotation,
						.seed = dim,
						.centroid = centroid,
						.signs = rotation ? signs : NULL};
}

static inline void
fill(float *x, size_t n, float value)
{
	for (size_t i = 0; i < n; i++)
		x[i] = value;
}

static inline void
fill_normal(float *x, size_t n, uint64_t seed)
{
	for (size_t i = 0; i < n; i++)
		x[i] = random_normal(&seed);
}

static inline void
encode_ok(const bqk_model *m, size_t n)
{
	CHECK_INT(bqk_encode(m, rows, n, codes, factors, work, &bad), BQK_OK);
}

static inline int
all_zero(const void *p, size_t nbytes)
{
	const uint8_t *bytes = p;

	for (size_t i = 0; i < nbytes; i++)
		if (bytes[i])
			return 0;
	return 1;
}

/* Runs the loop body for every model of this dim: each width, metric and rotation. */
#define N_MODELS (COUNT(all_bits) * 3 * 2)
#define EACH_MODEL(m, dim)                                                                                             \
	for (size_t model_i_ = 0; model_i_ < N_MODELS; model_i_++)                                                         \
		for (bqk_model m = model_of((dim), all_bits[model_i_ % COUNT(all_bits)],                                       \
									(int) (model_i_ / COUNT(all_bits) % 3), (int) (model_i_ / COUNT(all_bits) / 3));   \
			 m.centroid != NULL; m.centroid = NULL)

#endif
