/* Single trellis codes with float queries. */
#ifndef BQK_SCAN_TRELLIS_H
#define BQK_SCAN_TRELLIS_H

#include "bqk.h"

#pragma GCC visibility push(hidden)

/* <levels, q> of a code whose model and query have been checked; values: bqk_scan_trellis_query's. */
float bqk_scan_trellis_product(const bqk_trellis *t, const uint8_t *code, const float *values);

#pragma GCC visibility pop

#endif
