/* bqcore_recall: an index against exact search, for rows of the table or for the caller's own queries. */
#include "privileges.h"
#include "rescore.h"

#include <math.h>

#include "access/genam.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_class.h"
#include "common/pg_prng.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "parser/parse_coerce.h"
#include "utils/array.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "pg_compat.h"

#define SEED 42
#define MAX_QUERIES 10000
#define MAX_K 1000

typedef struct RecallQuery
{
	Datum value;
	bool own; /* a row of the table, which does not count as its own neighbour */
	ItemPointerData tid;
	double *nearest; /* k smallest exact distances, ascending */
	int n;
} RecallQuery;

/* The next row of a sequential scan that the index holds. */
static bool
next_row(TableScanDesc scan, BqReader *reader, const BqTypeInfo *info, Datum *value)
{
	bool isnull;

	while (table_scan_getnextslot(scan, ForwardScanDirection, reader->slot))
	{
		CHECK_FOR_INTERRUPTS();
		if (!BqReaderMatches(reader))
			continue;
		*value = BqReaderValue(reader, &isnull);
		if (isnull)
			continue;
		*value = PointerGetDatum(PG_DETOAST_DATUM(*value));
		if (!BqHasCode(info->metric, (BqVector *) DatumGetPointer(*value), info->type))
			continue;
		return true;
	}
	return false;
}

/* Reservoir sample (Vitter 1985, algorithm R), the same for the same table. */
static int
sample_queries(Relation heap, BqReader *reader, const BqTypeInfo *info, RecallQuery *queries, int wanted,
			   MemoryContext tmp)
{
	TableScanDesc scan = table_beginscan(heap, GetActiveSnapshot(), 0, NULL);
	MemoryContext out = MemoryContextSwitchTo(tmp);
	pg_prng_state prng;
	uint64 seen = 0;
	Datum value;

	pg_prng_seed(&prng, SEED);
	while (next_row(scan, reader, info, &value))
	{
		uint64 at = seen < (uint64) wanted ? seen : pg_prng_uint64_range(&prng, 0, seen);

		seen++;
		if (at < (uint64) wanted)
		{
			MemoryContextSwitchTo(out);
			if (queries[at].value)
				pfree(DatumGetPointer(queries[at].value));
			queries[at].value = datumCopy(value, false, -1);
			queries[at].tid = reader->slot->tts_tid;
			queries[at].own = true;
		}
		MemoryContextSwitchTo(tmp);
		MemoryContextReset(tmp);
	}
	table_endscan(scan);
	MemoryContextSwitchTo(out);
	return (int) Min(seen, (uint64) wanted);
}

static bool
is_itself(const RecallQuery *q, ItemPointer row)
{
	ItemPointerData tid = q->tid;

	return q->own && ItemPointerEquals(&tid, row);
}

static void
keep_nearest(RecallQuery *q, int k, double distance)
{
	int i;

	if (isnan(distance) || (q->n == k && !(distance < q->nearest[k - 1])))
		return;
	i = q->n < k ? q->n++ : k - 1;
	for (; i > 0 && q->nearest[i - 1] > distance; i--)
		q->nearest[i] = q->nearest[i - 1];
	q->nearest[i] = distance;
}

static void
exact_search(Relation heap, BqReader *reader, const BqTypeInfo *info, FmgrInfo *distance, Oid collation,
			 RecallQuery *queries, int n, int k, MemoryContext tmp)
{
	TableScanDesc scan = table_beginscan(heap, GetActiveSnapshot(), 0, NULL);
	MemoryContext old = MemoryContextSwitchTo(tmp);
	Datum value;

	while (next_row(scan, reader, info, &value))
	{
		for (int i = 0; i < n; i++)
			if (!is_itself(&queries[i], &reader->slot->tts_tid))
				keep_nearest(&queries[i], k,
							 DatumGetFloat8(FunctionCall2Coll(distance, collation, value, queries[i].value)));
		MemoryContextReset(tmp);
	}
	table_endscan(scan);
	MemoryContextSwitchTo(old);
}

/* Rows among the first k that the index returns whose distance is not above the k-th exact one. */
static int
index_hits(Relation heap, Relation index, BqReader *reader, FmgrInfo *distance, Oid collation, RecallQuery *q, int k)
{
	IndexScanDesc scan;
	ScanKeyData key;
	int returned = 0, hits = 0;

	if (q->n == 0)
		return 0;
	ScanKeyEntryInitializeWithInfo(&key, SK_ORDER_BY, 1, 1, InvalidOid, collation, distance, q->value);
	scan = BqIndexBeginScan(heap, index, GetActiveSnapshot());
	/* what a query with that LIMIT would get */
	BqScanExpect(scan, k + q->own);
	index_rescan(scan, NULL, 0, &key, 1);
	while (returned < k && index_getnext_slot(scan, ForwardScanDirection, reader->slot))
	{
		bool isnull;
		Datum value;

		CHECK_FOR_INTERRUPTS();
		if (is_itself(q, &reader->slot->tts_tid))
			continue;
		value = BqReaderValue(reader, &isnull);
		returned++;
		if (!isnull && DatumGetFloat8(FunctionCall2Coll(distance, collation, value, q->value)) <= q->nearest[q->n - 1])
			hits++;
	}
	index_endscan(scan);
	return Min(hits, q->n);
}

/* The caller's queries, a vector[], in the type of the index. */
static RecallQuery *
given_queries(ArrayType *array, Relation index, const BqTypeInfo *info, int *n)
{
	Oid given = ARR_ELEMTYPE(array), wanted = index->rd_opcintype[0], cast = InvalidOid;
	int dim = TupleDescAttr(RelationGetDescr(index), 0)->atttypmod;
	int16 length;
	bool byval, *nulls;
	char align;
	Datum *values;
	RecallQuery *queries;

	if (given != wanted && find_coercion_pathway(wanted, given, COERCION_EXPLICIT, &cast) != COERCION_PATH_FUNC)
		elog(ERROR, "no cast of the queries to the type of index \"%s\"", RelationGetRelationName(index));
	get_typlenbyvalalign(given, &length, &byval, &align);
	deconstruct_array(array, given, length, byval, align, &values, &nulls, n);
	if (*n < 1 || *n > MAX_QUERIES)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("queries must hold between 1 and %d vectors, not %d", MAX_QUERIES, *n)));
	queries = palloc0(sizeof(RecallQuery) * *n);
	for (int i = 0; i < *n; i++)
	{
		BqVector *vec;

		if (nulls[i])
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
							errmsg("queries must not be NULL, but number %d of %d is", i + 1, *n)));
		if (OidIsValid(cast))
			values[i] = OidFunctionCall3(cast, values[i], Int32GetDatum(-1), BoolGetDatum(true));
		vec = (BqVector *) PG_DETOAST_DATUM(values[i]);
		/* checks the datum, too */
		(void) BqHasCode(info->metric, vec, info->type);
		if (vec->dim != dim)
			ereport(ERROR, (errcode(ERRCODE_DATA_EXCEPTION),
							errmsg("expected %d dimensions, not %d, in query %d of %d", dim, vec->dim, i + 1, *n)));
		queries[i].value = PointerGetDatum(vec);
	}
	return queries;
}

PG_FUNCTION_INFO_V1(bqcore_recall);
Datum
bqcore_recall(PG_FUNCTION_ARGS)
{
	/* the SQL function of versions before 0.3.0 has three arguments */
	bool given = PG_NARGS() > 3 && !PG_ARGISNULL(3);
	int k, wanted, n;
	Relation index, heap;
	MemoryContext tmp, old;
	BqReader reader;
	FmgrInfo distance;
	RecallQuery *queries;
	int64 hits = 0, possible = 0;
	Oid op, collation, type;
	BqCaller caller;
	const BqTypeInfo *info;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		PG_RETURN_NULL();
	k = PG_GETARG_INT32(1);
	wanted = PG_GETARG_INT32(2);
	if (k < 1 || k > MAX_K)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("k must be between 1 and %d, not %d", MAX_K, k)));
	if (wanted < 1 || wanted > MAX_QUERIES)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("n_queries must be between 1 and %d, not %d", MAX_QUERIES, wanted)));
	index = BqOpenWithTable(PG_GETARG_OID(0), AccessShareLock, &heap);
	BqCheckReadable(index);

	caller = BqRunAsOwner(heap, index);
	collation = index->rd_indcollation[0];
	type = index->rd_opcintype[0];
	op = get_opfamily_member(index->rd_opfamily[0], type, type, 1);
	if (!OidIsValid(op))
		elog(ERROR, "no distance operator for index \"%s\"", RelationGetRelationName(index));
	fmgr_info(get_opcode(op), &distance);
	info = BqGetTypeInfo(index);

	old = MemoryContextSwitchTo(AllocSetContextCreate(CurrentMemoryContext, "bqcore_recall", ALLOCSET_DEFAULT_SIZES));
	tmp = AllocSetContextCreate(CurrentMemoryContext, "bqcore_recall row", ALLOCSET_DEFAULT_SIZES);
	BqReaderBegin(&reader, heap, index, true);
	if (given)
		queries = given_queries(PG_GETARG_ARRAYTYPE_P(3), index, info, &n);
	else
	{
		queries = palloc0(sizeof(RecallQuery) * wanted);
		n = sample_queries(heap, &reader, info, queries, wanted, tmp);
	}
	for (int i = 0; i < n; i++)
		queries[i].nearest = palloc(sizeof(double) * k);
	exact_search(heap, &reader, info, &distance, collation, queries, n, k, tmp);
	for (int i = 0; i < n; i++)
	{
		MemoryContextSwitchTo(tmp);
		hits += index_hits(heap, index, &reader, &distance, collation, &queries[i], k);
		possible += queries[i].n;
		MemoryContextReset(tmp);
	}
	BqReaderEnd(&reader);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(MemoryContextGetParent(tmp));
	BqRunAsCaller(&caller);
	table_close(heap, AccessShareLock);
	index_close(index, AccessShareLock);
	if (possible == 0)
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8((double) hits / (double) possible);
}
