/* Functions that tell what an index holds. */
#include "privileges.h"
#include "trailer.h"

#include <math.h>

#include "funcapi.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"

/* Before 0.3.0, whose SQL this library works with too. */
#define COLUMNS_BEFORE 13

PG_FUNCTION_INFO_V1(bqcore_index_info);
Datum
bqcore_index_info(PG_FUNCTION_ARGS)
{
	Relation index = BqOpenIndex(PG_GETARG_OID(0), AccessShareLock);
	const bqk_model *model;
	BqTrailer trailer;
	bool trained;
	TupleDesc desc;
	Datum values[15];
	bool nulls[15] = {0};
	double norm2 = 0.0;
	int i = 0;

	BqCheckReadable(index);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE || desc->natts < COLUMNS_BEFORE ||
		desc->natts > (int) lengthof(values))
		elog(ERROR, "bqcore_index_info: expected %d to %zu columns, not %d; ALTER EXTENSION bqcore UPDATE",
			 COLUMNS_BEFORE, lengthof(values), desc->natts);
	trailer = BqReadTrailer(index);
	model = BqModelGet(index);
	trained = model->n_trained > 0;
	for (uint32 j = 0; j < model->dim; j++)
		norm2 += (double) model->centroid[j] * model->centroid[j];
	values[i++] = CStringGetTextDatum("rabitq");
	values[i++] = Int32GetDatum(model->bits);
	values[i++] = CStringGetTextDatum(BqMetricName(model->metric));
	values[i++] = Int32GetDatum((int32) model->dim);
	values[i++] = Int32GetDatum(trailer.m);
	values[i++] = Int32GetDatum(trailer.efConstruction);
	values[i++] = CStringGetTextDatum(model->rotation == BQK_ROTATION_NONE ? "none" : "hadamard");
	values[i++] = Int64GetDatum((int64) model->seed);
	values[i++] = Int64GetDatum((int64) model->n_trained);
	values[i++] = Float8GetDatum(sqrt(norm2));
	values[i++] = Int32GetDatum((int32) (bqk_code_nbytes(model->dim, model->bits) + sizeof(bqk_factors)));
	values[i++] = Int64GetDatum((int64) RelationGetNumberOfBlocks(index) * BLCKSZ);
	values[i++] = CStringGetTextDatum(bqk_isa_active());
	values[i++] = BoolGetDatum(trained);
	values[i++] = Int64GetDatum(trailer.listed);
	index_close(index, AccessShareLock);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* What a client would keep, or compare with, must not be a model that the index is to replace. */
static void
check_trained(Relation index)
{
	BqTrailer trailer = BqReadTrailer(index);

	if (!BqTrailerIsTrained(&trailer))
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("index \"%s\" has no model yet", RelationGetRelationName(index)),
						errdetail("%u rows wait, %u are needed.", trailer.listed, trailer.trainAt),
						errhint("bqcore_train('%s') makes one of fewer rows.", RelationGetRelationName(index))));
}

/* The serialised model: what RaBitQ.from_bytes reads. */
PG_FUNCTION_INFO_V1(bqcore_index_model);
Datum
bqcore_index_model(PG_FUNCTION_ARGS)
{
	Relation index = BqOpenIndex(PG_GETARG_OID(0), AccessShareLock);
	bytea *blob;

	BqCheckReadable(index);
	check_trained(index);
	blob = BqModelRead(index);
	index_close(index, AccessShareLock);
	PG_RETURN_BYTEA_P(blob);
}

/* Code of a vector under an index's model: packed levels, then f_add and f_rescale. */
PG_FUNCTION_INFO_V1(bqcore_index_encode);
Datum
bqcore_index_encode(PG_FUNCTION_ARGS)
{
	Relation index = BqOpenIndex(PG_GETARG_OID(0), AccessShareLock);
	BqVector *vec = (BqVector *) PG_DETOAST_DATUM(PG_GETARG_DATUM(1));
	Size nbytes;
	BqCode *code;
	bytea *out;

	BqCheckReadable(index);
	check_trained(index);
	code = BqEncode(BqModelGet(index), vec, BQ_VECTOR);
	index_close(index, AccessShareLock);
	nbytes = bqk_code_nbytes(code->h.dim, BqBits(&code->h));
	out = palloc(VARHDRSZ + nbytes + sizeof(bqk_factors));
	SET_VARSIZE(out, VARHDRSZ + nbytes + sizeof(bqk_factors));
	memcpy(VARDATA(out), code->code, nbytes);
	memcpy(VARDATA(out) + nbytes, &code->factors, sizeof(bqk_factors));
	PG_RETURN_BYTEA_P(out);
}

/* Estimated distance of a query to a vector's code under an index's model. */
PG_FUNCTION_INFO_V1(bqcore_index_estimate);
Datum
bqcore_index_estimate(PG_FUNCTION_ARGS)
{
	Relation index = BqOpenIndex(PG_GETARG_OID(0), AccessShareLock);
	BqVector *vec = (BqVector *) PG_DETOAST_DATUM(PG_GETARG_DATUM(1));
	BqVector *q = (BqVector *) PG_DETOAST_DATUM(PG_GETARG_DATUM(2));
	BqCode *code;
	BqQuery *query;

	BqCheckReadable(index);
	check_trained(index);
	code = BqEncode(BqModelGet(index), vec, BQ_VECTOR);
	query = BqPrepare(BqModelGet(index), q, BQ_VECTOR);
	index_close(index, AccessShareLock);
	PG_RETURN_FLOAT4(bqk_distance(BqBits(&code->h), code->h.dim, &query->query, query->z, code->code, &code->factors));
}
