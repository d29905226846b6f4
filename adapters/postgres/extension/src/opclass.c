/* Support functions of pgvector's hnsw and ivfflat for bqcode.
 *
 * hnsw asks for distances between codes (build, insert) and from a query to codes (scan). ivfflat besides makes centres
 * by k-means: sums of decoded codes in rotated space. Its hooks on centres know the dimensions and nothing of the
 * model, so a centre has no model, and its coordinates lie in every order that a width of codes may ask for. */
#include "types.h"

#include <math.h>

/* What has to be on the page of an ivfflat list beside the centre's payload: varlena header, two block numbers, page
 * header, special space, line pointer. */
#define LIST_PAGE_REST (VARHDRSZ + 8 + 24 + 8 + 4)
/* 8,104 bytes of centre at most. */
#define IVFFLAT_MAX_DIM 2688
StaticAssertDecl(BqCentrePayload(IVFFLAT_MAX_DIM) + LIST_PAGE_REST + MAXIMUM_ALIGNOF <= 8192,
				 "a centre has to fit a page");

/* pgvector's HnswTypeInfo and IvfflatTypeInfo, the same from 0.7.0 on. */
typedef struct HnswTypeInfo
{
	int maxDimensions;
	Datum (*normalize)(PG_FUNCTION_ARGS);
	void (*checkValue)(Pointer v);
} HnswTypeInfo;

typedef struct IvfflatTypeInfo
{
	int maxDimensions;
	Datum (*normalize)(PG_FUNCTION_ARGS);
	Size (*itemSize)(int dimensions);
	void (*updateCenter)(Pointer v, int dimensions, float *x);
	void (*sumCenter)(Pointer v, float *x);
} IvfflatTypeInfo;

/* ---- Euclidean geometry of rotated residuals, whatever the metric ---- */

/* A code's corrective factors under l2. Under ip the squared length of the residual is not stored, but bqk_error
 * expects it to be what it takes for the length of the code, less the tail that levels miss: near enough for clusters.
 */
static bqk_factors
l2_factors(const BqView *v)
{
	static const bqk_query unit = {.g_error = 1.0f};
	int bits = BqBits(&v->head), metric = BqMetric(&v->head);
	bqk_factors f = v->factors;
	float tail;
	int32 self;

	if (metric == BQK_L2)
		return f;
	f.f_rescale *= 2.0f;
	if (metric == BQK_COSINE)
		f.f_add *= 2.0f;
	else
	{
		bqk_sym(bits, v->head.dim, v->code, bqk_nbytes(v->head.dim, bits), 1, v->code, &self);
		tail = bqk_error(bits, BQK_IP, v->head.dim, self, &v->factors, &unit);
		f.f_add = v->factors.f_rescale * v->factors.f_rescale * 0.25f * (float) self -
				  tail * tail * (float) (v->head.dim - 1);
	}
	return f;
}

static const int8 *
in_order(const BqView *centre, int bits)
{
	return centre->z + (Size) BqOrder(bits) * BqQueryNbytes(centre->head.dim);
}

/* Inner product of a centre and a query, or of two centres: both of 8 bits in the same order. */
static double
dot8(const BqView *a, const int8 *za, const bqk_query *b, const int8 *zb)
{
	int64 sum = 0;

	for (Size i = 0; i < BqQueryNbytes(a->head.dim); i += 64)
	{
		int32 block = 0;

		for (Size j = 0; j < 64; j++)
			block += (int32) za[i + j] * zb[i + j];
		sum += block;
	}
	return (double) a->query.delta * b->delta * (double) sum;
}

static pg_noinline void
different_dimensions(const BqView *a, const BqView *b)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_EXCEPTION), errmsg("expected %u dimensions, not %u", a->head.dim, b->head.dim)));
}

static double
squared_l2(const BqView *a, const BqView *b)
{
	bool a_code = a->head.tag == BQ_TAG_COLUMN_CODE, b_code = b->head.tag == BQ_TAG_COLUMN_CODE;
	int bits;

	if (unlikely(a->head.dim != b->head.dim))
		different_dimensions(a, b);
	if (a_code && b_code)
	{
		bqk_factors fa = l2_factors(a), fb = l2_factors(b);

		BqCheckPair(&a->head, &b->head);
		bits = BqBits(&a->head);
		return bqk_distance_sym(bits, BQK_L2, a->head.dim, a->code, &fa, b->code, &fb);
	}
	if (a_code || b_code)
	{
		const BqView *code = a_code ? a : b, *centre = a_code ? b : a;
		bqk_factors f = l2_factors(code);

		bits = BqBits(&code->head);
		return bqk_distance(bits, code->head.dim, &centre->query, in_order(centre, bits), code->code, &f);
	}
	return a->query.g_add + b->query.g_add - 2.0 * dot8(a, a->z, &b->query, b->z);
}

/* From a query to a centre, in the unit of the metric. */
static double
to_centre(const BqView *query, const BqView *centre)
{
	int bits = BqBits(&query->head);
	const int8 *z = in_order(centre, bits);

	if (unlikely(query->head.dim != centre->head.dim))
		different_dimensions(query, centre);
	/* <q, c + y> with the query as it is; g_add is -<q, c> */
	if (BqMetric(&query->head) == BQK_IP)
		return query->query.g_add - dot8(centre, z, &query->plain, query->z_plain);
	return (query->query.g_add + centre->query.g_add * (BqMetric(&query->head) == BQK_L2 ? 1.0 : 0.5)) -
		   (BqMetric(&query->head) == BQK_L2 ? 2.0 : 1.0) * dot8(centre, z, &query->query, query->z);
}

static pg_noinline void
unexpected(const BqView *a, const BqView *b)
{
	ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED),
					errmsg("expected codes or a code and a query, not tags %02x and %02x", a->head.tag, b->head.tag)));
}

/* Support function 1. hnsw passes the query first, ivfflat second; ivfflat finds a code's list by its distances to
 * centres, which are Euclidean under every metric, as its clusters are. */
static double
index_distance(FunctionCallInfo fcinfo, int metric)
{
	const struct varlena *x = GETARG_PACKED(0), *y = GETARG_PACKED(1);
	const BqView *known;
	BqView a, b;
	double d;

	if (!BqIsCode(x, &a))
		a = BqViewOf(x);
	if (!BqIsCode(y, &b))
		b = BqViewOf(y);
	known = a.head.tag == BQ_TAG_CENTRE ? &b : &a;
	if (unlikely(known->head.tag != BQ_TAG_CENTRE && BqMetric(&known->head) != metric))
		BqWrongMetric(&known->head, metric);
	if (b.head.tag == BQ_TAG_COLUMN_CODE && a.head.tag != BQ_TAG_CENTRE)
		d = BqViewDistance(&a, &b);
	else if (b.head.tag == BQ_TAG_COLUMN_QUERY && a.head.tag == BQ_TAG_COLUMN_CODE)
		d = BqViewDistance(&b, &a);
	else if (b.head.tag == BQ_TAG_COLUMN_QUERY && a.head.tag == BQ_TAG_CENTRE)
		d = to_centre(&b, &a);
	else if (a.head.tag != BQ_TAG_COLUMN_QUERY && b.head.tag != BQ_TAG_COLUMN_QUERY)
		d = squared_l2(&a, &b);
	else
	{
		unexpected(&a, &b);
		d = 0.0;
	}
	/* a datum that was unpacked for this call only */
	if (unlikely((Pointer) x != PG_GETARG_POINTER(0)))
		pfree((void *) x);
	if (unlikely((Pointer) y != PG_GETARG_POINTER(1)))
		pfree((void *) y);
	return d;
}

#define INDEX_DISTANCE(name, metric)                                                                                   \
	PG_FUNCTION_INFO_V1(name);                                                                                         \
	Datum name(PG_FUNCTION_ARGS)                                                                                       \
	{                                                                                                                  \
		PG_RETURN_FLOAT8(index_distance(fcinfo, metric));                                                              \
	}

INDEX_DISTANCE(bqcode_l2_index_distance, BQK_L2)
INDEX_DISTANCE(bqcode_ip_index_distance, BQK_IP)
INDEX_DISTANCE(bqcode_cosine_index_distance, BQK_COSINE)

/* Support function 3 of ivfflat: k-means wants distances that keep to the triangle inequality. */
PG_FUNCTION_INFO_V1(bqcode_kmeans_distance);
Datum
bqcode_kmeans_distance(PG_FUNCTION_ARGS)
{
	BqView a = BqViewOf((const struct varlena *) PG_GETARG_POINTER(0));
	BqView b = BqViewOf((const struct varlena *) PG_GETARG_POINTER(1));
	double squared;

	if (a.head.tag == BQ_TAG_COLUMN_QUERY || b.head.tag == BQ_TAG_COLUMN_QUERY)
		unexpected(&a, &b);
	squared = squared_l2(&a, &b);
	PG_RETURN_FLOAT8(squared > 0.0 ? sqrt(squared) : 0.0);
}

PG_FUNCTION_INFO_V1(bqcode_hnsw_support);
Datum
bqcode_hnsw_support(PG_FUNCTION_ARGS)
{
	static const HnswTypeInfo info = {.maxDimensions = BQK_MAX_DIM};

	BqCheckHnsw();
	PG_RETURN_POINTER(&info);
}

/* ---- centres ---- */

/* Of all that takes a centre's place in memory: samples are codes. */
static Size
item_size(int dimensions)
{
	return VARHDRSZ + Max(BqCentrePayload(dimensions), BqCodePayload(dimensions, 8));
}

static void
update_centre(Pointer v, int dimensions, float *x)
{
	BqHead head = {.dim = (uint16) dimensions, .tag = BQ_TAG_CENTRE};
	float *work = palloc0(sizeof(float) * dimensions * 2);
	bqk_model plain = {.dim = (uint32) dimensions, .bits = 8, .metric = BQK_L2, .centroid = work + dimensions};
	Size nbytes = BqQueryNbytes(dimensions);
	int8 *z = (int8 *) VARDATA(v) + sizeof(head) + BQ_TERMS_1;
	bqk_query query;

	SET_VARSIZE(v, VARHDRSZ + BqCentrePayload(dimensions));
	BqCheckStatus(bqk_query_prepare(&plain, x, BQ_QUERY_BITS, &query, z, work));
	memset(z + nbytes, 0, 2 * nbytes);
	for (int i = 0; i < dimensions; i++)
	{
		z[nbytes + bqk_query_position(2, i)] = z[i];
		z[2 * nbytes + bqk_query_position(4, i)] = z[i];
	}
	memcpy(VARDATA(v), &head, sizeof(head));
	memcpy(VARDATA(v) + sizeof(head), &query, BQ_TERMS_1);
	pfree(work);
}

static void
sum_centre(Pointer v, float *x)
{
	BqView view = BqViewOf((const struct varlena *) v);
	int bits = BqBits(&view.head);
	float scale, middle;

	if (view.head.tag == BQ_TAG_CENTRE)
	{
		for (uint32 i = 0; i < view.head.dim; i++)
			x[i] += view.query.delta * view.z[i];
		return;
	}
	middle = 0.5f * (float) ((1 << bits) - 1);
	scale = view.factors.f_rescale * (BqMetric(&view.head) == BQK_L2 ? -0.5f : -1.0f);
	for (uint32 i = 0; i < view.head.dim; i++)
		x[i] += ((float) bqk_code_level(view.code, bits, i) - middle) * scale;
}

PG_FUNCTION_INFO_V1(bqcode_ivfflat_support);
Datum
bqcode_ivfflat_support(PG_FUNCTION_ARGS)
{
	static const IvfflatTypeInfo info = {.maxDimensions = IVFFLAT_MAX_DIM,
										 .itemSize = item_size,
										 .updateCenter = update_centre,
										 .sumCenter = sum_centre};

	BqCheckIvfflat();
	PG_RETURN_POINTER(&info);
}
