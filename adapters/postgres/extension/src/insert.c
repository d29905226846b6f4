/* Inserts: encode with the index's model, then pgvector's insert. */
#include "bqcore.h"

#include "utils/memutils.h"

bool
BqInsert(Relation index, Datum *values, bool *isnull, ItemPointer tid, Relation heap, IndexUniqueCheck checkUnique,
		 bool indexUnchanged, IndexInfo *indexInfo)
{
	MemoryContext ctx, old;
	const bqk_model *model;
	BqType type;
	BqVector *vec;
	Datum code;

	/* NULLs are not indexed, as in pgvector */
	if (isnull[0])
		return false;

	ctx = AllocSetContextCreate(CurrentMemoryContext, "bqhnsw insert", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(ctx);
	vec = (BqVector *) PG_DETOAST_DATUM(values[0]);
	type = BqGetTypeInfo(index)->type;
	model = BqModelGet(index);
	if (BqHasCode(model->metric, vec, type))
	{
		code = PointerGetDatum(BqEncode(model, vec, type));
		BqInner()->aminsert(index, &code, isnull, tid, heap, checkUnique, indexUnchanged, indexInfo);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(ctx);
	return false;
}
