-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION bqcore UPDATE TO '0.3.0'" to load this file. \quit

-- recall of an index: the caller's own queries, and who may ask

-- indexes that met their rows after CREATE INDEX

DROP FUNCTION bqcore_index_info(regclass);

CREATE FUNCTION bqcore_index_info(
	index regclass,
	OUT codec text, OUT bits int, OUT metric text, OUT dim int, OUT m int, OUT ef_construction int,
	OUT rotation text, OUT seed bigint, OUT trained_rows bigint, OUT centroid_norm float8,
	OUT code_bytes int, OUT index_bytes bigint, OUT isa text, OUT trained boolean, OUT waiting_rows bigint)
	AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED;

COMMENT ON FUNCTION bqcore_index_info(regclass) IS 'what a bqhnsw index was built with';

CREATE FUNCTION bqcore_train(index regclass) RETURNS bigint
	AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION bqcore_train(regclass) IS
	'makes the model of an index whose rows wait for one, and moves them into the graph; returns how many';
