/* Which integer sums of a scan can matter, from a distance that bounds must not exceed. */
#ifndef BQK_SCAN_LIMITS_H
#define BQK_SCAN_LIMITS_H

#include "bqk.h"

#pragma GCC visibility push(hidden)

/* Of one query in one run. */
typedef struct bqk_scan_limits
{
	int64_t sum;      /* the largest; -1 if no code of the segment has a chance */
	uint8_t luts[32]; /* of the row of factors */
} bqk_scan_limits;

void bqk_scan_set_limits(const bqk_scan *scan, const bqk_segment *segment, const bqk_scan_query *query, float distance,
						 bqk_scan_limits *out);

#pragma GCC visibility pop

#endif
