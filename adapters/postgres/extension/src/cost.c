/* What an index scan costs, in the planner's units.
 *
 * The planner's estimate of the other plan, a sequential scan and a sort, leaves out what that mostly spends: reading
 * vectors out of line and computing distances. So both are estimated here in microseconds, and the index scan costs
 * what the planner takes the other one to cost, times their ratio. Microseconds are of one core with all pages in
 * memory; only ratios count. Measured on 2,000 to 40,000 rows of 24 to 1,536 dimensions.
 *
 * A scan that ends before the rows that are asked for are found is no plan, see deliver.c. */
#include "deliver.h"
#include "budget.h"
#include "hnsw_pages.h"
#include "pg_compat.h"
#include "trailer.h"

#include <math.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/sysattr.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_statistic.h"
#include "jit/jit.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "storage/lockdefs.h"
#include "utils/float.h"
#include "utils/rel.h"
#include "utils/selfuncs.h"
#include "utils/spccache.h"
#include "utils/syscache.h"

#define ROW_US 0.05          /* of a heap row that is looked at, and */
#define HEAP_BYTE_US 3.5e-5  /* per byte of the heap */
#define DISTANCE_US 0.1      /* of a distance with its place in the sort, and */
#define DIMENSION_US 5e-4    /* per dimension */
#define TOAST_US 1.2         /* of a vector that lies out of line, and */
#define TOAST_BYTE_US 3.7e-4 /* per byte of it */
#define OPERATOR_US 0.02     /* what cpu_operator_cost stands for */
#define QUERY_US 30.0        /* of a scan, whatever it finds, and */
#define ROTATION_US 0.03     /* per dimension */
#define OUR_WALK_US 0.135    /* per element that the walk keeps, at the default m, and per doubling of the rows */
#define FIRST_WALK_US 0.25   /* likewise of pgvector's walk */
#define NEXT_WALK_US 0.45    /* and when an iterative scan goes on */

#define INLINE_MOST 2000 /* bytes: Postgres moves vectors out of rows above TOAST_TUPLE_THRESHOLD */
#define POINTER_MOST 64  /* bytes: a narrower column of vectors holds pointers, of 18 bytes */
/* Loses against every other plan, but can be written out. */
#define NEVER 1e12

/* An index and its table. */
typedef struct Estimate
{
	int bits, m;
	bool coded; /* rescored from a column of codes */
	double dimensions;
	double indexed;   /* rows in the index, */
	double listed;    /* and of them those that wait for the graph */
	double vector_us; /* of a vector's distance, in line */
	double toast_us;  /* of reading it, where it lies out of line */
} Estimate;

/* The column that is indexed, or the first one in the expression; 0 if there is none. */
static AttrNumber
indexed_column(const IndexOptInfo *index)
{
	Bitmapset *columns = NULL;
	int first;

	if (index->indexkeys[0] != 0)
		return (AttrNumber) index->indexkeys[0];
	pull_varattnos((Node *) index->indexprs, index->rel->relid, &columns);
	first = bms_next_member(columns, -FirstLowInvalidHeapAttributeNumber);
	return first >= 0 ? (AttrNumber) (first + FirstLowInvalidHeapAttributeNumber) : 0;
}

/* Whether vectors lie out of line, and the share of them that is NULL: by the column's statistics, else by its type. */
static void
look_at_column(const PlannerInfo *root, const IndexOptInfo *index, double bytes, bool *toasted, double *nulls)
{
	Oid table = planner_rt_fetch(index->rel->relid, root)->relid;
	AttrNumber column = indexed_column(index);
	HeapTuple tuple = SearchSysCache3(STATRELATTINH, ObjectIdGetDatum(table), Int16GetDatum(column), false);

	*nulls = 0.0;
	if (HeapTupleIsValid(tuple))
	{
		Form_pg_statistic statistics = (Form_pg_statistic) GETSTRUCT(tuple);

		*toasted = bytes > POINTER_MOST && statistics->stawidth < POINTER_MOST;
		*nulls = statistics->stanullfrac;
		ReleaseSysCache(tuple);
		return;
	}
	*toasted = bytes > INLINE_MOST;
	tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(table), Int16GetDatum(column));
	if (HeapTupleIsValid(tuple))
	{
		if (((Form_pg_attribute) GETSTRUCT(tuple))->attstorage == TYPSTORAGE_PLAIN)
			*toasted = false;
		ReleaseSysCache(tuple);
	}
}

static Estimate
estimate(const PlannerInfo *root, const IndexOptInfo *info)
{
	/* get_relation_info locked it for as long as the plan is made */
	Relation index = index_open(info->indexoid, NoLock);
	const BqOptions *options = (const BqOptions *) index->rd_options;
	Estimate e = {
		.bits = options ? options->bits : BQ_DEFAULT_BITS,
		.m = options ? options->m : BQ_DEFAULT_M,
		.coded = options && options->rescoreColumn,
		.dimensions = Max(TupleDescAttr(RelationGetDescr(index), 0)->atttypmod, 1),
	};
	double bytes = e.dimensions * (BqGetTypeInfo(index)->type == BQ_VECTOR ? sizeof(float) : sizeof(uint16));
	bool toasted;
	double nulls, element;

	e.listed = BqReadTrailer(index).listed;
	index_close(index, NoLock);
	look_at_column(root, info, bytes, &toasted, &nulls);
	/* where statistics are older than the rows, pages tell; vacuum leaves them half empty, or worse */
	element = BQ_CODE_SIZE(e.dimensions, e.bits) + offsetof(HnswElement, code) + offsetof(HnswNeighbours, links) +
			  2 * e.m * sizeof(ItemPointerData);
	e.indexed = Max(Max(info->tuples * (1.0 - nulls), info->pages * (double) BLCKSZ / element / 4.0), 1.0);
	e.vector_us = DISTANCE_US + DIMENSION_US * e.dimensions;
	e.toast_us = toasted ? TOAST_US + TOAST_BYTE_US * bytes : 0.0;
	return e;
}

/* Candidates that are looked at in the table for each row that is wanted, where bounds decide; at most, see budget.c.
 */
static double
candidates_per_row(int bits)
{
	return bits == 1 ? 5.0 : (bits == 2 ? 2.5 : 1.5);
}

/* Of a scan that returns so many rows: the query, the walk, rescoring, and the distances of what is returned, which
 * ORDER BY computes once more. Rows that wait are all rescored. */
static double
scan_us(const Estimate *e, double rows)
{
	BqWindow window = BqScanWindow(e->bits);
	double graph = Max(e->indexed - e->listed, 0.0);
	double kept = Min(BqWalkStart(e->bits, rows), graph), levels = log2(graph + 1.0) * e->m / BQ_DEFAULT_M;
	bool iterative = BqIterativeScan() != BQ_ITERATIVE_OFF;
	double walk, rescored;

	if (BqBounded())
	{
		rescored = Max(BqLeastRescored(e->bits), rows * candidates_per_row(e->bits));
		rescored = Min(rescored, BqDeliverable(graph));
		walk = OUR_WALK_US * Max(kept, rescored) * levels;
	}
	else if (!iterative)
	{
		walk = (BqMayWalk() ? OUR_WALK_US : FIRST_WALK_US) * kept * levels;
		rescored = Min(kept, window.ahead + window.slope * rows);
	}
	else
	{
		rescored = Max(window.ahead, rows + Max(window.floor, window.growth * rows));
		rescored = Min(rescored, BqDeliverable(graph));
		walk = (FIRST_WALK_US * kept + NEXT_WALK_US * Max(rescored - kept, 0.0)) * levels;
	}
	return QUERY_US + ROTATION_US * e->dimensions + walk +
		   (rescored + e->listed) * (ROW_US + e->vector_us + (e->coded ? 0.0 : e->toast_us)) +
		   rows * (e->vector_us + e->toast_us);
}

/* Of a sequential scan and a sort. */
static double
table_us(const Estimate *e, const RelOptInfo *rel)
{
	double filters = cpu_operator_cost > 0.0 ? rel->baserestrictcost.per_tuple / cpu_operator_cost * OPERATOR_US : 0.0;

	return rel->pages * (double) BLCKSZ * HEAP_BYTE_US + rel->tuples * (ROW_US + filters) +
		   rel->rows * (e->vector_us + e->toast_us);
}

/* The same as the planner takes it. */
static Cost
table_cost(const PlannerInfo *root, const RelOptInfo *rel)
{
	double kept = root->limit_tuples > 0.0 ? Min(2.0 * root->limit_tuples, rel->rows) : rel->rows, page;

	get_tablespace_page_costs(rel->reltablespace, NULL, &page);
	return rel->pages * page + rel->tuples * (cpu_tuple_cost + rel->baserestrictcost.per_tuple) +
		   rel->rows * cpu_operator_cost * (1.0 + 2.0 * log2(Max(kept, 2.0)));
}

void
BqCostEstimate(struct PlannerInfo *root, struct IndexPath *path, double loopCount, Cost *startup, Cost *total,
			   Selectivity *selectivity, double *correlation, double *pages)
{
	IndexOptInfo *index = path->indexinfo;
	BqDelivery delivery;
	Estimate e;
	Cost table, us;

	if (path->indexorderbys == NIL)
	{
		/* pgvector's way to say never */
		BqInner()->amcostestimate(root, path, loopCount, startup, total, selectivity, correlation, pages);
		return;
	}
	*selectivity =
		clauselist_selectivity(root, add_predicate_to_index_quals(index, NIL), index->rel->relid, JOIN_INNER, NULL);
	/* what the executor fetches is in memory since it was rescored */
	*correlation = 1.0;
	*pages = index->pages;
	if (BqMayTell(root, index))
	{
		*startup = *total = get_float8_infinity();
		BqDisablePath(&path->path);
		return;
	}
	e = estimate(root, index);
	delivery = BqDelivers(root, index, e.indexed, e.listed);
	table = table_cost(root, index->rel);
	us = table / table_us(&e, index->rel);
	*startup = us * scan_us(&e, Min(delivery.rows, 1.0));
	*total = us * scan_us(&e, delivery.rows);
	if (delivery.enough)
	{
		/* of all rows that the planner expects, so that its share for the LIMIT is what was estimated for it */
		*total = *startup + (*total - *startup) * Max(path->path.rows / Max(delivery.wanted, 1.0), 1.0);
	}
	else if (!enable_seqscan || !enable_sort)
	{
		/* asked for all the same: any index that has the rows may win, but not so dear that the plan is compiled */
		*total = Max(*total, Min(*total + table, jit_above_cost >= 0.0 ? jit_above_cost / 2.0 : get_float8_infinity()));
		*startup = *total;
	}
	else
	{
		/* Without its order the path is never taken, and partitions can be merged with this one scanned and sorted. */
		*startup = *total = NEVER;
		path->path.pathkeys = NIL;
	}
}
