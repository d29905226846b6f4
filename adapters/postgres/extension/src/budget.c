/* How far a scan looks.
 *
 * Measured on text embeddings, word vectors and SIFT descriptors of 10,000 to 60,000 rows, without losses of the graph:
 * with an epsilon of 1.25, scans find .955 to .98 of the rows that are wanted at 1 bit, .98 to .99 at 2 bits and more
 * than .99 from 4 bits on, whatever the LIMIT. That takes 3 to 15 candidates a row at 1 bit (more where values are
 * harder to tell apart, fewer beyond the first ten), 1.7 to 5 at 2 bits and 1.1 to 1.6 from 4 bits on. */
#include "budget.h"

#define WALK_LIMIT 10
#define START_LIMIT 1000      /* pgvector's largest hnsw.ef_search */
#define ITERATIVE_EPSILON 1.6 /* who asks for iterative scans wants rows more than time */

/* Iterative scans let the rows that wait become fewer, because each batch costs pgvector another walk. The numbers
 * follow the error of estimates: at 1 bit all that pgvector's walk kept, at 4 bits a few per row. */
BqWindow
BqScanWindow(int bits)
{
	int ef_search = BqEfSearch();
	BqWindow w = {.ahead = bits == 2 ? 40 : (bits == 4 ? 12 : 10), .slope = bits == 2 ? 3 : (bits == 4 ? 2 : 1)};

	if (bq_rescore >= 0)
		w = (BqWindow) {.ahead = Max(bq_rescore, 1), .slope = 1};
	else if (bits == 1)
		w = (BqWindow) {.ahead = ef_search, .slope = 1};
	w.floor = Max(Min(ef_search / 2, w.ahead), 1);
	w.growth = bq_rescore >= 0 ? 0.0 : 2.0 / bits;
	return w;
}

bool
BqBounded(void)
{
	return BqMayWalk() && bq_rescore < 0;
}

float
BqEpsilon(void)
{
	return (float) (BqIterativeScan() == BQ_ITERATIVE_OFF ? bq_epsilon : ITERATIVE_EPSILON * bq_epsilon);
}

/* A bound is that of most candidates, not of all. So hnsw.ef_search goes on to raise recall beyond what it gives. */
uint32
BqLeastRescored(int bits)
{
	return (uint32) (BqEfSearch() / bits);
}

uint32
BqWalkStart(int bits, double rows)
{
	double per_row = bits == 1 ? 2.5 : (bits == 2 ? 1.5 : 1.2), ef_search = BqEfSearch();

	if (!BqBounded())
		return (uint32) ef_search;
	return (uint32) Max(Min(Min(rows * per_row, START_LIMIT), BqWalkMost()), ef_search);
}

uint32
BqWalkMost(void)
{
	if (BqIterativeScan() != BQ_ITERATIVE_OFF)
		return PG_INT32_MAX;
	return (uint32) BqEfSearch() * (BqBounded() ? WALK_LIMIT : 1);
}
