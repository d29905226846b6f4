/* The rotation on vectors of W floats, included by the SIMD files after float_kernels.h. */
/* Butterflies of span h inside a vector: lane j gets x[j ^ h] + x[j] or x[j ^ h] - x[j]. */
#define INDEX(j, h) ((j) ^ (h))
#define SIGN(j, h) ((j) & (h) ? INT32_MIN : 0)
#define SIGNS(h) ((vi) {EACH(SIGN, h)})
#if defined(__clang__)
#define SWAP(x, h) __builtin_shufflevector(x, x, EACH(INDEX, h))
#else
#define SWAP(x, h) __builtin_shuffle(x, (vi) {EACH(INDEX, h)})
#endif
#define BUTTERFLY(x, h) (SWAP(x, h) + (vf) ((vi) (x) ^ SIGNS(h)))

static void
hadamard(float *x, size_t n)
{
	size_t h = 1;

	if (n < W)
	{
		for (; h < n; h *= 2)
			for (size_t i = 0; i < n; i += 2 * h)
				for (size_t j = i; j < i + h; j++)
				{
					float a = x[j], b = x[j + h];

					x[j] = a + b;
					x[j + h] = a - b;
				}
		return;
	}
	for (size_t i = 0; i < n; i += W)
	{
		vf v = load(x + i);

		v = BUTTERFLY(v, 1);
		v = BUTTERFLY(v, 2);
#if W >= 8
		v = BUTTERFLY(v, 4);
#endif
#if W == 16
		v = BUTTERFLY(v, 8);
#endif
		store(x + i, v);
	}
	h = W;
	/* Two spans at a time halve the passes over memory; each value sees the same additions. */
	for (; h * 4 <= n; h *= 4)
		for (size_t i = 0; i < n; i += 4 * h)
			for (size_t j = i; j < i + h; j += W)
			{
				vf a = load(x + j), b = load(x + j + h), c = load(x + j + 2 * h), d = load(x + j + 3 * h);
				vf ab = a + b, a_b = a - b, cd = c + d, c_d = c - d;

				store(x + j, ab + cd);
				store(x + j + h, a_b + c_d);
				store(x + j + 2 * h, ab - cd);
				store(x + j + 3 * h, a_b - c_d);
			}
	for (; h < n; h *= 2)
		for (size_t i = 0; i < n; i += 2 * h)
			for (size_t j = i; j < i + h; j += W)
			{
				vf a = load(x + j), b = load(x + j + h);

				store(x + j, a + b);
				store(x + j + h, a - b);
			}
}

static void
flip(float *x, const float *signs, float scale, size_t n)
{
	size_t i = 0;

	for (; i + W <= n; i += W)
		store(x + i, load(x + i) * (load(signs + i) * scale));
	for (; i < n; i++)
		x[i] *= signs[i] * scale;
}

static void
rotate(const float *signs, size_t dim, float *x)
{
	size_t p = bqk_hadamard_size(dim), half = dim / 2;
	float scale = 1.0f / sqrtf((float) p);

	for (size_t round = 0; round < BQK_ROUNDS; round++)
	{
		const float *s = signs + round * dim;
		size_t from = round % 2 ? dim - p : 0;
		size_t i = 0;

		flip(x, s, 1.0f, from);
		flip(x + from, s + from, scale, p);
		flip(x + from + p, s + from + p, 1.0f, dim - from - p);
		hadamard(x + from, p);
		if (!bqk_givens_round(dim, p, round))
			continue;
		for (; i + W <= half; i += W)
		{
			vf a = load(x + i), b = load(x + i + half);

			store(x + i, (a + b) * 0.70710678f);
			store(x + i + half, (a - b) * 0.70710678f);
		}
		for (; i < half; i++)
		{
			float a = x[i], b = x[i + half];

			x[i] = (a + b) * 0.70710678f;
			x[i + half] = (a - b) * 0.70710678f;
		}
	}
}
