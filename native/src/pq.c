/* Assignment of product-quantization codes by coordinate descent over subspaces. */
#include "bqk.h"

/* <direction, codeword> in one subspace. */
static double
along(const float *codewords, size_t n_codewords, size_t dim, size_t k, const float *direction)
{
	double sum = 0.0;

	for (size_t j = 0; j < dim; j++)
		sum += (double) direction[j] * (double) codewords[j * n_codewords + k];
	return sum;
}

typedef struct codebooks
{
	const float *codewords;
	const uint32_t *offsets;
	size_t n_subspaces, n_codewords;
} codebooks;

/* With the other subspaces fixed, their errors add `rest` to <error, direction>, and the codeword chosen is the
 * exact minimum: no step raises the loss. */
static void
assign_row(const bqk_kernels *kernels, const codebooks *c, const float *target, const float *direction, float weight,
		   int start, size_t max_sweeps, uint16_t *code)
{
	double parallel = 0.0;
	size_t changed = weight != 0.0f || start;

	for (size_t m = 0; m < c->n_subspaces; m++)
	{
		size_t from = c->offsets[m], dim = c->offsets[m + 1] - from;
		const float *codewords = c->codewords + from * c->n_codewords;

		if (!start)
			code[m] = (uint16_t) kernels->nearest(codewords, c->n_codewords, dim, target + from, direction + from, 0.0f,
												  0.0f);
		for (size_t j = 0; j < dim; j++)
			parallel += (double) target[from + j] * (double) direction[from + j];
		parallel -= along(codewords, c->n_codewords, dim, code[m], direction + from);
	}
	for (size_t sweep = 0; changed && sweep < max_sweeps; sweep++)
	{
		changed = 0;
		for (size_t m = 0; m < c->n_subspaces; m++)
		{
			size_t from = c->offsets[m], dim = c->offsets[m + 1] - from;
			const float *codewords = c->codewords + from * c->n_codewords;
			double rest = parallel + along(codewords, c->n_codewords, dim, code[m], direction + from);
			uint16_t best = (uint16_t) kernels->nearest(codewords, c->n_codewords, dim, target + from, direction + from,
														weight, (float) rest);

			changed += best != code[m];
			code[m] = best;
			parallel = rest - along(codewords, c->n_codewords, dim, best, direction + from);
		}
	}
}

int
bqk_pq_assign(const float *codewords, const uint32_t *offsets, size_t n_subspaces, size_t n_codewords,
			  const float *targets, const float *directions, const float *weights, size_t n, int start,
			  size_t max_sweeps, uint16_t *codes)
{
	const codebooks c = {codewords, offsets, n_subspaces, n_codewords};
	const bqk_kernels *kernels = bqk_active();

	if (n_subspaces == 0 || n_subspaces > BQK_MAX_DIM || offsets[0] != 0 || n_codewords == 0 ||
		n_codewords % BQK_LANES != 0 || n_codewords > BQK_MAX_CODEWORDS)
		return BQK_EINVAL;
	for (size_t m = 0; m < n_subspaces; m++)
		if (offsets[m + 1] <= offsets[m] || offsets[m + 1] > BQK_MAX_DIM)
			return BQK_EINVAL;
	for (size_t i = 0; start && i < n * n_subspaces; i++)
		if (codes[i] >= n_codewords)
			return BQK_EINVAL;
	for (size_t i = 0; i < n; i++)
	{
		size_t row = i * offsets[n_subspaces];

		assign_row(kernels, &c, targets + row, directions + row, weights[i], start, max_sweeps,
				   codes + i * n_subspaces);
	}
	return BQK_OK;
}
