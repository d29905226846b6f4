/* Rows that wait: the list of an index that has met too few rows for a model.
 *
 * Life of an index: rows are listed (generation even, graph empty) -> a model is trained from them (train.c; generation
 * odd, later rows go into the graph) -> the listed rows are moved into the graph (move.c; the list is empty). A vacuum
 * that finds graph and list empty begins anew.
 *
 * Contract of scans. BqWaitingRead first, then the model, then the graph; with `trained` false neither model nor graph
 * is looked at. Then no row is missed that the scan's MVCC snapshot sees:
 * - It was listed, or put into the graph, before the snapshot was taken.
 * - A listed row is in the graph before it leaves the list, never the other way.
 * - `trained` is read after the list. If it is false, nothing had left the list, and what was put into the graph since
 *   is newer than the snapshot.
 * All listed rows are candidates without an estimate: they are rescored before the first row is returned, and do not
 * count as those that a window or hnsw.max_scan_tuples limits. What the walk finds is left out if BqWaitingHas it. */
#ifndef BQCORE_WAITING_H
#define BQCORE_WAITING_H

#include "trailer.h"
#include "walk_sets.h"

typedef struct BqWaiting
{
	ItemPointerData *tids;
	uint32 n;
	bool trained;
	BqTidSet set; /* the same rows; unset if n is 0 */
} BqWaiting;

/* In the current memory context. */
extern BqWaiting BqWaitingRead(Relation index);

static inline bool
BqWaitingHas(const BqWaiting *w, const ItemPointerData *tid)
{
	return w->n > 0 && BqTidSetHas(&w->set, tid);
}

/* Page locks of ours, beside pgvector's 0 and 1. Inserts hold the first one shared from the look at the state to the
 * end of their change; who makes an index wait again excludes them. Training holds the second one. */
#define BQ_INSERT_LOCK 2
#define BQ_TRAIN_LOCK 3

/* After BqModelStore, of a build with fewer rows than bq_train_rows: they wait. */
extern void BqWaitingStore(Relation index, ForkNumber fork, const ItemPointerData *tids, uint32 n);
/* Lists a row, if rows wait; else false. `trailer`: the state afterwards. */
extern bool BqWaitingAppend(Relation index, const ItemPointerData *tid, BqTrailer *trailer);
/* Removes the rows of a page that `gone` names; next: the page after it. Returns how many, and in `left` how many stay.
 */
typedef bool (*BqGone)(ItemPointer tid, void *state);
extern uint32
BqWaitingFilter(Relation index, BlockNumber block, BqGone gone, void *state, uint32 *left, BlockNumber *next);
/* Rows of a page, at most BQ_WAITING_ROOM of them. */
extern uint32 BqWaitingPage(Relation index, BlockNumber block, ItemPointerData *tids, BlockNumber *next);
/* Changes generation and moving under the metapage's lock. */
extern void BqWaitingSetState(Relation index, uint32 generation, uint32 moving);

#define BQ_WAITING_ROOM (PAYLOAD / sizeof(ItemPointerData))
#define BqWaitingCount(page)                                                                                           \
	((uint32) ((((PageHeader) (page))->pd_lower - MAXALIGN(SizeOfPageHeaderData)) / sizeof(ItemPointerData)))
#define BqWaitingTids(page) ((ItemPointerData *) PageGetContents(page))

/* train.c */
#define BQ_TRAIN_ROWS 1000
extern int bq_train_rows;
extern bool BqTrainIsDue(const BqTrailer *trailer);
extern bool BqTrain(Relation heap, Relation index, bool force);

/* move.c */
extern int64 BqMoveWaiting(Relation heap, Relation index);

#endif
