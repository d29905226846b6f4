"""The extension's SQL functions, against Python's implementation of the same definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import pytest
from pgvector import HalfVector
from support import (
    OPERATORS,
    WIDTHS,
    Connection,
    FloatArray,
    column,
    configure,
    create_index,
    create_table,
    execute,
    force_index,
    insert,
    model,
    size,
    value,
)

import bqcore
from bqcore import RaBitQ
from bqcore._kernels import ISAS
from bqcore.datasets import clustered, gaussian

pytestmark = pytest.mark.postgres


DATA = clustered(600, 24, n_queries=10, random_state=19)


def test_versions_agree(conn: Connection) -> None:
    installed = value(conn, "SELECT extversion FROM pg_extension WHERE extname = 'bqcore'")
    assert value(conn, "SELECT bqcore_version()") == installed == bqcore.__version__


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("metric", OPERATORS)
def test_index_info(conn: Connection, metric: str, bits: int) -> None:
    create_table(conn, DATA.base)
    create_index(conn, bits, metric)
    cursor = execute(conn, "SELECT * FROM bqcore_index_info('items_bq')")
    names, row = [c.name for c in cursor.description or []], cursor.fetchone()
    info = dict(zip(names, row or [], strict=True))
    assert info.pop("isa") in ISAS
    stored = RaBitQ.from_bytes(model(conn))
    assert info.pop("centroid_norm") == pytest.approx(np.linalg.norm(stored.centroid_), rel=1e-6)
    assert info == {
        "codec": "rabitq",
        "bits": bits,
        "metric": metric,
        "dim": 24,
        "m": 16,
        "ef_construction": 64 if bits == 1 else 100,
        "rotation": "hadamard",
        "seed": stored.random_state,
        "trained_rows": 600,
        "code_bytes": 3 * bits + 8,
        "index_bytes": size(conn, "items_bq"),
        "trained": True,
        "waiting_rows": 0,
    }
    assert info["code_bytes"] == stored.bytes_per_vector


@pytest.mark.parametrize(
    "call",
    [
        "index_info({})",
        "recall({})",
        "index_model({})",
        "index_encode({}, '[1]')",
        "index_estimate({}, '[1]', '[1]')",
    ],
)
def test_only_bqhnsw_indexes_are_accepted(conn: Connection, call: str) -> None:
    create_table(conn, DATA.base[:10])
    conn.execute("CREATE INDEX by_id ON items (id)")
    conn.execute("CREATE INDEX graph ON items USING hnsw (embedding vector_l2_ops)")
    conn.execute("CREATE TABLE parted (embedding vector(24)) PARTITION BY LIST (embedding)")
    conn.execute("CREATE INDEX parted_bq ON parted USING bqhnsw (embedding vector_l2_ops)")
    for name in ("by_id", "graph", "items", "parted_bq"):
        with pytest.raises(psycopg.errors.WrongObjectType, match=f'"{name}" is not an? (bqhnsw )?index'):
            execute(conn, f"SELECT bqcore_{call.format(repr(name))}")
    with pytest.raises(psycopg.errors.UndefinedTable):
        execute(conn, f"SELECT bqcore_{call.format(repr('nothing'))}")
    assert value(conn, f"SELECT bqcore_{call.format('NULL')}") is None


def test_an_index_of_a_failed_concurrent_build_is_named(conn: Connection) -> None:
    create_table(conn, DATA.base[:50])
    execute(conn, "INSERT INTO items VALUES (9000, %s)", [np.full(24, 3e38, np.float32)])
    with pytest.raises(psycopg.errors.NumericValueOutOfRange):
        create_index(conn, concurrently=True)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match='"items_bq" is not valid'):
        conn.execute("SELECT bqcore_recall('items_bq')")
    for call in ("index_info('items_bq')", "index_model('items_bq')"):
        with pytest.raises(psycopg.Error, match="items_bq"):
            execute(conn, f"SELECT bqcore_{call}")
    conn.execute("DELETE FROM items WHERE id = 9000")
    conn.execute("REINDEX INDEX CONCURRENTLY items_bq")
    assert value(conn, "SELECT trained_rows FROM bqcore_index_info('items_bq')") == 50


def probes(dim: int, metric: str, centroid: FloatArray) -> FloatArray:
    """Vectors that quantizers stumble over; all of them can be encoded."""
    rng = np.random.default_rng(dim)
    drawn = gaussian(12, dim, n_queries=1, random_state=dim).base
    rows = [
        *drawn,
        drawn[0] * np.float32(1e-6),
        drawn[1] * np.float32(1e-15),
        drawn[2] * np.float32(1e16),
        np.full(dim, 1.0),
        -np.full(dim, 3.0),
        np.where(np.arange(dim) % 2, 1.0, -1.0),
        np.where(rng.random(dim) < 0.1, 1.0, 0.0) + np.eye(1, dim)[0],
        np.eye(1, dim)[0],
        np.eye(1, dim, dim - 1)[0] * 1e10,
        np.arange(dim) + 1.0,
        np.exp(np.linspace(-20, 20, dim)),
        centroid,
        centroid * (1 + 1e-6),
        centroid + np.eye(1, dim)[0] * 1e-7,
    ]
    if metric != "cosine":
        rows += [np.zeros(dim), np.full(dim, 1e-45), drawn[3] * np.float32(1e-40)]
    return np.array(rows, dtype=np.float32)


@pytest.mark.parametrize("dim", [3, 25, 100, 384, 1024])
@pytest.mark.parametrize("metric", OPERATORS)
@pytest.mark.parametrize("bits", WIDTHS)
def test_codes_and_estimates_equal_pythons(conn: Connection, bits: int, metric: str, dim: int) -> None:
    X = gaussian(40, dim, n_queries=1, random_state=1).base + np.float32(0.3)
    create_table(conn, X)
    create_index(conn, bits, metric)
    quantizer = RaBitQ.from_bytes(model(conn))
    rows = probes(dim, metric, quantizer.centroid_)
    create_table(conn, rows, "probes")
    codes = quantizer.encode(rows)
    expected = [p.tobytes() + f.tobytes() for p, f in zip(codes.packed, codes.factors, strict=True)]
    encoded = column(conn, "SELECT bqcore_index_encode('items_bq', embedding) FROM probes ORDER BY id")
    assert encoded == expected
    statement = """
        SELECT bqcore_index_estimate('items_bq', v.embedding, q.embedding)
        FROM probes q CROSS JOIN probes v ORDER BY q.id, v.id"""
    estimates = np.array(column(conn, statement), dtype=np.float32).reshape(len(rows), len(rows))
    assert np.isfinite(estimates).all()
    np.testing.assert_array_equal(estimates, quantizer.estimate(codes, rows))


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("metric", OPERATORS)
def test_codes_of_half_precision_equal_pythons(conn: Connection, metric: str, bits: int) -> None:
    X = DATA.base.astype(np.float16)
    conn.execute("CREATE TABLE items (id integer, embedding halfvec(24))")
    create_table(conn, DATA.base, "floats")
    conn.execute("INSERT INTO items SELECT id, embedding::halfvec FROM floats")
    execute(
        conn,
        f"CREATE INDEX items_bq ON items USING bqhnsw (embedding halfvec_{metric}_ops) WITH (bits = {bits})",
    )
    quantizer = RaBitQ.from_bytes(model(conn))
    trained = RaBitQ(metric=metric).fit(X.astype(np.float32))
    np.testing.assert_allclose(quantizer.centroid_, trained.centroid_, atol=1e-6)
    codes = quantizer.encode(X.astype(np.float32))
    statement = "SELECT bqcore_index_encode('items_bq', embedding::vector) FROM items ORDER BY id"
    expected = [p.tobytes() + f.tobytes() for p, f in zip(codes.packed, codes.factors, strict=True)]
    assert column(conn, statement) == expected
    force_index(conn)
    distance = f"embedding {OPERATORS[metric]} %s::halfvec"
    text = f"SELECT id, {distance} FROM items ORDER BY {distance} LIMIT 40"
    for q in DATA.queries:
        rows = execute(conn, text, [HalfVector(q), HalfVector(q)]).fetchall()
        assert len(rows) >= 39
        assert [d for _, d in rows] == sorted(d for _, d in rows)
    configure(conn, hnsw_ef_search=200)
    assert value(conn, "SELECT bqcore_recall('items_bq')") >= (0.9 if bits == 1 else 0.95)


def test_what_python_refuses_to_encode_the_server_refuses(conn: Connection) -> None:
    create_table(conn, DATA.base[:20])
    create_index(conn, 1, "l2", name="l2")
    create_index(conn, 4, "cosine", name="cosine")
    for index, row, reason in (
        ("l2", np.full(24, 3e38), "too large"),
        ("cosine", np.zeros(24), "zero vector"),
    ):
        with pytest.raises(ValueError, match=reason):
            RaBitQ.from_bytes(model(conn, index)).encode(row[None].astype(np.float32))
        with pytest.raises(psycopg.Error, match=f"cannot quantize vector: .*{reason}"):
            execute(conn, f"SELECT bqcore_index_encode('{index}', %s)", [row])
    for call in ("encode('l2', '[1,2]')", "estimate('l2', '[1,2]', '[1,2]')"):
        with pytest.raises(psycopg.errors.DataException, match="expected 24 dimensions, not 2"):
            execute(conn, f"SELECT bqcore_index_{call}")


def test_a_zero_query_has_an_estimate_under_cosine(conn: Connection) -> None:
    create_table(conn, DATA.base)
    create_index(conn, 4, "cosine")
    quantizer = RaBitQ.from_bytes(model(conn))
    expected = quantizer.estimate(quantizer.encode(DATA.base[:1]), np.zeros((1, 24), np.float32))[0, 0]
    statement = "SELECT bqcore_index_estimate('items_bq', %s, %s)"
    assert np.float32(value(conn, statement, [DATA.base[0], np.zeros(24)])) == expected


@pytest.mark.parametrize(
    "call",
    [
        "bqhnsw_distance('[1]'::vector, '[1]'::vector)",
        "bqhnsw_norm('[1]'::vector)",
        "bqhnsw_vector_l2_support('[1]'::vector)",
        "bqhnsw_vector_cosine_support()",
        "bqhnsw_distance('[1]', '[1]')",
        "bqhnsw_distance(NULL, NULL)",
        "bqhnsw_norm(NULL)",
        "bqhnsw_vector_l2_support(NULL)",
        "bqhnsw_handler(NULL)",
    ],
)
def test_support_functions_cannot_be_called(session: Connection, call: str) -> None:
    with pytest.raises((psycopg.errors.UndefinedFunction, psycopg.errors.FeatureNotSupported)):
        execute(session, f"SELECT {call}")
    assert value(session, "SELECT 1") == 1


def test_models_are_read_from_the_index_of_this_moment(conn: Connection) -> None:
    create_table(conn, DATA.base[:0])
    create_index(conn)
    insert(conn, "items", range(50), DATA.base[:50])
    models: list[Any] = [model(conn)]
    conn.execute("REINDEX INDEX items_bq")
    models.append(model(conn))
    assert [RaBitQ.from_bytes(m).n_trained_ for m in models] == [0, 50]
    assert RaBitQ.from_bytes(models[0]).centroid_.tolist() == [0.0] * 24
