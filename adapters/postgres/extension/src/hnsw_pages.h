/* pgvector's page format, version 1: the same from 0.7.4 to 0.8.6, and by its promise for pg_upgrade. */
#ifndef BQCORE_HNSW_PAGES_H
#define BQCORE_HNSW_PAGES_H

#include "bqcore.h"

#include "storage/itemptr.h"

#define HNSW_METAPAGE 0
#define HNSW_HEAD 1
#define HNSW_MAGIC 0xA953A953
#define HNSW_PAGE_VERSION 1
#define HNSW_PAGE_ID 0xFF90
#define HNSW_HEAPTIDS 10
#define HNSW_MAX_M 100

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
StaticAssertDecl(offsetof(HnswNeighbours, links) == 4, "pgvector's neighbour tuple");

#define BQ_ITEM_ELEMENT 1
#define BQ_ITEM_NEIGHBOURS 2

#endif
