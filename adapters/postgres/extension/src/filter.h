/* The conditions of a query on the rows of one index scan, tested before their distances are computed. */
#ifndef BQCORE_FILTER_H
#define BQCORE_FILTER_H

#include "bqcore.h"

#include "access/relscan.h"

typedef struct BqFilter
{
	IndexScanState *node; /* NULL: every row passes */
	ExprContext *context;
} BqFilter;

extern void BqFilterDefineHook(void);
extern void BqFilterBegin(BqFilter *f, IndexScanDesc scan);
extern bool BqFilterPasses(const BqFilter *f, TupleTableSlot *slot);
extern void BqFilterEnd(BqFilter *f);

#endif
