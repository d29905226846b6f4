/* What a query asks of an index scan, and whether the scan has it. */
#ifndef BQCORE_DELIVER_H
#define BQCORE_DELIVER_H

#include "bqcore.h"

#include "nodes/pathnodes.h"

typedef struct BqDelivery
{
	bool enough;   /* the scan has the rows that are asked for */
	double wanted; /* rows that are asked for */
	double rows;   /* that the scan is expected to return until then, before filters; at most all it has */
} BqDelivery;

extern double BqDeliverable(double tuples);
extern BqDelivery BqDelivers(PlannerInfo *root, const IndexOptInfo *index, double indexed, double listed);

#endif
