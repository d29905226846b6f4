/* Candidates of our own walk: the elements that it has found, by the lower bounds of their distances. */
#ifndef BQCORE_POOL_H
#define BQCORE_POOL_H

#include "rescore.h"
#include "walk.h"
#include "walk_sets.h"

typedef struct BqPool
{
	BqWalk *walk;
	BqQueue elements; /* that have not been taken; keys are estimates less their errors */
	float epsilon;    /* deviations that the error is */
	uint32 walkMost;  /* elements that the walk finds at most */
	int64 taken;      /* elements */
} BqPool;

/* Walks for so many rows. All lies in the current memory context. */
extern void BqPoolBegin(BqPool *p, Relation index, const BqQuery *query, double rows);
/* Whether there are elements that have not been taken, or may be found. */
extern bool BqPoolLeft(const BqPool *p);
/* Least estimate, less its error, of those. */
extern float BqPoolBound(const BqPool *p);
/* Takes rows of the next elements, at most `elements` of them and BQ_RESCORE_BATCH rows: at least one element, more as
 * long as their bounds are below `below`; 0 if there are none left. */
extern int BqPoolTake(BqPool *p, BqCandidate *candidates, int64 elements, float below);

#endif
