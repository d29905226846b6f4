/* bqcore_check, the waiting list: its pages, their chain, and the state on the metapage. */
#include "check.h"
#include "waiting.h"

/* A page of the list, met in the first pass; its rows join those of the graph, at offset 0 of their page. */
void
BqCheckWaitingPage(BqCheck *c, BlockNumber block, Page page)
{
	Size used = ((PageHeader) page)->pd_lower - MAXALIGN(SizeOfPageHeaderData);
	const ItemPointerData *tids = BqWaitingTids(page);

	if (((PageHeader) page)->pd_lower < MAXALIGN(SizeOfPageHeaderData) || used % sizeof(ItemPointerData) != 0)
		BqDamaged(c, block, InvalidOffsetNumber, "waiting rows end at byte %u", ((PageHeader) page)->pd_lower);
	for (uint32 i = 0; i < used / sizeof(ItemPointerData); i++)
	{
		if (!ItemPointerIsValid(&tids[i]) || ItemPointerGetBlockNumberNoCheck(&tids[i]) >= c->heapBlocks)
			BqDamaged(c, block, InvalidOffsetNumber, "waiting row %u is (%u,%u), the table has %u blocks", i,
					  ItemPointerGetBlockNumberNoCheck(&tids[i]), ItemPointerGetOffsetNumberNoCheck(&tids[i]),
					  c->heapBlocks);
		BqCheckKeepRow(c, &tids[i], block, InvalidOffsetNumber);
		c->listed++;
	}
	c->waitingPages++;
}

/* After the first pass. */
void
BqCheckWaiting(BqCheck *c)
{
	BqTrailer trailer = BqReadTrailer(c->index);
	BlockNumber pages = 0, block = trailer.listHead;
	bool met = !BlockNumberIsValid(trailer.listInsert);

	while (BlockNumberIsValid(block))
	{
		PGAlignedBlock copy;
		Page page;

		if (block >= c->blocks || pages++ == c->waitingPages)
			BqDamaged(c, block, InvalidOffsetNumber,
					  "the chain of waiting rows leads here, the index has %u pages of them", c->waitingPages);
		page = BqCopyPage(c, block, &copy);
		if (PageIsNew(page) || !BqHasPageId(page, WAITING_PAGE_ID))
			BqDamaged(c, block, InvalidOffsetNumber, "expected a page of waiting rows");
		met = met || block == trailer.listInsert;
		block = Opaque(page)->next;
	}
	if (pages != c->waitingPages || !met)
		BqDamaged(c, HNSW_METAPAGE, InvalidOffsetNumber,
				  "the chain of waiting rows has %u pages, the index %u; rows go to %u", pages, c->waitingPages,
				  trailer.listInsert);
	if (trailer.listed != c->listed)
		BqDamaged(c, HNSW_METAPAGE, InvalidOffsetNumber, "%u rows wait, expected %u", (uint32) c->listed,
				  trailer.listed);
	if (!BqTrailerIsTrained(&trailer) && c->n_rows > c->listed)
		BqDamaged(c, HNSW_METAPAGE, InvalidOffsetNumber, UINT64_FORMAT " rows in the graph of an index without a model",
				  c->n_rows - c->listed);
	c->moving = trailer.moving != 0;
}
