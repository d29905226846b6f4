-- The rotation of bqcore's kernels (docs/notation.md, R), from its seed. @vector@ is the schema of pgvector.

-- A cache: every row follows from dim and seed. Rows stay in the table's own pages, where reading them is cheap.
CREATE TABLE IF NOT EXISTS bqcore.rotations (
	dim int NOT NULL,
	seed bigint NOT NULL,
	i int NOT NULL,
	axis @vector@.vector NOT NULL,
	PRIMARY KEY (dim, seed, i)
);
ALTER TABLE bqcore.rotations ALTER COLUMN axis SET STORAGE PLAIN;
GRANT SELECT ON bqcore.rotations TO PUBLIC;
COMMENT ON TABLE bqcore.rotations IS 'cache of rotation matrices; deleted rows are made anew';

-- x modulo 2^64 as a signed number: in numeric, because bigint reports overflow.
CREATE OR REPLACE FUNCTION bqcore.wrap64(x numeric) RETURNS bigint
	LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	r numeric := mod(x, 18446744073709551616);
BEGIN
	RETURN CASE WHEN r >= 9223372036854775808 THEN r - 18446744073709551616
		WHEN r < -9223372036854775808 THEN r + 18446744073709551616 ELSE r END;
END $$;

CREATE OR REPLACE FUNCTION bqcore.rotation_signs(dim int, seed bigint) RETURNS real[]
	LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	state bigint := seed;
	z bigint;
	signs real[] := '{}';
BEGIN
	-- splitmix64 (Steele, Lea, Flood 2014); >> is arithmetic, so the copies of the sign are masked off.
	FOR word IN 1 .. (4 * dim + 63) / 64 LOOP
		state := bqcore.wrap64(state + 11400714819323198485);
		z := state;
		z := bqcore.wrap64((z # ((z >> 30) & ((1::bigint << 34) - 1)))::numeric * 13787848793156543929);
		z := bqcore.wrap64((z # ((z >> 27) & ((1::bigint << 37) - 1)))::numeric * 10723151780598845931);
		z := z # ((z >> 31) & ((1::bigint << 33) - 1));
		signs := signs || ARRAY(SELECT (2 * ((z >> j) & 1) - 1)::real FROM generate_series(0, 63) j ORDER BY j);
	END LOOP;
	RETURN signs[1 : 4 * dim];
END $$;

-- Rows of the matrix: each step of the rotation mixes coordinates, so applied to the unit matrix it mixes rows.
CREATE OR REPLACE FUNCTION bqcore.rotation_axes(dim int, seed bigint) RETURNS @vector@.vector[]
	LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	signs real[] := bqcore.rotation_signs(dim, seed);
	unit real[] := array_fill(0::real, ARRAY[dim]);
	m @vector@.vector[];
	a @vector@.vector;
	b @vector@.vector;
	factor @vector@.vector;
	root @vector@.vector := array_fill(0.70710678::real, ARRAY[dim])::@vector@.vector;
	n int := 1;
	h int;
	i int;
	first int;
BEGIN
	WHILE n * 2 <= dim LOOP
		n := n * 2;
	END LOOP;
	FOR j IN 1 .. dim LOOP
		unit[j] := 1;
		m[j] := unit::@vector@.vector;
		unit[j] := 0;
	END LOOP;
	FOR round IN 0 .. 3 LOOP
		first := CASE round % 2 WHEN 1 THEN dim - n ELSE 0 END;
		FOR j IN 1 .. dim LOOP
			factor := array_fill((CASE WHEN j > first AND j <= first + n THEN 1 / sqrt(n::float8) ELSE 1 END
				* signs[round * dim + j])::real, ARRAY[dim])::@vector@.vector;
			m[j] := m[j] OPERATOR(@vector@.*) factor;
		END LOOP;
		h := 1;
		WHILE h < n LOOP
			i := first + 1;
			WHILE i <= first + n LOOP
				FOR j IN i .. i + h - 1 LOOP
					a := m[j];
					b := m[j + h];
					m[j] := a OPERATOR(@vector@.+) b;
					m[j + h] := a OPERATOR(@vector@.-) b;
				END LOOP;
				i := i + 2 * h;
			END LOOP;
			h := h * 2;
		END LOOP;
		IF dim <> n AND round IN (1, 2) THEN
			FOR j IN 1 .. dim / 2 LOOP
				a := m[j];
				b := m[j + dim / 2];
				m[j] := (a OPERATOR(@vector@.+) b) OPERATOR(@vector@.*) root;
				m[j + dim / 2] := (a OPERATOR(@vector@.-) b) OPERATOR(@vector@.*) root;
			END LOOP;
		END IF;
	END LOOP;
	RETURN m;
END $$;

-- As the owner of the cache, so that whoever trains can fill it but nobody can write wrong rows.
CREATE OR REPLACE FUNCTION bqcore.prepare_rotation(dim int, seed bigint) RETURNS void
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF dim NOT BETWEEN 1 AND 2000 THEN
		RAISE EXCEPTION 'expected 1 to 2000 dimensions for a rotation in SQL, not %', dim
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Beyond, let the client encode (bqcore_postgres.sql_mode), or train with rotation => ''none''.';
	END IF;
	IF EXISTS (SELECT FROM bqcore.rotations r WHERE r.dim = $1 AND r.seed = $2 AND r.i = $1) THEN
		RETURN;
	END IF;
	IF (SELECT count(*) FROM bqcore.rotations r WHERE r.i = 1) >= 64 THEN
		RAISE EXCEPTION 'expected at most 64 rotations in bqcore.rotations'
			USING ERRCODE = 'configuration_limit_exceeded', HINT = 'TRUNCATE bqcore.rotations: those in use are made anew.';
	END IF;
	INSERT INTO bqcore.rotations
		SELECT $1, $2, a.i, a.axis FROM unnest(bqcore.rotation_axes($1, $2)) WITH ORDINALITY AS a(axis, i)
		ON CONFLICT DO NOTHING;
END $$;

CREATE OR REPLACE FUNCTION bqcore.rotate(x @vector@.vector, seed bigint DEFAULT 0) RETURNS @vector@.vector
	LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	n int := @vector@.vector_dims(x);
	y float8[];
BEGIN
	y := ARRAY(SELECT -(r.axis OPERATOR(@vector@.<#>) x) FROM bqcore.rotations r
		WHERE r.dim = n AND r.seed = $2 ORDER BY r.i);
	IF cardinality(y) = n THEN
		RETURN y::@vector@.vector;
	END IF;
	-- The cache was emptied, or a dump brought the table without it.
	IF current_setting('transaction_read_only') = 'off' AND has_function_privilege('bqcore.prepare_rotation(int, bigint)', 'EXECUTE') THEN
		PERFORM bqcore.prepare_rotation(n, $2);
	END IF;
	RETURN ARRAY(SELECT -(a.axis OPERATOR(@vector@.<#>) x)
		FROM unnest(bqcore.rotation_axes(n, $2)) WITH ORDINALITY AS a(axis, i) ORDER BY a.i)::@vector@.vector;
END $$;
COMMENT ON FUNCTION bqcore.rotate(@vector@.vector, bigint) IS 'the seeded rotation of bqcore.RaBitQ, rotation = "hadamard"';
