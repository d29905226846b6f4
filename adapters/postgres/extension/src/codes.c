/* Values: vectors to codes and queries, and the distances between them that pgvector asks for. */
#include "bqcore.h"

static Size
vector_size(int dim, BqType type)
{
	return offsetof(BqVector, x) + (type == BQ_VECTOR ? sizeof(float) : sizeof(uint16)) * (Size) dim;
}

/* IEEE 754 half to single, exactly. */
static inline float
half_to_float(uint16 h)
{
	uint32 sign = (uint32) (h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3ff;
	union
	{
		uint32 u;
		float f;
	} out;

	if (exponent == 0) /* zero and subnormals: mantissa times 2^-24 */
	{
		float f = (float) mantissa * 0x1p-24f;

		return sign ? -f : f;
	}
	out.u = sign | (exponent == 31 ? 0x7f800000 : (exponent + 112) << 23) | mantissa << 13;
	return out.f;
}

/* A damaged datum must not be read beyond its end. */
static void
check_vector(const BqVector *vec, BqType type)
{
	if (VARSIZE(vec) < offsetof(BqVector, x) || vec->unused != 0 || vec->dim <= 0 ||
		VARSIZE(vec) != vector_size(vec->dim, type))
		ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED),
						errmsg("invalid %s datum of %u bytes", type == BQ_VECTOR ? "vector" : "halfvec",
							   (unsigned) VARSIZE(vec))));
}

const float *
BqCoordinates(const BqVector *vec, uint32 dim, BqType type, float *buf)
{
	check_vector(vec, type);
	if ((uint32) vec->dim != dim)
		ereport(ERROR, (errcode(ERRCODE_DATA_EXCEPTION), errmsg("expected %u dimensions, not %d", dim, vec->dim)));
	if (type == BQ_VECTOR)
		return (const float *) vec->x;
	for (uint32 i = 0; i < dim; i++)
		buf[i] = half_to_float(((const uint16 *) vec->x)[i]);
	return buf;
}

bool
BqHasCode(int metric, const BqVector *vec, BqType type)
{
	check_vector(vec, type);
	if (metric != BQK_COSINE)
		return true;
	for (int i = 0; i < vec->dim; i++)
		if (type == BQ_VECTOR ? ((const float *) vec->x)[i] != 0.0f : (((const uint16 *) vec->x)[i] & 0x7fff) != 0)
			return true;
	return false;
}

void
BqCheckStatus(int status)
{
	if (status == BQK_OK)
		return;
	ereport(ERROR, (errcode(status == BQK_ERANGE  ? ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE
							: status == BQK_EZERO ? ERRCODE_DATA_EXCEPTION
												  : ERRCODE_INTERNAL_ERROR),
					errmsg("cannot quantize vector: %s", bqk_strerror(status))));
}

static void
set_header(BqHeader *h, Size size, uint8 tag, const bqk_model *model)
{
	SET_VARSIZE(h, size);
	h->dim = (uint16) model->dim;
	h->tag = tag;
	h->kind = BqKind(model->bits, model->metric);
}

/* Zeroed allocation: pgvector recognises equal values byte by byte. */
static BqCode *
encode_value(const bqk_model *model, const BqVector *vec, BqType type, int *status)
{
	Size size = BQ_CODE_SIZE(model->dim, model->bits);
	BqCode *code = palloc0(size);
	float *work = palloc(sizeof(float) * model->dim * 2);
	const float *x = BqCoordinates(vec, model->dim, type, work + model->dim);
	size_t bad;

	set_header(&code->h, size, BQ_TAG_CODE, model);
	*status = bqk_encode(model, x, 1, code->code, &code->factors, work, &bad);
	pfree(work);
	return code;
}

BqCode *
BqEncode(const bqk_model *model, const BqVector *vec, BqType type)
{
	int status;
	BqCode *code = encode_value(model, vec, type, &status);

	BqCheckStatus(status);
	return code;
}

/* NULL for a vector that the model cannot encode. */
BqCode *
BqTryEncode(const bqk_model *model, const BqVector *vec, BqType type)
{
	int status;
	BqCode *code = encode_value(model, vec, type, &status);

	return status == BQK_OK ? code : NULL;
}

BqQuery *
BqPrepare(const bqk_model *model, const BqVector *vec, BqType type)
{
	Size size = BQ_QUERY_SIZE(model->dim);
	BqQuery *query = palloc0(size);
	float *work = palloc(sizeof(float) * model->dim * 2);
	const float *x = BqCoordinates(vec, model->dim, type, work + model->dim);

	set_header(&query->h, size, BQ_TAG_QUERY, model);
	BqCheckStatus(bqk_query_prepare(model, x, BQ_QUERY_BITS, &query->query, query->z, work));
	pfree(work);
	return query;
}

static pg_noinline void
bad_value(const BqHeader *h, const char *what)
{
	ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("bqhnsw: %s", what),
					errdetail("Value of %u bytes with dimensions %u, tag %02x and kind %02x.",
							  (unsigned) VARSIZE_ANY(h), h->dim, h->tag, h->kind),
					errhint("REINDEX the index.")));
}

/* Every datum is checked before it is read: a wrong one must be an error, never a crash. */
static pg_noinline void
check_value(const BqHeader *h)
{
	Size expected;

	if (VARATT_IS_EXTENDED(h) || VARSIZE(h) < sizeof(BqHeader))
		elog(ERROR, "bqhnsw: expected a plain value");
	if (h->dim == 0 || h->dim > BQK_MAX_DIM || !bqk_bits_ok(BqBits(h)) || BqMetric(h) > BQK_COSINE)
		bad_value(h, "expected a code or a query");
	if (h->tag == BQ_TAG_CODE)
		expected = BQ_CODE_SIZE(h->dim, BqBits(h));
	else if (h->tag == BQ_TAG_QUERY)
		expected = BQ_QUERY_SIZE(h->dim);
	else
		expected = 0;
	if (VARSIZE(h) != expected)
		bad_value(h, "expected a code or a query of another size");
}

static pg_noinline void
check_pair(const BqHeader *a, const BqHeader *b)
{
	check_value(a);
	check_value(b);
	if (a->dim != b->dim || a->kind != b->kind || b->tag != BQ_TAG_CODE)
		bad_value(b, a->dim != b->dim ? "codes of different dimensions" : "codes of different models");
}

StaticAssertDecl(sizeof(BqHeader) == sizeof(uint64), "headers are compared as words");

/* The 8 bytes of a header hold all that is checked, so a pair of headers that passed once passes again. */
static inline void
check_headers(const BqHeader *a, const BqHeader *b)
{
	static uint64 passed_a = 0, passed_b = 0;
	uint64 word_a, word_b;

	memcpy(&word_a, a, sizeof(word_a));
	memcpy(&word_b, b, sizeof(word_b));
	/* nothing has passed yet where the words are zero, and a zero header never passes */
	if (unlikely(word_a != passed_a || word_b != passed_b || word_a == 0))
	{
		check_pair(a, b);
		passed_a = word_a;
		passed_b = word_b;
	}
}

/* pgvector passes the query first during scans, and two codes during build, insert and vacuum. */
PG_FUNCTION_INFO_V1(bqhnsw_distance);
Datum
bqhnsw_distance(PG_FUNCTION_ARGS)
{
	const BqHeader *a = (const BqHeader *) PG_GETARG_POINTER(0), *b = (const BqHeader *) PG_GETARG_POINTER(1);
	const BqCode *code = (const BqCode *) b;

	check_headers(a, b);
	if (a->tag == BQ_TAG_QUERY)
	{
		const BqQuery *query = (const BqQuery *) a;

		PG_RETURN_FLOAT8(bqk_distance(BqBits(b), b->dim, &query->query, query->z, code->code, &code->factors));
	}
	else
	{
		const BqCode *other = (const BqCode *) a;

		PG_RETURN_FLOAT8(
			bqk_distance_sym(BqBits(b), BqMetric(b), b->dim, other->code, &other->factors, code->code, &code->factors));
	}
}

/* Support function 2. pgvector leaves out values whose norm is not positive: zero vectors under cosine. */
PG_FUNCTION_INFO_V1(bqhnsw_norm);
Datum
bqhnsw_norm(PG_FUNCTION_ARGS)
{
	const BqHeader *h = (const BqHeader *) PG_GETARG_POINTER(0);
	const BqBuildContext *build;

	if (h->tag == BQ_TAG_CODE)
		PG_RETURN_FLOAT8(1.0);
	build = BqGetBuildContext();
	PG_RETURN_FLOAT8(BqHasCode(build->model->metric, (const BqVector *) h, build->type) ? 1.0 : 0.0);
}

/* pgvector's hook on values. Scans and inserts hand over what the wrapper has encoded already; only
 * a build hands over vectors. */
Datum
BqNormalize(PG_FUNCTION_ARGS)
{
	const BqHeader *h = (const BqHeader *) PG_GETARG_POINTER(0);
	const BqBuildContext *build;

	if (h->tag == BQ_TAG_CODE || h->tag == BQ_TAG_QUERY)
		PG_RETURN_POINTER(h);
	build = BqGetBuildContext();
	PG_RETURN_POINTER(BqEncode(build->model, (const BqVector *) h, build->type));
}
