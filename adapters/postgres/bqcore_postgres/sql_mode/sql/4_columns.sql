-- Codes in columns beside the vectors, kept current by a trigger. A trigger, not generated columns: dumps carry its
-- results as data and create it last, adding it rewrites no table, and a client may bring codes that it made itself.

-- A model is a value: the trigger's arguments.
CREATE OR REPLACE VIEW bqcore.columns AS
	SELECT t.tgrelid::regclass AS table_name, a.arg[1] AS column_name, a.arg[2] AS code, a.arg[3] AS f_add,
		a.arg[4] AS f_rescale,
		bqcore.make_model(a.arg[5], a.arg[6], a.arg[7]::bigint, a.arg[8]::bigint, a.arg[9]::@vector@.vector) AS model,
		a.arg[5] AS metric, a.arg[6] AS rotation, a.arg[7]::bigint AS seed, a.arg[9]::@vector@.vector AS centroid,
		t.tgname AS trigger_name, t.tgfoid AS trigger_function
	FROM pg_catalog.pg_trigger t, LATERAL (
		SELECT pg_catalog.array_agg(pg_catalog.convert_from(pg_catalog.decode(p.part, 'escape'), pg_catalog.getdatabaseencoding())
			ORDER BY p.i) AS arg
		-- Arguments end with a zero byte, \000; a backslash of their own is \\ in this format, and \134 is the same.
		FROM pg_catalog.unnest(pg_catalog.string_to_array(
			pg_catalog.replace(pg_catalog.encode(t.tgargs, 'escape'), '\\', '\134'), '\000'))
			WITH ORDINALITY AS p(part, i)) a
	WHERE t.tgname LIKE 'zz\_bqcore\_%' AND t.tgnargs = 9 AND t.tgparentid = 0;
GRANT SELECT ON bqcore.columns TO PUBLIC;
COMMENT ON VIEW bqcore.columns IS 'columns with codes: their names and their models';

-- Shortened at its end so that the suffix fits into 63 bytes.
CREATE OR REPLACE FUNCTION bqcore.with_suffix(stem text, suffix text) RETURNS name
	LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	WHILE octet_length(stem) + octet_length(suffix) > 63 LOOP
		stem := left(stem, -1);
	END LOOP;
	RETURN stem || suffix;
END $$;

-- The trigger and its function, whose name is `function`. Names and centroid are part of the body: it then costs no
-- look-up and no parsing per row.
CREATE OR REPLACE FUNCTION bqcore.make_trigger(
	table_name regclass, trigger_name name, function text, column_name name, code name, f_add name, f_rescale name, model jsonb)
	RETURNS void LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	m record := bqcore.read_model(model);
BEGIN
	EXECUTE format($body$CREATE OR REPLACE FUNCTION %1$s() RETURNS trigger
		LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS %2$L$body$, function, format($body$
-- Made by bqcore.add, dropped by bqcore.remove.
DECLARE
	e record;
BEGIN
	IF current_setting('bqcore_sql.given_codes', true) = 'on' THEN
		RETURN NEW;
	END IF;
	BEGIN
		IF TG_OP = 'UPDATE' AND NEW.%1$I OPERATOR(@vector@.=) OLD.%1$I AND NEW.%2$I = OLD.%2$I
			AND NEW.%3$I = OLD.%3$I AND NEW.%4$I = OLD.%4$I THEN
			RETURN NEW;
		END IF;
		e := bqcore.encode(NEW.%1$I::@vector@.vector, %5$L::@vector@.vector, %6$L, %7$L, %8$L);
		NEW.%2$I := e.code;
		NEW.%3$I := e.f_add;
		NEW.%4$I := e.f_rescale;
	EXCEPTION WHEN undefined_column THEN
		RAISE EXCEPTION 'table %% lacks one of the columns %%, which bqcore.add knows it by', TG_RELID::regclass, %9$L
			USING ERRCODE = 'undefined_column', DETAIL = SQLERRM,
				HINT = 'After a renaming: SELECT bqcore.renamed(table, old name, new name).';
	END;
	RETURN NEW;
END $body$, column_name, code, f_add, f_rescale, m.centroid, m.metric, m.rotation, m.seed,
		concat_ws(', ', quote_ident(column_name), quote_ident(code), quote_ident(f_add), quote_ident(f_rescale))));
	EXECUTE format('CREATE TRIGGER %I BEFORE INSERT OR UPDATE ON %s FOR EACH ROW EXECUTE FUNCTION '
		'%s(%L, %L, %L, %L, %L, %L, %L, %L, %L)', trigger_name, table_name, function, column_name, code, f_add,
		f_rescale, m.metric, m.rotation, m.seed, m.n_trained, m.centroid);
END $$;

-- Whether bqcore.add made a function, and, where an owner is named, for that role.
CREATE OR REPLACE FUNCTION bqcore.is_trigger_function(function oid, owner oid DEFAULT NULL) RETURNS boolean
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN EXISTS (SELECT FROM pg_proc p WHERE p.oid = function AND (owner IS NULL OR p.proowner = owner)
		AND starts_with(p.prosrc, E'\n-- Made by bqcore.add'));
END $$;

CREATE OR REPLACE FUNCTION bqcore.add(table_name regclass, column_name name, model jsonb) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	m record := bqcore.read_model(model);
	col record := bqcore.vector_column(table_name, column_name);
	code name := bqcore.with_suffix(column_name, '_code');
	f_add name := bqcore.with_suffix(column_name, '_f_add');
	f_rescale name := bqcore.with_suffix(column_name, '_f_rescale');
	namespace name;
	relation name;
	kind "char";
	old oid;
	owner oid;
	function text;
BEGIN
	SELECT n.nspname, c.relname, c.relkind, c.relowner INTO namespace, relation, kind, owner
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = table_name;
	IF kind NOT IN ('r', 'p') THEN
		RAISE EXCEPTION 'expected a table, not %', table_name USING ERRCODE = 'wrong_object_type';
	ELSIF NOT pg_has_role(owner, 'USAGE') THEN
		RAISE EXCEPTION 'must be owner of table %', table_name USING ERRCODE = 'insufficient_privilege';
	ELSIF col.dim <> m.dim THEN
		RAISE EXCEPTION 'expected a model of % dimensions, not %', col.dim, m.dim USING ERRCODE = 'data_exception';
	ELSIF EXISTS (SELECT FROM bqcore.columns c WHERE c.table_name = $1 AND c.column_name = $2) THEN
		RAISE EXCEPTION 'column % of % has codes already', quote_ident(column_name), table_name
			USING ERRCODE = 'duplicate_object', HINT = 'bqcore.remove drops them; then add those of another model.';
	END IF;
	IF m.rotation = 'hadamard' AND has_function_privilege('bqcore.prepare_rotation(int, bigint)', 'EXECUTE') THEN
		PERFORM bqcore.prepare_rotation(m.dim, m.seed);
	END IF;
	EXECUTE format('ALTER TABLE %s ADD COLUMN %I bit(%s), ADD COLUMN %I real, ADD COLUMN %I real',
		table_name, code, m.dim, f_add, f_rescale);
	function := format('%I.%I', namespace, bqcore.with_suffix(relation || '_' || column_name, '_bqcore'));
	SELECT p.oid INTO old FROM pg_proc p WHERE p.oid = to_regprocedure(function || '()');
	IF old IS NOT NULL AND (EXISTS (SELECT FROM pg_trigger t WHERE t.tgfoid = old)
		OR NOT bqcore.is_trigger_function(old, current_user::regrole)) THEN
		function := format('%I.%I', namespace,
			bqcore.with_suffix(relation || '_' || column_name, format('_bqcore_%s_%s', table_name::oid, col.attnum)));
	END IF;
	SELECT p.oid INTO old FROM pg_proc p WHERE p.oid = to_regprocedure(function || '()');
	-- Replacing would keep its owner, who could then change what runs on every write.
	IF old IS NOT NULL AND NOT bqcore.is_trigger_function(old, current_user::regrole) THEN
		RAISE EXCEPTION 'function % is there already, and not made by bqcore.add for %', old::regprocedure, current_user
			USING ERRCODE = 'duplicate_function';
	END IF;
	-- Triggers fire by name: this one after those that may still change the vector.
	PERFORM bqcore.make_trigger(table_name, 'zz_bqcore_' || col.attnum, function, column_name, code, f_add, f_rescale, model);
END $$;
COMMENT ON FUNCTION bqcore.add(regclass, name, jsonb) IS
	'add code columns and the trigger that fills them; existing rows: CALL bqcore.fill';

-- The codes of one column; an error if it has none.
CREATE OR REPLACE FUNCTION bqcore.setup(
	table_name regclass, column_name name, OUT code name, OUT f_add name, OUT f_rescale name, OUT metric text,
	OUT rotation text, OUT seed bigint, OUT centroid @vector@.vector, OUT trigger_name name, OUT trigger_function regprocedure)
	LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	SELECT c.code, c.f_add, c.f_rescale, c.metric, c.rotation, c.seed, c.centroid, c.trigger_name, c.trigger_function
		INTO code, f_add, f_rescale, metric, rotation, seed, centroid, trigger_name, trigger_function
		FROM bqcore.columns c WHERE c.table_name = $1 AND c.column_name = $2;
	IF NOT FOUND THEN
		PERFORM bqcore.vector_column($1, $2);
		RAISE EXCEPTION 'column % of % has no codes', quote_ident($2), $1
			USING ERRCODE = 'undefined_object',
				HINT = format('SELECT bqcore.add(%1$L, %2$L, bqcore.train(%1$L, %2$L));', $1, $2);
	END IF;
END $$;

CREATE OR REPLACE FUNCTION bqcore.model(table_name regclass, column_name name) RETURNS jsonb
	LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM bqcore.setup($1, $2);
	RETURN (SELECT c.model FROM bqcore.columns c WHERE c.table_name = $1 AND c.column_name = $2);
END $$;
COMMENT ON FUNCTION bqcore.model(regclass, name) IS 'the model behind a column''s codes';

-- Codes of the rows that have none yet, with a commit every so many pages, so that locks and dead rows stay few.
-- A procedure that commits cannot pin search_path: types and operators are named in full.
CREATE OR REPLACE PROCEDURE bqcore.fill(table_name regclass, column_name name, pages int DEFAULT 500)
	LANGUAGE plpgsql AS $$
DECLARE
	s pg_catalog.record := bqcore.setup(table_name, column_name);
	part pg_catalog.regclass;
	total bigint;
	filled bigint := 0;
	n bigint;
BEGIN
	IF pages OPERATOR(pg_catalog.<) 1 THEN
		RAISE EXCEPTION 'pages: expected 1 or more, not %', pages USING ERRCODE = 'invalid_parameter_value';
	END IF;
	FOR part IN SELECT p.relid FROM pg_catalog.pg_partition_tree(table_name) p WHERE p.isleaf
		UNION SELECT table_name FROM pg_catalog.pg_class c
			WHERE c.oid OPERATOR(pg_catalog.=) table_name AND c.relkind OPERATOR(pg_catalog.=) 'r' LOOP
		total := pg_catalog.pg_relation_size(part) OPERATOR(pg_catalog./) pg_catalog.current_setting('block_size')::bigint;
		FOR page IN 0 .. total BY pages LOOP
			EXECUTE pg_catalog.format('UPDATE ONLY %1$s SET %2$I = NULL WHERE %2$I IS NULL AND %3$I IS NOT NULL
				AND ctid OPERATOR(pg_catalog.>=) %4$L AND ctid OPERATOR(pg_catalog.<) %5$L', part, s.code, column_name,
				pg_catalog.format('(%s,0)', page), pg_catalog.format('(%s,0)', page OPERATOR(pg_catalog.+) pages));
			GET DIAGNOSTICS n = ROW_COUNT;
			filled := filled OPERATOR(pg_catalog.+) n;
			COMMIT;
		END LOOP;
		RAISE NOTICE '%: % rows got codes', part, filled;
	END LOOP;
END $$;
COMMENT ON PROCEDURE bqcore.fill(regclass, name, int) IS 'encode the rows that have no code yet';

CREATE OR REPLACE FUNCTION bqcore.remove(table_name regclass, column_name name) RETURNS void
	LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	s record := bqcore.setup(table_name, column_name);
BEGIN
	EXECUTE format('DROP TRIGGER %I ON %s', s.trigger_name, table_name);
	-- Whoever owns the table may have named any function in a trigger of his own.
	IF bqcore.is_trigger_function(s.trigger_function) THEN
		EXECUTE format('DROP FUNCTION %s', s.trigger_function);
	END IF;
	EXECUTE format('ALTER TABLE %s DROP COLUMN %I, DROP COLUMN %I, DROP COLUMN %I', table_name, s.code, s.f_add, s.f_rescale);
END $$;
COMMENT ON FUNCTION bqcore.remove(regclass, name) IS 'drop code columns, their indexes and their trigger: the table is as before';

-- The body and the arguments of triggers hold names, which a dump carries as they are; numbers of columns it would not.
CREATE OR REPLACE FUNCTION bqcore.renamed(table_name regclass, old_name name, new_name name) RETURNS void
	LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	s record;
	n int := 0;
BEGIN
	IF EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = $1 AND a.attname = old_name AND a.attnum > 0) THEN
		RAISE EXCEPTION 'table % still has a column %', table_name, quote_ident(old_name)
			USING ERRCODE = 'duplicate_column', HINT = format('ALTER TABLE %s RENAME COLUMN %I TO %I; first.',
				table_name, old_name, new_name);
	ELSIF NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = $1 AND a.attname = new_name AND a.attnum > 0) THEN
		RAISE EXCEPTION 'table % has no column %', table_name, quote_ident(new_name) USING ERRCODE = 'undefined_column';
	END IF;
	FOR s IN SELECT * FROM bqcore.columns c
		WHERE c.table_name = $1 AND old_name::text IN (c.column_name, c.code, c.f_add, c.f_rescale) LOOP
		EXECUTE format('DROP TRIGGER %I ON %s', s.trigger_name, table_name);
		PERFORM bqcore.make_trigger(table_name, s.trigger_name, s.trigger_function::regproc::text,
			CASE WHEN s.column_name = old_name THEN new_name ELSE s.column_name END,
			CASE WHEN s.code = old_name THEN new_name ELSE s.code END,
			CASE WHEN s.f_add = old_name THEN new_name ELSE s.f_add END,
			CASE WHEN s.f_rescale = old_name THEN new_name ELSE s.f_rescale END, s.model);
		n := n + 1;
	END LOOP;
	IF n = 0 THEN
		RAISE EXCEPTION 'no codes of % were made with a column %', table_name, quote_ident(old_name)
			USING ERRCODE = 'undefined_object';
	END IF;
END $$;
COMMENT ON FUNCTION bqcore.renamed(regclass, name, name) IS 'after ALTER TABLE ... RENAME COLUMN of a vector or its codes';

-- Functions that bqcore.add made and whose tables are gone: Postgres drops a table's triggers but not their functions.
CREATE OR REPLACE FUNCTION bqcore.cleanup() RETURNS SETOF text
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	f text;
BEGIN
	FOR f IN SELECT p.oid::regprocedure::text FROM pg_proc p
		WHERE p.prorettype = 'trigger'::regtype AND p.prosrc LIKE E'\n-- Made by bqcore.add, dropped by bqcore.remove.\n%'
			AND pg_has_role(p.proowner, 'USAGE') AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgfoid = p.oid)
		ORDER BY 1 LOOP
		EXECUTE format('DROP FUNCTION %s', f);
		RETURN NEXT f;
	END LOOP;
END $$;
COMMENT ON FUNCTION bqcore.cleanup() IS 'drop what bqcore.add made for tables that were dropped; returns names';
