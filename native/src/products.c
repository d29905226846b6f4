/* Products of rows with a matrix, in integers: rounding both, and the lanes that the kernels read. */
#include "products.h"

#include <math.h>
#include <string.h>

typedef int32_t v4 __attribute__((vector_size(16), aligned(4), may_alias));

#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (v4) {__VA_ARGS__})
#endif

size_t
bqk_columns_count(size_t dim, size_t m)
{
	return 2 * bqk_pairs(dim) * bqk_padded(m);
}

void
bqk_columns_pack(const float *matrix, size_t dim, size_t m, int16_t *values, float *scale)
{
	const size_t count = bqk_columns_count(dim, m), group = 2 * BQK_COLUMN_GROUP;

	memset(values, 0, count * sizeof(*values));
	for (size_t j = 0; j < m; j++)
	{
		int16_t *column = values + j / BQK_COLUMN_GROUP * group * bqk_pairs(dim) + j % BQK_COLUMN_GROUP * 2;
		double norm2 = 0.0, to;

		for (size_t i = 0; i < dim; i++)
			norm2 += (double) matrix[i * m + j] * (double) matrix[i * m + j];
		scale[j] = (float) (sqrt(norm2) / BQK_ROUNDED_NORM);
		if (!(norm2 > 0.0) || !isfinite(norm2))
			continue;
		to = BQK_ROUNDED_NORM / sqrt(norm2);
		for (size_t i = 0; i < dim; i++)
			column[i / 2 * group + i % 2] = (int16_t) lrint((double) matrix[i * m + j] * to);
	}
}

size_t
bqk_rounded_work(size_t dim, size_t m)
{
	return bqk_pairs(dim) * (BQK_LANES + 4) + bqk_padded(m) * BQK_LANES;
}

void
bqk_rounded_init(bqk_rounded *r, size_t dim, void *work)
{
	r->pairs = work;
	r->rows = r->pairs + bqk_pairs(dim) * BQK_LANES;
	r->sums = r->rows + 4 * bqk_pairs(dim);
}

/* Four rows of pairs become four neighbouring lanes. */
static void
transpose(const int32_t *rows, size_t pairs, int32_t *out)
{
	size_t p = 0;

	for (; p + 4 <= pairs; p += 4, rows += 4, out += 4 * BQK_LANES)
	{
		v4 a = *(const v4 *) rows, b = *(const v4 *) (rows + pairs);
		v4 c = *(const v4 *) (rows + 2 * pairs), d = *(const v4 *) (rows + 3 * pairs);
		v4 ab = SHUFFLE(a, b, 0, 4, 1, 5), ab2 = SHUFFLE(a, b, 2, 6, 3, 7);
		v4 cd = SHUFFLE(c, d, 0, 4, 1, 5), cd2 = SHUFFLE(c, d, 2, 6, 3, 7);

		*(v4 *) out = SHUFFLE(ab, cd, 0, 1, 4, 5);
		*(v4 *) (out + BQK_LANES) = SHUFFLE(ab, cd, 2, 3, 6, 7);
		*(v4 *) (out + 2 * BQK_LANES) = SHUFFLE(ab2, cd2, 0, 1, 4, 5);
		*(v4 *) (out + 3 * BQK_LANES) = SHUFFLE(ab2, cd2, 2, 3, 6, 7);
	}
	for (; p < pairs; p++, rows++, out += BQK_LANES)
		for (size_t l = 0; l < 4; l++)
			out[l] = rows[l * pairs];
}

/* Squares of float32 must neither vanish nor overflow to be added up in float32. */
static double
square_of(const bqk_kernels *kern, const float *x, size_t dim)
{
	float n2 = kern->dotf(x, x, dim);

	return n2 > 1e-25f && n2 < 1e30f ? (double) n2 : kern->norm2(x, dim);
}

/* Norm, factor and unit of lane l; returns what its row has to be multiplied by, a power of two first. */
static float
scale_lane(bqk_rounded *r, size_t l, double norm2, float *power)
{
	double norm = sqrt(norm2);

	r->norm2[l] = (float) norm2;
	*power = norm < 0x1p-90 ? 0x1p100f : norm > 0x1p90 ? 0x1p-100f : 1.0f;
	r->unit[l] = 1.0f / *power;
	norm *= (double) *power;
	r->factor[l] = (float) (norm / BQK_ROUNDED_NORM);
	return norm > 0.0 && isfinite(norm) ? (float) (BQK_ROUNDED_NORM / norm) : 0.0f;
}

void
bqk_round_rows(bqk_rounded *r, const float *x, size_t n, size_t dim)
{
	const bqk_kernels *kern = bqk_active();
	const size_t pairs = bqk_pairs(dim);

	for (size_t first = 0; first < BQK_LANES; first += 4)
	{
		for (size_t l = first; l < first + 4; l++)
		{
			int32_t *row = r->rows + (l - first) * pairs;
			float power, scale = scale_lane(r, l, l < n ? square_of(kern, x + l * dim, dim) : 0.0, &power);

			if (scale > 0.0f)
				kern->round_pairs(x + l * dim, power, scale, dim, row);
			else
				memset(row, 0, pairs * sizeof(*row));
		}
		transpose(r->rows, pairs, r->pairs + first);
	}
}

void
bqk_multiply(bqk_rounded *r, const bqk_columns *columns)
{
	bqk_active()->multiply(r->pairs, columns->values, bqk_pairs(columns->dim),
						   bqk_padded(columns->m) / BQK_COLUMN_GROUP, r->sums);
}

void
bqk_project(const float *x, size_t n, const bqk_columns *columns, float *out, float *work)
{
	bqk_rounded r;

	bqk_rounded_init(&r, columns->dim, work);
	for (size_t first = 0; first < n; first += BQK_LANES)
	{
		size_t rows = n - first < BQK_LANES ? n - first : BQK_LANES;

		bqk_round_rows(&r, x + first * columns->dim, rows, columns->dim);
		bqk_multiply(&r, columns);
		for (size_t l = 0; l < rows; l++)
			for (size_t j = 0; j < columns->m; j++)
				out[(first + l) * columns->m + j] = bqk_product_of(&r, columns, j, l);
	}
}

int
bqk_normalize(const float *x, size_t n, size_t dim, float *out)
{
	const bqk_kernels *kern = bqk_active();

	for (size_t r = 0; r < n; r++, x += dim, out += dim)
	{
		double norm2 = kern->norm2(x, dim), inverse = 1.0 / sqrt(norm2);

		if (!(norm2 > 0.0))
			return BQK_EZERO;
		for (size_t i = 0; i < dim; i++)
			out[i] = (float) ((double) x[i] * inverse);
	}
	return BQK_OK;
}
