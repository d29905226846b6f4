/* Single trellis codes with float queries. */
#ifndef BQK_SCAN_TRELLIS_H
#define BQK_SCAN_TRELLIS_H

#include "bqk.h"

#pragma GCC visibility push(hidden)

/* Sum of the look-ups of a code of m axes and n_bits bits; with the query's offset, <levels, q>. */
float bqk_scan_trellis_product(const uint8_t *code, size_t code_nbytes, size_t m, size_t n_bits, const float *values);

#pragma GCC visibility pop

#endif
