/* Input and output of bqmodel, bqcode and bqquery: hex as text, the payload itself as binary. */
#include "types.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "libpq/pqformat.h"
#include "nodes/miscnodes.h"
#include "utils/array.h"
#include "utils/builtins.h"

static const char *const type_names[] = {
	[BQ_MODEL_TYPE] = "bqmodel", [BQ_CODE_TYPE] = "bqcode", [BQ_QUERY_TYPE] = "bqquery"};

/* Reports what is wrong with a payload to the escontext of an input function, or as an error. */
static bool
payload_ok(BqKindOfType type, const uint8 *payload, Size nbytes, int sqlstate, struct Node *escontext)
{
	const char *problem = BqProblem(type, payload, nbytes);

	if (problem == NULL)
		return true;
	ereturn(escontext, false,
			(errcode(sqlstate), errmsg("invalid %s of %zu bytes: %s", type_names[type], nbytes, problem)));
}

static bool
typmod_ok(const struct varlena *code, int32 typmod, struct Node *escontext)
{
	uint16 dim;

	memcpy(&dim, VARDATA_ANY(code), sizeof(dim));
	if (typmod < 0 || dim == typmod)
		return true;
	ereturn(escontext, false, (errcode(ERRCODE_DATA_EXCEPTION), errmsg("expected %d dimensions, not %u", typmod, dim)));
}

static struct varlena *
type_in(BqKindOfType type, const char *text, struct Node *escontext)
{
	Size length = strlen(text);
	struct varlena *out;
	uint64 nbytes;

	if (length < 2 || text[0] != '\\' || text[1] != 'x')
		ereturn(escontext, NULL,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("invalid %s: expected \"\\x\" and hexadecimal digits", type_names[type])));
	out = palloc(VARHDRSZ + length / 2);
	nbytes = hex_decode_safe(text + 2, length - 2, VARDATA(out), escontext);
	if (SOFT_ERROR_OCCURRED(escontext))
		return NULL;
	SET_VARSIZE(out, VARHDRSZ + nbytes);
	if (!payload_ok(type, (const uint8 *) VARDATA(out), nbytes, ERRCODE_INVALID_TEXT_REPRESENTATION, escontext))
		return NULL;
	return out;
}

static struct varlena *
type_from_bytes(BqKindOfType type, const char *bytes, Size nbytes)
{
	struct varlena *out = palloc(VARHDRSZ + nbytes);

	payload_ok(type, (const uint8 *) bytes, nbytes, ERRCODE_INVALID_BINARY_REPRESENTATION, NULL);
	SET_VARSIZE(out, VARHDRSZ + nbytes);
	memcpy(VARDATA(out), bytes, nbytes);
	return out;
}

static struct varlena *
type_recv(BqKindOfType type, StringInfo message)
{
	int nbytes = message->len - message->cursor;

	return type_from_bytes(type, pq_getmsgbytes(message, nbytes), nbytes);
}

#define TYPE_IO(name, type)                                                                                            \
	PG_FUNCTION_INFO_V1(name##_out);                                                                                   \
	Datum name##_out(PG_FUNCTION_ARGS)                                                                                 \
	{                                                                                                                  \
		const struct varlena *v = GETARG_PACKED(0);                                                                    \
		Size nbytes = VARSIZE_ANY_EXHDR(v);                                                                            \
		char *out = palloc(nbytes * 2 + 3);                                                                            \
                                                                                                                       \
		memcpy(out, "\\x", 2);                                                                                         \
		out[2 + hex_encode(VARDATA_ANY(v), nbytes, out + 2)] = '\0';                                                   \
		PG_RETURN_CSTRING(out);                                                                                        \
	}                                                                                                                  \
                                                                                                                       \
	PG_FUNCTION_INFO_V1(name##_send);                                                                                  \
	Datum name##_send(PG_FUNCTION_ARGS)                                                                                \
	{                                                                                                                  \
		const struct varlena *v = GETARG_PACKED(0);                                                                    \
		StringInfoData buf;                                                                                            \
                                                                                                                       \
		pq_begintypsend(&buf);                                                                                         \
		pq_sendbytes(&buf, VARDATA_ANY(v), (int) VARSIZE_ANY_EXHDR(v));                                                \
		PG_RETURN_BYTEA_P(pq_endtypsend(&buf));                                                                        \
	}                                                                                                                  \
                                                                                                                       \
	PG_FUNCTION_INFO_V1(name##_from_bytea);                                                                            \
	Datum name##_from_bytea(PG_FUNCTION_ARGS)                                                                          \
	{                                                                                                                  \
		const struct varlena *v = GETARG_PACKED(0);                                                                    \
                                                                                                                       \
		PG_RETURN_POINTER(type_from_bytes(type, VARDATA_ANY(v), VARSIZE_ANY_EXHDR(v)));                                \
	}

TYPE_IO(bqmodel, BQ_MODEL_TYPE)
TYPE_IO(bqcode, BQ_CODE_TYPE)
TYPE_IO(bqquery, BQ_QUERY_TYPE)

/* bqcode alone has a modifier: the dimensions. */
#define TYPE_INPUT(name, type)                                                                                         \
	PG_FUNCTION_INFO_V1(name##_in);                                                                                    \
	Datum name##_in(PG_FUNCTION_ARGS)                                                                                  \
	{                                                                                                                  \
		struct varlena *out = type_in(type, PG_GETARG_CSTRING(0), fcinfo->context);                                    \
                                                                                                                       \
		if (out == NULL || (type == BQ_CODE_TYPE && !typmod_ok(out, PG_GETARG_INT32(2), fcinfo->context)))             \
			PG_RETURN_NULL();                                                                                          \
		PG_RETURN_POINTER(out);                                                                                        \
	}                                                                                                                  \
                                                                                                                       \
	PG_FUNCTION_INFO_V1(name##_recv);                                                                                  \
	Datum name##_recv(PG_FUNCTION_ARGS)                                                                                \
	{                                                                                                                  \
		struct varlena *out = type_recv(type, (StringInfo) PG_GETARG_POINTER(0));                                      \
                                                                                                                       \
		if (type == BQ_CODE_TYPE)                                                                                      \
			typmod_ok(out, PG_GETARG_INT32(2), NULL);                                                                  \
		PG_RETURN_POINTER(out);                                                                                        \
	}

TYPE_INPUT(bqmodel, BQ_MODEL_TYPE)
TYPE_INPUT(bqcode, BQ_CODE_TYPE)
TYPE_INPUT(bqquery, BQ_QUERY_TYPE)

PG_FUNCTION_INFO_V1(bqcode_typmod_in);
Datum
bqcode_typmod_in(PG_FUNCTION_ARGS)
{
	int n;
	int32 *values = ArrayGetIntegerTypmods(PG_GETARG_ARRAYTYPE_P(0), &n);

	if (n != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("expected bqcode(dimensions), not %d modifiers", n)));
	if (values[0] < 1 || values[0] > BQK_MAX_DIM)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("dimensions of bqcode must be between 1 and %d, not %d", BQK_MAX_DIM, values[0])));
	PG_RETURN_INT32(values[0]);
}

/* The cast that assigns to a bqcode(n). */
PG_FUNCTION_INFO_V1(bqcode_typmod_cast);
Datum
bqcode_typmod_cast(PG_FUNCTION_ARGS)
{
	const struct varlena *code = GETARG_PACKED(0);

	BqViewCode(code);
	typmod_ok(code, PG_GETARG_INT32(1), NULL);
	PG_RETURN_DATUM(PG_GETARG_DATUM(0));
}

static bool
same_bytes(FunctionCallInfo fcinfo)
{
	const struct varlena *a = GETARG_PACKED(0), *b = GETARG_PACKED(1);

	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		   memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

/* Of all three types. */
PG_FUNCTION_INFO_V1(bq_eq);
Datum
bq_eq(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(same_bytes(fcinfo));
}

PG_FUNCTION_INFO_V1(bq_ne);
Datum
bq_ne(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(!same_bytes(fcinfo));
}
