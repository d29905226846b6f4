/* Index option rescore_column: candidates are judged by the estimate of a code column instead of by their vectors.
 *
 * The column has to be a stored generated column, bq_encode of what is indexed with a literal model. So the codes are
 * those of the indexed vectors, all of one model, and the model is found in the table's definition, dumped and
 * restored with it. Column numbers change in a restored table, so the option holds the name; whether the name still
 * means such a column is checked when a scan starts. */
#include "privileges.h"
#include "types.h"

#include "catalog/dependency.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "nodes/primnodes.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "utils/lsyscache.h"

/* NULL without the option. */
static const char *
column_name(Relation index)
{
	const BqOptions *options = (const BqOptions *) index->rd_options;

	return options && options->rescoreColumn ? (const char *) options + options->rescoreColumn : NULL;
}

static pg_noinline void
bad_column(Relation index, int sqlstate, const char *problem)
{
	ereport(
		ERROR,
		(errcode(sqlstate),
		 errmsg("cannot rescore from column \"%s\", option rescore_column of index \"%s\": %s", column_name(index),
				RelationGetRelationName(index), problem),
		 errhint("ALTER INDEX %s SET (rescore_column = ...), or RESET (rescore_column) to rescore from the vectors.",
				 RelationGetRelationName(index))));
}

/* Number of the column, 0 without the option. Looks up no catalog. */
AttrNumber
BqRescoreAttribute(Relation heap, Relation index)
{
	TupleDesc desc = RelationGetDescr(heap);
	const char *name = column_name(index);

	if (name == NULL)
		return 0;
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped || strcmp(NameStr(att->attname), name) != 0)
			continue;
		if (att->attgenerated != ATTRIBUTE_GENERATED_STORED)
			bad_column(index, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
					   "expected a column GENERATED ALWAYS AS (bq_encode(...)) STORED");
		return att->attnum;
	}
	bad_column(index, ERRCODE_UNDEFINED_COLUMN, "the table has no such column");
	return 0;
}

/* Whether a function call is one of an extension's functions. */
static bool
is_call_of(const Node *node, const char *extension, const char *name)
{
	const FuncExpr *call = (const FuncExpr *) node;
	Oid owner;

	if (node == NULL || !IsA(node, FuncExpr) || call->args == NIL || strcmp(get_func_name(call->funcid), name) != 0)
		return false;
	owner = getExtensionOfObject(ProcedureRelationId, call->funcid);
	return OidIsValid(owner) && strcmp(get_extension_name(owner), extension) == 0;
}

static bool
is_call(const Node *node, const char *name)
{
	return is_call_of(node, "bqcore", name);
}

/* Without casts that leave every coordinate as it is: pgvector's to the same type and from halfvec to vector. A cast to
 * halfvec rounds, and one of somebody else may do anything. */
static Node *
without_casts(Node *node)
{
	static const char *const exact[] = {"vector", "halfvec", "halfvec_to_vector"};

	for (;;)
	{
		Node *inner = NULL;

		if (node && IsA(node, RelabelType))
			inner = (Node *) ((RelabelType *) node)->arg;
		for (int i = 0; inner == NULL && i < (int) lengthof(exact); i++)
			if (is_call_of(node, "vector", exact[i]))
				inner = linitial(((FuncExpr *) node)->args);
		if (inner == NULL)
			return node;
		node = inner;
	}
}

/* Whether an expression is what is indexed, up to such casts. Both are compared as they are stored. */
static bool
is_indexed(Relation index, Node *node)
{
	AttrNumber key = index->rd_index->indkey.values[0];

	node = without_casts(node);
	if (key != 0)
		return node && IsA(node, Var) && ((Var *) node)->varattno == key;
	return equal(node, without_casts(linitial(BqStoredExpressions(index))));
}

/* A literal, or casts of one that are our own functions. Functions of others are not run to find it: this happens in
 * every scan, as whoever scans. */
static const Const *
literal_model(Node *node)
{
	Node *inner = node;

	while (is_call(inner, "bqmodel"))
		inner = linitial(((FuncExpr *) inner)->args);
	if (inner == NULL || !IsA(inner, Const) || ((Const *) inner)->constisnull)
		return NULL;
	return inner == node ? (const Const *) inner : (const Const *) eval_const_expressions(NULL, node);
}

/* The model that a column is encoded with, in the current memory context. */
const struct varlena *
BqRescoreModel(Relation heap, Relation index, AttrNumber attnum)
{
	Node *node = build_column_default(heap, attnum);
	const bqk_model *model;
	const Const *literal;
	int metric = BqGetTypeInfo(index)->metric;
	uint32 dim = (uint32) TupleDescAttr(RelationGetDescr(index), 0)->atttypmod;

	/* the cast to bqcode(n) */
	while (is_call(node, "bqcode"))
		node = linitial(((FuncExpr *) node)->args);
	if (!is_call(node, "bq_encode") || list_length(((FuncExpr *) node)->args) != 2)
		bad_column(index, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "expected one generated by bq_encode");
	if (!is_indexed(index, linitial(((FuncExpr *) node)->args)))
		bad_column(index, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "it encodes something else than what is indexed");
	literal = literal_model(lsecond(((FuncExpr *) node)->args));
	if (literal == NULL || !IsA(literal, Const) || literal->constisnull)
		bad_column(index, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "expected a literal as its model");
	model = &BqModelOf((struct varlena *) DatumGetPointer(literal->constvalue))->model;
	if (model->metric != metric)
		bad_column(index, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
				   psprintf("expected codes of metric %s, not %s", BqMetricName(metric), BqMetricName(model->metric)));
	if (model->dim != dim)
		bad_column(index, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
				   psprintf("expected codes of %u dimensions, not %u", dim, model->dim));
	return (struct varlena *) DatumGetPointer(literal->constvalue);
}
