/* Reading of pgvector's graph for one query: its entry, its elements with their estimates, and their neighbours. */
#ifndef BQCORE_GRAPH_H
#define BQCORE_GRAPH_H

#include "hnsw_pages.h"

#include "storage/buf.h"

/* Where an index's blocks were in shared buffers when they were last read, block b at b % n; 0 if never. */
typedef struct BqHints
{
	uint32 n;
	Buffer *buffers;
} BqHints;

/* model_store.c; valid as long as BqModelGet's result. */
extern BqHints BqBufferHints(Relation index);

typedef struct BqGraph
{
	Relation index;
	const BqQuery *query;
	BqHeader expected; /* of every code */
	BqHints hints;
	Size ahead; /* bytes of a tuple to ask for: its element, but hardware goes on by itself */
	int m;
} BqGraph;

/* What is kept of an element: its estimate, and where it and its rows are. */
typedef struct BqElement
{
	float distance; /* estimate, in the unit of the metric */
	float error;    /* one deviation of it */
	uint8 level, version, n_tids;
	bool pooled; /* handed over to the scan */
	ItemPointerData tid, neighbours;
	ItemPointerData heap_tids[HNSW_HEAPTIDS];
} BqElement;

typedef enum BqFound
{
	BQ_DELETED, /* no element of the graph any more */
	BQ_FARTHER, /* only its distance was read */
	BQ_FOUND
} BqFound;

extern void BqGraphOpen(BqGraph *g, Relation index, const BqQuery *query, int bits);

/* Vacuum waits for those who hold it before it marks elements as deleted and gives their places away: what was read
 * about an element stays true while it is held. Every walk holds it for as long as it reads pages, as pgvector's scans
 * do. It is not held between rows: what a walk remembers then may be of an element that is gone. Its rows are dead to
 * the scan's snapshot, so they are not returned, and its neighbours are read only if its place has the version that it
 * had. */
extern void BqGraphLock(BqGraph *g);
extern void BqGraphUnlock(const BqGraph *g);

/* The element at which walks begin; false if the graph is empty. */
extern bool BqGraphEntry(BqGraph *g, BqElement *out);
/* An element that is nearer than `nearer_than`; of one that is farther only the distance is set. */
extern BqFound BqGraphElement(BqGraph *g, const ItemPointerData *tid, float nearer_than, BqElement *out);
/* An element's neighbours on a level, at most 2 m; none if another element has taken its place. */
extern int BqGraphNeighbours(BqGraph *g, const BqElement *e, int level, ItemPointerData *tids);
/* Asks for elements' cache lines, as far as hints tell where they are; n <= 2 m. */
extern void BqGraphPrefetch(const BqGraph *g, const ItemPointerData *tids, int n);

#endif
