/* SQL functions of codes: encode, prepare a query, estimate, bound, decode. */
#include "types.h"

#include <math.h>

static struct varlena *
new_value(const BqModel *m, uint8 tag, Size payload, uint8 **rest)
{
	struct varlena *out = palloc0(VARHDRSZ + payload);
	BqHead head = {.dim = (uint16) m->model.dim, .tag = tag, .kind = BqKind(m->model.bits, m->model.metric)};

	SET_VARSIZE(out, VARHDRSZ + payload);
	memcpy(head.model, m->id, sizeof(head.model));
	memcpy(VARDATA(out), &head, sizeof(head));
	*rest = (uint8 *) VARDATA(out) + sizeof(head);
	return out;
}

/* NULL for a zero vector under cosine, which has no direction: pgvector's indexes leave such rows out, too. */
struct varlena *
BqEncodeColumn(const BqModel *m, const BqVector *vec, BqType type)
{
	uint32 dim = m->model.dim;
	float *work = palloc(sizeof(float) * dim * 2);
	const float *x = BqCoordinates(vec, dim, type, work + dim);
	bqk_factors factors;
	struct varlena *out;
	uint8 *rest;
	size_t bad;

	if (m->model.metric == BQK_COSINE && BqIsZero(vec, type))
		return NULL;
	out = new_value(m, BQ_TAG_COLUMN_CODE, BqCodePayload(dim, m->model.bits), &rest);
	BqCheckStatus(bqk_encode(&m->model, x, 1, rest + sizeof(factors), &factors, work, &bad));
	memcpy(rest, &factors, sizeof(factors));
	pfree(work);
	return out;
}

struct varlena *
BqPrepareColumn(const BqModel *m, const BqVector *vec, BqType type)
{
	uint32 dim = m->model.dim;
	int metric = m->model.metric;
	Size terms = BqTerms(metric);
	float *work = palloc0(sizeof(float) * dim * 3);
	const float *x = BqCoordinates(vec, dim, type, work + dim);
	bqk_query query;
	struct varlena *out;
	uint8 *rest;

	out = new_value(m, BqQueryTag(metric), BqQueryPayload(dim, metric, terms), &rest);
	BqCheckStatus(bqk_query_prepare(&m->model, x, BQ_QUERY_BITS, &query, rest + terms, work));
	memcpy(rest, &query, terms);
	if (metric == BQK_IP)
	{
		bqk_model plain = m->model;

		plain.centroid = work + 2 * dim; /* zero */
		rest += BqQueryPart(dim, terms);
		BqCheckStatus(bqk_query_prepare(&plain, x, BQ_QUERY_BITS, &query, rest + terms, work));
		memcpy(rest, &query, terms);
	}
	pfree(work);
	return out;
}

/* A query as it is, in float32: for 8-bit codes rounding it to 8 bits would add as much error as the codes have. In the
 * current memory context. */
BqView
BqPrepareFloat(const BqModel *m, const BqVector *vec, BqType type)
{
	uint32 dim = m->model.dim;
	float *work = palloc(sizeof(float) * dim * 3);
	const float *x = BqCoordinates(vec, dim, type, work + dim);
	BqView v = {
		.head = {.dim = (uint16) dim, .tag = BQ_TAG_COLUMN_QUERY, .kind = BqKind(m->model.bits, m->model.metric)},
		.z = (const int8 *) (work + 2 * dim)};

	memcpy(v.head.model, m->id, sizeof(v.head.model));
	BqCheckStatus(bqk_query_prepare(&m->model, x, 32, &v.query, work + 2 * dim, work));
	return v;
}

double
BqViewDistance(const BqView *a, const BqView *code)
{
	int bits = BqBits(&code->head);

	BqCheckPair(&a->head, &code->head);
	if (a->head.tag == BQ_TAG_COLUMN_QUERY)
		return bqk_distance(bits, code->head.dim, &a->query, a->z, code->code, &code->factors);
	return bqk_distance_sym(bits, BqMetric(&code->head), code->head.dim, a->code, &a->factors, code->code,
							&code->factors);
}

/* Standard deviations of an estimate, which is as good as normal at the dimensions that are coded: 1 in 30,000 lies
 * beyond on that side. */
#define EPS0 4.0
/* Estimates are sums of three terms and of up to 16,000 products in float32, in 16 lanes. */
#define ROUNDING 1e-6

void
BqViewBounds(const BqView *query, const BqView *code, double *lower, double *upper)
{
	int bits = BqBits(&code->head), metric = BqMetric(&code->head);
	uint32 dim = code->head.dim;
	double estimate = BqViewDistance(query, code), width;
	double terms = fabs((double) query->query.g_weight * code->factors.f_add) + fabs(query->query.g_add);
	int32 self;

	bqk_sym(bits, dim, code->code, bqk_nbytes(dim, bits), 1, code->code, &self);
	width =
		EPS0 * bqk_error(bits, metric, dim, self, &code->factors, &query->query) + ROUNDING * (terms + fabs(estimate));
	*lower = estimate - width;
	*upper = estimate + width;
	if (metric == BQK_L2)
	{
		*lower = *lower > 0.0 ? sqrt(*lower) : 0.0;
		*upper = *upper > 0.0 ? sqrt(*upper) : 0.0;
	}
}

static Datum
encode(FunctionCallInfo fcinfo, BqType type)
{
	const BqVector *vec = (const BqVector *) PG_DETOAST_DATUM(PG_GETARG_DATUM(0));
	struct varlena *out = BqEncodeColumn(BqModelOf(GETARG_PACKED(1)), vec, type);

	if (out == NULL)
		PG_RETURN_NULL();
	PG_RETURN_POINTER(out);
}

PG_FUNCTION_INFO_V1(bq_encode_vector);
Datum
bq_encode_vector(PG_FUNCTION_ARGS)
{
	return encode(fcinfo, BQ_VECTOR);
}

PG_FUNCTION_INFO_V1(bq_encode_halfvec);
Datum
bq_encode_halfvec(PG_FUNCTION_ARGS)
{
	return encode(fcinfo, BQ_HALFVEC);
}

PG_FUNCTION_INFO_V1(bq_query_vector);
Datum
bq_query_vector(PG_FUNCTION_ARGS)
{
	const BqVector *vec = (const BqVector *) PG_DETOAST_DATUM(PG_GETARG_DATUM(0));

	PG_RETURN_POINTER(BqPrepareColumn(BqModelOf(GETARG_PACKED(1)), vec, BQ_VECTOR));
}

PG_FUNCTION_INFO_V1(bq_query_halfvec);
Datum
bq_query_halfvec(PG_FUNCTION_ARGS)
{
	const BqVector *vec = (const BqVector *) PG_DETOAST_DATUM(PG_GETARG_DATUM(0));

	PG_RETURN_POINTER(BqPrepareColumn(BqModelOf(GETARG_PACKED(1)), vec, BQ_HALFVEC));
}

/* Of codes and queries in any order; two queries have no distance. */
static double
distance(FunctionCallInfo fcinfo, int metric)
{
	BqView a = BqViewOf(GETARG_PACKED(0)), b = BqViewOf(GETARG_PACKED(1));
	bool swap = b.head.tag != BQ_TAG_COLUMN_CODE;
	const BqView *code = swap ? &a : &b;

	if (code->head.tag != BQ_TAG_COLUMN_CODE || a.head.tag == BQ_TAG_CENTRE || b.head.tag == BQ_TAG_CENTRE)
		ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED),
						errmsg("expected a bqcode, not a datum with tags %02x and %02x", a.head.tag, b.head.tag)));
	if (metric >= 0 && BqMetric(&code->head) != metric)
		BqWrongMetric(&code->head, metric);
	/* Codes know <x - c, c> and not |c|^2, the constant of their inner products. Within an index it changes nothing. */
	if (a.head.tag == b.head.tag && BqMetric(&code->head) == BQK_IP)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("inner products are estimated between a code and a query, not between two codes")));
	return BqViewDistance(swap ? &b : &a, code);
}

/* In the unit of the model's metric, which is that of bq_bound: squared for l2. */
PG_FUNCTION_INFO_V1(bq_distance);
Datum
bq_distance(PG_FUNCTION_ARGS)
{
	PG_RETURN_FLOAT8(distance(fcinfo, -1));
}

/* The operators have pgvector's units. */
PG_FUNCTION_INFO_V1(bq_l2_distance);
Datum
bq_l2_distance(PG_FUNCTION_ARGS)
{
	double squared = distance(fcinfo, BQK_L2);

	PG_RETURN_FLOAT8(squared > 0.0 ? sqrt(squared) : 0.0);
}

PG_FUNCTION_INFO_V1(bq_negative_inner_product);
Datum
bq_negative_inner_product(PG_FUNCTION_ARGS)
{
	PG_RETURN_FLOAT8(distance(fcinfo, BQK_IP));
}

PG_FUNCTION_INFO_V1(bq_cosine_distance);
Datum
bq_cosine_distance(PG_FUNCTION_ARGS)
{
	PG_RETURN_FLOAT8(distance(fcinfo, BQK_COSINE));
}

/* Half width of the interval around bq_distance, at eps0 standard deviations. */
PG_FUNCTION_INFO_V1(bq_bound);
Datum
bq_bound(PG_FUNCTION_ARGS)
{
	BqView code = BqViewCode(GETARG_PACKED(0)), query = BqViewQuery(GETARG_PACKED(1));
	double eps0 = PG_GETARG_FLOAT8(2);
	int bits = BqBits(&code.head);
	int32 self;

	if (!(eps0 >= 0.0))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("eps0 must be 0 or more, not %g", eps0)));
	BqCheckPair(&query.head, &code.head);
	if (isinf(eps0))
		PG_RETURN_FLOAT8(eps0);
	bqk_sym(bits, code.head.dim, code.code, bqk_nbytes(code.head.dim, bits), 1, code.code, &self);
	PG_RETURN_FLOAT8(eps0 * bqk_error(bits, BqMetric(&code.head), code.head.dim, self, &code.factors, &query.query));
}

/* The vector that a code stands for. */
PG_FUNCTION_INFO_V1(bq_decode);
Datum
bq_decode(PG_FUNCTION_ARGS)
{
	BqView code = BqViewCode(GETARG_PACKED(0));
	const BqModel *m = BqModelOf(GETARG_PACKED(1));
	BqHead expected = {.dim = (uint16) m->model.dim, .kind = BqKind(m->model.bits, m->model.metric)};
	uint32 dim = m->model.dim;
	int bits = m->model.bits;
	float middle = 0.5f * (float) ((1 << bits) - 1);
	/* f_rescale is -2 (l2) or -1 times what a level counts */
	float scale = code.factors.f_rescale * (m->model.metric == BQK_L2 ? -0.5f : -1.0f);
	float *rotated = palloc(sizeof(float) * dim), *x;
	Size size = offsetof(BqVector, x) + sizeof(float) * dim;
	BqVector *out = palloc0(size);

	memcpy(expected.model, m->id, sizeof(expected.model));
	BqCheckPair(&code.head, &expected);
	SET_VARSIZE(out, size);
	out->dim = (int16) dim;
	x = (float *) out->x;
	for (uint32 i = 0; i < dim; i++)
		rotated[i] = ((float) bqk_code_level(code.code, bits, i) - middle) * scale;
	BqCheckStatus(bqk_unrotate(&m->model, rotated, 1, x));
	for (uint32 i = 0; i < dim; i++)
	{
		x[i] += m->model.centroid[i];
		if (!isfinite(x[i]))
			ereport(ERROR, (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE), errmsg("decoded vector is not finite")));
	}
	PG_RETURN_POINTER(out);
}
