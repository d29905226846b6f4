/* The trailer on pgvector's metapage. pgvector's updates of that page are generic WAL records of its own struct: they
 * keep what lies behind it, below pd_lower. Every change of the trailer is made under the metapage's exclusive lock. */
#include "trailer.h"
#include "types.h"

/* A new trailer of an index whose model is made. */
void
BqTrailerInit(Relation index, Page metapage, BlockNumber firstBlock, uint32 nbytes, const bqk_model *model,
			  uint32 trainAt)
{
	const BqOptions *options = (const BqOptions *) index->rd_options;
	PageHeader header = (PageHeader) metapage;

	if (header->pd_lower > TRAILER_OFFSET || *(uint32 *) PageGetContents(metapage) != HNSW_MAGIC)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("bqhnsw does not know this pgvector's metapage"),
						errdetail("It ends at byte %u, expected at most %u.", header->pd_lower, TRAILER_OFFSET)));
	*Trailer(metapage) = (BqTrailer) {
		.magic = TRAILER_MAGIC,
		.version = TRAILER_VERSION,
		.firstBlock = firstBlock,
		.nbytes = nbytes,
		.m = (uint16) (options ? options->m : BQ_DEFAULT_M),
		.efConstruction = (uint16) (options ? options->efConstruction : BqDefaultEfConstruction(BQ_DEFAULT_BITS)),
		.generation = 1,
		.bits = model->bits,
		.trainAt = trainAt,
		.listHead = InvalidBlockNumber,
		.listInsert = InvalidBlockNumber,
	};
	header->pd_lower = TRAILER_OFFSET + sizeof(BqTrailer);
}

static pg_noinline void
damaged(Relation index, const char *what)
{
	ereport(ERROR, (errcode(ERRCODE_INDEX_CORRUPTED),
					errmsg("model of index \"%s\" is damaged: %s", RelationGetRelationName(index), what),
					errhint("REINDEX INDEX %s.", RelationGetRelationName(index))));
}

BqTrailer
BqTrailerOf(Relation index, Page metapage)
{
	Size end = ((PageHeader) metapage)->pd_lower;
	BqTrailer trailer = {.generation = 1, .listHead = InvalidBlockNumber, .listInsert = InvalidBlockNumber};

	if (end >= TRAILER_OFFSET + TRAILER_NBYTES(1))
		memcpy(&trailer, Trailer(metapage), TRAILER_NBYTES(1));
	if (trailer.magic != TRAILER_MAGIC)
		damaged(index, "no pointer on the metapage");
	if (trailer.version < 1 || trailer.version > TRAILER_VERSION)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("index \"%s\" has model pages of version %u, expected at most %u",
							   RelationGetRelationName(index), trailer.version, TRAILER_VERSION)));
	if (end < TRAILER_OFFSET + TRAILER_NBYTES(trailer.version))
		damaged(index, "the pointer on the metapage is cut off");
	if (trailer.version > 1)
		trailer = *Trailer(metapage);
	if (trailer.nbytes > BQ_MODEL_MAX)
		damaged(index, "impossible length");
	return trailer;
}

BqTrailer
BqReadTrailer(Relation index)
{
	Buffer buf = ReadBuffer(index, HNSW_METAPAGE);
	BqTrailer trailer;

	LockBuffer(buf, BUFFER_LOCK_SHARE);
	trailer = BqTrailerOf(index, BufferGetPage(buf));
	UnlockReleaseBuffer(buf);
	return trailer;
}

bool
BqHasPageId(const char *content, uint16 pageId)
{
	Page page = (Page) content;

	return PageGetSpecialSize(page) == MAXALIGN(sizeof(BqPageOpaque)) && Opaque(page)->pageId == pageId;
}
