-- Models are values: jsonb with a hash, made from rows by train, carried by the trigger of the table that they encode.

CREATE OR REPLACE FUNCTION bqcore.model_id(
	metric text, rotation text, seed bigint, n_trained bigint, centroid @vector@.vector) RETURNS text
	LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN left(encode(sha256(convert_to(concat_ws(' ', 'bqcore model 1 rabitq 1', metric, rotation, seed, n_trained), 'UTF8')
		|| (SELECT string_agg(float4send(c.x), ''::bytea ORDER BY c.i)
			FROM unnest(centroid::real[]) WITH ORDINALITY AS c(x, i))), 'hex'), 16);
END $$;

CREATE OR REPLACE FUNCTION bqcore.make_model(
	metric text, rotation text, seed bigint, n_trained bigint, centroid @vector@.vector) RETURNS jsonb
	LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF metric NOT IN ('l2', 'ip', 'cosine') THEN
		RAISE EXCEPTION 'metric: expected l2, ip or cosine, not %', quote_literal(metric)
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF rotation NOT IN ('hadamard', 'none') THEN
		RAISE EXCEPTION 'rotation: expected hadamard or none, not %', quote_literal(rotation)
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF seed < 0 THEN
		RAISE EXCEPTION 'seed: expected 0 or more, not %', seed USING ERRCODE = 'invalid_parameter_value';
	END IF;
	RETURN jsonb_build_object('format', 'bqcore model', 'version', 1, 'codec', 'rabitq', 'bits', 1,
		'dim', @vector@.vector_dims(centroid), 'metric', metric, 'rotation', rotation, 'seed', seed,
		'n_trained', n_trained, 'centroid', centroid::text::jsonb,
		'id', bqcore.model_id(metric, rotation, seed, n_trained, centroid));
END $$;

CREATE OR REPLACE FUNCTION bqcore.read_model(
	model jsonb, OUT dim int, OUT metric text, OUT rotation text, OUT seed bigint, OUT n_trained bigint,
	OUT centroid @vector@.vector)
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF model ->> 'format' IS DISTINCT FROM 'bqcore model' THEN
		RAISE EXCEPTION 'expected a model of bqcore.train, not %', coalesce(left(model::text, 40), 'NULL')
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF model ->> 'version' IS DISTINCT FROM '1' THEN
		RAISE EXCEPTION 'expected a model of version 1, not %', model ->> 'version'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Run bqcore postgres install --sql of a newer release.';
	END IF;
	metric := model ->> 'metric';
	rotation := model ->> 'rotation';
	seed := (model ->> 'seed')::bigint;
	n_trained := (model ->> 'n_trained')::bigint;
	centroid := (model ->> 'centroid')::@vector@.vector;
	dim := @vector@.vector_dims(centroid);
	IF bqcore.model_id(metric, rotation, seed, n_trained, centroid) IS DISTINCT FROM model ->> 'id'
		OR model ->> 'dim' IS DISTINCT FROM dim::text THEN
		RAISE EXCEPTION 'the model is damaged: its id % is not that of its contents', coalesce(model ->> 'id', '(none)')
			USING ERRCODE = 'data_corrupted';
	END IF;
END $$;

-- The column's declared dimensions, NULL if there are none; an error if it is neither vector nor halfvec.
CREATE OR REPLACE FUNCTION bqcore.vector_column(
	table_name regclass, column_name name, OUT attnum smallint, OUT dim int, OUT is_halfvec boolean, OUT is_toasted boolean)
	LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	type oid;
	storage "char";
BEGIN
	SELECT a.attnum, nullif(a.atttypmod, -1), a.atttypid, a.attstorage INTO attnum, dim, type, storage FROM pg_attribute a
		WHERE a.attrelid = table_name AND a.attname = column_name AND a.attnum > 0 AND NOT a.attisdropped;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'table % has no column %', table_name, quote_ident(column_name) USING ERRCODE = 'undefined_column';
	ELSIF type <> '@vector@.vector'::regtype AND type <> '@vector@.halfvec'::regtype THEN
		RAISE EXCEPTION 'expected a column of type vector or halfvec, not %', format_type(type, NULL)
			USING ERRCODE = 'wrong_object_type';
	END IF;
	is_halfvec := type = '@vector@.halfvec'::regtype;
	-- Rows beyond about 2,000 bytes move their widest columns out of line.
	is_toasted := storage <> 'p' AND dim * CASE WHEN is_halfvec THEN 2 ELSE 4 END > 1900;
END $$;

CREATE OR REPLACE FUNCTION bqcore.train(
	table_name regclass, column_name name, sample int DEFAULT 10000, metric text DEFAULT 'cosine',
	rotation text DEFAULT 'hadamard', seed bigint DEFAULT 0) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	col record := bqcore.vector_column(table_name, column_name);
	rows float8;
	size int;
	source text := format('%s AS t', table_name);
	value text := format('t.%I::@vector@.vector', column_name);
	centroid @vector@.vector;
	n bigint;
	model jsonb;
BEGIN
	IF sample < 1 THEN
		RAISE EXCEPTION 'sample: expected 1 row or more, not %', sample USING ERRCODE = 'invalid_parameter_value';
	END IF;
	SELECT c.reltuples, c.relpages INTO rows, size FROM pg_class c WHERE c.oid = table_name;
	-- A fifth more than needed, because samples vary; of large tables whole blocks, so that few are read.
	IF rows > 2.0 * sample THEN
		source := source || format(' TABLESAMPLE %s (%s) REPEATABLE (0)',
			CASE WHEN size > 5000 THEN 'SYSTEM' ELSE 'BERNOULLI' END, 100.0 * 1.2 * sample / rows);
	END IF;
	IF metric = 'cosine' THEN
		value := format('@vector@.l2_normalize(%s)', value);
	END IF;
	EXECUTE format('SELECT @vector@.avg(s.x), count(*) FROM (SELECT %s AS x FROM %s WHERE t.%I IS NOT NULL%s LIMIT %s) s',
		value, source, column_name,
		CASE WHEN metric = 'cosine' THEN format(' AND @vector@.vector_norm(t.%I::@vector@.vector) > 0', column_name) ELSE '' END,
		sample) INTO centroid, n;
	IF n = 0 THEN
		RAISE EXCEPTION 'expected rows to train from, not an empty %', table_name
			USING ERRCODE = 'data_exception', HINT = 'Fill the table first: the centroid is the mean of its rows.';
	END IF;
	model := bqcore.make_model(metric, rotation, seed, n, centroid);
	IF rotation = 'hadamard' AND has_function_privilege('bqcore.prepare_rotation(int, bigint)', 'EXECUTE') THEN
		PERFORM bqcore.prepare_rotation(@vector@.vector_dims(centroid), seed);
	END IF;
	RETURN model;
END $$;
COMMENT ON FUNCTION bqcore.train(regclass, name, int, text, text, bigint) IS
	'centroid of a sample of the column''s rows, with the seed of the rotation';
