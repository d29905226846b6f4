/* Nearest pairs of factors, in vectors of 16 bytes, which all machines have. */
#include "bqk.h"

#include <math.h>

/* Rows at a time: two vectors, so that one's latency is the other's work. */
#define ROWS 8
#define LANES 4

typedef float v4f __attribute__((vector_size(4 * LANES)));
typedef int32_t v4i __attribute__((vector_size(4 * LANES)));

static inline v4i
nearer(v4f x, v4f y, float px, float py, int32_t k, v4f *least, v4i found)
{
	v4f dx = x - px, dy = y - py, d = dx * dx + dy * dy;
	v4i less = d < *least;

	*least = (v4f) ((less & (v4i) d) | (~less & (v4i) *least));
	return (less & k) | (~less & found);
}

int
bqk_nearest_pairs(const float *x, const float *y, size_t n, const float *pairs, size_t n_pairs, uint8_t *out)
{
	if (n_pairs == 0 || n_pairs > 256)
		return BQK_EINVAL;
	for (size_t i = 0; i < n; i += ROWS)
	{
		v4f x0 = {0}, x1 = {0}, y0 = {0}, y1 = {0}, least0 = x0 + INFINITY, least1 = least0;
		v4i found0 = {0}, found1 = {0};

		for (size_t l = 0; l < LANES; l++)
		{
			if (i + l < n)
			{
				x0[l] = x[i + l];
				y0[l] = y[i + l];
			}
			if (i + LANES + l < n)
			{
				x1[l] = x[i + LANES + l];
				y1[l] = y[i + LANES + l];
			}
		}
		for (size_t k = 0; k < n_pairs; k++)
		{
			float px = pairs[2 * k], py = pairs[2 * k + 1];

			found0 = nearer(x0, y0, px, py, (int32_t) k, &least0, found0);
			found1 = nearer(x1, y1, px, py, (int32_t) k, &least1, found1);
		}
		for (size_t l = 0; l < LANES; l++)
		{
			if (i + l < n)
				out[i + l] = (uint8_t) found0[l];
			if (i + LANES + l < n)
				out[i + LANES + l] = (uint8_t) found1[l];
		}
	}
	return BQK_OK;
}
