/* Whether an index scan can give the rows that a query asks for. A scan ends after BqDeliverable rows; filters and
 * joins leave a share of them. Where that may be fewer than the LIMIT, the scan's answer would be short though rows
 * exist. */
#include "deliver.h"
#include "budget.h"

#include <math.h>

#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/restrictinfo.h"
#include "parser/parsetree.h"
#include "pgstat.h"
#include "utils/float.h"
#include "utils/fmgroids.h"

/* Of the number of rows that filters leave: with three, one answer in a thousand is short. */
#define DEVIATIONS 3.0

/* That an iterative scan spends: pgvector's 240 to 260 measured, at any number of dimensions. */
#define BYTES_PER_TUPLE 260.0

/* Rows of which one scan finds those that are returned, at most, of an index of so many. */
double
BqDeliverable(double tuples)
{
	double rows = BqWalkMost();

	if (BqIterativeScan() != BQ_ITERATIVE_OFF)
		rows = Max(BqEfSearch(), Min(BqMaxScanTuples(), work_mem * 1024.0 * BqScanMemMultiplier() / BYTES_PER_TUPLE));
	return Min(rows, tuples);
}

/* Functions that need no row behind the one that they number. */
static bool
looks_ahead(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, WindowFunc))
	{
		Oid function = ((WindowFunc *) node)->winfnoid;

		return function != F_ROW_NUMBER && function != F_RANK_ && function != F_DENSE_RANK_;
	}
	return expression_tree_walker(node, looks_ahead, context);
}

/* Whether every row that a level of the query reads is a row that it returns. */
static bool
returns_what_it_reads(const Query *query)
{
	return !query->groupClause && !query->groupingSets && !query->distinctClause && !query->hasAggs &&
		   !query->hasTargetSRFs && query->havingQual == NULL && !query->setOperations &&
		   !(query->hasWindowFuncs && looks_ahead((Node *) query->targetList, NULL));
}

/* The LIMIT of this level or of one that reads this one alone and leaves out nothing; infinite if there is none, or if
 * it is a parameter of a generic plan. */
static double
limit_of(const PlannerInfo *root)
{
	const PlannerInfo *outer = root->parent_root;
	int relid;

	/* absolute from 1 on; a fraction is a cursor's or a guess */
	if (root->tuple_fraction < 1.0 || !returns_what_it_reads(root->parse))
		return get_float8_infinity();
	if (root->parse->limitCount)
		return root->tuple_fraction + (root->parse->limitOption == LIMIT_OPTION_WITH_TIES ? 1.0 : 0.0);
	if (root->parse->limitOffset || outer == NULL || !bms_get_singleton_member(outer->all_baserels, &relid))
		return get_float8_infinity();
	if (outer->simple_rte_array[relid]->rtekind != RTE_SUBQUERY ||
		outer->simple_rel_array[relid]->baserestrictinfo != NIL)
		return get_float8_infinity();
	return limit_of(outer);
}

/* Conditions between a relation and those that are joined already. */
static List *
join_clauses(PlannerInfo *root, Relids joined, RelOptInfo *other)
{
	Relids all = bms_union(joined, other->relids);
	List *clauses = generate_join_implied_equalities(root, all, joined, other, NULL);
	ListCell *cell;

	foreach (cell, other->joininfo)
	{
		RestrictInfo *clause = lfirst(cell);

		if (bms_is_subset(clause->required_relids, all))
			clauses = lappend(clauses, clause);
	}
	/* bare, because a RestrictInfo would keep a selectivity that is meant for this estimate alone */
	return extract_actual_clauses(clauses, false);
}

/* How a relation is joined to another one that the query is ordered by; its SpecialJoinInfo is NULL for JOIN_INNER. */
static JoinType
join_type(const PlannerInfo *root, const RelOptInfo *rel, const RelOptInfo *other)
{
	ListCell *cell;

	foreach (cell, root->join_info_list)
	{
		const SpecialJoinInfo *join = lfirst(cell);

		if (join->jointype == JOIN_FULL)
			return JOIN_FULL;
		if (bms_is_subset(other->relids, join->syn_righthand) && !bms_overlap(rel->relids, join->syn_righthand))
			return join->jointype;
	}
	return JOIN_INNER;
}

/* The share of a relation's rows that find a partner, as the planner will estimate it; a row with several of them
 * counts once. 0 where that cannot be told. */
static double
joined_share(PlannerInfo *root, RelOptInfo *rel)
{
	Relids joined, left;
	double share = 1.0;

	if (IS_OTHER_REL(rel))
		rel = find_base_rel(root, bms_next_member(rel->top_parent_relids, -1));
	joined = bms_copy(rel->relids);
	left = bms_difference(root->all_baserels, joined);
	while (!bms_is_empty(left))
	{
		RelOptInfo *other = NULL;
		List *clauses = NIL;
		SpecialJoinInfo join = {.type = T_SpecialJoinInfo};

		/* one that has conditions with those that are joined, if there is one */
		for (int relid = -1; clauses == NIL && (relid = bms_next_member(left, relid)) >= 0;)
		{
			other = find_base_rel(root, relid);
			clauses = join_clauses(root, joined, other);
		}
		join.jointype = join_type(root, rel, other);
		join.min_lefthand = join.syn_lefthand = joined;
		join.min_righthand = join.syn_righthand = other->relids;
		if (join.jointype == JOIN_INNER)
			share *= Min(other->rows * clauselist_selectivity(root, clauses, 0, JOIN_INNER, &join), 1.0);
		else if (join.jointype == JOIN_SEMI)
			share *= clauselist_selectivity(root, clauses, 0, JOIN_SEMI, &join);
		else if (join.jointype == JOIN_ANTI)
			share *= 1.0 - clauselist_selectivity(root, clauses, 0, JOIN_ANTI, &join);
		else if (join.jointype != JOIN_LEFT)
			return 0.0;
		joined = bms_union(joined, other->relids);
		left = bms_difference(left, other->relids);
	}
	return share;
}

/* The share of what an index points to that is not dead. Vacuum removes what is dead from a fifth of the table on by
 * default, and updated rows that the index still finds are counted with it: less than a quarter is not looked at. */
static double
live_share(const PlannerInfo *root, const RelOptInfo *rel)
{
	const PgStat_StatTabEntry *counts = pgstat_fetch_stat_tabentry(planner_rt_fetch(rel->relid, root)->relid);
	double dead = counts ? (double) counts->dead_tuples : 0.0;
	/* counts of other sessions arrive late, and those of ANALYZE may be subtracted once more */
	double live = Max(counts ? (double) counts->live_tuples : 0.0, rel->tuples);

	return dead > 0.0 && dead > live / 3.0 ? live / (live + dead) : 1.0;
}

/* `indexed` live rows are in the index, `listed` of them wait and are all looked at. */
BqDelivery
BqDelivers(PlannerInfo *root, const IndexOptInfo *index, double indexed, double listed)
{
	RelOptInfo *rel = index->rel;
	double live = live_share(root, rel), entries = indexed / Max(live, 1e-6),
		   most = Min(BqDeliverable(entries) + listed, entries);
	/* conditions that a partial index's predicate implies are not among these */
	double share = clauselist_selectivity(root, index->indrestrictinfo, 0, JOIN_INNER, NULL) * joined_share(root, rel);
	/* of a table whose vectors are NULL in part, the other plans return those rows too */
	double rows = (index->indpred ? indexed : Max(rel->tuples, indexed)) * share;
	double wanted = Min(limit_of(root), rows), found = most * live * share;
	/* a draw without replacement: nothing is left to chance where the scan reaches all */
	double deviation = sqrt(found * (1.0 - live * share) * (1.0 - most / entries));

	return (BqDelivery) {
		.enough = found - DEVIATIONS * deviation >= wanted * (1.0 - 1e-6),
		.wanted = wanted,
		.rows = Min(wanted / Max(share, 1e-9), most),
	};
}
