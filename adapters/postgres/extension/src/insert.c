/* Inserts: encode with the index's model, then pgvector's insert; or, as long as there is no model, the waiting list.
 */
#include "waiting.h"

#include "storage/lmgr.h"
#include "utils/memutils.h"

bool
BqInsert(Relation index, Datum *values, bool *isnull, ItemPointer tid, Relation heap, IndexUniqueCheck checkUnique,
		 bool indexUnchanged, IndexInfo *indexInfo)
{
	MemoryContext ctx, old;
	BqTrailer trailer;
	BqType type;
	BqVector *vec;
	bool listed = false;

	/* NULLs are not indexed, as in pgvector */
	if (isnull[0])
		return false;

	ctx = AllocSetContextCreate(CurrentMemoryContext, "bqhnsw insert", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(ctx);
	vec = (BqVector *) PG_DETOAST_DATUM(values[0]);
	type = BqGetTypeInfo(index)->type;
	if (BqHasCode(BqGetTypeInfo(index)->metric, vec, type))
	{
		/* from the look at the state to the end of what it tells to do: nobody takes the model away in between */
		LockPage(index, BQ_INSERT_LOCK, ShareLock);
		trailer = BqReadTrailer(index);
		if (!BqTrailerIsTrained(&trailer))
		{
			/* what cannot be encoded is an error at once, and not when the row is moved */
			pfree(BqEncode(BqModelGet(index), vec, type));
			listed = BqWaitingAppend(index, tid, &trailer);
		}
		if (!listed)
		{
			Datum code = PointerGetDatum(BqEncode(BqModelGet(index), vec, type));

			BqInner()->aminsert(index, &code, isnull, tid, heap, checkUnique, indexUnchanged, indexInfo);
		}
		UnlockPage(index, BQ_INSERT_LOCK, ShareLock);
		if (listed && BqTrainIsDue(&trailer))
			BqTrain(heap, index, false);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(ctx);
	return false;
}
