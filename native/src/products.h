/* Products of rows with a matrix in integers of 16 bits.
 *
 * A row x is rounded to integers a ~ x s with s = BQK_ROUNDED_NORM / |x|, a column c of the matrix likewise to b.
 * Rounding moves a coordinate by at most 1/2, and by 2^-7 where x s + 2^15 loses digits in float32, so with dim <=
 * 16,000
 *     |a| <= 32,639 + 0.51 sqrt(dim) < 2^15 - 1.
 * Hence every coordinate fits, and by Cauchy-Schwarz the sum of any of the products a[i] b[i] stays below 2^30: no
 * order of summation overflows, and all of them give the same integer, on every instruction set.
 *
 * A rounding error is spread evenly over +-1/2, of variance 1/12; so <a, b> differs from s t <x, c> by sqrt(2 / 12)
 * BQK_ROUNDED_NORM as a root mean square: 1.25e-5 |x| |c|. On all m <= dim axes of an orthogonal matrix together it is
 * 1.25e-5 sqrt(m) |x|: 2.5e-4 |x| at 384, where codes of 8 bits are off by 5e-3 |x|. */
#ifndef BQK_PRODUCTS_H
#define BQK_PRODUCTS_H

#include "bqk.h"

#define BQK_ROUNDED_NORM 32639.0
#pragma GCC visibility push(hidden)

/* x power scale rounded: from 2^15 on up, where the conversion to an integer cuts off downwards. */
static inline int32_t
bqk_rounded_value(float x, float power, float scale)
{
	return (int32_t) (x * power * scale + 32768.5f) - 32768;
}

/* m rounded up to whole groups. */
static inline size_t
bqk_padded(size_t m)
{
	return (m + BQK_COLUMN_GROUP - 1) / BQK_COLUMN_GROUP * BQK_COLUMN_GROUP;
}

/* Pairs of coordinates. */
static inline size_t
bqk_pairs(size_t dim)
{
	return (dim + 1) / 2;
}

/* `work` holds bqk_rounded_work(dim, m) numbers of 4 bytes, m: the most columns that rows are multiplied with. */
void bqk_rounded_init(bqk_rounded *r, size_t dim, void *work);
/* Takes n rows, at most BQK_LANES; the other lanes become zero. Products of a row that is not finite are NaN. */
void bqk_round_rows(bqk_rounded *r, const float *x, size_t n, size_t dim);
/* Sums of all rows with all columns. */
void bqk_multiply(bqk_rounded *r, const bqk_columns *columns);

/* Product of row l with column j. */
static inline float
bqk_product_of(const bqk_rounded *r, const bqk_columns *columns, size_t j, size_t l)
{
	return (float) r->sums[j * BQK_LANES + l] * r->factor[l] * columns->scale[j] * r->unit[l];
}

#pragma GCC visibility pop

#endif
