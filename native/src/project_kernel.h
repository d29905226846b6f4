/* Products of rows with a matrix; included by the SIMD files after float_kernels.h. Every element is summed in the
 * order of its row, as in kernels_scalar.c, so that a row's result depends neither on the rows beside it nor on the
 * width. */

/* A strip of the matrix that stays in the first-level cache while all rows pass it: 256 rows of two vectors, packed
 * because rows of the matrix that lie a power of two apart would evict one another. */
#define STRIP_ROWS 256
#define STRIP_COLUMNS (2 * W)

static inline void
project_one(const float *x, const float *strip, size_t rows, float *out)
{
	vf a = load(out), b = load(out + W);

	for (size_t i = 0; i < rows; i++)
	{
		vf v = splat(x[i]);

		a += v * load(strip + i * STRIP_COLUMNS);
		b += v * load(strip + i * STRIP_COLUMNS + W);
	}
	store(out, a);
	store(out + W, b);
}

/* Rows x of stride dim and out of stride m; eight sums hide the latency of additions. */
static inline void
project_four(const float *x, size_t dim, const float *strip, size_t rows, float *out, size_t m)
{
	const float *x1 = x + dim, *x2 = x1 + dim, *x3 = x2 + dim;
	float *o1 = out + m, *o2 = o1 + m, *o3 = o2 + m;
	vf a0 = load(out), a1 = load(o1), a2 = load(o2), a3 = load(o3);
	vf b0 = load(out + W), b1 = load(o1 + W), b2 = load(o2 + W), b3 = load(o3 + W);

	for (size_t i = 0; i < rows; i++)
	{
		vf a = load(strip + i * STRIP_COLUMNS), b = load(strip + i * STRIP_COLUMNS + W);

		a0 += splat(x[i]) * a;
		b0 += splat(x[i]) * b;
		a1 += splat(x1[i]) * a;
		b1 += splat(x1[i]) * b;
		a2 += splat(x2[i]) * a;
		b2 += splat(x2[i]) * b;
		a3 += splat(x3[i]) * a;
		b3 += splat(x3[i]) * b;
	}
	store(out, a0);
	store(out + W, b0);
	store(o1, a1);
	store(o1 + W, b1);
	store(o2, a2);
	store(o2 + W, b2);
	store(o3, a3);
	store(o3 + W, b3);
}

static void
project(const float *x, size_t n, const float *matrix, size_t dim, size_t m, float *out)
{
	const size_t columns = m - m % STRIP_COLUMNS;
	float strip[STRIP_ROWS * STRIP_COLUMNS];

	memset(out, 0, n * m * sizeof(float));
	for (size_t i = 0; i < dim; i += STRIP_ROWS)
	{
		size_t rows = dim - i < STRIP_ROWS ? dim - i : STRIP_ROWS;

		for (size_t j = 0; j < columns; j += STRIP_COLUMNS)
		{
			size_t r = 0;

			for (size_t k = 0; k < rows; k++)
				memcpy(strip + k * STRIP_COLUMNS, matrix + (i + k) * m + j, STRIP_COLUMNS * sizeof(float));
			for (; r + 4 <= n; r += 4)
				project_four(x + r * dim + i, dim, strip, rows, out + r * m + j, m);
			for (; r < n; r++)
				project_one(x + r * dim + i, strip, rows, out + r * m + j);
		}
	}
	for (size_t r = 0; r < n; r++)
		for (size_t j = columns; j < m; j++)
			for (size_t i = 0; i < dim; i++)
				out[r * m + j] += x[r * dim + i] * matrix[i * m + j];
}
