/* The model's home: pages of the index itself.
 *
 * They follow the pages of pgvector's build, outside its chain of element pages, so that vacuum and insert
 * never visit them. A trailer on pgvector's metapage points at the first one; pd_lower is raised over it, so
 * that WAL replay keeps it. The model is thereby as crash-safe, replicated, dropped and rebuilt as the index is. */
#include "graph.h"
#include "hnsw_pages.h"
#include "types.h"

#include "access/xloginsert.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"

/* Room for pgvector's own struct (28 bytes in 0.8) to grow. */
#define TRAILER_OFFSET 1024
#define TRAILER_MAGIC 0x42514D50

typedef struct BqTrailer
{
	uint32 magic;
	uint32 version;
	BlockNumber firstBlock;
	uint32 nbytes;
	uint16 m; /* of the graph; the options may have been altered since */
	uint16 efConstruction;
} BqTrailer;

#define TRAILER_VERSION 1

/* Special space as on pgvector's pages, with another page id. */
typedef struct BqPageOpaque
{
	BlockNumber next;
	uint16 unused;
	uint16 pageId;
} BqPageOpaque;

#define MODEL_PAGE_ID 0xBC01
#define PAYLOAD (BLCKSZ - MAXALIGN(SizeOfPageHeaderData) - MAXALIGN(sizeof(BqPageOpaque)))
#define Opaque(page) ((BqPageOpaque *) PageGetSpecialPointer(page))
#define Trailer(page) ((BqTrailer *) ((char *) (page) + TRAILER_OFFSET))

/* Called at the end of a build, when nobody else can see the index. */
void
BqModelStore(Relation index, ForkNumber fork, const bqk_model *model)
{
	Size nbytes = bqk_model_nbytes(model), done = 0;
	uint8 *blob = palloc(nbytes);
	BlockNumber first = RelationGetNumberOfBlocksInFork(index, fork), block = first;
	const BqOptions *options = (const BqOptions *) index->rd_options;
	Buffer buf;
	Page page;

	if (bqk_model_write(model, blob, nbytes) != BQK_OK)
		elog(ERROR, "bqhnsw: cannot write the model");
	while (done < nbytes)
	{
		Size chunk = Min(nbytes - done, PAYLOAD);

		buf = ExtendBufferedRel(BMR_REL(index), fork, NULL, EB_LOCK_FIRST);
		if (BufferGetBlockNumber(buf) != block)
			elog(ERROR, "bqhnsw: expected block %u, not %u", block, BufferGetBlockNumber(buf));
		page = BufferGetPage(buf);
		PageInit(page, BLCKSZ, sizeof(BqPageOpaque));
		memcpy(PageGetContents(page), blob + done, chunk);
		((PageHeader) page)->pd_lower = (LocationIndex) (PageGetContents(page) - (char *) page + chunk);
		done += chunk;
		block++;
		Opaque(page)->next = done < nbytes ? block : InvalidBlockNumber;
		Opaque(page)->pageId = MODEL_PAGE_ID;
		MarkBufferDirty(buf);
		UnlockReleaseBuffer(buf);
	}

	buf = ReadBufferExtended(index, fork, HNSW_METAPAGE, RBM_NORMAL, NULL);
	LockBuffer(buf, BUFFER_LOCK_EXCLUSIVE);
	page = BufferGetPage(buf);
	if (((PageHeader) page)->pd_lower > TRAILER_OFFSET || *(uint32 *) PageGetContents(page) != HNSW_MAGIC)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("bqhnsw does not know this pgvector's metapage"),
				 errdetail("It ends at byte %u, expected at most %u.", ((PageHeader) page)->pd_lower, TRAILER_OFFSET)));
	*Trailer(page) =
		(BqTrailer) {TRAILER_MAGIC,
					 TRAILER_VERSION,
					 first,
					 (uint32) nbytes,
					 (uint16) (options ? options->m : BQ_DEFAULT_M),
					 (uint16) (options ? options->efConstruction : BqDefaultEfConstruction(BQ_DEFAULT_BITS))};
	((PageHeader) page)->pd_lower = TRAILER_OFFSET + sizeof(BqTrailer);
	MarkBufferDirty(buf);
	UnlockReleaseBuffer(buf);

	if (RelationNeedsWAL(index) || fork == INIT_FORKNUM)
	{
		log_newpage_range(index, fork, HNSW_METAPAGE, HNSW_METAPAGE + 1, true);
		log_newpage_range(index, fork, first, block, true);
	}
	pfree(blob);
}

static pg_noinline void
corrupt(Relation index, const char *what)
{
	ereport(ERROR, (errcode(ERRCODE_INDEX_CORRUPTED),
					errmsg("model of index \"%s\" is damaged: %s", RelationGetRelationName(index), what),
					errhint("REINDEX INDEX %s.", RelationGetRelationName(index))));
}

static BqTrailer
read_trailer(Relation index)
{
	BqTrailer trailer = {0};
	Buffer buf = ReadBuffer(index, HNSW_METAPAGE);
	Page page;

	LockBuffer(buf, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buf);
	if (((PageHeader) page)->pd_lower >= TRAILER_OFFSET + sizeof(BqTrailer))
		trailer = *Trailer(page);
	UnlockReleaseBuffer(buf);
	if (trailer.magic != TRAILER_MAGIC)
		corrupt(index, "no pointer on the metapage");
	if (trailer.version != TRAILER_VERSION)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("index \"%s\" has model pages of version %u, expected %u",
							   RelationGetRelationName(index), trailer.version, TRAILER_VERSION)));
	if (trailer.nbytes > BQ_MODEL_MAX)
		corrupt(index, "impossible length");
	return trailer;
}

/* What the graph was built with. */
void
BqBuiltWith(Relation index, int *m, int *efConstruction)
{
	BqTrailer trailer = read_trailer(index);

	*m = trailer.m;
	*efConstruction = trailer.efConstruction;
}

/* Pages that a model takes. */
BlockNumber
BqModelPages(Relation index)
{
	return (BlockNumber) ((read_trailer(index).nbytes + PAYLOAD - 1) / PAYLOAD);
}

bool
BqIsModelPage(const char *content)
{
	Page page = (Page) content;

	return PageGetSpecialSize(page) == MAXALIGN(sizeof(BqPageOpaque)) && Opaque(page)->pageId == MODEL_PAGE_ID;
}

/* The serialised model, palloc'd. */
bytea *
BqModelRead(Relation index)
{
	BqTrailer trailer = read_trailer(index);
	BlockNumber block;
	Size done = 0;
	bytea *out;
	Buffer buf;
	Page page;

	out = palloc(VARHDRSZ + trailer.nbytes);
	SET_VARSIZE(out, VARHDRSZ + trailer.nbytes);
	block = trailer.firstBlock;
	while (done < trailer.nbytes)
	{
		Size chunk = Min(trailer.nbytes - done, PAYLOAD);
		bool ok;

		if (block >= RelationGetNumberOfBlocks(index))
			corrupt(index, "page missing");
		buf = ReadBuffer(index, block);
		LockBuffer(buf, BUFFER_LOCK_SHARE);
		page = BufferGetPage(buf);
		ok = !PageIsNew(page) && BqIsModelPage(page);
		if (ok)
		{
			memcpy(VARDATA(out) + done, PageGetContents(page), chunk);
			block = Opaque(page)->next;
		}
		UnlockReleaseBuffer(buf);
		if (!ok)
			corrupt(index, "not a model page");
		done += chunk;
	}
	return out;
}

/* 256 kB of them at most. */
#define MAX_HINTS 65536

/* What a relcache entry keeps in rd_amcache, which is freed as one chunk: this, the blob (whose centroid `model` points
 * at), the signs, the hints where blocks are, and the model of the column that is rescored from. */
typedef struct Cache
{
	bqk_model model;
	BqHints hints;
	AttrNumber column; /* 0: none was asked for */
	const struct varlena *columnModel;
} Cache;

static Cache *
fill_cache(Relation index, AttrNumber column, const struct varlena *columnModel)
{
	bytea *blob = BqModelRead(index);
	Size nbytes = VARSIZE_ANY_EXHDR(blob), signs, columnNbytes = columnModel ? VARSIZE_ANY(columnModel) : 0;
	uint32 n_hints = Max(Min(RelationGetNumberOfBlocks(index), MAX_HINTS), 1);
	bqk_model parsed;
	Cache *cache;
	char *at;
	int status;

	status = bqk_model_read((uint8 *) VARDATA(blob), nbytes, &parsed);
	if (status != BQK_OK)
		corrupt(index, bqk_strerror(status));
	signs = parsed.rotation == BQK_ROTATION_NONE ? 0 : bqk_signs_count(parsed.dim) * sizeof(float);
	cache = MemoryContextAllocZero(index->rd_indexcxt, MAXALIGN(sizeof(Cache)) + MAXALIGN(nbytes) + MAXALIGN(signs) +
														   MAXALIGN(n_hints * sizeof(Buffer)) + columnNbytes);
	at = (char *) cache + MAXALIGN(sizeof(Cache));
	memcpy(at, VARDATA(blob), nbytes);
	bqk_model_read((uint8 *) at, nbytes, &cache->model);
	at += MAXALIGN(nbytes);
	if (signs)
	{
		bqk_signs_init(cache->model.dim, cache->model.seed, (float *) at);
		cache->model.signs = (float *) at;
	}
	at += MAXALIGN(signs);
	cache->hints = (BqHints) {n_hints, (Buffer *) at};
	at += MAXALIGN(n_hints * sizeof(Buffer));
	if (columnModel)
	{
		memcpy(at, columnModel, columnNbytes);
		cache->column = column;
		cache->columnModel = (struct varlena *) at;
	}
	pfree(blob);
	if (index->rd_amcache)
		pfree(index->rd_amcache);
	index->rd_amcache = cache;
	return cache;
}

/* The index's model, cached in its relcache entry.
 *
 * The result lives until the next relcache invalidation of the index: use it before anything that may look
 * up a catalog or take a lock. */
const bqk_model *
BqModelGet(Relation index)
{
	Cache *cache = index->rd_amcache;

	return cache ? &cache->model : &fill_cache(index, 0, NULL)->model;
}

/* An index that has grown shares them between blocks, which costs a look into the buffer table. */
BqHints
BqBufferHints(Relation index)
{
	Cache *cache = index->rd_amcache;

	return cache ? cache->hints : fill_cache(index, 0, NULL)->hints;
}

/* The model of the code column that is rescored from, NULL without one; lives as long. A column whose expression
 * changes is rewritten, and its table's indexes are rebuilt, which invalidates them. */
const struct varlena *
BqColumnModelGet(Relation heap, Relation index)
{
	AttrNumber column = BqRescoreAttribute(heap, index);
	const Cache *cache = index->rd_amcache;
	const struct varlena *model;

	if (column == 0)
		return NULL;
	if (cache && cache->column == column)
		return cache->columnModel;
	model = BqRescoreModel(heap, index, column);
	return fill_cache(index, column, model)->columnModel;
}
