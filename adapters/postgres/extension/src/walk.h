/* Walk through pgvector's graph for one query: the hnsw.ef_search nearest elements by estimate. */
#ifndef BQCORE_WALK_H
#define BQCORE_WALK_H

#include "bqcore.h"

#include "storage/buf.h"

/* Where an index's blocks were in shared buffers when they were last read, block b at b % n; 0 if never. */
typedef struct BqHints
{
	uint32 n;
	Buffer *buffers;
} BqHints;

typedef struct BqWalk BqWalk;

/* model_store.c; valid as long as BqModelGet's result. */
extern BqHints BqBufferHints(Relation index);

/* Results and all else lie in the current memory context. */
extern BqWalk *BqWalkGraph(Relation index, const BqQuery *query, int bits, int ef_search);
/* Rows in the order of their elements' estimates. */
extern bool BqWalkNext(BqWalk *w, ItemPointer tid);

#endif
