/* Sign codes under a linear decoder: rows times a matrix, and the flips that bring a code nearer to its vector.
 * Every sum has one order, so that codes are the same on every ISA and beside any other vectors. */
#include "bqk.h"

#include <string.h>

/* Rows of the matrix that stay in the first-level cache while all vectors pass. */
#define ROWS 8

int
bqk_matmul(const float *x, size_t n, const float *matrix, size_t rows, size_t dim, float *out)
{
	const bqk_kernels *k = bqk_active();

	if (dim == 0 || rows == 0)
		return BQK_EINVAL;
	for (size_t first = 0; first < rows; first += ROWS)
	{
		size_t last = first + ROWS < rows ? first + ROWS : rows;

		for (size_t i = 0; i < n; i++)
			k->dots(x + i * dim, matrix + first * dim, last - first, dim, out + i * rows + first);
	}
	return BQK_OK;
}

/* One rounding per product and per sum, whatever the width of the vectors: no order to keep. */
static void
add_scaled(float *restrict h, const float *restrict row, float scale, size_t n)
{
	for (size_t i = 0; i < n; i++)
		h[i] += scale * row[i];
}

/* A code that all but decodes to zero, s'Gs being less than this part of the trace of G, has a ratio of rounding
 * errors only: with more bits than dimensions there are such codes. */
#define SMALLEST_PART 1e-3

/* Sweeps over coordinates; h = G s, *gs = <g,s> and *sgs = s'Gs follow every flip. */
static void
sweeps(const float *gram, const float *g, size_t n_bits, size_t max_sweeps, int8_t *s, float *h, double *gs,
	   double *sgs)
{
	double smallest = 0.0;

	for (size_t i = 0; i < n_bits; i++)
		smallest += SMALLEST_PART * gram[i * n_bits + i];
	for (size_t sweep = 0; sweep < max_sweeps; sweep++)
	{
		int changed = 0;

		for (size_t i = 0; i < n_bits; i++)
		{
			const float *row = gram + i * n_bits;
			double gs2 = *gs - 2.0 * s[i] * g[i], sgs2 = *sgs - 4.0 * s[i] * h[i] + 4.0 * row[i];

			if (gs2 <= 0.0 || sgs2 <= smallest)
				continue;
			/* The margin keeps two codes of the same ratio from taking turns. */
			if (*gs > 0.0 && *sgs > smallest && gs2 * gs2 * *sgs <= *gs * *gs * sgs2 * (1.0 + 1e-6))
				continue;
			add_scaled(h, row, -2.0f * s[i], n_bits);
			s[i] = (int8_t) -s[i];
			*gs = gs2;
			*sgs = sgs2;
			changed = 1;
		}
		if (!changed)
			return;
	}
}

int
bqk_flip(const float *gram, const float *g, size_t n, size_t n_bits, size_t max_sweeps, int8_t *signs, float *work,
		 double *gs, double *sgs)
{
	if (n_bits == 0)
		return BQK_EINVAL;
	for (size_t c = 0; c < n; c++, g += n_bits, signs += n_bits)
	{
		memset(work, 0, n_bits * sizeof(float));
		for (size_t i = 0; i < n_bits; i++)
			add_scaled(work, gram + i * n_bits, signs[i], n_bits);
		gs[c] = sgs[c] = 0.0;
		for (size_t i = 0; i < n_bits; i++)
		{
			gs[c] += (double) g[i] * signs[i];
			sgs[c] += (double) work[i] * signs[i];
		}
		sweeps(gram, g, n_bits, max_sweeps, signs, work, &gs[c], &sgs[c]);
	}
	return BQK_OK;
}
