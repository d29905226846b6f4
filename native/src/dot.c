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

int
bqk_sym(int bits, size_t dim, const uint8_t *codes, size_t stride, size_t n, const uint8_t *code, int32_t *out)
{
	const bqk_kernels *k = bqk_active();

	if (dim == 0 || dim > BQK_MAX_DIM || !bqk_bits_supported(bits) || stride < bqk_code_nbytes(dim, bits))
		return BQK_EINVAL;
	k->sym[bqk_width(bits)](codes, stride, n, code, dim, out);
	return BQK_OK;
}
