/* An access method sees neither LIMIT nor conditions other than those that its operators search for. So a scan would
 * read the vectors of rows that the executor then leaves out, and could not tell how many candidates it takes to have
 * the rows that are wanted. An ExecutorStart hook notes the index scans of each query; a scan finds its own node among
 * them.
 *
 * Only conditions without volatile functions and subplans are tested early: the executor tests them again, which then
 * has no effect and gives the same answer. They are the node's own, in the executor's order, on rows that the snapshot
 * sees: nothing is evaluated on a row that the executor would not evaluate it on if the query read on. Scans that the
 * hook does not see (of other functions of the server, of EvalPlanQual) have no node, and behave as without one. */
#include "scan_node.h"

#include "executor/executor.h"
#include "executor/instrument.h"
#include "lib/ilist.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "utils/memutils.h"

/* One index scan of a query that is running; it lives as long as the query's executor state. */
typedef struct Noted
{
	dlist_node link;
	MemoryContextCallback ended;
	IndexScanState *node;
	LimitState *limit;
	bool testable; /* it has conditions, which may be tested early */
} Noted;

static dlist_head noted = DLIST_STATIC_INIT(noted);
static ExecutorStart_hook_type previous_hook = NULL;

static void
forget(void *arg)
{
	dlist_delete(&((Noted *) arg)->link);
}

static void
note(IndexScanState *node, LimitState *limit)
{
	MemoryContext query = node->ss.ps.state->es_query_cxt;
	Node *quals = (Node *) node->ss.ps.plan->qual;
	Noted *n = MemoryContextAllocZero(query, sizeof(Noted));

	n->node = node;
	n->limit = limit;
	n->testable = quals != NULL && !contain_volatile_functions(quals) && !contain_subplans(quals);
	n->ended.func = forget;
	n->ended.arg = n;
	dlist_push_head(&noted, &n->link);
	MemoryContextRegisterResetCallback(query, &n->ended);
}

/* Whether a node asks its children for no more rows than it is asked for, but for one or two to look ahead. */
static bool
hands_on(const PlanState *state)
{
	switch (nodeTag(state))
	{
	case T_AppendState:
	case T_GatherState:
	case T_GatherMergeState:
	case T_IncrementalSortState:
	case T_LockRowsState:
	case T_MergeAppendState:
		return true;
	case T_ResultState:
	case T_SubqueryScanState:
		return state->qual == NULL;
	default:
		return false;
	}
}

/* limit: of the rows of this node, NULL if they are not limited or nothing is known. */
static bool
note_scans(PlanState *state, void *limit)
{
	if (state == NULL)
		return false;
	/* EXPLAIN may leave an index closed */
	if (IsA(state, IndexScanState))
	{
		IndexScanState *node = (IndexScanState *) state;

		if (node->iss_RelationDesc && BqIsOurs(node->iss_RelationDesc))
			note(node, limit);
	}
	return planstate_tree_walker(state, note_scans, IsA(state, LimitState) ? state : (hands_on(state) ? limit : NULL));
}

static void
note_query(QueryDesc *query, int eflags)
{
	if (previous_hook)
		previous_hook(query, eflags);
	else
		standard_ExecutorStart(query, eflags);
	if ((eflags & EXEC_FLAG_EXPLAIN_ONLY) == 0)
		(void) note_scans(query->planstate, NULL);
}

void
BqScanNodeDefineHook(void)
{
	previous_hook = ExecutorStart_hook;
	ExecutorStart_hook = note_query;
}

/* By then the executor has told its node which scan is the node's. */
void
BqScanNodeBegin(BqScanNode *n, IndexScanDesc scan)
{
	dlist_iter i;

	*n = (BqScanNode) {0};
	dlist_foreach(i, &noted)
	{
		const Noted *found = dlist_container(Noted, link, i.cur);

		if (found->node->iss_ScanDesc != scan)
			continue;
		n->node = found->node;
		n->limit = found->limit;
		if (found->testable)
			n->context = CreateExprContext(found->node->ss.ps.state);
		return;
	}
}

/* Of a scan that fails, the query's end frees the context. */
void
BqScanNodeEnd(BqScanNode *n)
{
	if (n->context)
		FreeExprContext(n->context, true);
	*n = (BqScanNode) {0};
}

bool
BqScanNodePasses(const BqScanNode *n, TupleTableSlot *slot)
{
	bool passes;

	if (n->context == NULL)
		return true;
	n->context->ecxt_scantuple = slot;
	passes = ExecQual(n->node->ss.ps.qual, n->context);
	ResetExprContext(n->context);
	if (!passes)
		InstrCountFiltered1(n->node, 1);
	return passes;
}

int64
BqScanNodeRows(const BqScanNode *n)
{
	/* a limit is evaluated before it asks for its first row */
	if (n->limit == NULL || n->limit->lstate == LIMIT_INITIAL || n->limit->noCount)
		return 0;
	return n->limit->count > PG_INT32_MAX - n->limit->offset ? 0 : n->limit->count + n->limit->offset;
}
