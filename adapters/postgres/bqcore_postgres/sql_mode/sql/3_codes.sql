-- RaBitQ codes of 1 bit: sign bits of the centred, rotated vector and two corrective factors (docs/notation.md).

-- The rotated residual of a vector, normalised first under cosine, and its squared length.
CREATE OR REPLACE FUNCTION bqcore.residual(
	x @vector@.vector, centroid @vector@.vector, metric text, rotation text, seed bigint,
	OUT o @vector@.vector, OUT n2 float8)
	LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF @vector@.vector_dims(x) <> @vector@.vector_dims(centroid) THEN
		RAISE EXCEPTION 'expected % dimensions, not %', @vector@.vector_dims(centroid), @vector@.vector_dims(x)
			USING ERRCODE = 'data_exception';
	END IF;
	IF metric = 'cosine' THEN
		x := @vector@.l2_normalize(x);
	END IF;
	o := x OPERATOR(@vector@.-) centroid;
	IF rotation = 'hadamard' THEN
		o := bqcore.rotate(o, seed);
	END IF;
	n2 := -(o OPERATOR(@vector@.<#>) o);
	-- An eighth of float32's range: the kernels' limit.
	IF NOT n2 < 4.25e37 THEN
		RAISE EXCEPTION 'the squared distance to the centroid is % and has to stay below 4.25e37', n2
			USING ERRCODE = 'numeric_value_out_of_range';
	END IF;
END $$;

-- Zero vectors have no code under cosine. All of them count in float8 what the kernels count in float32.
CREATE OR REPLACE FUNCTION bqcore.encode(
	x @vector@.vector, centroid @vector@.vector, metric text, rotation text, seed bigint,
	OUT code bit, OUT f_add real, OUT f_rescale real)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	o @vector@.vector;
	n int := @vector@.vector_dims(centroid);
	n2 float8;
	k float8;
BEGIN
	IF x IS NULL OR (metric = 'cosine' AND @vector@.vector_norm(x) = 0) THEN
		RETURN;
	END IF;
	SELECT r.o, r.n2 INTO o, n2 FROM bqcore.residual(x, centroid, metric, rotation, seed) AS r;
	IF metric = 'ip' THEN
		f_add := (x OPERATOR(@vector@.-) centroid) OPERATOR(@vector@.<#>) centroid;
	END IF;
	f_add := CASE metric WHEN 'l2' THEN n2 WHEN 'cosine' THEN n2 / 2 ELSE f_add END;
	IF n2 < 1e-30 THEN
		code := repeat('0', n)::varbit;
		f_rescale := 0;
		f_add := CASE metric WHEN 'ip' THEN f_add ELSE 0 END;
		RETURN;
	END IF;
	code := @vector@.binary_quantize(o);
	k := (o OPERATOR(@vector@.<+>) array_fill(0::real, ARRAY[n])::@vector@.vector) / 2;
	f_rescale := CASE metric WHEN 'l2' THEN -2 ELSE -1 END * n2 / k;
END $$;

CREATE OR REPLACE FUNCTION bqcore.encode(
	x @vector@.vector, model jsonb, OUT code bit, OUT f_add real, OUT f_rescale real)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	m record := bqcore.read_model(model);
	e record := bqcore.encode(x, m.centroid, m.metric, m.rotation, m.seed);
BEGIN
	code := e.code;
	f_add := e.f_add;
	f_rescale := e.f_rescale;
END $$;
COMMENT ON FUNCTION bqcore.encode(@vector@.vector, jsonb) IS 'sign bits and corrective factors of a vector';

-- How often f_add counts for a query: once, but under ip <q, c> / |c|^2 times, and so much of the centroid is taken off
-- the query, so that estimates are linear in it.
CREATE OR REPLACE FUNCTION bqcore.weight(q @vector@.vector, centroid @vector@.vector, metric text) RETURNS real
	LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	n2 float8 := -(centroid OPERATOR(@vector@.<#>) centroid);
BEGIN
	RETURN CASE WHEN metric <> 'ip' THEN 1 WHEN n2 < 1e-30 THEN 0 ELSE -(q OPERATOR(@vector@.<#>) centroid) / n2 END;
END $$;

-- A query in levels of 4 bits, as bit planes of two's complement: estimate = weight f_add + g_add
-- + f_rescale (delta (count(code & p0) + 2 count(code & p1) + 4 count(code & p2) - 8 count(code & p3)) - shift).
CREATE OR REPLACE FUNCTION bqcore.query(
	q @vector@.vector, centroid @vector@.vector, metric text, rotation text, seed bigint, planes boolean,
	OUT code bit, OUT p0 bit, OUT p1 bit, OUT p2 bit, OUT p3 bit, OUT delta real, OUT shift float8, OUT g_add real)
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	n int := @vector@.vector_dims(centroid);
	o @vector@.vector;
	v @vector@.vector;
	unit @vector@.vector;
	half @vector@.vector;
	n2 float8;
	-- t[j + 7]: where the level is j or more, j = -6 .. 7; and how often that is so.
	t varbit[];
	sum_z bigint := -7 * n;
BEGIN
	IF q IS NULL THEN
		RAISE EXCEPTION 'expected a query vector, not NULL' USING ERRCODE = 'null_value_not_allowed';
	END IF;
	IF metric = 'ip' THEN
		g_add := q OPERATOR(@vector@.<#>) centroid;
		centroid := centroid OPERATOR(@vector@.*) array_fill(bqcore.weight(q, centroid, metric), ARRAY[n])::@vector@.vector;
	END IF;
	SELECT r.o, r.n2 INTO o, n2 FROM bqcore.residual(q, centroid, metric, rotation, seed) AS r;
	g_add := CASE metric WHEN 'l2' THEN n2 WHEN 'cosine' THEN n2 / 2 ELSE g_add END;
	code := @vector@.binary_quantize(o);
	IF NOT planes THEN
		RETURN;
	END IF;
	delta := (SELECT max(abs(c.x)) FROM unnest(o::real[]) AS c(x)) / 7;
	IF delta < 1e-37 THEN  -- its inverse would be infinite: the query sits on the centroid
		delta := 0;
	END IF;
	unit := array_fill(1::real, ARRAY[n])::@vector@.vector;
	half := array_fill(0.5::real, ARRAY[n])::@vector@.vector;
	v := o OPERATOR(@vector@.*) array_fill(coalesce(1 / nullif(delta, 0), 0)::real, ARRAY[n])::@vector@.vector;
	-- Halves are rounded away from zero, and binary_quantize tells what is above zero, not at it.
	o := v OPERATOR(@vector@.+) half;
	FOR j IN REVERSE 7 .. 1 LOOP
		t[j] := @vector@.binary_quantize(o);
		o := o OPERATOR(@vector@.+) unit;
	END LOOP;
	o := half OPERATOR(@vector@.-) v;
	FOR j IN 8 .. 14 LOOP
		t[j] := ~@vector@.binary_quantize(o);
		o := o OPERATOR(@vector@.+) unit;
	END LOOP;
	FOR j IN 1 .. 14 LOOP
		sum_z := sum_z + bit_count(t[j]);
	END LOOP;
	-- Plane p of two's complement changes where the level passes a multiple of 2^p, and starts as that of -7: 1001.
	p3 := ~t[7];
	p2 := t[3] # t[7] # t[11];
	p1 := t[1] # t[3] # t[5] # t[7] # t[9] # t[11] # t[13];
	p0 := ~(t[1] # t[2] # t[3] # t[4] # t[5] # t[6] # t[7] # t[8] # t[9] # t[10] # t[11] # t[12] # t[13] # t[14]);
	shift := delta::float8 * 0.5 * sum_z;
END $$;

CREATE OR REPLACE FUNCTION bqcore.estimate(
	code bit, f_add real, f_rescale real, q @vector@.vector, model jsonb) RETURNS float8
	LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	m record := bqcore.read_model(model);
	z record := bqcore.query(q, m.centroid, m.metric, m.rotation, m.seed, true);
BEGIN
	IF length(code) <> length(z.code) THEN
		RAISE EXCEPTION 'expected a code of % bits, not %', length(z.code), length(code) USING ERRCODE = 'data_exception';
	END IF;
	RETURN bqcore.weight(q, m.centroid, m.metric)::float8 * f_add + z.g_add + f_rescale * (z.delta::float8 * (bit_count(code & z.p0) + 2 * bit_count(code & z.p1)
		+ 4 * bit_count(code & z.p2) - 8 * bit_count(code & z.p3)) - z.shift);
END $$;
COMMENT ON FUNCTION bqcore.estimate(bit, real, real, @vector@.vector, jsonb) IS
	'estimated distance: squared for l2, negative inner product, 1 - cosine';
