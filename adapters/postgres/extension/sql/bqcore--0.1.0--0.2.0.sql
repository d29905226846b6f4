-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION bqcore UPDATE TO '0.2.0'" to load this file. \quit

-- verification

CREATE FUNCTION bqcore_check(
	index regclass, heapallindexed boolean DEFAULT false,
	OUT pages bigint, OUT elements bigint, OUT free bigint, OUT rows bigint, OUT links bigint, OUT unreachable bigint,
	OUT heap_rows bigint)
	AS 'MODULE_PATHNAME' LANGUAGE C STRICT PARALLEL RESTRICTED;

COMMENT ON FUNCTION bqcore_check(regclass, boolean) IS
	'reads every page of a bqhnsw index; error XX002 names the place of damage';

REVOKE ALL ON FUNCTION bqcore_check(regclass, boolean) FROM PUBLIC;

-- types: what is stored is what send and recv carry and what hex shows (docs/code-format.md)

CREATE TYPE bqmodel;

CREATE FUNCTION bqmodel_in(cstring) RETURNS bqmodel
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bqmodel_out(bqmodel) RETURNS cstring
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bqmodel_recv(internal) RETURNS bqmodel
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bqmodel_send(bqmodel) RETURNS bytea
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE TYPE bqmodel (
	INPUT = bqmodel_in, OUTPUT = bqmodel_out, RECEIVE = bqmodel_recv, SEND = bqmodel_send, ALIGNMENT = int4, STORAGE = external);

CREATE FUNCTION bqmodel(bytea) RETURNS bqmodel
	AS 'MODULE_PATHNAME', 'bqmodel_from_bytea' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE CAST (bytea AS bqmodel) WITH FUNCTION bqmodel(bytea);

CREATE CAST (bqmodel AS bytea) WITHOUT FUNCTION;

CREATE FUNCTION bq_eq(bqmodel, bqmodel) RETURNS boolean
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bq_ne(bqmodel, bqmodel) RETURNS boolean
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE OPERATOR = (
	LEFTARG = bqmodel, RIGHTARG = bqmodel, PROCEDURE = bq_eq, COMMUTATOR = =, NEGATOR = <>, RESTRICT = eqsel, JOIN = eqjoinsel);

CREATE OPERATOR <> (
	LEFTARG = bqmodel, RIGHTARG = bqmodel, PROCEDURE = bq_ne, COMMUTATOR = <>, NEGATOR = =, RESTRICT = neqsel,
	JOIN = neqjoinsel);

CREATE TYPE bqcode;

CREATE FUNCTION bqcode_in(cstring, oid, integer) RETURNS bqcode
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bqcode_out(bqcode) RETURNS cstring
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bqcode_recv(internal, oid, integer) RETURNS bqcode
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bqcode_send(bqcode) RETURNS bytea
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bqcode_typmod_in(cstring[]) RETURNS integer
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE TYPE bqcode (
	INPUT = bqcode_in, OUTPUT = bqcode_out, RECEIVE = bqcode_recv, SEND = bqcode_send, TYPMOD_IN = bqcode_typmod_in,
	ALIGNMENT = int4, STORAGE = main);

CREATE FUNCTION bqcode(bqcode, integer, boolean) RETURNS bqcode
	AS 'MODULE_PATHNAME', 'bqcode_typmod_cast' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE CAST (bqcode AS bqcode) WITH FUNCTION bqcode(bqcode, integer, boolean) AS IMPLICIT;

CREATE FUNCTION bqcode(bytea) RETURNS bqcode
	AS 'MODULE_PATHNAME', 'bqcode_from_bytea' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE CAST (bytea AS bqcode) WITH FUNCTION bqcode(bytea);

CREATE CAST (bqcode AS bytea) WITHOUT FUNCTION;

CREATE FUNCTION bq_eq(bqcode, bqcode) RETURNS boolean
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bq_ne(bqcode, bqcode) RETURNS boolean
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE OPERATOR = (
	LEFTARG = bqcode, RIGHTARG = bqcode, PROCEDURE = bq_eq, COMMUTATOR = =, NEGATOR = <>, RESTRICT = eqsel, JOIN = eqjoinsel);

CREATE OPERATOR <> (
	LEFTARG = bqcode, RIGHTARG = bqcode, PROCEDURE = bq_ne, COMMUTATOR = <>, NEGATOR = =, RESTRICT = neqsel,
	JOIN = neqjoinsel);

CREATE TYPE bqquery;

CREATE FUNCTION bqquery_in(cstring) RETURNS bqquery
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bqquery_out(bqquery) RETURNS cstring
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bqquery_recv(internal) RETURNS bqquery
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bqquery_send(bqquery) RETURNS bytea
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE TYPE bqquery (
	INPUT = bqquery_in, OUTPUT = bqquery_out, RECEIVE = bqquery_recv, SEND = bqquery_send, ALIGNMENT = int4, STORAGE = external);

CREATE FUNCTION bqquery(bytea) RETURNS bqquery
	AS 'MODULE_PATHNAME', 'bqquery_from_bytea' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE CAST (bytea AS bqquery) WITH FUNCTION bqquery(bytea);

CREATE CAST (bqquery AS bytea) WITHOUT FUNCTION;

CREATE FUNCTION bq_eq(bqquery, bqquery) RETURNS boolean
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bq_ne(bqquery, bqquery) RETURNS boolean
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE OPERATOR = (
	LEFTARG = bqquery, RIGHTARG = bqquery, PROCEDURE = bq_eq, COMMUTATOR = =, NEGATOR = <>, RESTRICT = eqsel, JOIN = eqjoinsel);

CREATE OPERATOR <> (
	LEFTARG = bqquery, RIGHTARG = bqquery, PROCEDURE = bq_ne, COMMUTATOR = <>, NEGATOR = =, RESTRICT = neqsel,
	JOIN = neqjoinsel);

-- models

CREATE FUNCTION bq_train_add(internal, @extschema:vector@.vector, integer, text) RETURNS internal
	AS 'MODULE_PATHNAME', 'bq_train_vector' LANGUAGE C IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION bq_train_add(internal, @extschema:vector@.vector, integer, text, bigint) RETURNS internal
	AS 'MODULE_PATHNAME', 'bq_train_vector' LANGUAGE C IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION bq_train_add(internal, @extschema:vector@.halfvec, integer, text) RETURNS internal
	AS 'MODULE_PATHNAME', 'bq_train_halfvec' LANGUAGE C IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION bq_train_add(internal, @extschema:vector@.halfvec, integer, text, bigint) RETURNS internal
	AS 'MODULE_PATHNAME', 'bq_train_halfvec' LANGUAGE C IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION bq_train_final(internal) RETURNS bqmodel
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE PARALLEL SAFE;

CREATE AGGREGATE bq_train(@extschema:vector@.vector, bits integer, metric text) (
	SFUNC = bq_train_add, STYPE = internal, FINALFUNC = bq_train_final, PARALLEL = SAFE);

CREATE AGGREGATE bq_train(@extschema:vector@.vector, bits integer, metric text, seed bigint) (
	SFUNC = bq_train_add, STYPE = internal, FINALFUNC = bq_train_final, PARALLEL = SAFE);

COMMENT ON AGGREGATE bq_train(@extschema:vector@.vector, integer, text) IS 'model for codes of vectors like these';

COMMENT ON AGGREGATE bq_train(@extschema:vector@.vector, integer, text, bigint) IS 'model for codes of vectors like these';

CREATE AGGREGATE bq_train(@extschema:vector@.halfvec, bits integer, metric text) (
	SFUNC = bq_train_add, STYPE = internal, FINALFUNC = bq_train_final, PARALLEL = SAFE);

CREATE AGGREGATE bq_train(@extschema:vector@.halfvec, bits integer, metric text, seed bigint) (
	SFUNC = bq_train_add, STYPE = internal, FINALFUNC = bq_train_final, PARALLEL = SAFE);

COMMENT ON AGGREGATE bq_train(@extschema:vector@.halfvec, integer, text) IS 'model for codes of vectors like these';

COMMENT ON AGGREGATE bq_train(@extschema:vector@.halfvec, integer, text, bigint) IS 'model for codes of vectors like these';

CREATE FUNCTION bq_model_info(
	model bqmodel,
	OUT codec text, OUT bits int, OUT metric text, OUT dim int, OUT rotation text, OUT seed bigint,
	OUT trained_rows bigint, OUT centroid_norm float8, OUT code_bytes int)
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION bq_model_info(bqmodel) IS 'what a model holds';

CREATE FUNCTION bq_model_id(bqmodel) RETURNS text
	AS 'MODULE_PATHNAME', 'bq_model_id_model' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bq_model_id(bqcode) RETURNS text
	AS 'MODULE_PATHNAME', 'bq_model_id_value' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bq_model_id(bqquery) RETURNS text
	AS 'MODULE_PATHNAME', 'bq_model_id_value' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

-- codes and queries

CREATE FUNCTION bq_encode(@extschema:vector@.vector, bqmodel) RETURNS bqcode
	AS 'MODULE_PATHNAME', 'bq_encode_vector' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 500;

CREATE FUNCTION bq_query(@extschema:vector@.vector, bqmodel) RETURNS bqquery
	AS 'MODULE_PATHNAME', 'bq_query_vector' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 500;

CREATE FUNCTION bq_encode(@extschema:vector@.halfvec, bqmodel) RETURNS bqcode
	AS 'MODULE_PATHNAME', 'bq_encode_halfvec' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 500;

CREATE FUNCTION bq_query(@extschema:vector@.halfvec, bqmodel) RETURNS bqquery
	AS 'MODULE_PATHNAME', 'bq_query_halfvec' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 500;

CREATE FUNCTION bq_decode(bqcode, bqmodel) RETURNS @extschema:vector@.vector
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 500;

CREATE FUNCTION bq_bound(bqcode, bqquery, eps0 float8 DEFAULT 1.9) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bq_distance(bqcode, bqquery) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bq_distance(bqcode, bqcode) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bq_l2_distance(bqcode, bqquery) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bq_l2_distance(bqquery, bqcode) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bq_l2_distance(bqcode, bqcode) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE OPERATOR <-> (LEFTARG = bqcode, RIGHTARG = bqquery, PROCEDURE = bq_l2_distance, COMMUTATOR = <->);

CREATE OPERATOR <-> (LEFTARG = bqquery, RIGHTARG = bqcode, PROCEDURE = bq_l2_distance, COMMUTATOR = <->);

CREATE OPERATOR <-> (LEFTARG = bqcode, RIGHTARG = bqcode, PROCEDURE = bq_l2_distance, COMMUTATOR = <->);

CREATE FUNCTION bq_negative_inner_product(bqcode, bqquery) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bq_negative_inner_product(bqquery, bqcode) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE OPERATOR <#> (LEFTARG = bqcode, RIGHTARG = bqquery, PROCEDURE = bq_negative_inner_product, COMMUTATOR = <#>);

CREATE OPERATOR <#> (LEFTARG = bqquery, RIGHTARG = bqcode, PROCEDURE = bq_negative_inner_product, COMMUTATOR = <#>);

CREATE FUNCTION bq_cosine_distance(bqcode, bqquery) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bq_cosine_distance(bqquery, bqcode) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bq_cosine_distance(bqcode, bqcode) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE OPERATOR <=> (LEFTARG = bqcode, RIGHTARG = bqquery, PROCEDURE = bq_cosine_distance, COMMUTATOR = <=>);

CREATE OPERATOR <=> (LEFTARG = bqquery, RIGHTARG = bqcode, PROCEDURE = bq_cosine_distance, COMMUTATOR = <=>);

CREATE OPERATOR <=> (LEFTARG = bqcode, RIGHTARG = bqcode, PROCEDURE = bq_cosine_distance, COMMUTATOR = <=>);

-- operator classes of pgvector's access methods; support functions take internal: only pgvector calls them

CREATE FUNCTION bqcode_l2_index_distance(internal, internal) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bqcode_ip_index_distance(internal, internal) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bqcode_cosine_index_distance(internal, internal) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bqcode_kmeans_distance(internal, internal) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bqcode_hnsw_support(internal) RETURNS internal
	AS 'MODULE_PATHNAME' LANGUAGE C;

CREATE FUNCTION bqcode_ivfflat_support(internal) RETURNS internal
	AS 'MODULE_PATHNAME' LANGUAGE C;

CREATE OPERATOR CLASS bqcode_l2_ops
	FOR TYPE bqcode USING hnsw AS
	OPERATOR 1 <-> (bqcode, bqquery) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <-> (bqcode, bqcode) FOR ORDER BY pg_catalog.float_ops,
	FUNCTION 1 (bqcode, bqcode) bqcode_l2_index_distance(internal, internal),
	FUNCTION 3 (bqcode, bqcode) bqcode_hnsw_support(internal);

CREATE OPERATOR CLASS bqcode_l2_ops
	FOR TYPE bqcode USING ivfflat AS
	OPERATOR 1 <-> (bqcode, bqquery) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <-> (bqcode, bqcode) FOR ORDER BY pg_catalog.float_ops,
	FUNCTION 1 (bqcode, bqcode) bqcode_l2_index_distance(internal, internal),
	FUNCTION 3 (bqcode, bqcode) bqcode_kmeans_distance(internal, internal),
	FUNCTION 5 (bqcode, bqcode) bqcode_ivfflat_support(internal);

CREATE OPERATOR CLASS bqcode_ip_ops
	FOR TYPE bqcode USING hnsw AS
	OPERATOR 1 <#> (bqcode, bqquery) FOR ORDER BY pg_catalog.float_ops,
	FUNCTION 1 (bqcode, bqcode) bqcode_ip_index_distance(internal, internal),
	FUNCTION 3 (bqcode, bqcode) bqcode_hnsw_support(internal);

CREATE OPERATOR CLASS bqcode_ip_ops
	FOR TYPE bqcode USING ivfflat AS
	OPERATOR 1 <#> (bqcode, bqquery) FOR ORDER BY pg_catalog.float_ops,
	FUNCTION 1 (bqcode, bqcode) bqcode_ip_index_distance(internal, internal),
	FUNCTION 3 (bqcode, bqcode) bqcode_kmeans_distance(internal, internal),
	FUNCTION 5 (bqcode, bqcode) bqcode_ivfflat_support(internal);

CREATE OPERATOR CLASS bqcode_cosine_ops
	FOR TYPE bqcode USING hnsw AS
	OPERATOR 1 <=> (bqcode, bqquery) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <=> (bqcode, bqcode) FOR ORDER BY pg_catalog.float_ops,
	FUNCTION 1 (bqcode, bqcode) bqcode_cosine_index_distance(internal, internal),
	FUNCTION 3 (bqcode, bqcode) bqcode_hnsw_support(internal);

CREATE OPERATOR CLASS bqcode_cosine_ops
	FOR TYPE bqcode USING ivfflat AS
	OPERATOR 1 <=> (bqcode, bqquery) FOR ORDER BY pg_catalog.float_ops,
	OPERATOR 1 <=> (bqcode, bqcode) FOR ORDER BY pg_catalog.float_ops,
	FUNCTION 1 (bqcode, bqcode) bqcode_cosine_index_distance(internal, internal),
	FUNCTION 3 (bqcode, bqcode) bqcode_kmeans_distance(internal, internal),
	FUNCTION 5 (bqcode, bqcode) bqcode_ivfflat_support(internal);

-- Names of version 0.1.0 were looked up in the schema of the extension first: nothing of others may have come in.

DO $$
DECLARE
	planted text;
BEGIN
	SELECT pg_catalog.concat_ws(' ', found.type, found.identity) INTO planted
	FROM (
		SELECT d.refclassid AS class, d.refobjid AS object
		FROM pg_catalog.pg_depend own
		JOIN pg_catalog.pg_extension e ON e.oid OPERATOR(pg_catalog.=) own.refobjid
		JOIN pg_catalog.pg_depend d
			ON d.classid OPERATOR(pg_catalog.=) own.classid AND d.objid OPERATOR(pg_catalog.=) own.objid
		WHERE own.deptype OPERATOR(pg_catalog.=) 'e' AND e.extname OPERATOR(pg_catalog.=) 'bqcore'
			AND own.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass::oid
		UNION ALL
		SELECT 'pg_catalog.pg_operator'::pg_catalog.regclass, o.amopopr
		FROM pg_catalog.pg_amop o JOIN pg_catalog.pg_am m ON m.oid OPERATOR(pg_catalog.=) o.amopmethod
		WHERE m.amname OPERATOR(pg_catalog.=) 'bqhnsw'
	) used, LATERAL pg_catalog.pg_identify_object(used.class, used.object, 0) found
	WHERE (used.class OPERATOR(pg_catalog.=) 'pg_catalog.pg_type'::pg_catalog.regclass::oid
			OR used.class OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::oid
			OR used.class OPERATOR(pg_catalog.=) 'pg_catalog.pg_operator'::pg_catalog.regclass::oid)
		AND NOT EXISTS (
			SELECT FROM pg_catalog.pg_depend m JOIN pg_catalog.pg_extension e ON e.oid OPERATOR(pg_catalog.=) m.refobjid
			WHERE m.deptype OPERATOR(pg_catalog.=) 'e' AND m.classid OPERATOR(pg_catalog.=) used.class
				AND m.objid OPERATOR(pg_catalog.=) used.object
				AND m.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass::oid
				AND (e.extname OPERATOR(pg_catalog.=) 'vector' OR e.extname OPERATOR(pg_catalog.=) 'bqcore'))
	LIMIT 1;
	IF planted IS NOT NULL THEN
		RAISE EXCEPTION 'expected objects of pgvector, not %', planted
			USING ERRCODE = 'duplicate_object',
				HINT = 'Drop it, or install into a schema that only administrators may write to: CREATE EXTENSION bqcore SCHEMA ...';
	END IF;
END $$;
