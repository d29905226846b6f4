/* Query look-up tables over packed codes: entries of 8 bits, summed exactly, or of 32-bit floats. */
#include "bqk.h"

#define NIBBLE(code, m) (code[(m) / 2] >> ((m) % 2 * 4) & 15)
#define BYTE(code, m) (code[m])

/* Four codes side by side hide the latency of the loads; a gather instruction is no faster. */
#define SCAN(name, bits, pick, entry, total)                                                                           \
	static void name(const uint8_t *codes, size_t n, size_t n_subspaces, const entry *luts, size_t n_queries,          \
					 total *out)                                                                                       \
	{                                                                                                                  \
		size_t nbytes = (n_subspaces * bits + 7) / 8;                                                                  \
                                                                                                                       \
		for (size_t q = 0; q < n_queries; q++, luts += n_subspaces << bits)                                            \
		{                                                                                                              \
			const uint8_t *code = codes;                                                                               \
			size_t i = 0;                                                                                              \
                                                                                                                       \
			for (; i + 4 <= n; i += 4, code += 4 * nbytes)                                                             \
			{                                                                                                          \
				total sum[4] = {0};                                                                                    \
                                                                                                                       \
				for (size_t m = 0; m < n_subspaces; m++)                                                               \
					for (size_t c = 0; c < 4; c++)                                                                     \
						sum[c] += luts[(m << bits) + pick((code + c * nbytes), m)];                                    \
				for (size_t c = 0; c < 4; c++)                                                                         \
					*out++ = sum[c];                                                                                   \
			}                                                                                                          \
			for (; i < n; i++, code += nbytes)                                                                         \
			{                                                                                                          \
				total sum = 0;                                                                                         \
                                                                                                                       \
				for (size_t m = 0; m < n_subspaces; m++)                                                               \
					sum += luts[(m << bits) + pick(code, m)];                                                          \
				*out++ = sum;                                                                                          \
			}                                                                                                          \
		}                                                                                                              \
	}

SCAN(scan8, 8, BYTE, uint8_t, uint32_t)
SCAN(scan8_float, 8, BYTE, float, float)
SCAN(scan4, 4, NIBBLE, uint8_t, uint32_t)
SCAN(scan4_float, 4, NIBBLE, float, float)

void
bqk_lut4_scalar(const uint8_t *codes, size_t n, size_t n_subspaces, const uint8_t *luts, size_t n_queries,
				uint32_t *out)
{
	scan4(codes, n, n_subspaces, luts, n_queries, out);
}

int
bqk_lut_scan(int code_bits, const uint8_t *codes, size_t n, size_t n_subspaces, const uint8_t *luts, size_t n_queries,
			 uint32_t *out)
{
	if ((code_bits != 4 && code_bits != 8) || n_subspaces == 0 || n_subspaces > BQK_MAX_DIM)
		return BQK_EINVAL;
	(code_bits == 4 ? bqk_active()->lut4 : scan8)(codes, n, n_subspaces, luts, n_queries, out);
	return BQK_OK;
}

int
bqk_lut_scan_float(int code_bits, const uint8_t *codes, size_t n, size_t n_subspaces, const float *luts,
				   size_t n_queries, float *out)
{
	if ((code_bits != 4 && code_bits != 8) || n_subspaces == 0 || n_subspaces > BQK_MAX_DIM)
		return BQK_EINVAL;
	(code_bits == 4 ? scan4_float : scan8_float)(codes, n, n_subspaces, luts, n_queries, out);
	return BQK_OK;
}
