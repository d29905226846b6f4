/* Best-first walk through the graph for one query (Malkov & Yashunin 2018, algorithm 2), which can be taken up again
 * to find more elements. */
#ifndef BQCORE_WALK_H
#define BQCORE_WALK_H

#include "graph.h"

typedef struct BqWalk BqWalk;

/* Finds the `ef` nearest elements by estimate. All that a walk keeps lies in the current memory context.
 * most, mostMemory: elements to be looked at, and bytes of that context, beyond which the walk does not go on. */
extern BqWalk *BqWalkBegin(Relation index, const BqQuery *query, int bits, uint32 ef, int64 most, Size mostMemory);
/* Goes on until the `ef` nearest are found; false if the graph, or what may be looked at, holds no more. */
extern bool BqWalkGrow(BqWalk *w, uint32 ef);
/* Whether all that it can find has been found. */
extern bool BqWalkEnded(const BqWalk *w);
/* How many it has been asked for. */
extern uint32 BqWalkSize(const BqWalk *w);
/* The next of the elements found that has not been taken before, in no order; -1 if there is none. */
extern int64 BqWalkTake(BqWalk *w);
/* Valid until the walk grows. */
extern BqElement *BqWalkElement(const BqWalk *w, uint32 number);
/* Estimate below which the walk has found all it can; infinity at its end. */
extern float BqWalkReach(const BqWalk *w);
/* Mean deviation of the estimates of what was found. */
extern float BqWalkError(const BqWalk *w);

#endif
