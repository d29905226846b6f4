/* Training: the mean of vectors, and the model around it. */
#include "bqcore.h"

#include <math.h>

/* Allocates in the current memory context. */
void
BqSumBegin(BqSum *s, uint32 dim, int metric)
{
	*s = (BqSum) {.dim = dim, .metric = metric, .sum = palloc0(sizeof(double) * dim)};
}

void
BqSumAdd(BqSum *s, const float *x)
{
	double norm2 = 0.0, scale = 1.0;

	if (s->metric == BQK_COSINE)
	{
		for (uint32 i = 0; i < s->dim; i++)
			norm2 += (double) x[i] * x[i];
		if (norm2 == 0.0)
			return;
		scale = 1.0 / sqrt(norm2);
	}
	for (uint32 i = 0; i < s->dim; i++)
		s->sum[i] += x[i] * scale;
	s->rows++;
}

/* Allocates in the current memory context. Without rows the centroid is zero. */
bqk_model *
BqSumModel(const BqSum *s, int bits, uint64 seed)
{
	bqk_model *model = palloc0(sizeof(bqk_model));
	float *centroid = palloc(sizeof(float) * s->dim), *signs = palloc(sizeof(float) * bqk_signs_count(s->dim));

	for (uint32 i = 0; i < s->dim; i++)
		centroid[i] = (float) (s->rows ? s->sum[i] / (double) s->rows : 0.0);
	bqk_signs_init(s->dim, seed, signs);
	model->dim = s->dim;
	model->bits = (uint8) bits;
	model->metric = (uint8) s->metric;
	model->rotation = BQK_ROTATION_HADAMARD;
	model->seed = seed;
	model->n_trained = s->rows;
	model->centroid = centroid;
	model->signs = signs;
	return model;
}
