"""SQL mode's codes and searches are those of the kernels."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import numpy as np
import psycopg
import pytest
from conftest import Managed
from pgvector.psycopg import register_vector_async
from psycopg import sql
from support import METRICS, Connection, execute, insert, value

from bqcore import RaBitQ, _kernels
from bqcore.datasets import clustered
from bqcore.evaluation import exact_search
from bqcore_postgres import sql_mode
from bqcore_postgres.sql_mode.client import CodedColumn
from bqcore_postgres.sql_mode.model import from_json, to_json

pytestmark = pytest.mark.postgres

DATA = clustered(1200, 100, n_queries=30, random_state=5)
ALL_METRICS = (*METRICS, "ip")


@pytest.fixture(scope="module")
def conn(managed: Managed) -> Iterator[Connection]:
    with managed.connect() as connection:
        sql_mode.install(connection)
        execute(
            connection, "CREATE TABLE items (id integer PRIMARY KEY, even boolean, embedding vector(100))"
        )
        insert(connection, "items", range(1200), DATA.base)
        execute(connection, "UPDATE items SET even = id % 2 = 0")
        execute(connection, "CREATE TABLE bare AS SELECT * FROM items")
        yield connection


@pytest.fixture(scope="module")
def coded(conn: Connection) -> Connection:
    """`conn` with codes for cosine, and an index over them."""
    execute(conn, "SELECT bqcore.add('items', 'embedding', bqcore.train('items', 'embedding', seed => 9))")
    execute(conn, "CALL bqcore.fill('items', 'embedding', 7)")
    execute(conn, "CREATE INDEX ON items USING hnsw (embedding_code bit_hamming_ops)")
    return conn


def bits(text: str) -> list[int]:
    return [int(c) for c in text]


@pytest.mark.parametrize("dim", [1, 2, 3, 64, 100, 384])
def test_rotation_in_sql_is_that_of_the_kernels(conn: Connection, dim: int) -> None:
    for seed in (0, 7, 2**63 - 1):
        model = _kernels.Model(
            bits=1,
            metric="l2",
            rotation="hadamard",
            seed=seed,
            centroid=np.zeros(dim, np.float32),
            n_trained=1,
        )
        X = np.random.default_rng(dim).standard_normal((2, dim)).astype(np.float32)
        for x, expected in zip(X, model.rotate(X), strict=True):
            rotated = value(conn, "SELECT bqcore.rotate(%s, %s)", [x, seed]).to_numpy()
            np.testing.assert_allclose(rotated, expected, atol=2e-6)


@pytest.mark.parametrize("metric", ALL_METRICS)
@pytest.mark.parametrize("rotation", ["hadamard", "none"])
def test_codes_and_estimates_are_those_of_the_kernels(conn: Connection, metric: str, rotation: str) -> None:
    document = value(conn, "SELECT bqcore.train('bare', 'embedding', 2000, %s, %s, 3)", [metric, rotation])
    trained = RaBitQ(1, metric, rotation=rotation, random_state=3).fit(DATA.base)
    model = from_json(document)
    np.testing.assert_allclose(model.centroid_, trained.centroid_, rtol=1e-6, atol=1e-7)
    assert (model.n_trained_, model.metric_, model.rotation_) == (1200, metric, rotation)
    codes = model.encode(DATA.base[:40])
    q = DATA.queries[0]
    expected = model.estimate(codes, q, query_bits=4)
    rows = execute(
        conn,
        "SELECT e.code::text, e.f_add, e.f_rescale, bqcore.estimate(e.code, e.f_add, e.f_rescale, %s, %s) "
        "FROM bare, LATERAL bqcore.encode(embedding, %s) e WHERE id < 40 ORDER BY id",
        [q, json.dumps(document), json.dumps(document)],
    ).fetchall()
    unpacked = np.unpackbits(codes.packed, axis=1, bitorder="little")[:, :100]
    # a coordinate within rounding of zero may fall on either side
    assert (np.array([bits(row[0]) for row in rows]) != unpacked).mean() < 1e-3
    scale = np.abs(expected).max()
    for found, kernel in zip(
        np.array([row[1:] for row in rows]).T,
        (codes.factors["f_add"], codes.factors["f_rescale"], expected),
        strict=True,
    ):
        np.testing.assert_allclose(found, kernel, rtol=1e-5, atol=1e-5 * scale)


def test_ties_of_levels_are_rounded_as_in_the_kernels(conn: Connection) -> None:
    """A query whose coordinates are halves of its step: -7, -6.5, ..., 7."""
    q = np.arange(-14, 15, dtype=np.float32) / 2
    model = _kernels.Model(
        bits=1, metric="l2", rotation="none", seed=0, centroid=np.zeros(29, np.float32), n_trained=1
    )
    prepared = model.prepare(q, query_bits=4)
    row = execute(
        conn,
        "SELECT p0::text, p1::text, p2::text, p3::text, delta, shift "
        "FROM bqcore.query(%s, %s, 'l2', 'none', 0, true)",
        [q, np.zeros(29, np.float32)],
    ).fetchone()
    assert row is not None
    planes = np.array([bits(text) for text in row[:4]])
    levels = planes.T @ [1, 2, 4, -8]
    assert levels.tolist() == [int(x + np.copysign(0.5, x)) for x in q]
    assert row[4] == 1.0
    assert row[5] == prepared.struct.sum_z / 2 == levels.sum() / 2


@pytest.mark.parametrize("rescore", [None, 40])
def test_search_finds_what_exact_search_finds(coded: Connection, rescore: int | None) -> None:
    truth, _ = exact_search(DATA.base, DATA.queries, 10, "cosine")
    found = 0
    for q, nearest in zip(DATA.queries, truth, strict=True):
        rows = execute(
            coded,
            "SELECT id, distance FROM bqcore.search('items', 'embedding', %s, 10, 200, %s)",
            [q, rescore],
        ).fetchall()
        distances = [row[1] for row in rows]
        assert distances == sorted(distances)
        found += len({row[0] for row in rows} & set(nearest.tolist()))
    assert found / truth.size >= (0.97 if rescore is None else 0.95)
    assert value(coded, "SELECT current_setting('hnsw.ef_search')") == "40"


def test_client_statement_equals_the_server_function(coded: Connection) -> None:
    column = CodedColumn.read(coded, "items", "embedding")
    execute(coded, "SET hnsw.ef_search = 100")
    for q in DATA.queries[:10]:
        for rescore in (30, 100):
            statement, parameters = column.search_statement(q, 10, candidates=100, rescore=rescore)
            here = coded.execute(statement, parameters).fetchall()
            there = execute(
                coded, "SELECT * FROM bqcore.search('items', 'embedding', %s, 10, 100, %s)", [q, rescore]
            ).fetchall()
            assert here == there
    execute(coded, "RESET hnsw.ef_search")
    text = value(coded, "SELECT bqcore.search_sql('items', 'embedding', %s)", [DATA.queries[0]])
    plan = "\n".join(row[0] for row in execute(coded, "EXPLAIN " + text.replace("%", "%%")).fetchall())
    assert "items_embedding_code_idx" in plan or "Seq Scan" in plan


def test_codes_follow_the_vectors(coded: Connection) -> None:
    def code_of(id_: int) -> tuple[object, ...] | None:
        return execute(
            coded,
            "SELECT embedding_code::text, embedding_f_add, embedding_f_rescale FROM items WHERE id = %s",
            [id_],
        ).fetchone()

    before = code_of(3)
    execute(coded, "UPDATE items SET embedding = (SELECT embedding FROM items WHERE id = 4) WHERE id = 3")
    assert code_of(3) == code_of(4) != before
    # nobody writes a wrong code by accident
    execute(coded, "UPDATE items SET embedding_f_add = 7, embedding_code = ~embedding_code WHERE id = 3")
    assert code_of(3) == code_of(4)
    execute(coded, "UPDATE items SET embedding = NULL WHERE id = 3")
    assert code_of(3) == (None, None, None)
    execute(coded, "UPDATE items SET embedding = array_fill(0, '{100}')::vector WHERE id = 3")
    assert code_of(3) == (None, None, None)  # zero under cosine, as in pgvector's indexes
    execute(coded, "UPDATE items SET embedding = %s WHERE id = 3", [DATA.base[3]])
    assert code_of(3) == before


def test_copied_codes_are_kept_and_equal_those_of_the_trigger(coded: Connection) -> None:
    column = CodedColumn.read(coded, "items", "embedding")
    new = clustered(60, 100, random_state=6).base
    assert column.copy(coded, new, {"id": range(5000, 5060)}, ["int4"]) == 60
    given = execute(
        coded,
        "SELECT embedding_code::text, embedding_f_add, embedding_f_rescale FROM items "
        "WHERE id >= 5000 ORDER BY id",
    ).fetchall()
    execute(coded, "UPDATE items SET embedding_code = NULL WHERE id >= 5000")
    made = execute(
        coded,
        "SELECT embedding_code::text, embedding_f_add, embedding_f_rescale FROM items "
        "WHERE id >= 5000 ORDER BY id",
    ).fetchall()
    execute(coded, "DELETE FROM items WHERE id >= 5000")
    assert np.mean([a[0] != b[0] for a, b in zip(given, made, strict=True)]) <= 0.05
    np.testing.assert_allclose([a[1:] for a in given], [b[1:] for b in made], rtol=1e-5)
    with pytest.raises(ValueError, match="id: expected 60 values, not 59"):
        column.copy(coded, new, {"id": range(59)}, ["int4"])
    with pytest.raises(ValueError, match="expected 100 dimensions, not 99"):
        column.copy(coded, new[:, :99], {"id": range(60)}, ["int4"])


def test_asynchronous_copies_too(managed: Managed, coded: Connection) -> None:
    new = clustered(20, 100, random_state=7).base

    async def run() -> None:
        async with await psycopg.AsyncConnection.connect(
            managed.server.dsn(managed.database), autocommit=True
        ) as conn:
            await register_vector_async(conn)
            column = await CodedColumn.read_async(conn, "items", "embedding")
            assert await column.copy_async(conn, new, {"id": range(6000, 6020)}, ["int4"]) == 20
            cursor = await conn.execute("SELECT current_setting('bqcore_sql.given_codes', true)")
            row = await cursor.fetchone()
            assert row is not None
            assert row[0] != "on"

    asyncio.run(run())
    assert value(coded, "SELECT count(embedding_code) FROM items WHERE id >= 6000") == 20
    execute(coded, "DELETE FROM items WHERE id >= 6000")


def test_filters_are_values_never_sql(coded: Connection) -> None:
    def ids(**filters: object) -> list[int]:
        rows = execute(
            coded,
            "SELECT id FROM bqcore.search('items', 'embedding', %s, 10, 1000, filter => %s)",
            [DATA.queries[0], json.dumps(filters)],
        ).fetchall()
        return [row[0] for row in rows]

    assert all(i % 2 == 0 for i in ids(even=True))
    assert set(ids(id=[1, 2, 3])) == {1, 2, 3}
    assert ids(id=[]) == ids(even=None) == []
    with pytest.raises(psycopg.errors.UndefinedColumn, match="has no column"):
        ids(**{"even) OR (true": True})
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        ids(even="true'; DROP TABLE items; --")


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        ("search('items', 'embedding', '[1,2]')", "DataException", "expected 100 dimensions, not 2"),
        (
            "search('items', 'even', '[1,2]')",
            "WrongObjectType",
            "expected a column of type vector or halfvec, not boolean",
        ),
        ("search('items', 'nothing', '[1,2]')", "UndefinedColumn", "items has no column nothing"),
        ("search('items', 'embedding', NULL)", "NullValueNotAllowed", "expected a query vector, not NULL"),
        ("search('items', 'embedding', {q}, 0)", "InvalidParameterValue", "k: expected 1 or more, not 0"),
        ("search('items', 'embedding', {q}, 10, 1001)", "InvalidParameterValue", "not 1001"),
        (
            "search('items', 'embedding', {q}, 10, 100, 9)",
            "InvalidParameterValue",
            r"rescore: expected k \(10\) or more, not 9",
        ),
        (
            "search('items', 'embedding', {q}, key => 'x')",
            "UndefinedColumn",
            "key: table .*items has no column x",
        ),
        (
            "search_as(NULL::uuid, 'items', 'embedding', {q})",
            "DatatypeMismatch",
            "key id is of type integer, not uuid",
        ),
        ("train('items', 'embedding', 0)", "InvalidParameterValue", "sample: expected 1 row or more, not 0"),
        (
            "train('items', 'embedding', metric => 'l1')",
            "InvalidParameterValue",
            "metric: expected l2, ip or cosine, not 'l1'",
        ),
        (
            "train('items', 'embedding', rotation => 'dense')",
            "InvalidParameterValue",
            "rotation: expected hadamard or none",
        ),
        (
            "train('items', 'embedding', seed => -1)",
            "InvalidParameterValue",
            "seed: expected 0 or more, not -1",
        ),
        (
            "add('items', 'embedding', bqcore.train('items', 'embedding'))",
            "DuplicateObject",
            "has codes already",
        ),
        ("encode({q}, '{{}}'::jsonb)", "InvalidParameterValue", "expected a model of bqcore.train"),
        (
            "rotate(array_fill(1, '{{2001}}')::vector)",
            "InvalidParameterValue",
            "expected 1 to 2000 dimensions",
        ),
    ],
)
def test_bad_input_gets_an_error_that_names_it(coded: Connection, call: str, error: str, text: str) -> None:
    with pytest.raises(getattr(psycopg.errors, error), match=text):
        execute(coded, f"SELECT * FROM bqcore.{call.format(q='(SELECT embedding FROM items WHERE id = 1)')}")


def test_damaged_models_are_refused_on_both_sides(conn: Connection) -> None:
    document = value(conn, "SELECT bqcore.train('bare', 'embedding')")
    assert from_json(to_json(from_json(document))).model_id == from_json(document).model_id
    assert json.loads(to_json(from_json(document))) == document
    document["centroid"][7] += 0.5
    with pytest.raises(ValueError, match="the model is damaged"):
        from_json(document)
    with pytest.raises(psycopg.errors.DataCorrupted, match="the model is damaged"):
        execute(conn, "SELECT bqcore.add('bare', 'embedding', %s)", [json.dumps(document)])
    with pytest.raises(ValueError, match="a model of 1 bit for SQL mode, not of 4"):
        to_json(RaBitQ(4).fit(DATA.base))


def test_a_model_trained_on_the_client_serves_sql(conn: Connection) -> None:
    model = RaBitQ(1, "l2", random_state=11).fit(DATA.base)
    execute(conn, "SELECT bqcore.add('bare', 'embedding', %s)", [to_json(model)])
    try:
        assert CodedColumn.read(conn, "bare", "embedding").model.model_id == model.model_id
    finally:
        execute(conn, "SELECT bqcore.remove('bare', 'embedding')")


def test_any_identifier_and_key_works(conn: Connection) -> None:
    schema, table, column = 'a "b" c', "Tafel 'ü'; --", 'Vek"tor ' + "ö" * 24
    names = {"s": sql.Identifier(schema), "t": sql.Identifier(schema, table), "c": sql.Identifier(column)}
    conn.execute(sql.SQL("CREATE SCHEMA {s}").format(**names))
    conn.execute(
        sql.SQL("CREATE TABLE {t} (k uuid PRIMARY KEY DEFAULT gen_random_uuid(), {c} halfvec(100))").format(
            **names
        )
    )
    with conn.cursor() as cursor:
        cursor.executemany(
            sql.SQL("INSERT INTO {t} ({c}) VALUES (%s::vector)").format(**names),
            [(x,) for x in DATA.base[:50]],
        )
    quoted = sql.Identifier(schema, table).as_string(conn)
    conn.execute(
        "SELECT bqcore.add(%(t)s, %(c)s, bqcore.train(%(t)s, %(c)s, metric => 'l2'))",
        {"t": quoted, "c": column},
    )
    conn.execute("CALL bqcore.fill(%s, %s)", [quoted, column])
    conn.execute(sql.SQL("INSERT INTO {t} ({c}) VALUES (%s::vector)").format(**names), [DATA.base[50]])
    rows = conn.execute(
        "SELECT * FROM bqcore.search_as(NULL::uuid, %s, %s, %s, 5, 51, 20)", [quoted, column, DATA.base[50]]
    ).fetchall()
    assert len(rows) == 5
    assert rows[0][1] < 0.01 < rows[1][1]
    column_ = CodedColumn.read(conn, quoted, column)
    assert column_.copy(conn, DATA.base[51:53], {}, []) == 2
    statement, parameters = column_.search_statement(DATA.base[52], 1, key="k", candidates=60, rescore=10)
    assert conn.execute(statement, parameters).fetchall()[0][1] < 0.01
    conn.execute("SELECT bqcore.remove(%s, %s)", [quoted, column])
    conn.execute(sql.SQL("DROP SCHEMA {s} CASCADE").format(**names))
