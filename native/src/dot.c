/* Entry to the integer kernels: checks, then the active ISA. */
#include "bqk.h"

int
bqk_dot(int bits, size_t dim, const uint8_t *codes, size_t stride, size_t n, const int8_t *z, int32_t *out)
{
	const bqk_kernels *k = bqk_active();

	if (dim == 0 || dim > BQK_MAX_DIM || !bqk_bits_supported(bits) || stride < bqk_code_nbytes(dim, bits))
		return BQK_EINVAL;
	k->dot[bqk_width(bits)](codes, stride, n, z, dim, out);
	return BQK_OK;
}

/* 2 u - M is the sum over planes of 2^p (2 bit - 1). */
static void
sym_planes(const bqk_kernels *k, int bits, const uint8_t *codes, size_t stride, size_t n, const uint8_t *code,
		   size_t dim, int32_t *out)
{
	size_t plane_nbytes = bqk_nbytes(dim, 1);

	for (size_t i = 0; i < n; i++, codes += stride)
	{
		out[i] = 0;
		for (int p = 0; p < bits; p++)
			for (int r = 0; r < bits; r++)
			{
				int32_t sym;

				k->sym[0](codes + (size_t) p * plane_nbytes, 0, 1, code + (size_t) r * plane_nbytes, dim, &sym);
				out[i] += sym * (1 << (p + r));
			}
	}
}

int
bqk_sym(int bits, size_t dim, const uint8_t *codes, size_t stride, size_t n, const uint8_t *code, int32_t *out)
{
	const bqk_kernels *k = bqk_active();

	if (dim == 0 || dim > BQK_MAX_DIM || stride < bqk_code_nbytes(dim, bits))
		return BQK_EINVAL;
	if (bqk_planes(bits))
	{
		sym_planes(k, bits, codes, stride, n, code, dim, out);
		return BQK_OK;
	}
	if (!bqk_bits_supported(bits))
		return BQK_EINVAL;
	k->sym[bqk_width(bits)](codes, stride, n, code, dim, out);
	return BQK_OK;
}
