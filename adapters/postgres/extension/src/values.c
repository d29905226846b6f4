/* Reading of bqcode and bqquery datums. What is checked on every use costs a few comparisons and makes every access
 * stay inside the datum; what else a datum from outside could have wrong is checked when it comes in. */
#include "types.h"

#include <math.h>

static pg_noinline void
bad_size(const struct varlena *datum, const char *expected)
{
	ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED),
					errmsg("invalid %s datum of %zu bytes", expected, (Size) VARSIZE_ANY_EXHDR(datum))));
}

static pg_noinline void
bad_tag(const BqHead *h, const char *expected)
{
	ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED),
					errmsg("invalid %s datum: tag %02x, %u dimensions, kind %02x", expected, h->tag, h->dim, h->kind)));
}

static inline bool
read_query(const uint8 *p, Size nbytes, BqView *v)
{
	bool ip = BqMetric(&v->head) == BQK_IP;
	Size terms = BQ_TERMS_1, part;

	if (v->head.tag == BQ_TAG_COLUMN_IP_QUERY)
	{
		if (!ip)
			return false;
		terms = sizeof(bqk_query);
		v->head.tag = BQ_TAG_COLUMN_QUERY;
	}
	part = BqQueryPart(v->head.dim, terms);
	if (nbytes != BqQueryPayload(v->head.dim, BqMetric(&v->head), terms))
		return false;
	p += sizeof(BqHead);
	v->query.g_weight = v->plain.g_weight = 1.0f;
	memcpy(&v->query, p, terms);
	v->z = (const int8 *) p + terms;
	if (ip)
	{
		memcpy(&v->plain, p + part, terms);
		v->z_plain = v->z + part;
	}
	/* the kernels would read a query of another width in another way */
	return v->query.bits == BQ_QUERY_BITS;
}

static inline bool
is_query(uint8 tag)
{
	return tag == BQ_TAG_COLUMN_QUERY || tag == BQ_TAG_COLUMN_IP_QUERY;
}

static inline bool
read_centre(const uint8 *p, Size nbytes, BqView *v)
{
	if (nbytes != BqCentrePayload(v->head.dim))
		return false;
	v->query.g_weight = 1.0f;
	memcpy(&v->query, p + sizeof(BqHead), BQ_TERMS_1);
	v->z = (const int8 *) p + sizeof(BqHead) + BQ_TERMS_1;
	return v->query.bits == BQ_QUERY_BITS;
}

/* A code, a query or a centre, which head.tag tells. */
BqView
BqViewOf(const struct varlena *datum)
{
	const uint8 *p = (const uint8 *) VARDATA_ANY(datum);
	Size nbytes = VARSIZE_ANY_EXHDR(datum);
	BqView v;
	bool ok;

	if (nbytes < sizeof(BqHead))
		bad_size(datum, "bqcode");
	memcpy(&v.head, p, sizeof(BqHead));
	if (v.head.tag == BQ_TAG_CENTRE)
		ok = v.head.dim > 0 && v.head.dim <= BQK_MAX_DIM && read_centre(p, nbytes, &v);
	else if (!BqHeadOk(&v.head))
		ok = false;
	else if (v.head.tag == BQ_TAG_COLUMN_CODE)
		ok = BqReadCode(p, nbytes, &v);
	else
		ok = is_query(v.head.tag) && read_query(p, nbytes, &v);
	if (!ok)
		bad_tag(&v.head, "bqcode");
	return v;
}

BqView
BqViewCode(const struct varlena *datum)
{
	BqView v = BqViewOf(datum);

	if (v.head.tag != BQ_TAG_COLUMN_CODE)
		bad_tag(&v.head, "bqcode");
	return v;
}

BqView
BqViewQuery(const struct varlena *datum)
{
	BqView v = BqViewOf(datum);

	if (v.head.tag != BQ_TAG_COLUMN_QUERY)
		bad_tag(&v.head, "bqquery");
	return v;
}

/* Distances between values of different models mean nothing. */
static pg_noinline void
different_models(const BqHead *a, const BqHead *b)
{
	if (a->dim != b->dim)
		ereport(ERROR, (errcode(ERRCODE_DATA_EXCEPTION), errmsg("different dimensions %u and %u", a->dim, b->dim)));
	ereport(ERROR,
			(errcode(ERRCODE_DATA_EXCEPTION), errmsg("codes of different models"),
			 errdetail("Model %02x%02x%02x%02x%02x%02x%02x%02x (%d bits, %s) and %02x%02x%02x%02x%02x%02x%02x%02x "
					   "(%d bits, %s).",
					   a->model[0], a->model[1], a->model[2], a->model[3], a->model[4], a->model[5], a->model[6],
					   a->model[7], BqBits(a), BqMetricName(BqMetric(a)), b->model[0], b->model[1], b->model[2],
					   b->model[3], b->model[4], b->model[5], b->model[6], b->model[7], BqBits(b),
					   BqMetricName(BqMetric(b))),
			 errhint("Queries have to be prepared with the model that the codes were made with.")));
}

void
BqCheckPair(const BqHead *a, const BqHead *b)
{
	if (unlikely(a->dim != b->dim || a->kind != b->kind || memcmp(a->model, b->model, sizeof(a->model)) != 0))
		different_models(a, b);
}

pg_noinline void
BqWrongMetric(const BqHead *h, int metric)
{
	ereport(ERROR, (errcode(ERRCODE_DATA_EXCEPTION),
					errmsg("expected codes of metric %s, not %s", BqMetricName(metric), BqMetricName(BqMetric(h))),
					errdetail("A code estimates distances of the metric of its model only.")));
}

/* ---- what comes in ---- */

static const char *
code_problem(const BqView *v)
{
	Size used = (Size) v->head.dim * BqBits(&v->head);

	if (!isfinite(v->factors.f_add) || !isfinite(v->factors.f_rescale))
		return "corrective factor that is not finite";
	if (used % 8 && v->code[used / 8] >> (used % 8))
		return "set bits beyond the last dimension";
	return NULL;
}

/* dim, bits: of the codes. */
static const char *
query_problem(const bqk_query *q, const int8 *z, uint32 dim, int bits)
{
	int32 sum = 0;

	if (q->bits != BQ_QUERY_BITS)
		return "query of another width than 8 bits";
	if (!isfinite(q->g_add) || !isfinite(q->g_weight) || !isfinite(q->g_error) || q->g_error < 0.0f ||
		!isfinite(q->delta) || q->delta < 0.0f)
		return "term that is not finite, or negative";
	for (Size i = 0; i < BqQueryNbytes(dim); i++)
	{
		int8 level = z[bqk_query_position(bits, i)];

		if (level == PG_INT8_MIN)
			return "coordinate below -127";
		if (i >= dim && level != 0)
			return "coordinate beyond the last dimension";
		sum += level;
	}
	return sum == q->sum_z ? NULL : "wrong sum of coordinates";
}

const char *
BqProblem(BqKindOfType type, const uint8 *payload, Size nbytes)
{
	uint8 tag = type == BQ_CODE_TYPE ? BQ_TAG_COLUMN_CODE : BQ_TAG_COLUMN_QUERY;
	const char *problem;
	BqView v;

	if (type == BQ_MODEL_TYPE)
	{
		bqk_model model;
		int status = BQK_EFORMAT;

		if (nbytes >= BQK_MODEL_HEADER_NBYTES && nbytes <= BQ_MODEL_MAX)
		{
			uint8 *aligned = palloc(nbytes);

			memcpy(aligned, payload, nbytes);
			status = bqk_model_read(aligned, nbytes, &model);
			pfree(aligned);
		}
		return status == BQK_OK ? NULL : bqk_strerror(status);
	}
	if (nbytes < sizeof(BqHead))
		return "truncated";
	memcpy(&v.head, payload, sizeof(BqHead));
	if ((v.head.tag & 0xF0) != (tag & 0xF0))
		return "foreign magic";
	if (v.head.tag != tag && !(type == BQ_QUERY_TYPE && is_query(v.head.tag)))
		return "unknown version";
	if (!BqHeadOk(&v.head))
		return "unknown dimensions, bits or metric";
	if (type == BQ_CODE_TYPE)
		return BqReadCode(payload, nbytes, &v) ? code_problem(&v) : "wrong length for its dimensions and bits";
	if (!read_query(payload, nbytes, &v))
		return "wrong length for its dimensions, or another width than 8 bits";
	problem = query_problem(&v.query, v.z, v.head.dim, BqBits(&v.head));
	if (problem == NULL && BqMetric(&v.head) == BQK_IP)
		problem = query_problem(&v.plain, v.z_plain, v.head.dim, BqBits(&v.head));
	return problem;
}
