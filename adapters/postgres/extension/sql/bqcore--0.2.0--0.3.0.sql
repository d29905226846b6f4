-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION bqcore UPDATE TO '0.3.0'" to load this file. \quit

-- recall of an index: the caller's own queries, and who may ask

CREATE FUNCTION bqcore_recall(
	index regclass, k int DEFAULT 10, n_queries int DEFAULT 100, queries @extschema:vector@.vector[] DEFAULT NULL)
	RETURNS float8
	AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL RESTRICTED;

COMMENT ON FUNCTION bqcore_recall(regclass, int, int, @extschema:vector@.vector[]) IS
	'recall@k of a bqhnsw index against exact search, with the queries given, or rows of the table';

-- Who may call it is as before. What a script grants counts as the extension's own, which pg_dump leaves out: so it is
-- made to count as granted later.

DO $$
DECLARE
	old oid; new oid; name text; privilege record;
BEGIN
	SELECT pg_catalog.max(p.oid) FILTER (WHERE p.pronargs OPERATOR(pg_catalog.=) 3),
			pg_catalog.max(p.oid) FILTER (WHERE p.pronargs OPERATOR(pg_catalog.=) 4) INTO STRICT old, new
		FROM pg_catalog.pg_proc p
		JOIN pg_catalog.pg_depend d ON d.objid OPERATOR(pg_catalog.=) p.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'
			AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::oid
		JOIN pg_catalog.pg_extension e ON e.oid OPERATOR(pg_catalog.=) d.refobjid
			AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass::oid
		WHERE e.extname OPERATOR(pg_catalog.=) 'bqcore' AND p.proname OPERATOR(pg_catalog.=) 'bqcore_recall';
	name := new::pg_catalog.regprocedure;
	IF (SELECT p.proacl IS NOT NULL FROM pg_catalog.pg_proc p WHERE p.oid OPERATOR(pg_catalog.=) old) THEN
		EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', name);
		FOR privilege IN
			SELECT a.grantee, a.is_grantable
			FROM pg_catalog.pg_proc p, LATERAL pg_catalog.aclexplode(p.proacl) a
			WHERE p.oid OPERATOR(pg_catalog.=) old AND a.grantee OPERATOR(pg_catalog.<>) p.proowner
		LOOP
			EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO %s%s', name,
				CASE WHEN privilege.grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC'
					ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(privilege.grantee)::text) END,
				CASE WHEN privilege.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
		END LOOP;
		DELETE FROM pg_catalog.pg_init_privs i
			WHERE i.objoid OPERATOR(pg_catalog.=) new
				AND i.classoid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::oid;
	END IF;
END $$;

DROP FUNCTION bqcore_recall(regclass, int, int);

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
