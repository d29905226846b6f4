/* What the executor knows of an index scan and an access method does not learn: how many rows are wanted, and the
 * conditions on them. */
#ifndef BQCORE_SCAN_NODE_H
#define BQCORE_SCAN_NODE_H

#include "bqcore.h"

#include "access/relscan.h"

typedef struct BqScanNode
{
	IndexScanState *node;
	LimitState *limit;    /* that the rows go to as they are; NULL: none */
	ExprContext *context; /* to test conditions in; NULL: every row passes */
} BqScanNode;

extern void BqScanNodeDefineHook(void);
/* Finds the node of a scan, whose first row is asked for. */
extern void BqScanNodeBegin(BqScanNode *n, IndexScanDesc scan);
extern void BqScanNodeEnd(BqScanNode *n);
/* Whether the row in the slot meets the conditions that may be tested early. */
extern bool BqScanNodePasses(const BqScanNode *n, TupleTableSlot *slot);
/* LIMIT + OFFSET, or 0 if it is not known. */
extern int64 BqScanNodeRows(const BqScanNode *n);

#endif
