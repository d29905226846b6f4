/* Conditions on rows. An access method sees none but those that its operators can search for, so a scan would read the
 * vectors of rows that the executor then leaves out. An ExecutorStart hook notes the index scans of a query; a scan
 * finds its own among them and tests the node's conditions on each candidate, as the executor will once more.
 *
 * Only conditions without volatile functions and subplans are tested early: the executor tests them again, which then
 * has no effect and gives the same answer. They are the node's own, in the executor's order, on rows that the snapshot
 * sees, so nothing is evaluated on a row that the executor would not evaluate on it; that it might not have come to
 * this row is true of every plan. Scans that the hook does not see (of other functions of the server, of
 * EvalPlanQual) have no conditions here. */
#include "filter.h"

#include "executor/executor.h"
#include "executor/instrument.h"
#include "lib/ilist.h"
#include "nodes/nodeFuncs.h"
#include "nodes/pathnodes.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "utils/memutils.h"

/* One index scan with conditions, of a query that is running; it lives as long as the query's executor state. */
typedef struct Noted
{
	dlist_node link;
	MemoryContextCallback ended;
	IndexScanState *node;
} Noted;

static dlist_head noted = DLIST_STATIC_INIT(noted);
static ExecutorStart_hook_type previous_hook = NULL;

static void
forget(void *arg)
{
	dlist_delete(&((Noted *) arg)->link);
}

static bool
note_scans(PlanState *state, void *context)
{
	if (state == NULL)
		return false;
	if (IsA(state, IndexScanState) && state->qual != NULL)
	{
		IndexScanState *node = (IndexScanState *) state;
		Node *quals = (Node *) state->plan->qual;

		/* EXPLAIN without ANALYZE may leave an index closed */
		if (node->iss_RelationDesc && BqIsOurs(node->iss_RelationDesc) && !contain_volatile_functions(quals) &&
			!contain_subplans(quals))
		{
			Noted *n = MemoryContextAllocZero(state->state->es_query_cxt, sizeof(Noted));

			n->node = node;
			n->ended.func = forget;
			n->ended.arg = n;
			dlist_push_head(&noted, &n->link);
			MemoryContextRegisterResetCallback(state->state->es_query_cxt, &n->ended);
		}
	}
	return planstate_tree_walker(state, note_scans, context);
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
BqFilterDefineHook(void)
{
	previous_hook = ExecutorStart_hook;
	ExecutorStart_hook = note_query;
}

/* Called for the first row of a scan: the executor has told its node which scan is the node's. */
void
BqFilterBegin(BqFilter *f, IndexScanDesc scan)
{
	dlist_iter i;

	*f = (BqFilter) {0};
	dlist_foreach(i, &noted)
	{
		const Noted *n = dlist_container(Noted, link, i.cur);

		if (n->node->iss_ScanDesc == scan)
		{
			f->node = n->node;
			f->context = CreateExprContext(n->node->ss.ps.state);
			return;
		}
	}
}

bool
BqFilterPasses(const BqFilter *f, TupleTableSlot *slot)
{
	bool passes;

	if (f->node == NULL)
		return true;
	f->context->ecxt_scantuple = slot;
	passes = ExecQual(f->node->ss.ps.qual, f->context);
	ResetExprContext(f->context);
	if (!passes)
		InstrCountFiltered1(f->node, 1);
	return passes;
}

/* Of a scan that fails the query frees it. */
void
BqFilterEnd(BqFilter *f)
{
	if (f->context)
		FreeExprContext(f->context, true);
	*f = (BqFilter) {0};
}
