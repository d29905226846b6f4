/* bqcore_check: what its files share. check.c reads the pages, check_graph.c the links, check_heap.c the table. */
#ifndef BQCORE_CHECK_H
#define BQCORE_CHECK_H

#include "bqcore.h"

#include "storage/bufmgr.h"
#include "storage/bufpage.h"

/* pgvector's page format, version 1, the same from 0.7.4 to 0.8.6. */
#define HNSW_METAPAGE 0
#define HNSW_HEAD 1
#define HNSW_MAGIC 0xA953A953
#define HNSW_PAGE_VERSION 1
#define HNSW_PAGE_ID 0xFF90
#define HNSW_HEAPTIDS 10

typedef struct HnswMeta
{
	uint32 magic;
	uint32 version;
	uint32 dimensions;
	uint16 m;
	uint16 efConstruction;
	BlockNumber entryBlock;
	OffsetNumber entryOffset;
	int16 entryLevel;
	BlockNumber insertPage;
} HnswMeta;

typedef struct HnswOpaque
{
	BlockNumber next;
	uint16 unused;
	uint16 pageId;
} HnswOpaque;

typedef struct HnswElement
{
	uint8 type; /* BQ_ITEM_ELEMENT */
	uint8 level;
	uint8 deleted;
	uint8 version; /* of the place: a new element in it has another one. 0 before 0.8 */
	ItemPointerData heaptids[HNSW_HEAPTIDS];
	ItemPointerData neighbours;
	uint16 unused;
	BqHeader code;
} HnswElement;

typedef struct HnswNeighbours
{
	uint8 type; /* BQ_ITEM_NEIGHBOURS */
	uint8 version;
	uint16 count; /* (level + 2) * m: from the top layer down, m each, 2m on layer 0 */
	ItemPointerData links[FLEXIBLE_ARRAY_MEMBER];
} HnswNeighbours;

StaticAssertDecl(offsetof(HnswElement, code) == 72, "pgvector's element tuple");

#define BQ_ITEM_ELEMENT 1
#define BQ_ITEM_NEIGHBOURS 2

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
	ItemPointerData tid; /* in the heap */
	ItemPointerData element;
} BqIndexRow;

typedef struct BqCheck
{
	Relation heap, index;
	int dim, bits, metric;
	int m;
	BlockNumber blocks, heapBlocks;
	uint64 *first; /* number of each block's first item; one more entry than blocks */
	BqItem *items;
	BqIndexRow *rows; /* by tid once they are sorted */
	uint64 itemRoom, rowRoom, n_rows;
	int64 elements, deleted, links, unreachable, heapRows;
	BufferAccessStrategy strategy;
} BqCheck;

extern void BqDamaged(BqCheck *c, BlockNumber block, OffsetNumber offset, const char *format, ...)
	__attribute__((format(printf, 4, 5), noreturn));
/* A copy of a page, so that nothing is locked while it is examined. */
extern Page BqCopyPage(BqCheck *c, BlockNumber block, PGAlignedBlock *copy);
/* The element's tuple; its place has been checked. */
extern const HnswElement *BqElementAt(Page page, OffsetNumber offset);

/* check_graph.c */
extern void BqCheckGraph(BqCheck *c);
extern void BqCheckPaths(BqCheck *c, const HnswMeta *meta);

/* check_heap.c */
extern void BqCheckRows(BqCheck *c);
extern void BqCheckHeap(BqCheck *c, Snapshot snapshot);

#endif
