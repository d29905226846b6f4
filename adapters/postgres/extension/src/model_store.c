/* The model's home: pages of the index itself.
 *
 * They follow the pages of pgvector's build, outside its chain of element pages, so that vacuum and insert
 * never visit them. A trailer on pgvector's metapage points at the first one; pd_lower is raised over it, so
 * that WAL replay keeps it. The model is thereby as crash-safe, replicated, dropped and rebuilt as the index is. */
#include "graph.h"
#include "trailer.h"
#include "types.h"
#include "waiting.h"

#include "access/generic_xlog.h"
#include "access/xloginsert.h"
#include "miscadmin.h"

/* Called at the end of a build, when nobody else can see the index. */
void
BqModelStore(Relation index, ForkNumber fork, const bqk_model *model)
{
	Size nbytes = bqk_model_nbytes(model), done = 0;
	uint8 *blob = palloc(nbytes);
	BlockNumber first = RelationGetNumberOfBlocksInFork(index, fork), block = first;
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
	BqTrailerInit(index, BufferGetPage(buf), first, (uint32) nbytes, model, (uint32) bq_train_rows);
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

/* Writes the model of an index without one, page by page, where the build has made room: every model of an index takes
 * the same bytes. Nobody reads these pages until the state on the metapage says that there is a model. */
void
BqModelReplace(Relation index, const bqk_model *model)
{
	BqTrailer trailer = BqReadTrailer(index);
	Size nbytes = bqk_model_nbytes(model), done = 0;
	uint8 *blob = palloc(nbytes);
	BlockNumber block = trailer.firstBlock;

	if (nbytes != trailer.nbytes || bqk_model_write(model, blob, nbytes) != BQK_OK)
		elog(ERROR, "bqhnsw: cannot write a model of %zu bytes over one of %u", nbytes, trailer.nbytes);
	while (done < nbytes)
	{
		Size chunk = Min(nbytes - done, PAYLOAD);
		GenericXLogState *state;
		Buffer buf;
		Page page;

		if (block >= RelationGetNumberOfBlocks(index))
			corrupt(index, "page missing");
		buf = ReadBuffer(index, block);
		LockBuffer(buf, BUFFER_LOCK_EXCLUSIVE);
		state = GenericXLogStart(index);
		page = GenericXLogRegisterBuffer(state, buf, 0);
		if (PageIsNew(page) || !BqIsModelPage(page))
			corrupt(index, "not a model page");
		memcpy(PageGetContents(page), blob + done, chunk);
		block = Opaque(page)->next;
		GenericXLogFinish(state);
		UnlockReleaseBuffer(buf);
		done += chunk;
	}
	pfree(blob);
}

/* What the graph was built with. */
void
BqBuiltWith(Relation index, int *m, int *efConstruction)
{
	BqTrailer trailer = BqReadTrailer(index);

	*m = trailer.m;
	*efConstruction = trailer.efConstruction;
}

/* Pages that a model takes. */
BlockNumber
BqModelPages(Relation index)
{
	return (BlockNumber) ((BqReadTrailer(index).nbytes + PAYLOAD - 1) / PAYLOAD);
}

bool
BqIsModelPage(const char *page)
{
	return BqHasPageId(page, MODEL_PAGE_ID);
}

/* What an index without a model has in its place: the centroid is zero. What lies on the pages is older, or half
 * written when a crash came. */
static bytea *
zero_model(Relation index, const BqTrailer *trailer)
{
	BqSum nothing;
	bqk_model *model;
	bytea *out = palloc(VARHDRSZ + trailer->nbytes);

	BqSumBegin(&nothing, (uint32) TupleDescAttr(RelationGetDescr(index), 0)->atttypmod, BqGetTypeInfo(index)->metric);
	model = BqSumModel(&nothing, (int) trailer->bits, BQ_DEFAULT_SEED);
	if (bqk_model_nbytes(model) != trailer->nbytes ||
		bqk_model_write(model, (uint8 *) VARDATA(out), trailer->nbytes) != BQK_OK)
		corrupt(index, "another length than its dimensions need");
	SET_VARSIZE(out, VARHDRSZ + trailer->nbytes);
	return out;
}

static bytea *
read_pages(Relation index, const BqTrailer *trailer)
{
	BlockNumber block = trailer->firstBlock;
	bytea *out = palloc(VARHDRSZ + trailer->nbytes);
	Size done = 0;

	SET_VARSIZE(out, VARHDRSZ + trailer->nbytes);
	while (done < trailer->nbytes)
	{
		Size chunk = Min(trailer->nbytes - done, PAYLOAD);
		Buffer buf;
		Page page;
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

/* The serialised model, palloc'd, and its generation. Pages are written only while there is no model: one whose
 * generation is the same before and after was read whole. */
static bytea *
read_model(Relation index, uint32 *generation)
{
	for (;;)
	{
		BqTrailer trailer = BqReadTrailer(index);
		bytea *out;

		CHECK_FOR_INTERRUPTS();
		*generation = trailer.generation;
		if (!BqTrailerIsTrained(&trailer))
			return zero_model(index, &trailer);
		out = read_pages(index, &trailer);
		if (BqReadTrailer(index).generation == trailer.generation)
			return out;
		pfree(out);
	}
}

bytea *
BqModelRead(Relation index)
{
	uint32 generation;

	return read_model(index, &generation);
}

/* 256 kB of them at most. */
#define MAX_HINTS 65536

/* What a relcache entry keeps in rd_amcache, which is freed as one chunk: this, the blob (whose centroid `model` points
 * at), the signs, the hints where blocks are, and the model of the column that is rescored from. */
typedef struct Cache
{
	bqk_model model;
	uint32 generation; /* of the model */
	BqHints hints;
	AttrNumber column; /* 0: none was asked for */
	const struct varlena *columnModel;
} Cache;

static Cache *
fill_cache(Relation index, AttrNumber column, const struct varlena *columnModel)
{
	uint32 generation;
	bytea *blob = read_model(index, &generation);
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
	cache->generation = generation;
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

/* The index's model, cached in its relcache entry. Training sends no invalidation, which would come late or, on a
 * standby, with the end of the transaction only: the metapage tells whether the cached model is still the index's.
 *
 * The result lives until the next call, or the next relcache invalidation of the index: use it before anything that may
 * look up a catalog or take a lock. */
const bqk_model *
BqModelGet(Relation index)
{
	Cache *cache = index->rd_amcache;

	if (cache == NULL)
		cache = fill_cache(index, 0, NULL);
	else if (cache->generation != BqReadTrailer(index).generation)
		cache = fill_cache(index, cache->column, cache->columnModel);
	return &cache->model;
}

/* An index that has grown shares them between blocks, which costs a look into the buffer table: more are made when it
 * has doubled. */
BqHints
BqBufferHints(Relation index)
{
	Cache *cache = index->rd_amcache;

	if (cache == NULL)
		cache = fill_cache(index, 0, NULL);
	else if (cache->hints.n < MAX_HINTS && RelationGetNumberOfBlocks(index) > 2 * cache->hints.n)
		cache = fill_cache(index, cache->column, cache->columnModel);
	return cache->hints;
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
