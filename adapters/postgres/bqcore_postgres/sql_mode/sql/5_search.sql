-- Two or three stages: pgvector's hnsw over sign bits by Hamming distance; if rescore is less than candidates, the
-- estimates of codes and corrective factors choose that many; floats decide. Bit planes are literals of the query:
-- read from a row of another table they cost five times as much. Whoever takes the statement has a search_path of
-- their own, so operators are named in full.

CREATE OR REPLACE FUNCTION bqcore.filter_sql(table_name regclass, filter jsonb) RETURNS text
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	f record;
	conditions text := '';
BEGIN
	IF filter IS NULL THEN
		RETURN '';
	ELSIF jsonb_typeof(filter) <> 'object' THEN
		RAISE EXCEPTION 'filter: expected an object {"column": value or [values]}, not %', jsonb_typeof(filter)
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	FOR f IN SELECT * FROM jsonb_each(filter) LOOP
		IF NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = table_name AND a.attname = f.key AND a.attnum > 0) THEN
			RAISE EXCEPTION 'filter: table % has no column %', table_name, quote_ident(f.key) USING ERRCODE = 'undefined_column';
		END IF;
		conditions := conditions || CASE jsonb_typeof(f.value)
			WHEN 'null' THEN format(' AND t.%I IS NULL', f.key)
			WHEN 'array' THEN CASE jsonb_array_length(f.value) WHEN 0 THEN ' AND false'
				ELSE format(' AND t.%I OPERATOR(pg_catalog.=) ANY (%L)', f.key,
					(SELECT array_agg(e.x) FROM jsonb_array_elements_text(f.value) AS e(x))) END
			ELSE format(' AND t.%I OPERATOR(pg_catalog.=) %L', f.key, f.value #>> '{}') END;
	END LOOP;
	RETURN conditions;
END $$;

CREATE OR REPLACE FUNCTION bqcore.default_candidates(k int) RETURNS int
	LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN least(1000, greatest(100, 10 * k::bigint));
END $$;

-- The statement, with the query vector as the text $6: a literal or a parameter.
CREATE OR REPLACE FUNCTION bqcore.statement(
	table_name regclass, column_name name, query @vector@.vector, k int, candidates int, query_text text, rescore int,
	filter jsonb, key name, key_type regtype) RETURNS text
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	s record := bqcore.setup(table_name, column_name);
	col record := bqcore.vector_column(table_name, column_name);
	z record;
	has regtype;
	source text;
BEGIN
	IF k IS NULL OR k < 1 THEN
		RAISE EXCEPTION 'k: expected 1 or more, not %', k USING ERRCODE = 'invalid_parameter_value';
	END IF;
	candidates := coalesce(candidates, bqcore.default_candidates(k));
	-- A vector in the row itself is read for what an estimate costs; out of line it takes several times as long.
	rescore := coalesce(rescore, CASE WHEN col.is_toasted THEN greatest(4 * k, candidates / 2) ELSE candidates END);
	IF candidates < k OR candidates > 1000 THEN
		RAISE EXCEPTION 'candidates: expected k (%) to 1000 (the limit of hnsw.ef_search), not %', k, candidates
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF rescore < k THEN
		RAISE EXCEPTION 'rescore: expected k (%) or more, not %', k, rescore USING ERRCODE = 'invalid_parameter_value';
	END IF;
	IF key IS NULL THEN
		SELECT a.attname INTO key FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
			WHERE i.indrelid = table_name AND i.indisprimary AND i.indnkeyatts = 1;
		IF NOT FOUND THEN
			RAISE EXCEPTION 'table % has no primary key of one column', table_name
				USING ERRCODE = 'undefined_object', HINT = 'Name the column to return: key => ''...''.';
		END IF;
	END IF;
	SELECT a.atttypid INTO has FROM pg_attribute a WHERE a.attrelid = table_name AND a.attname = key AND a.attnum > 0;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'key: table % has no column %', table_name, quote_ident(key) USING ERRCODE = 'undefined_column';
	ELSIF key_type <> has AND NOT (key_type = 'bigint'::regtype AND has IN ('integer'::regtype, 'smallint'::regtype)) THEN
		RAISE EXCEPTION 'key % is of type %, not %', quote_ident(key), has, key_type
			USING ERRCODE = 'datatype_mismatch', HINT = format('SELECT * FROM bqcore.search_as(NULL::%s, ...).', has);
	END IF;
	z := bqcore.query(query, s.centroid, s.metric, s.rotation, s.seed, rescore < candidates);
	source := format(
		'SELECT t.%1$I AS key, t.%2$I AS x%3$s FROM %4$s AS t WHERE t.%5$I IS NOT NULL%6$s '
		'ORDER BY t.%5$I OPERATOR(@vector@.<~>) B%7$L LIMIT %8$s',
		key, column_name,
		CASE WHEN rescore < candidates THEN
			format(', t.%I AS code, t.%I AS f_add, t.%I AS f_rescale', s.code, s.f_add, s.f_rescale) ELSE '' END,
		table_name, s.code, bqcore.filter_sql(table_name, filter), z.code, candidates);
	IF rescore < candidates THEN
		source := format(
			'SELECT a.key, a.x FROM (%1$s) AS a ORDER BY '
			'(%9$L::float8 OPERATOR(pg_catalog.*) a.f_add::float8) OPERATOR(pg_catalog.+) (a.f_rescale::float8 '
			'OPERATOR(pg_catalog.*) ((%2$L::float8 OPERATOR(pg_catalog.*) ('
			'pg_catalog.bit_count(a.code OPERATOR(pg_catalog.&) B%3$L) OPERATOR(pg_catalog.+) '
			'(2 OPERATOR(pg_catalog.*) pg_catalog.bit_count(a.code OPERATOR(pg_catalog.&) B%4$L)) OPERATOR(pg_catalog.+) '
			'(4 OPERATOR(pg_catalog.*) pg_catalog.bit_count(a.code OPERATOR(pg_catalog.&) B%5$L)) OPERATOR(pg_catalog.-) '
			'(8 OPERATOR(pg_catalog.*) pg_catalog.bit_count(a.code OPERATOR(pg_catalog.&) B%6$L)))::float8) '
			'OPERATOR(pg_catalog.-) %7$L::float8)) LIMIT %8$s', source, z.delta, z.p0, z.p1, z.p2, z.p3, z.shift, rescore,
			bqcore.weight(query, s.centroid, s.metric));
	END IF;
	RETURN format('SELECT b.key%1$s AS id, b.x OPERATOR(@vector@.%2$s) %3$s::@vector@.%4$s AS distance FROM (%5$s) AS b '
		'ORDER BY 2 LIMIT %6$s', coalesce('::' || key_type::text, ''),
		CASE s.metric WHEN 'l2' THEN '<->' WHEN 'ip' THEN '<#>' ELSE '<=>' END, query_text,
		CASE WHEN col.is_halfvec THEN 'halfvec' ELSE 'vector' END, source, k);
END $$;

CREATE OR REPLACE FUNCTION bqcore.search_sql(
	table_name regclass, column_name name, query @vector@.vector, k int DEFAULT 10, candidates int DEFAULT NULL,
	rescore int DEFAULT NULL, filter jsonb DEFAULT NULL, key name DEFAULT NULL) RETURNS text
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN bqcore.statement(table_name, column_name, query, k, candidates, quote_literal(query), rescore, filter, key, NULL);
END $$;
COMMENT ON FUNCTION bqcore.search_sql(regclass, name, @vector@.vector, int, int, int, jsonb, name) IS
	'the statement that bqcore.search runs; set hnsw.ef_search to candidates for it';

-- hnsw.ef_search at least as wide as the first stage; returns what it was.
CREATE OR REPLACE FUNCTION bqcore.widen_search(k int, candidates int) RETURNS text
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	before text := coalesce(current_setting('hnsw.ef_search', true), '40');
BEGIN
	PERFORM set_config('hnsw.ef_search',
		greatest(coalesce(candidates, bqcore.default_candidates(k)), before::int)::text, true);
	RETURN before;
END $$;

CREATE OR REPLACE FUNCTION bqcore.search_as(
	id_type anyelement, table_name regclass, column_name name, query @vector@.vector, k int DEFAULT 10, candidates int DEFAULT NULL,
	rescore int DEFAULT NULL, filter jsonb DEFAULT NULL, key name DEFAULT NULL) RETURNS TABLE (id anyelement, distance float8)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	statement text := bqcore.statement(table_name, column_name, query, k, candidates, '$1', rescore, filter, key, pg_typeof(id_type));
	before text := bqcore.widen_search(k, candidates);
BEGIN
	RETURN QUERY EXECUTE statement USING query;
	PERFORM set_config('hnsw.ef_search', before, true);
END $$;
COMMENT ON FUNCTION bqcore.search_as(anyelement, regclass, name, @vector@.vector, int, int, int, jsonb, name) IS
	'bqcore.search for keys of the type of the first argument: NULL::uuid';

CREATE OR REPLACE FUNCTION bqcore.search(
	table_name regclass, column_name name, query @vector@.vector, k int DEFAULT 10, candidates int DEFAULT NULL,
	rescore int DEFAULT NULL, filter jsonb DEFAULT NULL, key name DEFAULT NULL) RETURNS TABLE (id bigint, distance float8)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	statement text := bqcore.statement(table_name, column_name, query, k, candidates, '$1', rescore, filter, key, 'bigint');
	before text := bqcore.widen_search(k, candidates);
BEGIN
	RETURN QUERY EXECUTE statement USING query;
	PERFORM set_config('hnsw.ef_search', before, true);
END $$;
COMMENT ON FUNCTION bqcore.search(regclass, name, @vector@.vector, int, int, int, jsonb, name) IS
	'nearest rows by their keys, best first, with the distance of the column''s metric';
