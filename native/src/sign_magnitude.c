/* Codes of a sign plane and a strong plane, compared by popcount. */
#include "bqk.h"

#include <string.h>

static inline uint64_t
load(const uint8_t *p, size_t nbytes)
{
	uint64_t w = 0;

	memcpy(&w, p, nbytes);
	return w;
}

/* With a weight of 1 + t for strong bits t, (1 + ta)(1 + tb) = 1 + ta + tb + ta tb: a sum of agreement over all
 * coordinates and over three masks, each the size of the mask less twice the disagreement in it. */
static inline void
compare(size_t dim, const uint8_t *codes, size_t n, const uint8_t *code, int32_t *out)
{
	size_t plane = (dim + 7) / 8;

	for (size_t c = 0; c < n; c++, codes += 2 * plane)
	{
		int32_t sum = (int32_t) dim;

		for (size_t i = 0; i < plane; i += 8)
		{
			size_t nbytes = plane - i < 8 ? plane - i : 8;
			uint64_t differ = load(codes + i, nbytes) ^ load(code + i, nbytes);
			uint64_t ta = load(codes + plane + i, nbytes), tb = load(code + plane + i, nbytes);

			sum += __builtin_popcountll(ta) + __builtin_popcountll(tb) + __builtin_popcountll(ta & tb);
			sum -= 2 * (__builtin_popcountll(differ) + __builtin_popcountll(ta & differ) +
						__builtin_popcountll(tb & differ) + __builtin_popcountll(ta & tb & differ));
		}
		out[c] = sum;
	}
}

#if defined(__x86_64__)
__attribute__((target("popcnt"))) static void
compare_popcnt(size_t dim, const uint8_t *codes, size_t n, const uint8_t *code, int32_t *out)
{
	compare(dim, codes, n, code, out);
}
#endif

int
bqk_sign_magnitude_sym(size_t dim, const uint8_t *codes, size_t n, const uint8_t *code, int32_t *out)
{
	if (dim == 0 || dim > BQK_MAX_DIM)
		return BQK_EINVAL;
#if defined(__x86_64__)
	if (bqk_active() != &bqk_kernels_scalar)
	{
		compare_popcnt(dim, codes, n, code, out);
		return BQK_OK;
	}
#endif
	compare(dim, codes, n, code, out);
	return BQK_OK;
}
