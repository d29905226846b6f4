/* bqcore_check: what its files share. check.c reads the pages, check_graph.c the links, check_heap.c the table. */
#ifndef BQCORE_CHECK_H
#define BQCORE_CHECK_H

#include "hnsw_pages.h"

#include "access/xlogdefs.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"

/* What the first pass keeps of an item of a page. */
typedef struct BqItem
{
	uint8 type;
	uint8 level;
	uint8 version;
	uint8 deleted : 1;
	uint8 claimed : 1; /* a list of neighbours that has its element */
	uint8 reached : 1; /* from the entry point */
	uint8 rows : 4;    /* heap rows of an element */
} BqItem;

typedef struct BqIndexRow
{
	ItemPointerData tid;     /* in the heap */
	ItemPointerData element; /* offset 0 of its page for a row that waits */
} BqIndexRow;

typedef struct BqCheck
{
	Relation heap, index;
	int dim, bits, metric;
	int m;
	BlockNumber blocks, heapBlocks;
	uint64 *first; /* number of each block's first item; one more entry than blocks */
	BqItem *items;
	BqIndexRow *rows;                         /* by tid once they are sorted */
	uint64 itemRoom, rowRoom, n_rows, listed; /* rows of graph and list; of the list */
	BlockNumber waitingPages;
	bool moving; /* a move broke off: rows may be in both */
	int64 elements, deleted, links, unreachable, heapRows;
	BufferAccessStrategy strategy;
	XLogRecPtr replay; /* where a standby's replay stands still; invalid on a primary */
} BqCheck;

extern void BqDamaged(BqCheck *c, BlockNumber block, OffsetNumber offset, const char *format, ...)
	__attribute__((format(printf, 4, 5), noreturn));
/* An error if a standby's replay has gone on, or has ended: then nothing that was read need fit together. */
extern void BqCheckReplay(const BqCheck *c);
/* A copy of a page, so that nothing is locked while it is examined. Every pass sees the same: writers wait for our
 * lock, and on a standby for its replay. */
extern Page BqCopyPage(BqCheck *c, BlockNumber block, PGAlignedBlock *copy);
/* The element's tuple; its place has been checked. */
extern const HnswElement *BqElementAt(Page page, OffsetNumber offset);

extern void BqCheckKeepRow(BqCheck *c, const ItemPointerData *tid, BlockNumber block, OffsetNumber offset);

/* check_waiting.c */
extern void BqCheckWaitingPage(BqCheck *c, BlockNumber block, Page page);
extern void BqCheckWaiting(BqCheck *c);

/* check_graph.c */
extern void BqCheckGraph(BqCheck *c);
extern void BqCheckPaths(BqCheck *c, const HnswMeta *meta);

/* check_heap.c */
extern void BqCheckRows(BqCheck *c);
extern void BqCheckHeap(BqCheck *c, Snapshot snapshot);

#endif
