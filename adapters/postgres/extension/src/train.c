/* Training: the model of an index whose rows wait, from those rows.
 *
 * The graph is empty until then, so a model never changes under codes. Its pages are written first, the state on the
 * metapage after them: a crash between leaves an index that waits still, with a model that nobody uses. */
#include "waiting.h"
#include "privileges.h"
#include "rescore.h"

#include "access/tableam.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* Rows that a centroid is taken from: reading them stays far below 50 ms. */
#define MOST_ROWS 4000

int bq_train_rows;

/* Whether so many rows wait that a model is worth a try: at trainAt, and each time that the list has grown by an eighth
 * of that since, because what other transactions have not committed yet cannot be read. */
bool
BqTrainIsDue(const BqTrailer *trailer)
{
	return !BqTrailerIsTrained(trailer) && trailer->listed >= trailer->trainAt &&
		   (trailer->listed - trailer->trainAt) % Max(trailer->trainAt / 8, 1) == 0;
}

/* The sum of the listed rows that can be read, of every `step`-th one. */
static void
sum_rows(Relation heap, Relation index, const BqWaiting *list, BqSum *sum)
{
	IndexFetchTableData *fetch = table_index_fetch_begin(heap);
	MemoryContext row = AllocSetContextCreate(CurrentMemoryContext, "bqhnsw training row", ALLOCSET_DEFAULT_SIZES);
	BqType type = BqGetTypeInfo(index)->type;
	float *buf = palloc(sizeof(float) * sum->dim);
	uint32 step = (list->n + MOST_ROWS - 1) / MOST_ROWS;
	MemoryContext old;
	BqReader reader;

	BqReaderBegin(&reader, heap, index, false);
	old = MemoryContextSwitchTo(row);
	for (uint32 i = 0; i < list->n; i += step)
	{
		ItemPointerData tid = list->tids[i];
		bool again = false, dead = false, isnull;
		Datum value;

		CHECK_FOR_INTERRUPTS();
		/* Rows of this command, too, which no snapshot of it sees yet: a COPY fills the list by itself. What
		 * SnapshotSelf sees had not been deleted when it was looked at, so the snapshot that the caller holds, which is
		 * older, keeps vacuum from it and from its toasted value. */
		if (!table_index_fetch_tuple(fetch, &tid, SnapshotSelf, reader.slot, &again, &dead))
			continue;
		value = BqReaderValue(&reader, &isnull);
		if (!isnull)
			BqSumAdd(sum, BqCoordinates((BqVector *) PG_DETOAST_DATUM(value), sum->dim, type, buf));
		MemoryContextReset(row);
	}
	MemoryContextSwitchTo(old);
	BqReaderEnd(&reader);
	table_index_fetch_end(fetch);
	MemoryContextDelete(row);
}

/* Under BQ_TRAIN_LOCK. */
static bool
train(Relation heap, Relation index, bool force)
{
	BqTrailer trailer = BqReadTrailer(index);
	BqWaiting list = BqWaitingRead(index);
	const bqk_model *untrained;
	uint32 wanted;
	BqCaller before;
	BqSum sum;
	int bits;
	uint64 seed;

	if (BqTrailerIsTrained(&trailer) || list.n == 0)
		return BqTrailerIsTrained(&trailer);
	untrained = BqModelGet(index);
	bits = untrained->bits;
	seed = untrained->seed;
	BqSumBegin(&sum, untrained->dim, untrained->metric);
	before = BqRunAsOwner(heap, index);
	sum_rows(heap, index, &list, &sum);
	BqRunAsCaller(&before);
	/* a few of many are not the table: the others are uncommitted, or dead */
	wanted = force ? 1 : Max(Min(trailer.trainAt, (uint32) MOST_ROWS) / 2, 1);
	if (sum.rows < wanted)
		return false;
	BqModelReplace(index, BqSumModel(&sum, bits, seed));
	/* under the metapage's lock: rows that were listed meanwhile are on the list, later ones go into the graph */
	BqWaitingSetState(index, trailer.generation + 1, 0);
	return true;
}

/* Trains the model of an index that waits; `force`: of any number of rows. Returns whether there is one. */
bool
BqTrain(Relation heap, Relation index, bool force)
{
	MemoryContext ctx = AllocSetContextCreate(CurrentMemoryContext, "bqhnsw training", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(ctx);
	bool trained = false;

	/* whoever inserts next may do it */
	if (!force && !BqMayRunAsOwner(heap, index))
		goto done;
	/* one is enough, and inserts need not wait for it */
	if (force)
		LockPage(index, BQ_TRAIN_LOCK, ExclusiveLock);
	else if (!ConditionalLockPage(index, BQ_TRAIN_LOCK, ExclusiveLock))
		goto done;
	/* see sum_rows; expressions may look for one as well */
	PushActiveSnapshot(GetLatestSnapshot());
	trained = train(heap, index, force);
	PopActiveSnapshot();
	UnlockPage(index, BQ_TRAIN_LOCK, ExclusiveLock);
done:
	MemoryContextSwitchTo(old);
	MemoryContextDelete(ctx);
	return trained;
}
