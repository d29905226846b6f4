-- Two or three stages: pgvector's hnsw over sign bits by Hamming distance; if rescore is less than candidates, the
-- estimates of codes and corrective factors choose that many; floats decide. Bit planes are literals of the query:
-- read from a row of another table they cost five times as much.

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
				ELSE format(' AND t.%I IN (%s)', f.key,
					(SELECT string_agg(quote_nullable(e.x), ', ') FROM jsonb_array_elements_text(f.value) AS e(x))) END
			ELSE format(' AND t.%I = %L', f.key, f.value #>> '{}') END;
	END LOOP;
	RETURN conditions;
END $$;

CREATE OR REPLACE FUNCTION bqcore.search_sql(
	table_name regclass, column_name name, query @vector@.vector, k int DEFAULT 10, candidates int DEFAULT NULL,
	rescore int DEFAULT NULL, filter jsonb DEFAULT NULL, key name DEFAULT NULL, key_type regtype DEFAULT NULL) RETURNS text
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	s bqcore.columns := bqcore.setup(table_name, column_name);
	col record := bqcore.vector_column(table_name, column_name);
	z record := bqcore.query(query, s.model);
	has regtype;
	source text;
BEGIN
	IF k IS NULL OR k < 1 THEN
		RAISE EXCEPTION 'k: expected 1 or more, not %', k USING ERRCODE = 'invalid_parameter_value';
	END IF;
	candidates := coalesce(candidates, least(1000, greatest(100, 5 * k)));
	-- Reading a float from the row itself costs less than estimating; out of line it costs five times as much.
	rescore := coalesce(rescore, CASE WHEN col.is_toasted THEN greatest(40, 2 * k) ELSE candidates END);
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
	source := format(
		'SELECT t.%1$I AS key, t.%2$I AS x, t.%3$I AS code, t.%4$I AS f_add, t.%5$I AS f_rescale FROM %6$s AS t WHERE t.%3$I IS NOT NULL%7$s
		ORDER BY t.%3$I OPERATOR(@vector@.<~>) B%8$L LIMIT %9$s',
		key, s.column_name, s.code, s.f_add, s.f_rescale, table_name, bqcore.filter_sql(table_name, filter), z.code, candidates);
	IF rescore < candidates THEN
		source := format(
			'SELECT a.key, a.x FROM (%1$s) AS a ORDER BY a.f_add + a.f_rescale * (%2$L::float8 * (bit_count(a.code & B%3$L)
			+ 2 * bit_count(a.code & B%4$L) + 4 * bit_count(a.code & B%5$L) - 8 * bit_count(a.code & B%6$L)) - %7$L::float8) LIMIT %8$s',
			source, z.delta, z.p0, z.p1, z.p2, z.p3, z.shift, rescore);
	END IF;
	RETURN format('SELECT b.key%1$s AS id, b.x OPERATOR(@vector@.%2$s) %3$L::@vector@.%4$s AS distance FROM (%5$s) AS b ORDER BY 2 LIMIT %6$s',
		coalesce('::' || key_type::text, ''), CASE s.model ->> 'metric' WHEN 'l2' THEN '<->' WHEN 'ip' THEN '<#>' ELSE '<=>' END, query,
		CASE WHEN col.is_halfvec THEN 'halfvec' ELSE 'vector' END, source, k);
END $$;
COMMENT ON FUNCTION bqcore.search_sql(regclass, name, @vector@.vector, int, int, int, jsonb, name, regtype) IS
	'the statement that bqcore.search runs';

-- Keys of the type of the first argument: bqcore.search_as(NULL::uuid, 'items', 'embedding', ...).
CREATE OR REPLACE FUNCTION bqcore.search_as(
	id_type anyelement, table_name regclass, column_name name, query @vector@.vector, k int DEFAULT 10,
	candidates int DEFAULT NULL, rescore int DEFAULT NULL, filter jsonb DEFAULT NULL, key name DEFAULT NULL)
	RETURNS TABLE (id anyelement, distance float8)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	statement text := bqcore.search_sql(table_name, column_name, query, k, candidates, rescore, filter, key, pg_typeof(id_type));
	before text := current_setting('hnsw.ef_search', true);
	wanted int := least(1000, coalesce(candidates, greatest(100, 5 * k)));
BEGIN
	PERFORM set_config('hnsw.ef_search', greatest(wanted, before::int)::text, true);
	RETURN QUERY EXECUTE statement;
	PERFORM set_config('hnsw.ef_search', coalesce(before, '40'), true);
END $$;
COMMENT ON FUNCTION bqcore.search_as(anyelement, regclass, name, @vector@.vector, int, int, int, jsonb, name) IS
	'nearest rows by their keys, best first, with the distance of the column''s metric';

CREATE OR REPLACE FUNCTION bqcore.search(
	table_name regclass, column_name name, query @vector@.vector, k int DEFAULT 10, candidates int DEFAULT NULL,
	rescore int DEFAULT NULL, filter jsonb DEFAULT NULL, key name DEFAULT NULL)
	RETURNS TABLE (id bigint, distance float8)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN QUERY SELECT s.id, s.distance
		FROM bqcore.search_as(NULL::bigint, table_name, column_name, query, k, candidates, rescore, filter, key) AS s;
END $$;
COMMENT ON FUNCTION bqcore.search(regclass, name, @vector@.vector, int, int, int, jsonb, name) IS
	'bqcore.search_as for integer keys';
