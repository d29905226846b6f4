/* bqcore_check, the graph: lists of neighbours, and the paths from the entry point. */
#include "check.h"

#include "miscadmin.h"
#include "utils/memutils.h"

/* NULL if there is no such item. */
static BqItem *
item_at(BqCheck *c, const ItemPointerData *tid)
{
	BlockNumber block = ItemPointerGetBlockNumberNoCheck(tid);
	OffsetNumber offset = ItemPointerGetOffsetNumberNoCheck(tid);

	if (block >= c->blocks || offset == InvalidOffsetNumber || offset > c->first[block + 1] - c->first[block])
		return NULL;
	return &c->items[c->first[block] + offset - 1];
}

/* The neighbours of an element on one layer. One may be there twice, harmlessly: pgvector's insert adds its element to
 * the list that a vacuum beside it has just written with that element. */
static void
check_layer(BqCheck *c, BlockNumber block, OffsetNumber offset, int layer, const ItemPointerData *links, int room)
{
	for (int i = 0; i < room; i++)
	{
		const ItemPointerData *link = &links[i];
		const BqItem *target;

		if (!ItemPointerIsValid(link))
			continue;
		target = item_at(c, link);
		if (target == NULL || target->type != BQ_ITEM_ELEMENT || target->deleted || target->level < layer)
			BqDamaged(c, block, offset, "neighbour (%u,%u) on layer %d is %s", ItemPointerGetBlockNumberNoCheck(link),
					  ItemPointerGetOffsetNumberNoCheck(link), layer,
					  target == NULL                    ? "not there"
					  : target->type != BQ_ITEM_ELEMENT ? "no element"
					  : target->deleted                 ? "deleted"
														: "on lower layers only");
		if (ItemPointerGetBlockNumberNoCheck(link) == block && ItemPointerGetOffsetNumberNoCheck(link) == offset)
			BqDamaged(c, block, offset, "element is its own neighbour on layer %d", layer);
		c->links++;
	}
}

static void
check_neighbours(BqCheck *c, BlockNumber block, OffsetNumber offset, Page page)
{
	const HnswElement *element = BqElementAt(page, offset);
	const ItemPointerData *tid = &element->neighbours;
	BqItem *item = item_at(c, tid);
	PGAlignedBlock other;
	const HnswNeighbours *list;
	const ItemPointerData *link;

	if (item == NULL || item->type != BQ_ITEM_NEIGHBOURS || item->claimed || item->version != element->version ||
		item->level != element->level)
		BqDamaged(c, block, offset, "list of neighbours at (%u,%u) is %s", ItemPointerGetBlockNumberNoCheck(tid),
				  ItemPointerGetOffsetNumberNoCheck(tid),
				  item == NULL                        ? "not there"
				  : item->type != BQ_ITEM_NEIGHBOURS  ? "none"
				  : item->claimed                     ? "another element's too"
				  : item->version != element->version ? "of another version"
													  : "of another level");
	item->claimed = true;
	if (ItemPointerGetBlockNumberNoCheck(tid) != block)
		page = BqCopyPage(c, ItemPointerGetBlockNumberNoCheck(tid), &other);
	list = (const HnswNeighbours *) PageGetItem(page, PageGetItemId(page, ItemPointerGetOffsetNumberNoCheck(tid)));
	link = list->links;
	for (int layer = element->level; layer >= 0; layer--)
	{
		int room = layer == 0 ? 2 * c->m : c->m;

		if (element->deleted)
		{
			for (int i = 0; i < room; i++)
				if (ItemPointerIsValid(&link[i]))
					BqDamaged(c, block, offset, "deleted element has neighbours");
		}
		else
			check_layer(c, block, offset, layer, link, room);
		link += room;
	}
}

/* Second pass. */
void
BqCheckGraph(BqCheck *c)
{
	for (BlockNumber block = HNSW_HEAD; block < c->blocks; block++)
	{
		OffsetNumber n = (OffsetNumber) (c->first[block + 1] - c->first[block]);
		PGAlignedBlock copy;
		Page page;

		CHECK_FOR_INTERRUPTS();
		if (n == 0)
			continue;
		page = BqCopyPage(c, block, &copy);
		for (OffsetNumber offset = FirstOffsetNumber; offset <= n; offset++)
			if (c->items[c->first[block] + offset - 1].type == BQ_ITEM_ELEMENT)
				check_neighbours(c, block, offset, page);
	}
	for (BlockNumber block = HNSW_HEAD; block < c->blocks; block++)
		for (uint64 i = c->first[block]; i < c->first[block + 1]; i++)
			if (c->items[i].type == BQ_ITEM_NEIGHBOURS && !c->items[i].claimed)
				BqDamaged(c, block, (OffsetNumber) (i - c->first[block] + 1), "list of neighbours of no element");
}

/* The entry point, and how many rows have no path from it; a graph promises none to be 0. */
void
BqCheckPaths(BqCheck *c, const HnswMeta *meta)
{
	ItemPointerData *stack, at;
	uint64 n = 0;
	BqItem *item;

	if (meta->insertPage >= c->blocks || meta->insertPage < HNSW_HEAD)
		BqDamaged(c, HNSW_METAPAGE, InvalidOffsetNumber, "insert page is %u, the index has %u", meta->insertPage,
				  c->blocks);
	if (meta->entryBlock == InvalidBlockNumber)
	{
		if (c->n_rows > c->listed)
			BqDamaged(c, HNSW_METAPAGE, InvalidOffsetNumber, "no entry point for " UINT64_FORMAT " rows",
					  c->n_rows - c->listed);
		return;
	}
	BlockIdSet(&at.ip_blkid, meta->entryBlock);
	at.ip_posid = meta->entryOffset;
	item = item_at(c, &at);
	if (item == NULL || item->type != BQ_ITEM_ELEMENT || item->deleted || item->level != meta->entryLevel)
		BqDamaged(c, HNSW_METAPAGE, InvalidOffsetNumber, "entry point (%u,%u) is no element of level %d",
				  meta->entryBlock, meta->entryOffset, meta->entryLevel);
	stack = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(ItemPointerData) * c->elements);
	item->reached = true;
	stack[n++] = at;
	while (n > 0)
	{
		PGAlignedBlock copy;
		ItemPointerData list;
		const HnswNeighbours *neighbours;
		Page page;

		CHECK_FOR_INTERRUPTS();
		at = stack[--n];
		page = BqCopyPage(c, ItemPointerGetBlockNumberNoCheck(&at), &copy);
		list = BqElementAt(page, ItemPointerGetOffsetNumberNoCheck(&at))->neighbours;
		if (ItemPointerGetBlockNumberNoCheck(&list) != ItemPointerGetBlockNumberNoCheck(&at))
			page = BqCopyPage(c, ItemPointerGetBlockNumberNoCheck(&list), &copy);
		neighbours =
			(const HnswNeighbours *) PageGetItem(page, PageGetItemId(page, ItemPointerGetOffsetNumberNoCheck(&list)));
		for (int i = 0; i < neighbours->count; i++)
		{
			if (!ItemPointerIsValid(&neighbours->links[i]))
				continue;
			item = item_at(c, &neighbours->links[i]);
			if (item == NULL || item->type != BQ_ITEM_ELEMENT || n == (uint64) c->elements)
				BqDamaged(c, ItemPointerGetBlockNumberNoCheck(&list), ItemPointerGetOffsetNumberNoCheck(&list),
						  "neighbours have changed since they were checked");
			if (!item->reached)
			{
				item->reached = true;
				stack[n++] = neighbours->links[i];
			}
		}
	}
	pfree(stack);
	for (uint64 i = 0; i < c->first[c->blocks]; i++)
		if (c->items[i].type == BQ_ITEM_ELEMENT && !c->items[i].reached)
			c->unreachable += c->items[i].rows;
}
