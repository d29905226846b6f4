/* Rescoring: candidates in estimated order in, rows in exact order out. */
#ifndef BQCORE_RESCORE_H
#define BQCORE_RESCORE_H

#include "scan_node.h"
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

/* A row to be rescored. Rows with equal codes share an element of the graph; one of them counts for it, so that budgets
 * are of elements: copies of a row tell nothing new. */
typedef struct BqCandidate
{
	ItemPointerData tid;
	bool counts;
} BqCandidate;

/* Heap access for one scan. */
typedef struct BqRescorer
{
	BqReader reader;
	Relation heap;
	AttrNumber column; /* of codes that tell which vectors to read, or 0 */
	BqView query;      /* for them */
	ScanKey orderby;   /* the user's own ORDER BY: operator and argument */
	BqScanNode node;   /* rows that do not meet its conditions are left out */
	IndexFetchTableData *fetch;
	MemoryContext tmp;
	pairingheap *rows; /* rescored or bounded, not yet returned; nearest first */
	int64 n_pending;   /* elements that they are of */
	bool ranking;      /* keep: */
	double *uppers;    /* of all rows that came in, upper bounds of their distances */
	uint32 n_uppers, capacity;
} BqRescorer;

/* A row that has been rescored. */
typedef struct BqRow
{
	pairingheap_node node;
	double distance,
		upper; /* bounds of the distance, in the operator's unit; both are the distance itself if `exact` */
	ItemPointerData tid;
	bool exact, counts;
} BqRow;

/* Order of rows: nearest first in a pairing heap. */
extern int BqNearestFirst(const pairingheap_node *a, const pairingheap_node *b, void *arg);

extern void BqRescorerBegin(BqRescorer *r, Relation heap, Relation index, ScanKey orderby);
extern void BqRescorerReset(BqRescorer *r);
extern void BqRescorerAdd(BqRescorer *r, Snapshot snapshot, BqCandidate *candidates, int n);
/* The nearest row by its bounds, NULL if none waits. */
extern const BqRow *BqRescorerFirst(const BqRescorer *r);
/* Takes the first row if its distance is known, or, where `all` says that no candidates are to come, if no other row
 * can be nearer; else computes its distance, gives the row its place by that, and returns NULL. */
extern BqRow *BqRescorerTake(BqRescorer *r, Snapshot snapshot, bool all);
extern void BqRescorerEnd(BqRescorer *r);

#endif
