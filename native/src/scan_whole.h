/* Codes of a scan one by one: their factors and whole products with a query. */
#ifndef BQK_SCAN_WHOLE_H
#define BQK_SCAN_WHOLE_H

#include "bqk.h"

#define CACHE_LINE 64

static inline float
inner_product(const bqk_scan *scan, const bqk_scan_query *query, const uint8_t *code)
{
	const bqk_kernels *kernels = bqk_active();
	int32_t dot = 0, part;
	float sum;

	switch (scan->kind)
	{
	case BQK_SCAN_LEVELS:
		kernels->dot[bqk_width(scan->bits)](code, 0, 1, query->z, scan->dim, &dot);
		break;
	case BQK_SCAN_PLANES:
		for (int p = 0; p < scan->bits; p++)
		{
			kernels->dot[0](code + (size_t) p * bqk_nbytes(scan->dim, 1), 0, 1, query->z, scan->dim, &part);
			dot += part * (1 << p);
		}
		break;
	case BQK_SCAN_TRELLIS:
		return kernels->trellis_product(scan->trellis, scan->levels, code, query->z);
	case BQK_SCAN_LUT4:
		bqk_lut_scan_float(4, code, 1, scan->dim, query->z, 1, &sum);
		return sum + query->offset;
	}
	return query->unit * ((float) dot - query->shift) + query->offset;
}

static inline float
f_add_of(const bqk_scan *scan, const bqk_scan_query *query, uint32_t id, uint32_t list)
{
	return (scan->factors ? query->g_weight[list] * scan->factors[id].f_add : 0.0f) + query->g_add[list];
}

static inline float
f_rescale_of(const bqk_scan *scan, uint32_t id)
{
	return scan->factors ? scan->factors[id].f_rescale : -1.0f;
}

static inline void
fetch(const bqk_scan *scan, uint32_t id)
{
	const uint8_t *code = scan->codes + (size_t) id * scan->code_nbytes;

	for (size_t i = 0; i < scan->code_nbytes; i += CACHE_LINE)
		__builtin_prefetch(code + i);
	if (scan->factors)
		__builtin_prefetch(scan->factors + id);
}

#endif
