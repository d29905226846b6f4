/* The trailer on pgvector's metapage: where our pages are, and the state of the model. */
#ifndef BQCORE_TRAILER_H
#define BQCORE_TRAILER_H

#include "hnsw_pages.h"

#include "storage/bufmgr.h"
#include "storage/bufpage.h"

/* Room for pgvector's own struct (28 bytes in 0.8) to grow. */
#define TRAILER_OFFSET 1024
#define TRAILER_MAGIC 0x42514D50
#define TRAILER_VERSION 2

typedef struct BqTrailer
{
	uint32 magic;
	uint32 version;
	BlockNumber firstBlock; /* of the model */
	uint32 nbytes;
	uint16 m; /* of the graph; the options may have been altered since */
	uint16 efConstruction;
	/* Version 1 (0.1.0 to 0.2.0) ends here: it has no list, and its model is for ever that of its build. */
	uint32 generation; /* of the model: odd while there is one; even: rows wait, and the graph is empty */
	uint32 bits;       /* of its codes */
	uint32 trainAt;    /* waiting rows that a model is made of; decided by whoever built the index */
	uint32 listed;     /* rows on the waiting list */
	uint32 moving;     /* 1 while rows are moved: some may be in list and graph */
	BlockNumber listHead, listInsert; /* the list's first page, and the first one that may have room */
} BqTrailer;

#define TRAILER_NBYTES(version) ((version) == 1 ? offsetof(BqTrailer, generation) : sizeof(BqTrailer))
#define BqTrailerIsTrained(trailer) (((trailer)->generation & 1) != 0)

/* Special space of our pages: as on pgvector's, with another page id. */
typedef struct BqPageOpaque
{
	BlockNumber next;
	uint16 unused;
	uint16 pageId;
} BqPageOpaque;

#define MODEL_PAGE_ID 0xBC01
#define WAITING_PAGE_ID 0xBC02
#define PAYLOAD (BLCKSZ - MAXALIGN(SizeOfPageHeaderData) - MAXALIGN(sizeof(BqPageOpaque)))
#define Opaque(page) ((BqPageOpaque *) PageGetSpecialPointer(page))
#define Trailer(page) ((BqTrailer *) ((char *) (page) + TRAILER_OFFSET))

extern void BqTrailerInit(Relation index, Page metapage, BlockNumber firstBlock, uint32 nbytes, const bqk_model *model,
						  uint32 trainAt);
/* What a metapage says, which is locked; a copy, in which fields that version 1 lacks are filled. */
extern BqTrailer BqTrailerOf(Relation index, Page metapage);
/* The same of the index's metapage, which is locked for the time. */
extern BqTrailer BqReadTrailer(Relation index);
extern bool BqHasPageId(const char *page, uint16 pageId);

#endif
