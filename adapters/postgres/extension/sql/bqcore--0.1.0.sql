-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION bqcore CASCADE" to load this file. \quit

-- access method

CREATE FUNCTION bqhnsw_handler(internal) RETURNS index_am_handler
	AS 'MODULE_PATHNAME' LANGUAGE C;

CREATE ACCESS METHOD bqhnsw TYPE INDEX HANDLER bqhnsw_handler;

COMMENT ON ACCESS METHOD bqhnsw IS 'pgvector''s hnsw over RaBitQ codes, rescored from the table';

-- Support functions. They take internal: only the access method calls them.

CREATE FUNCTION bqhnsw_distance(internal, internal) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bqhnsw_norm(internal) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION bqhnsw_vector_l2_support(internal) RETURNS internal
	AS 'MODULE_PATHNAME' LANGUAGE C;

CREATE FUNCTION bqhnsw_vector_ip_support(internal) RETURNS internal
	AS 'MODULE_PATHNAME' LANGUAGE C;

CREATE FUNCTION bqhnsw_vector_cosine_support(internal) RETURNS internal
	AS 'MODULE_PATHNAME' LANGUAGE C;

CREATE FUNCTION bqhnsw_halfvec_l2_support(internal) RETURNS internal
	AS 'MODULE_PATHNAME' LANGUAGE C;

CREATE FUNCTION bqhnsw_halfvec_ip_support(internal) RETURNS internal
	AS 'MODULE_PATHNAME' LANGUAGE C;

CREATE FUNCTION bqhnsw_halfvec_cosine_support(internal) RETURNS internal
	AS 'MODULE_PATHNAME' LANGUAGE C;

CREATE OPERATOR CLASS vector_l2_ops
	FOR TYPE vector USING bqhnsw AS
	OPERATOR 1 <-> (vector, vector) FOR ORDER BY float_ops,
	FUNCTION 1 (vector, vector) bqhnsw_distance(internal, internal),
	FUNCTION 2 (vector, vector) bqhnsw_norm(internal),
	FUNCTION 3 (vector, vector) bqhnsw_vector_l2_support(internal);

CREATE OPERATOR CLASS vector_ip_ops
	FOR TYPE vector USING bqhnsw AS
	OPERATOR 1 <#> (vector, vector) FOR ORDER BY float_ops,
	FUNCTION 1 (vector, vector) bqhnsw_distance(internal, internal),
	FUNCTION 2 (vector, vector) bqhnsw_norm(internal),
	FUNCTION 3 (vector, vector) bqhnsw_vector_ip_support(internal);

CREATE OPERATOR CLASS vector_cosine_ops
	FOR TYPE vector USING bqhnsw AS
	OPERATOR 1 <=> (vector, vector) FOR ORDER BY float_ops,
	FUNCTION 1 (vector, vector) bqhnsw_distance(internal, internal),
	FUNCTION 2 (vector, vector) bqhnsw_norm(internal),
	FUNCTION 3 (vector, vector) bqhnsw_vector_cosine_support(internal);

CREATE OPERATOR CLASS halfvec_l2_ops
	FOR TYPE halfvec USING bqhnsw AS
	OPERATOR 1 <-> (halfvec, halfvec) FOR ORDER BY float_ops,
	FUNCTION 1 (halfvec, halfvec) bqhnsw_distance(internal, internal),
	FUNCTION 2 (halfvec, halfvec) bqhnsw_norm(internal),
	FUNCTION 3 (halfvec, halfvec) bqhnsw_halfvec_l2_support(internal);

CREATE OPERATOR CLASS halfvec_ip_ops
	FOR TYPE halfvec USING bqhnsw AS
	OPERATOR 1 <#> (halfvec, halfvec) FOR ORDER BY float_ops,
	FUNCTION 1 (halfvec, halfvec) bqhnsw_distance(internal, internal),
	FUNCTION 2 (halfvec, halfvec) bqhnsw_norm(internal),
	FUNCTION 3 (halfvec, halfvec) bqhnsw_halfvec_ip_support(internal);

CREATE OPERATOR CLASS halfvec_cosine_ops
	FOR TYPE halfvec USING bqhnsw AS
	OPERATOR 1 <=> (halfvec, halfvec) FOR ORDER BY float_ops,
	FUNCTION 1 (halfvec, halfvec) bqhnsw_distance(internal, internal),
	FUNCTION 2 (halfvec, halfvec) bqhnsw_norm(internal),
	FUNCTION 3 (halfvec, halfvec) bqhnsw_halfvec_cosine_support(internal);

-- functions

CREATE FUNCTION bqcore_version() RETURNS text
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION bqcore_index_info(
	index regclass,
	OUT codec text, OUT bits int, OUT metric text, OUT dim int, OUT m int, OUT ef_construction int,
	OUT rotation text, OUT seed bigint, OUT trained_rows bigint, OUT centroid_norm float8,
	OUT code_bytes int, OUT index_bytes bigint, OUT isa text)
	AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED;

COMMENT ON FUNCTION bqcore_index_info(regclass) IS 'what a bqhnsw index was built with';

CREATE FUNCTION bqcore_recall(index regclass, k int DEFAULT 10, n_queries int DEFAULT 100) RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED;

COMMENT ON FUNCTION bqcore_recall(regclass, int, int) IS
	'recall@k of a bqhnsw index against exact search, with rows of the table as queries';

CREATE FUNCTION bqcore_index_model(index regclass) RETURNS bytea
	AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED;

CREATE FUNCTION bqcore_index_encode(index regclass, vector vector) RETURNS bytea
	AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED;

CREATE FUNCTION bqcore_index_estimate(index regclass, vector vector, query vector) RETURNS real
	AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED;
