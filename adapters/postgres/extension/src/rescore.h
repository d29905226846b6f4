/* Rescoring: candidates in estimated order in, rows in exact order out. */
#ifndef BQCORE_RESCORE_H
#define BQCORE_RESCORE_H

#include "types.h"

#include "access/relscan.h"
#include "access/tableam.h"
#include "lib/pairingheap.h"

#define BQ_RESCORE_BATCH 256

/* Reads the indexed value, a column or an expression, from heap rows in its slot. */
typedef struct BqReader
{
	AttrNumber attnum; /* 0 for an expression */
	IndexInfo *indexInfo;
	EState *estate;
	ExprState *predicate; /* of a partial index, if asked for */
	TupleTableSlot *slot;
} BqReader;

extern void BqReaderBegin(BqReader *r, Relation heap, Relation index, bool predicate);
extern bool BqReaderMatches(BqReader *r);
extern Datum BqReaderValue(BqReader *r, bool *isnull);
extern void BqReaderEnd(BqReader *r);

/* Heap access for one scan. */
typedef struct BqRescorer
{
	BqReader reader;
	Relation heap;
	AttrNumber column; /* of codes that tell which vectors to read, or 0 */
	BqView query;      /* for them */
	ScanKey orderby;   /* the user's own ORDER BY: operator and argument */
	IndexFetchTableData *fetch;
	MemoryContext tmp;
	pairingheap *rows; /* rescored or bounded, not yet returned; nearest first */
	int n_pending;     /* rows in the heap */
} BqRescorer;

extern void BqRescorerBegin(BqRescorer *r, Relation heap, Relation index, ScanKey orderby);
extern void BqRescorerReset(BqRescorer *r);
extern void BqRescorerAdd(BqRescorer *r, Snapshot snapshot, ItemPointerData *tids, int n);
extern bool BqRescorerNext(BqRescorer *r, Snapshot snapshot, bool all, ItemPointerData *tid, double *distance);
extern void BqRescorerEnd(BqRescorer *r);

#endif
