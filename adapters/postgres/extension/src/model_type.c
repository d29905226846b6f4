/* bqmodel: models as values, their training in SQL, and what can be asked of them. */
#include "types.h"

#include <math.h>

#include "common/cryptohash.h"
#include "common/sha2.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/* A session uses few models at a time, and preparing one (checksum, hash, signs of the rotation) costs as much as
 * encoding some ten vectors. Entries are found by their content. */
#define CACHED_MODELS 4

typedef struct Cached
{
	MemoryContext ctx; /* holds all of it; NULL in a free entry */
	Size nbytes;
	uint8 *bytes;
	BqModel m;
} Cached;

static Cached cache[CACHED_MODELS];
static int next_free = 0;

static void
take_id(const uint8 *bytes, Size nbytes, uint8 *id)
{
	pg_cryptohash_ctx *sha = pg_cryptohash_create(PG_SHA256);
	uint8 digest[PG_SHA256_DIGEST_LENGTH];

	if (sha == NULL || pg_cryptohash_init(sha) < 0 || pg_cryptohash_update(sha, bytes, nbytes) < 0 ||
		pg_cryptohash_final(sha, digest, sizeof(digest)) < 0)
		elog(ERROR, "could not compute SHA-256 of a model: %s", pg_cryptohash_error(sha));
	pg_cryptohash_free(sha);
	memcpy(id, digest, sizeof(((BqHead *) NULL)->model));
}

static void
fill(Cached *entry, const void *bytes, Size nbytes)
{
	bool possible = nbytes >= BQK_MODEL_HEADER_NBYTES && nbytes <= BQ_MODEL_MAX;
	MemoryContext ctx = AllocSetContextCreate(TopMemoryContext, "bqmodel", ALLOCSET_SMALL_SIZES);
	uint8 *copy = MemoryContextAlloc(ctx, possible ? nbytes : 1);
	BqModel m;
	int status = BQK_EFORMAT;

	if (possible)
	{
		memcpy(copy, bytes, nbytes);
		status = bqk_model_read(copy, nbytes, &m.model);
	}
	if (status != BQK_OK)
	{
		MemoryContextDelete(ctx);
		ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED),
						errmsg("invalid bqmodel datum of %zu bytes: %s", nbytes, bqk_strerror(status))));
	}
	take_id(copy, nbytes, m.id);
	if (m.model.rotation != BQK_ROTATION_NONE)
	{
		float *signs = MemoryContextAlloc(ctx, bqk_signs_count(m.model.dim) * sizeof(float));

		bqk_signs_init(m.model.dim, m.model.seed, signs);
		m.model.signs = signs;
	}
	if (entry->ctx)
		MemoryContextDelete(entry->ctx);
	*entry = (Cached) {ctx, nbytes, copy, m};
}

const BqModel *
BqModelOf(const struct varlena *datum)
{
	const void *bytes = VARDATA_ANY(datum);
	Size nbytes = VARSIZE_ANY_EXHDR(datum);
	Cached *entry;

	for (int i = 0; i < CACHED_MODELS; i++)
		if (cache[i].ctx && cache[i].nbytes == nbytes && memcmp(cache[i].bytes, bytes, nbytes) == 0)
			return &cache[i].m;
	entry = &cache[next_free];
	fill(entry, bytes, nbytes);
	next_free = (next_free + 1) % CACHED_MODELS;
	return &entry->m;
}

bytea *
BqModelDatum(const bqk_model *model)
{
	Size nbytes = bqk_model_nbytes(model);
	bytea *out = palloc(VARHDRSZ + nbytes);

	SET_VARSIZE(out, VARHDRSZ + nbytes);
	if (bqk_model_write(model, (uint8 *) VARDATA(out), nbytes) != BQK_OK)
		elog(ERROR, "cannot write the model");
	return out;
}

/* ---- bq_train(vector, bits, metric [, seed]) ---- */

typedef struct Training
{
	BqSum sum;
	int bits;
	uint64 seed;
	float *buf;
} Training;

static Training *
begin_training(FunctionCallInfo fcinfo, MemoryContext ctx, uint32 dim)
{
	int bits, metric;
	MemoryContext old;
	Training *t;

	if (PG_ARGISNULL(2) || PG_ARGISNULL(3) || (PG_NARGS() > 4 && PG_ARGISNULL(4)))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("bits, metric and seed must not be NULL")));
	bits = PG_GETARG_INT32(2);
	if (!bqk_bits_supported(bits))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("bits must be 1, 2, 4 or 8, not %d", bits)));
	metric = BqMetricByName(text_to_cstring(PG_GETARG_TEXT_PP(3)));
	old = MemoryContextSwitchTo(ctx);
	t = palloc(sizeof(Training));
	BqSumBegin(&t->sum, dim, metric);
	t->bits = bits;
	t->seed = PG_NARGS() > 4 ? (uint64) PG_GETARG_INT64(4) : BQ_DEFAULT_SEED;
	t->buf = palloc(sizeof(float) * dim);
	MemoryContextSwitchTo(old);
	return t;
}

static Datum
train_add(FunctionCallInfo fcinfo, BqType type)
{
	Training *t = PG_ARGISNULL(0) ? NULL : (Training *) PG_GETARG_POINTER(0);
	MemoryContext ctx;

	if (!AggCheckCallContext(fcinfo, &ctx))
		elog(ERROR, "bq_train called outside of an aggregate");
	if (!PG_ARGISNULL(1))
	{
		BqVector *vec = (BqVector *) PG_DETOAST_DATUM(PG_GETARG_DATUM(1));

		if (t == NULL)
			t = begin_training(fcinfo, ctx, (uint32) Max(vec->dim, 1));
		BqSumAdd(&t->sum, BqCoordinates(vec, t->sum.dim, type, t->buf));
		if ((Pointer) vec != DatumGetPointer(PG_GETARG_DATUM(1)))
			pfree(vec);
	}
	if (t == NULL)
		PG_RETURN_NULL();
	PG_RETURN_POINTER(t);
}

PG_FUNCTION_INFO_V1(bq_train_vector);
Datum
bq_train_vector(PG_FUNCTION_ARGS)
{
	return train_add(fcinfo, BQ_VECTOR);
}

PG_FUNCTION_INFO_V1(bq_train_halfvec);
Datum
bq_train_halfvec(PG_FUNCTION_ARGS)
{
	return train_add(fcinfo, BQ_HALFVEC);
}

/* NULL without a vector, as other aggregates. */
PG_FUNCTION_INFO_V1(bq_train_final);
Datum
bq_train_final(PG_FUNCTION_ARGS)
{
	const Training *t;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	t = (const Training *) PG_GETARG_POINTER(0);
	if (t->sum.rows == 0)
		PG_RETURN_NULL();
	PG_RETURN_BYTEA_P(BqModelDatum(BqSumModel(&t->sum, t->bits, t->seed)));
}

/* ---- what they tell ---- */

PG_FUNCTION_INFO_V1(bq_model_info);
Datum
bq_model_info(PG_FUNCTION_ARGS)
{
	const BqModel *m = BqModelOf(GETARG_PACKED(0));
	const bqk_model *model = &m->model;
	bool nulls[9] = {0};
	Datum values[9];
	double norm2 = 0.0;
	TupleDesc desc;
	int i = 0;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE || desc->natts != lengthof(values))
		elog(ERROR, "bq_model_info: expected %zu columns; ALTER EXTENSION bqcore UPDATE", lengthof(values));
	for (uint32 j = 0; j < model->dim; j++)
		norm2 += (double) model->centroid[j] * model->centroid[j];
	values[i++] = CStringGetTextDatum("rabitq");
	values[i++] = Int32GetDatum(model->bits);
	values[i++] = CStringGetTextDatum(BqMetricName(model->metric));
	values[i++] = Int32GetDatum((int32) model->dim);
	values[i++] = CStringGetTextDatum(model->rotation == BQK_ROTATION_NONE ? "none" : "hadamard");
	values[i++] = Int64GetDatum((int64) model->seed);
	values[i++] = Int64GetDatum((int64) model->n_trained);
	values[i++] = Float8GetDatum(sqrt(norm2));
	values[i++] = Int32GetDatum((int32) (VARHDRSZ + BqCodePayload(model->dim, model->bits)));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

static Datum
id_as_text(const uint8 *id)
{
	char out[17];

	for (int i = 0; i < 8; i++)
		snprintf(out + 2 * i, 3, "%02x", id[i]);
	return CStringGetTextDatum(out);
}

/* As Python's model_id. */
PG_FUNCTION_INFO_V1(bq_model_id_model);
Datum
bq_model_id_model(PG_FUNCTION_ARGS)
{
	return id_as_text(BqModelOf(GETARG_PACKED(0))->id);
}

/* Of a code or a query. */
PG_FUNCTION_INFO_V1(bq_model_id_value);
Datum
bq_model_id_value(PG_FUNCTION_ARGS)
{
	return id_as_text(BqViewOf(GETARG_PACKED(0)).head.model);
}
