/* bqcore_check: reads every page of a bqhnsw index and raises an error at the first damage.
 *
 * The first pass goes over the pages and keeps four bytes per item; the second over the lists of neighbours; then a
 * walk from the entry point counts rows without a path. Nothing that was read is trusted before it has been checked. */
#include "check.h"
#include "trailer.h"

#include <math.h>

#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "catalog/index.h"
#include "catalog/pg_class.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define ELEMENT_SIZE(dim, bits) MAXALIGN(offsetof(HnswElement, code) + BQ_CODE_SIZE(dim, bits))
#define NEIGHBOURS_SIZE(count) MAXALIGN(offsetof(HnswNeighbours, links) + sizeof(ItemPointerData) * (Size) (count))
#define HnswSpecial(page) ((const HnswOpaque *) PageGetSpecialPointer(page))

void
BqCheckReplay(const BqCheck *c)
{
	if (c->replay == InvalidXLogRecPtr)
		return;
	/* the position moves before a record's pages change, and recovery ends before anybody may write */
	if (!RecoveryInProgress() || GetCurrentReplayRecPtr(NULL) != c->replay)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replay went on while bqcore_check read index \"%s\"", RelationGetRelationName(c->index)),
				 errhint("SELECT pg_wal_replay_pause(), and check again.")));
}

void
BqDamaged(BqCheck *c, BlockNumber block, OffsetNumber offset, const char *format, ...)
{
	char what[256], place[64] = "";
	va_list args;

	BqCheckReplay(c);
	va_start(args, format);
	vsnprintf(what, sizeof(what), format, args);
	va_end(args);
	if (offset != InvalidOffsetNumber)
		snprintf(place, sizeof(place), ", item %u", offset);
	ereport(ERROR,
			(errcode(ERRCODE_INDEX_CORRUPTED),
			 errmsg("index \"%s\" is damaged at block %u%s: %s", RelationGetRelationName(c->index), block, place, what),
			 errhint("REINDEX INDEX %s.", RelationGetRelationName(c->index))));
}

Page
BqCopyPage(BqCheck *c, BlockNumber block, PGAlignedBlock *copy)
{
	Buffer buf = ReadBufferExtended(c->index, MAIN_FORKNUM, block, RBM_NORMAL, c->strategy);

	LockBuffer(buf, BUFFER_LOCK_SHARE);
	memcpy(copy->data, BufferGetPage(buf), BLCKSZ);
	UnlockReleaseBuffer(buf);
	BqCheckReplay(c);
	return (Page) copy->data;
}

const HnswElement *
BqElementAt(Page page, OffsetNumber offset)
{
	return (const HnswElement *) PageGetItem(page, PageGetItemId(page, offset));
}

/* Header and line pointers: afterwards every item can be read. */
static OffsetNumber
check_page(BqCheck *c, BlockNumber block, Page page)
{
	const PageHeaderData *header = (const PageHeaderData *) page;
	bool used[BLCKSZ / MAXIMUM_ALIGNOF] = {false};
	OffsetNumber n;

	if (PageGetPageSize(page) != BLCKSZ || PageGetPageLayoutVersion(page) != PG_PAGE_LAYOUT_VERSION ||
		header->pd_special != BLCKSZ - MAXALIGN(sizeof(HnswOpaque)) || header->pd_upper > header->pd_special ||
		header->pd_lower > header->pd_upper || header->pd_lower < SizeOfPageHeaderData)
		BqDamaged(c, block, InvalidOffsetNumber, "not a page of an index: lower %u, upper %u, special %u",
				  header->pd_lower, header->pd_upper, header->pd_special);
	if (HnswSpecial(page)->pageId != HNSW_PAGE_ID)
		return 0;
	if (block == HNSW_METAPAGE)
		return 0;
	n = PageGetMaxOffsetNumber(page);
	for (OffsetNumber offset = FirstOffsetNumber; offset <= n; offset++)
	{
		ItemId id = PageGetItemId(page, offset);
		unsigned at = ItemIdGetOffset(id), length = ItemIdGetLength(id);

		if (!ItemIdIsNormal(id) || at != MAXALIGN(at) || at < header->pd_upper || at + length > header->pd_special ||
			length < offsetof(HnswNeighbours, links))
			BqDamaged(c, block, offset, "line pointer to %u bytes at %u", length, at);
		for (unsigned i = at / MAXIMUM_ALIGNOF; i < MAXALIGN(at + length) / MAXIMUM_ALIGNOF; i++)
		{
			if (used[i])
				BqDamaged(c, block, offset, "%u bytes at %u belong to another item too", length, at);
			used[i] = true;
		}
	}
	return n;
}

static void
check_code(BqCheck *c, BlockNumber block, OffsetNumber offset, const HnswElement *element)
{
	const BqHeader *h = &element->code;
	const BqCode *code = (const BqCode *) h;

	if (VARATT_IS_EXTENDED(h) || VARSIZE(h) != BQ_CODE_SIZE(c->dim, c->bits) || h->tag != BQ_TAG_CODE ||
		h->dim != c->dim || h->kind != BqKind(c->bits, c->metric))
		BqDamaged(
			c, block, offset,
			"expected a code of %d dimensions and kind %02x, not a value of %u bytes with dimensions %u, tag %02x "
			"and kind %02x",
			c->dim, BqKind(c->bits, c->metric), (unsigned) VARSIZE_ANY(h), h->dim, h->tag, h->kind);
	if (!isfinite(code->factors.f_add) || !isfinite(code->factors.f_rescale))
		BqDamaged(c, block, offset, "factors of the code are %g and %g", code->factors.f_add, code->factors.f_rescale);
}

void
BqCheckKeepRow(BqCheck *c, const ItemPointerData *tid, BlockNumber block, OffsetNumber offset)
{
	if (c->n_rows == c->rowRoom)
	{
		c->rowRoom *= 2;
		c->rows = repalloc_huge(c->rows, c->rowRoom * sizeof(BqIndexRow));
	}
	c->rows[c->n_rows].tid = *tid;
	BlockIdSet(&c->rows[c->n_rows].element.ip_blkid, block);
	c->rows[c->n_rows].element.ip_posid = offset;
	c->n_rows++;
}

static BqItem
check_element(BqCheck *c, BlockNumber block, OffsetNumber offset, const HnswElement *element, Size length)
{
	BqItem item = {.type = BQ_ITEM_ELEMENT, .level = element->level, .version = element->version};
	bool ended = false;

	if (length != ELEMENT_SIZE(c->dim, c->bits))
		BqDamaged(c, block, offset, "element of %zu bytes, expected %zu", length, (Size) ELEMENT_SIZE(c->dim, c->bits));
	if (element->deleted > 1)
		BqDamaged(c, block, offset, "element has deletion flag %u", element->deleted);
	item.deleted = element->deleted;
	for (int i = 0; i < HNSW_HEAPTIDS; i++)
	{
		const ItemPointerData *tid = &element->heaptids[i];

		if (!ItemPointerIsValid(tid))
		{
			ended = true;
			continue;
		}
		if (ended || element->deleted || ItemPointerGetBlockNumberNoCheck(tid) >= c->heapBlocks)
			BqDamaged(c, block, offset, "row %d of %s element is (%u,%u), the table has %u blocks", i,
					  element->deleted ? "a deleted" : "an", ItemPointerGetBlockNumberNoCheck(tid),
					  ItemPointerGetOffsetNumberNoCheck(tid), c->heapBlocks);
		BqCheckKeepRow(c, tid, block, offset);
		item.rows++;
	}
	if (element->deleted)
		c->deleted++;
	else
	{
		check_code(c, block, offset, element);
		c->elements++;
	}
	return item;
}

static BqItem
check_list(BqCheck *c, BlockNumber block, OffsetNumber offset, const HnswNeighbours *list, Size length)
{
	BqItem item = {.type = BQ_ITEM_NEIGHBOURS, .version = list->version};
	int layers = list->count / c->m - 1;

	if (list->count % c->m != 0 || layers < 1 || layers > 256 || length != NEIGHBOURS_SIZE(list->count))
		BqDamaged(c, block, offset, "list of %u neighbours in %zu bytes, m is %d", list->count, length, c->m);
	item.level = (uint8) (layers - 1);
	return item;
}

/* First pass. Pages of elements form a chain, those of the model lie outside it. */
static void
check_pages(BqCheck *c)
{
	BlockNumber *next = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(BlockNumber) * c->blocks);
	bool *elements = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(bool) * c->blocks);
	BlockNumber modelPages = 0, inChain = 0, wanted = 0;
	uint64 n_items = 0;

	for (BlockNumber block = 0; block < c->blocks; block++)
	{
		PGAlignedBlock copy;
		Page page = BqCopyPage(c, block, &copy);
		OffsetNumber n;

		CHECK_FOR_INTERRUPTS();
		c->first[block] = n_items;
		elements[block] = false;
		/* what a crash leaves between extending the file and logging the page */
		if (PageIsNew(page))
			continue;
		n = check_page(c, block, page);
		if (HnswSpecial(page)->pageId != HNSW_PAGE_ID)
		{
			if (BqHasPageId(page, WAITING_PAGE_ID))
				BqCheckWaitingPage(c, block, page);
			else if (BqIsModelPage(page))
				modelPages++;
			else
				BqDamaged(c, block, InvalidOffsetNumber, "page id %04x", HnswSpecial(page)->pageId);
			continue;
		}
		if (block == HNSW_METAPAGE)
			continue;
		elements[block] = true;
		next[block] = HnswSpecial(page)->next;
		wanted++;
		for (OffsetNumber offset = FirstOffsetNumber; offset <= n; offset++)
		{
			ItemId id = PageGetItemId(page, offset);
			const uint8 *tuple = (const uint8 *) PageGetItem(page, id);
			Size length = ItemIdGetLength(id);

			if (n_items == c->itemRoom)
			{
				c->itemRoom *= 2;
				c->items = repalloc_huge(c->items, c->itemRoom * sizeof(BqItem));
			}
			if (tuple[0] == BQ_ITEM_ELEMENT)
				c->items[n_items++] = check_element(c, block, offset, (const HnswElement *) tuple, length);
			else if (tuple[0] == BQ_ITEM_NEIGHBOURS)
				c->items[n_items++] = check_list(c, block, offset, (const HnswNeighbours *) tuple, length);
			else
				BqDamaged(c, block, offset, "item of type %u", tuple[0]);
		}
	}
	c->first[c->blocks] = n_items;

	for (BlockNumber block = HNSW_HEAD; block != InvalidBlockNumber; block = next[block])
	{
		if (block >= c->blocks || !elements[block])
			BqDamaged(c, block, InvalidOffsetNumber, "the chain of pages leads here after %u pages of %u", inChain,
					  wanted);
		elements[block] = false;
		inChain++;
	}
	if (inChain != wanted)
		BqDamaged(c, HNSW_HEAD, InvalidOffsetNumber, "the chain has %u pages, the index %u", inChain, wanted);
	if (modelPages != BqModelPages(c->index))
		BqDamaged(c, HNSW_METAPAGE, InvalidOffsetNumber, "%u pages of a model, expected %u", modelPages,
				  BqModelPages(c->index));
	BqCheckWaiting(c);
	pfree(next);
	pfree(elements);
}

static HnswMeta
check_meta(BqCheck *c)
{
	PGAlignedBlock copy;
	Page page;
	HnswMeta meta;
	int m, efConstruction;

	if (c->blocks < HNSW_HEAD + 1)
		BqDamaged(c, HNSW_METAPAGE, InvalidOffsetNumber, "the index has %u pages", c->blocks);
	page = BqCopyPage(c, HNSW_METAPAGE, &copy);
	check_page(c, HNSW_METAPAGE, page);
	memcpy(&meta, PageGetContents(page), sizeof(meta));
	if (HnswSpecial(page)->pageId != HNSW_PAGE_ID || meta.magic != HNSW_MAGIC || meta.version != HNSW_PAGE_VERSION)
		BqDamaged(c, HNSW_METAPAGE, InvalidOffsetNumber, "page id %04x, magic %08x, version %u",
				  HnswSpecial(page)->pageId, meta.magic, meta.version);
	BqBuiltWith(c->index, &m, &efConstruction);
	if (meta.m != m || meta.m < 2 || meta.m > HNSW_MAX_M || meta.dimensions != (uint32) c->dim)
		BqDamaged(c, HNSW_METAPAGE, InvalidOffsetNumber, "m is %u and dimensions %u, expected %d and %d", meta.m,
				  meta.dimensions, m, c->dim);
	c->m = m;
	return meta;
}

static void
check_model(BqCheck *c)
{
	const BqTypeInfo *info = BqGetTypeInfo(c->index);
	/* not the cached one, which may be older than the damage */
	bytea *blob = BqModelRead(c->index);
	bqk_model model;
	int status = bqk_model_read((uint8 *) VARDATA(blob), VARSIZE_ANY_EXHDR(blob), &model);

	if (status != BQK_OK)
		BqDamaged(c, HNSW_METAPAGE, InvalidOffsetNumber, "its model: %s", bqk_strerror(status));
	c->dim = TupleDescAttr(RelationGetDescr(c->index), 0)->atttypmod;
	c->bits = model.bits;
	c->metric = model.metric;
	if ((int) model.dim != c->dim || c->metric != info->metric)
		BqDamaged(c, HNSW_METAPAGE, InvalidOffsetNumber,
				  "its model is for %u dimensions and %s, the index for %d and %s", model.dim,
				  BqMetricName(model.metric), c->dim, BqMetricName(info->metric));
	pfree(blob);
}

/* Writers wait, as for amcheck's bt_index_parent_check: pages have to fit each other. A standby has no such lock, so
 * there its replay has to stand still. */
static LOCKMODE
needed_lock(XLogRecPtr *replay)
{
	*replay = InvalidXLogRecPtr;
	if (!RecoveryInProgress())
		return ShareLock;
	if (GetRecoveryPauseState() != RECOVERY_PAUSED)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("bqcore_check on a standby needs a paused replay"),
						errhint("SELECT pg_wal_replay_pause(), and pg_wal_replay_resume() afterwards.")));
	*replay = GetCurrentReplayRecPtr(NULL);
	return AccessShareLock;
}

static void
check_relations(BqCheck *c, Snapshot snapshot)
{
	if (RELATION_IS_OTHER_TEMP(c->index))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("index \"%s\" is a temporary one of another session", RelationGetRelationName(c->index))));
	if (RecoveryInProgress() && !RelationIsPermanent(c->index))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("index \"%s\" is unlogged, a standby has nothing of it", RelationGetRelationName(c->index))));
	/* rows of broken HOT chains may be missing for a snapshot that is older than the index */
	if (IsolationUsesXactSnapshot() && c->index->rd_index->indcheckxmin &&
		!TransactionIdPrecedes(HeapTupleHeaderGetXmin(c->index->rd_indextuple->t_data), snapshot->xmin))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("index \"%s\" is newer than this transaction's snapshot", RelationGetRelationName(c->index))));
}

PG_FUNCTION_INFO_V1(bqcore_check);
Datum
bqcore_check(PG_FUNCTION_ARGS)
{
	bool heapAllIndexed = PG_GETARG_BOOL(1);
	BqCheck c = {.itemRoom = 1024, .rowRoom = 1024};
	LOCKMODE lock = needed_lock(&c.replay);
	MemoryContext ctx, old;
	Snapshot snapshot;
	TupleDesc desc;
	HnswMeta meta;
	Datum values[7];
	bool nulls[7] = {0};
	int i = 0;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE || desc->natts != lengthof(values))
		elog(ERROR, "bqcore_check: expected %zu columns; ALTER EXTENSION bqcore UPDATE", lengthof(values));
	desc = BlessTupleDesc(desc);
	c.index = BqOpenWithTable(PG_GETARG_OID(0), lock, &c.heap);
	/* older than what is read of the index, which therefore has every row that this snapshot sees */
	snapshot = RegisterSnapshot(GetTransactionSnapshot());
	check_relations(&c, snapshot);

	ctx = AllocSetContextCreate(CurrentMemoryContext, "bqcore_check", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(ctx);
	c.blocks = RelationGetNumberOfBlocks(c.index);
	c.heapBlocks = RelationGetNumberOfBlocks(c.heap);
	c.first = MemoryContextAllocHuge(ctx, sizeof(uint64) * ((Size) c.blocks + 1));
	c.items = palloc(sizeof(BqItem) * c.itemRoom);
	c.rows = palloc(sizeof(BqIndexRow) * c.rowRoom);
	c.strategy = GetAccessStrategy(BAS_BULKREAD);
	check_model(&c);
	meta = check_meta(&c);
	check_pages(&c);
	BqCheckGraph(&c);
	BqCheckPaths(&c, &meta);
	BqCheckRows(&c);
	if (heapAllIndexed)
		BqCheckHeap(&c, snapshot);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(ctx);
	UnregisterSnapshot(snapshot);

	values[i++] = Int64GetDatum((int64) c.blocks);
	values[i++] = Int64GetDatum(c.elements);
	values[i++] = Int64GetDatum(c.deleted);
	values[i++] = Int64GetDatum((int64) c.n_rows);
	values[i++] = Int64GetDatum(c.links);
	values[i++] = Int64GetDatum(c.unreachable);
	nulls[i] = !heapAllIndexed;
	values[i++] = Int64GetDatum(c.heapRows);
	index_close(c.index, lock);
	table_close(c.heap, lock);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}
