"""The types bqmodel, bqcode and bqquery and their functions, against Python's codec."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import pytest
from pgvector import HalfVector
from psycopg.pq import ExecStatus
from support import (
    OPERATORS,
    WIDTHS,
    Connection,
    FloatArray,
    column,
    create_index,
    create_table,
    execute,
    model,
    value,
)

from bqcore import RaBitQ
from bqcore.datasets import clustered

pytestmark = pytest.mark.postgres

#: Not a multiple of 8 or 64, so that codes and queries have padding.
DATA = clustered(300, 70, n_queries=4, random_state=23)
HEAD = 12  # bytes before the factors of a code: dim, tag, kind, model


@pytest.fixture
def items(conn: Connection) -> Connection:
    create_table(conn, DATA.base)
    return conn


def train(conn: Connection, bits: int = 4, metric: str = "l2", source: str = "embedding") -> bytes:
    """Serialised model of the rows of items."""
    return bytes(value(conn, f"SELECT bq_train({source}, {bits}, '{metric}')::bytea FROM items"))


def literal(data: bytes) -> str:
    return f"'\\x{data.hex()}'"


def code(conn: Connection, x: FloatArray, stored: bytes) -> bytes:
    return bytes(value(conn, "SELECT bq_encode(%s, %s::bytea::bqmodel)::bytea", [x, stored]))


def query(conn: Connection, x: FloatArray, stored: bytes) -> bytes:
    return bytes(value(conn, "SELECT bq_query(%s, %s::bytea::bqmodel)::bytea", [x, stored]))


@pytest.mark.parametrize("type_name", ["vector", "halfvec"])
def test_everything_equals_python(items: Connection, type_name: str) -> None:
    X, Q = DATA.base, DATA.queries
    if type_name == "halfvec":
        X, Q = (np.array([HalfVector(x).to_numpy() for x in rows], np.float32) for rows in (X, Q))
        items.execute("ALTER TABLE items ALTER embedding TYPE halfvec(70)")
    for metric in OPERATORS:
        for bits in WIDTHS:
            check_against_python(items, X, Q, metric, bits, type_name)


def check_against_python(
    items: Connection, X: FloatArray, Q: FloatArray, metric: str, bits: int, type_name: str
) -> None:
    stored = train(items, bits, metric)
    codec = RaBitQ.from_bytes(stored)
    fitted = RaBitQ(bits, metric, random_state=42).fit(X)
    assert codec.get_params() == fitted.get_params()
    assert codec.n_trained_ == len(X)
    np.testing.assert_allclose(codec.centroid_, fitted.centroid_, atol=1e-6)
    codes = codec.encode(X)
    estimates, bounds, decoded = codec.estimate(codes, Q), codec.error_bound(codes, Q), codec.decode(codes)

    items.execute(
        "ALTER TABLE items DROP COLUMN IF EXISTS code, DROP COLUMN IF EXISTS model, "
        f"ADD code bqcode(70), ADD model bqmodel DEFAULT {literal(stored)}".encode()
    )
    items.execute("UPDATE items SET code = bq_encode(embedding, model)")
    rows = execute(items, "SELECT code::bytea, bq_decode(code, model) FROM items ORDER BY id").fetchall()
    for i, (payload, x) in enumerate(rows):
        assert payload[:HEAD] == np.uint16(70).tobytes() + bytes([0xC1, payload[3]]) + bytes.fromhex(
            codec.model_id
        )
        assert payload[3] == bits | list(OPERATORS).index(metric) << 4
        assert payload[HEAD:] == codes.factors[i].tobytes() + codes.packed[i].tobytes()
        np.testing.assert_allclose(x.to_numpy(), decoded[i], atol=1e-5 * np.abs(decoded).max())
    for q, estimate, bound in zip(Q, estimates, bounds, strict=True):
        op = OPERATORS[metric]
        text = f"""
            SELECT bq_distance(code, q), bq_bound(code, q), bq_bound(code, q, 0.0), code {op} q, q {op} code
            FROM items, (SELECT bq_query(%s::{type_name}, %s::bytea::bqmodel) AS q) AS prepared ORDER BY id"""
        found = np.array(execute(items, text, [q.tolist(), stored]).fetchall())
        np.testing.assert_allclose(found[:, 0], estimate, rtol=1e-5, atol=1e-5 * np.abs(estimate).max())
        np.testing.assert_allclose(found[:, 1], bound, rtol=1e-5)
        assert not found[:, 2].any()
        expected = np.sqrt(np.maximum(found[:, 0], 0)) if metric == "l2" else found[:, 0]
        np.testing.assert_array_equal(found[:, 3], expected)
        np.testing.assert_array_equal(found[:, 4], expected)


def test_distances_between_codes(items: Connection) -> None:
    """Estimates from both sides' codes: their error is that of two codes, and they are symmetric."""
    for metric in ("l2", "cosine"):
        op = OPERATORS[metric]
        pairs = "a, {0} b WHERE a.id < 20 AND b.id >= 20 ORDER BY a.id, b.id"
        exact = column(items, f"SELECT a.embedding {op} b.embedding FROM items " + pairs.format("items"))
        for bits, least in {1: 0.8, 2: 0.95, 4: 0.99, 8: 0.9999}.items():
            execute(
                items,
                "CREATE TABLE codes AS SELECT id, bq_encode(embedding, m) AS code FROM items, "
                f"(SELECT bq_train(embedding, {bits}, '{metric}') AS m FROM items) AS trained",
            )
            text = f"SELECT bq_distance(a.code, b.code), a.code {op} b.code, b.code {op} a.code FROM codes "
            found = np.array(execute(items, text + pairs.format("codes")).fetchall())
            np.testing.assert_allclose(found[:, 1], found[:, 2], rtol=1e-5, atol=1e-5)
            assert np.corrcoef(found[:, 1], exact)[0, 1] > least
            items.execute("DROP TABLE codes")


def test_training(conn: Connection) -> None:
    create_table(conn, DATA.base[:3])
    conn.execute("INSERT INTO items VALUES (3, NULL), (4, array_fill(0, ARRAY[70])::vector)")
    info = "SELECT * FROM bq_model_info((SELECT bq_train(embedding, 2, 'cosine', 7) FROM items))"
    cursor = execute(conn, info)
    names, row = [c.name for c in cursor.description or []], cursor.fetchone()
    unit = DATA.base[:3] / np.linalg.norm(DATA.base[:3], axis=1, keepdims=True)
    norm = dict(zip(names, row or [], strict=True)).pop("centroid_norm")
    assert norm == pytest.approx(np.linalg.norm(unit.mean(axis=0)), rel=1e-6)
    assert dict(zip(names, row or [], strict=True)) == {
        "codec": "rabitq",
        "bits": 2,
        "metric": "cosine",
        "dim": 70,
        "rotation": "hadamard",
        "seed": 7,
        "trained_rows": 3,
        "centroid_norm": norm,
        "code_bytes": 4 + 20 + 18,
    }
    assert value(conn, "SELECT bq_train(embedding, 1, 'l2') FROM items WHERE id = 3") is None
    assert value(conn, "SELECT bq_train(embedding, 1, 'cosine') FROM items WHERE id > 2") is None
    for arguments, message in [
        ("embedding, 3, 'l2'", "bits must be 1, 2, 4 or 8, not 3"),
        ("embedding, 1, 'dot'", 'metric must be "l2", "ip" or "cosine", not "dot"'),
        ("embedding, NULL, 'l2'", "must not be NULL"),
        (
            "CASE WHEN id = 1 THEN '[1,2]'::vector ELSE embedding END, 1, 'l2'",
            "expected 70 dimensions, not 2",
        ),
    ]:
        with pytest.raises(psycopg.DataError, match=message):
            conn.execute(f"SELECT bq_train({arguments}) FROM items".encode())


def test_text_and_binary_forms(items: Connection) -> None:
    for bits, metric in [(1, "l2"), (4, "ip"), (8, "cosine")]:
        stored = train(items, bits, metric)
        forms = {
            "bqmodel": stored,
            "bqcode": code(items, DATA.base[0], stored),
            "bqquery": query(items, DATA.base[1], stored),
        }
        for name, payload in forms.items():
            text = f"\\x{payload.hex()}"
            assert value(items, f"SELECT %s::{name}::text", [text]) == text
            assert value(items, f"SELECT %s::{name} = %s::bytea::{name}", [text, payload]) is True
            changed = payload[:-1] + bytes([payload[-1] ^ 1])
            assert value(items, f"SELECT %s::{name}::bytea = %s", [text, changed]) is False
            oid = value(items, f"SELECT '{name}'::regtype::oid")
            sent = items.pgconn.exec_params(f"SELECT $1::{name}".encode(), [payload], [oid], [1], 1)
            assert sent.status == ExecStatus.TUPLES_OK
            assert sent.get_value(0, 0) == payload
            assert (
                value(items, f"SELECT bq_model_id(%s::{name})", [text]) == RaBitQ.from_bytes(stored).model_id
            )
    assert value(items, "SELECT pg_input_is_valid('\\x00', 'bqcode')") is False
    assert value(items, "SELECT pg_input_is_valid('x', 'bqmodel')") is False


@pytest.mark.parametrize("bits", [1, 8])
def test_modifier(items: Connection, bits: int) -> None:
    payload = literal(code(items, DATA.base[0], train(items, bits)))
    items.execute("CREATE TABLE codes (any_code bqcode, code bqcode(70), other bqcode(71))")
    execute(items, f"INSERT INTO codes (any_code, code) VALUES ({payload}, {payload})")
    assert (
        value(items, "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attname = 'code'")
        == "bqcode(70)"
    )
    for statement in (f"INSERT INTO codes (other) VALUES ({payload})", "UPDATE codes SET other = code"):
        with pytest.raises(psycopg.DataError, match="expected 71 dimensions, not 70"):
            execute(items, statement)
    for modifier in ("0", "16001", "1, 2"):
        with pytest.raises(psycopg.DataError):
            execute(items, f"CREATE TABLE bad (code bqcode({modifier}))")


def test_mismatches_are_errors(items: Connection) -> None:
    x = DATA.base[0]
    l2, other, cosine, wide = (
        train(items),
        train(items, 4, "l2", "embedding * embedding"),
        train(items, 4, "cosine"),
        train(items, 8),
    )
    codes = {
        name: literal(code(items, x, m)) + "::bqcode"
        for name, m in {"l2": l2, "other": other, "cosine": cosine, "wide": wide}.items()
    }
    q = literal(query(items, x, l2)) + "::bqquery"
    for name in ("other", "cosine", "wide"):
        for function in ("bq_distance", "bq_bound"):
            with pytest.raises(psycopg.DataError, match="codes of different models") as failure:
                execute(items, f"SELECT {function}({codes[name]}, {q})")
            assert RaBitQ.from_bytes(l2).model_id in (failure.value.diag.message_detail or "")
        with pytest.raises(psycopg.DataError, match="different models"):
            execute(items, f"SELECT bq_decode({codes[name]}, {literal(l2)})")
    for op, metric in (("<#>", "ip"), ("<=>", "cosine")):
        with pytest.raises(psycopg.DataError, match=f"expected codes of metric {metric}, not l2"):
            execute(items, f"SELECT {codes['l2']} {op} {q}")
    ip = literal(code(items, x, train(items, 4, "ip"))) + "::bqcode"
    with pytest.raises(psycopg.NotSupportedError, match="between a code and a query"):
        execute(items, f"SELECT bq_distance({ip}, {ip})")
    for function in ("bq_encode", "bq_query"):
        with pytest.raises(psycopg.DataError, match="expected 70 dimensions, not 2"):
            execute(items, f"SELECT {function}('[1,2]'::vector, {literal(l2)})")
    with pytest.raises(psycopg.DataError, match="eps0 must be 0 or more, not -1"):
        execute(items, f"SELECT bq_bound({codes['l2']}, {q}, -1)")
    assert value(items, f"SELECT bq_bound({codes['l2']}, {q}, 'infinity')") == np.inf


def test_models_have_a_limit(items: Connection) -> None:
    """Sections that readers skip may come with a later release; sessions keep models in memory."""
    from bqcore._kernels import ffi, lib

    stored = train(items)
    for extra, fits in ((1000, True), (1024 * 1024, False)):
        longer = bytearray(
            stored + (0x8000).to_bytes(4, "little") + extra.to_bytes(4, "little") + bytes(extra)
        )
        longer[8:12] = len(longer).to_bytes(4, "little")
        longer[40:44] = (2).to_bytes(4, "little")  # sections
        longer[12:16] = bytes(4)
        longer[12:16] = lib.bqk_crc32c(ffi.from_buffer(longer), len(longer), 0).to_bytes(4, "little")
        if fits:
            codes = {code(items, DATA.base[0], bytes(text))[HEAD:] for text in (stored, longer)}
            assert len(codes) == 1
        else:
            with pytest.raises(psycopg.errors.InvalidBinaryRepresentation, match="invalid bqmodel of"):
                code(items, DATA.base[0], bytes(longer))


def test_nulls_and_zero_vectors(items: Connection) -> None:
    for metric in OPERATORS:
        stored = literal(train(items, 4, metric))
        zero = "array_fill(0, ARRAY[70])::vector"
        assert value(items, f"SELECT bq_encode({zero}, {stored}) IS NULL") is (metric == "cosine")
        assert value(items, f"SELECT bq_query({zero}, {stored}) IS NULL") is False
        assert value(items, f"SELECT bq_encode(NULL::vector, {stored})") is None


def test_generated_columns_follow_their_vectors(items: Connection) -> None:
    stored = train(items, 4, "cosine")
    execute(
        items,
        "ALTER TABLE items ADD code bqcode(70) GENERATED ALWAYS AS "
        f"(bq_encode(embedding, {literal(stored)})) STORED",
    )
    items.execute("UPDATE items SET embedding = %s WHERE id = 5", [DATA.base[6]])
    items.execute("INSERT INTO items VALUES (300, %s), (301, NULL)", [DATA.base[6]])
    codes = dict(execute(items, "SELECT id, code::bytea FROM items").fetchall())
    assert codes[5] == codes[6] == codes[300] == code(items, DATA.base[6], stored)
    assert codes[301] is None


def test_wide_codes_are_read_from_toast(conn: Connection) -> None:
    """At 8 bits 9,000 dimensions leave the row; short codes have a header of one byte and no alignment."""
    rng = np.random.default_rng(3)
    for dim, bits in [(9000, 8), (16000, 8), (3, 1), (9, 2)]:
        X = rng.standard_normal((6, dim)).astype(np.float32)
        stored = RaBitQ(bits).fit(X).to_bytes()
        codec = RaBitQ.from_bytes(stored)
        create_table(conn, X)
        conn.execute("ALTER TABLE items ADD flag boolean DEFAULT true, ADD code bqcode")
        conn.execute("UPDATE items SET code = bq_encode(embedding, %s::bytea::bqmodel)", [stored])
        conn.execute("CREATE TABLE queries AS SELECT bq_query(%s, %s::bytea::bqmodel) AS q", [X[0], stored])
        found = column(conn, "SELECT bq_distance(code, q) FROM items, queries ORDER BY id")
        expected = codec.estimate(codec.encode(X), X[0])
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * dim)
        conn.execute("DROP TABLE items, queries")


def test_many_models_in_one_query(items: Connection) -> None:
    """More than a session keeps prepared."""
    text = "SELECT id % 9, bq_train(embedding, 4, 'l2', id % 9)::bytea FROM items GROUP BY 1 ORDER BY 1"
    models = dict(execute(items, text).fetchall())
    items.execute("CREATE TABLE models (key int, model bqmodel)")
    for key, stored in models.items():
        items.execute("INSERT INTO models VALUES (%s, %s::bytea::bqmodel)", [key, stored])
    text = "SELECT id, bq_encode(embedding, model)::bytea FROM items JOIN models ON key = id % 9 ORDER BY id"
    for i, payload in execute(items, text).fetchall():
        codec = RaBitQ.from_bytes(models[i % 9])
        assert payload[HEAD + 8 :] == codec.encode(DATA.base[i : i + 1]).packed.tobytes()


def test_functions_run_in_parallel_workers(items: Connection) -> None:
    """All are immutable and parallel safe; debug_parallel_query makes even this small query use a worker."""
    unsafe = """SELECT proname FROM pg_proc WHERE proname ~ '^bq_' AND prokind = 'f'
        AND (provolatile <> 'i' OR proparallel <> 's')"""
    assert column(items, unsafe) == []
    stored = train(items)
    text = f"""SELECT id, bq_distance(bq_encode(embedding, {literal(stored)}),
        bq_query(%s, {literal(stored)})) FROM items"""
    serial = dict(execute(items, text, [DATA.queries[0]]).fetchall())
    items.execute("SET debug_parallel_query = on")
    assert dict(execute(items, text, [DATA.queries[0]]).fetchall()) == serial


def test_an_indexs_model_is_a_value(items: Connection) -> None:
    create_index(items, 4, "cosine")
    stored = model(items)
    assert (
        value(items, "SELECT bq_model_id(bqcore_index_model('items_bq')::bqmodel)")
        == RaBitQ.from_bytes(stored).model_id
    )
    by_index: Any = value(items, "SELECT bqcore_index_encode('items_bq', %s)", [DATA.base[9]])
    assert code(items, DATA.base[9], stored)[HEAD:] == by_index[-8:] + by_index[:-8]
