/* The SQL types bqmodel, bqcode and bqquery. Layout: docs/code-format.md.
 *
 * A datum's payload, what follows its varlena header, is also its binary form and, in hex, its text form. Payloads may
 * lie at any address, because short datums have a header of one byte: fields are copied out before they are read. */
#ifndef BQCORE_TYPES_H
#define BQCORE_TYPES_H

#include "bqcore.h"

/* A model holds a centroid of 16,000 floats at most, and sections to come. */
#define BQ_MODEL_MAX (1024 * 1024)

/* High half: what it is; low half: version of the layout. */
#define BQ_TAG_COLUMN_CODE 0xC1
#define BQ_TAG_COLUMN_QUERY 0xD1
#define BQ_TAG_COLUMN_IP_QUERY 0xD2 /* of a query under ip, from 0.3.0 on; 0xD1 then has no g_weight, which is 1 */
#define BQ_TAG_CENTRE 0xE1

typedef enum BqKindOfType
{
	BQ_MODEL_TYPE,
	BQ_CODE_TYPE,
	BQ_QUERY_TYPE
} BqKindOfType;

/* First bytes of codes and queries. */
typedef struct BqHead
{
	uint16 dim;
	uint8 tag;
	uint8 kind;     /* bits | metric << 4 */
	uint8 model[8]; /* identity of the model: first bytes of the SHA-256 of its serialised form, as Python's model_id */
} BqHead;

/* Payload of a bqcode: BqHead, bqk_factors, packed code.
 * Of a bqquery: BqHead, terms, its coordinates; under ip then the same two of the query without the centroid taken
 * off, which ranks the centres of ivfflat lists. Terms are a bqk_query up to g_weight, in layout 2 all of it.
 * Of a centre (in ivfflat indexes only): BqHead with neither kind nor model, terms of layout 1, and the coordinates in
 * the orders of BQ_ORDERS. A view's head has the tag of layout 1 whatever the datum's. */
typedef struct BqView
{
	BqHead head;
	bqk_factors factors;    /* of a code */
	bqk_query query, plain; /* of a query or a centre; plain under ip only */
	const uint8 *code;
	const int8 *z, *z_plain;
} BqView;

#define BqQueryNbytes(dim) (((Size) (dim) + 63) / 64 * 64)
#define BqCodePayload(dim, bits) (sizeof(BqHead) + sizeof(bqk_factors) + bqk_nbytes(dim, bits))
/* Terms of layout 1, and of the layout that queries of a metric are written in. */
#define BQ_TERMS_1 offsetof(bqk_query, g_weight)
#define BqTerms(metric) ((metric) == BQK_IP ? sizeof(bqk_query) : BQ_TERMS_1)
#define BqQueryTag(metric) ((metric) == BQK_IP ? BQ_TAG_COLUMN_IP_QUERY : BQ_TAG_COLUMN_QUERY)
#define BqQueryPart(dim, terms) ((terms) + BqQueryNbytes(dim))
#define BqQueryPayload(dim, metric, terms) (sizeof(BqHead) + BqQueryPart(dim, terms) * ((metric) == BQK_IP ? 2 : 1))

/* Kernels take the coordinates of queries in an order that depends on the bits of the codes. */
#define BQ_ORDERS 3
#define BqOrder(bits) ((bits) == 2 ? 1 : ((bits) == 4 ? 2 : 0))
#define BqCentrePayload(dim) (sizeof(BqHead) + BQ_TERMS_1 + BQ_ORDERS * BqQueryNbytes(dim))

/* A model with what it takes to use it. */
typedef struct BqModel
{
	bqk_model model;
	uint8 id[8];
} BqModel;

StaticAssertDecl(offsetof(bqk_query, g_weight) == 20 && sizeof(bqk_query) == 24, "terms of stored queries");

static inline bool
BqHeadOk(const BqHead *h)
{
	return h->dim > 0 && h->dim <= BQK_MAX_DIM && bqk_bits_ok(BqBits(h)) && BqMetric(h) <= BQK_COSINE;
}

/* The rest of a code whose head has been read; false if its length is wrong. */
static inline bool
BqReadCode(const uint8 *p, Size nbytes, BqView *v)
{
	if (nbytes != BqCodePayload(v->head.dim, BqBits(&v->head)))
		return false;
	memcpy(&v->factors, p + sizeof(BqHead), sizeof(bqk_factors));
	v->code = p + sizeof(BqHead) + sizeof(bqk_factors);
	return true;
}

/* Whether a datum is a valid code: the short way for index builds and scans. */
static inline bool
BqIsCode(const struct varlena *datum, BqView *v)
{
	const uint8 *p = (const uint8 *) VARDATA_ANY(datum);
	Size nbytes = VARSIZE_ANY_EXHDR(datum);

	if (nbytes < sizeof(BqHead))
		return false;
	memcpy(&v->head, p, sizeof(BqHead));
	return v->head.tag == BQ_TAG_COLUMN_CODE && BqHeadOk(&v->head) && BqReadCode(p, nbytes, v);
}

/* values.c */
extern BqView BqViewOf(const struct varlena *datum);
extern BqView BqViewCode(const struct varlena *datum);
extern BqView BqViewQuery(const struct varlena *datum);
extern void BqCheckPair(const BqHead *a, const BqHead *b);
extern pg_noinline void BqWrongMetric(const BqHead *h, int metric);
/* What is wrong with a payload from outside, as a message; NULL if nothing is. */
extern const char *BqProblem(BqKindOfType type, const uint8 *payload, Size nbytes);

/* model_type.c */
/* Valid until the next call. */
extern const BqModel *BqModelOf(const struct varlena *datum);
extern bytea *BqModelDatum(const bqk_model *model);

/* code_functions.c */
extern struct varlena *BqEncodeColumn(const BqModel *m, const BqVector *vec, BqType type);
extern struct varlena *BqPrepareColumn(const BqModel *m, const BqVector *vec, BqType type);
extern BqView BqPrepareFloat(const BqModel *m, const BqVector *vec, BqType type);
/* Distance in the unit of the metric (l2: squared) of a code, or a query, to a code. */
extern double BqViewDistance(const BqView *a, const BqView *code);
/* What the distance in pgvector's units of a float query to a code's vector lies between, but for one in 15,000. */
extern void BqViewBounds(const BqView *query, const BqView *code, double *lower, double *upper);

#define GETARG_PACKED(n) ((const struct varlena *) PG_DETOAST_DATUM_PACKED(PG_GETARG_DATUM(n)))

#endif
