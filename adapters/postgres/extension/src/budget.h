/* How far a scan looks: what scans do and costs are computed from. */
#ifndef BQCORE_BUDGET_H
#define BQCORE_BUDGET_H

#include "bqcore.h"

/* Elements that are rescored before a row is returned where numbers decide, not bounds: with bqcore.rescore set, or
 * without a walk of our own. */
typedef struct BqWindow
{
	int ahead;     /* wait when the first row is returned, */
	int slope;     /* and slope - 1 more for each one returned */
	int floor;     /* an iterative scan fetches more when fewer than this wait, */
	double growth; /* or fewer than this times those returned */
} BqWindow;

extern BqWindow BqScanWindow(int bits);

/* Whether bounds decide. */
extern bool BqBounded(void);
/* Deviations of its estimate by which a candidate's distance may lie below it. */
extern float BqEpsilon(void);
/* Elements that are rescored whatever their bounds. */
extern uint32 BqLeastRescored(int bits);
/* Elements with which a walk begins that is to find so many rows. */
extern uint32 BqWalkStart(int bits, double rows);
/* Elements that a walk finds at most. */
extern uint32 BqWalkMost(void);

#endif
