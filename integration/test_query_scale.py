"""Under ip the length of a query changes no order and its sign turns it round: operators, indexes, SQL."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from conftest import Managed
from support import (
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
    search_ids,
    value,
)

from bqcore import RaBitQ
from bqcore.datasets import clustered
from bqcore_postgres import sql_mode
from bqcore_postgres.sql_mode.client import CodedColumn

pytestmark = pytest.mark.postgres

_DATA = clustered(1200, 70, n_queries=20, random_state=31)
X = np.asarray(_DATA.base + 0.5, dtype=np.float32)
NATURAL = np.asarray(_DATA.queries + 0.5, dtype=np.float32)
_MEAN = X.mean(axis=0, dtype=np.float64)
_ALONG = (NATURAL @ _MEAN / (_MEAN @ _MEAN))[:, np.newaxis] * _MEAN
#: Beside the rows, across their mean, and on its other side.
QUERIES = np.concatenate([NATURAL[:8], NATURAL[8:14] - _ALONG[8:14], NATURAL[14:] - 3 * _ALONG[14:]]).astype(
    np.float32
)
OTHERS = (0.03, 0.3, 7.0, 100.0)


def recall(find: Callable[[FloatArray], list[int]], Q: FloatArray) -> float:
    near = np.argsort(-(Q.astype(float) @ X.T.astype(float)), axis=1)[:, :10]
    return float(
        np.mean([len(set(find(q)) & set(ids)) / 10 for q, ids in zip(Q, near.tolist(), strict=True)])
    )


def check(
    find: Callable[[FloatArray], list[int]], powers: tuple[float, ...], others: tuple[float, ...]
) -> None:
    """Ids are the same at powers of two, and recall at other lengths, for queries and their opposites."""
    for Q in (QUERIES, -QUERIES):
        first = [find(q) for q in Q]
        for power in powers:
            assert [find(np.asarray(q * np.float32(power))) for q in Q] == first
        natural = recall(find, Q)
        assert natural > 0.3
        for scale in others:
            assert recall(find, np.asarray(Q * np.float32(scale))) >= natural - 0.01


@pytest.fixture
def items(conn: Connection) -> Connection:
    create_table(conn, X)
    return conn


@pytest.mark.parametrize("bits", WIDTHS)
def test_operators_and_bounds(items: Connection, bits: int) -> None:
    model = value(items, f"SELECT bq_train(embedding, {bits}, 'ip')::text FROM items")
    execute(
        items,
        f"ALTER TABLE items ADD code bqcode(70) GENERATED ALWAYS AS (bq_encode(embedding, '{model}')) STORED",
    )
    codec = RaBitQ.from_bytes(bytes.fromhex(model[2:]))
    codes = codec.encode(X)
    for q in QUERIES[::4]:
        for scale in (1.0, 2.0**-20, -(2.0**20), 0.03):
            scaled = np.asarray(q * np.float32(scale))
            rows = execute(
                items,
                "SELECT code <#> q, bq_bound(code, q, 1.9) "
                f"FROM items, bq_query(%s, '{model}') AS q ORDER BY id",
                [scaled],
            ).fetchall()
            found = np.array(rows, dtype=np.float32)
            np.testing.assert_array_equal(found[:, 0], codec.estimate(codes, scaled))
            np.testing.assert_allclose(found[:, 1], codec.error_bound(codes, scaled), rtol=1e-5)
            assert np.mean(np.abs(found[:, 0] + X @ scaled) <= found[:, 1] + 1e-6 * np.abs(X @ scaled)) >= 0.9
    check(
        lambda q: column(
            items, f"SELECT id FROM items ORDER BY code <#> bq_query(%s, '{model}'), id LIMIT 10", [q]
        ),
        (2.0**-20, 2.0**20),
        OTHERS[:1],
    )


def test_queries_of_layout_1_are_read_with_a_weight_of_one(items: Connection) -> None:
    model = value(items, "SELECT bq_train(embedding, 2, 'ip')::text FROM items")
    q = bytes(value(items, f"SELECT bq_query(%s, '{model}')::bytea", [QUERIES[0]]))
    code = bytes(value(items, f"SELECT bq_encode(%s, '{model}')::bytea", [X[0]]))
    part = (len(q) - 12) // 2
    assert (q[2], part) == (0xD2, 24 + 128)
    old = q[:2] + b"\xd1" + q[3:12] + q[12:32] + q[36 : 12 + part]
    old += q[12 + part : 12 + part + 20] + q[12 + part + 24 :]
    (weight,) = struct.unpack("<f", q[32:36])
    (f_add,) = struct.unpack("<f", code[12:16])
    new, before = (
        value(items, "SELECT bq_distance(%s::bytea::bqcode, %s::bytea::bqquery)", [code, one])
        for one in (q, old)
    )
    assert weight != 1
    assert new - before == pytest.approx((weight - 1) * f_add, abs=1e-5 * abs(new))
    for metric in ("l2", "cosine"):
        other = value(items, f"SELECT bq_train(embedding, 2, '{metric}')::text FROM items")
        assert bytes(value(items, f"SELECT bq_query(%s, '{other}')::bytea", [QUERIES[0]]))[2] == 0xD1
    wrong = q[:2] + b"\xd1" + q[3:]
    assert value(items, "SELECT pg_input_is_valid(%s, 'bqquery')", ["\\x" + wrong.hex()]) is False
    infinite = q[:32] + struct.pack("<f", np.inf) + q[36:]
    assert value(items, "SELECT pg_input_is_valid(%s, 'bqquery')", ["\\x" + infinite.hex()]) is False


@pytest.mark.parametrize("type_name", ["vector", "halfvec"])
@pytest.mark.parametrize("bits", WIDTHS)
def test_bqhnsw(items: Connection, bits: int, type_name: str) -> None:
    if type_name == "halfvec":
        execute(items, "ALTER TABLE items ALTER embedding TYPE halfvec(70)")
    create_index(items, bits, "ip", type_name=type_name)
    force_index(items)
    configure(items, hnsw_ef_search=20)
    half = type_name == "halfvec"
    check(
        lambda q: search_ids(items, q, 10, "ip") if not half else halves(items, q),
        (2.0**-4, 2.0**4) if half else (2.0**-20, 2.0**20),
        (0.3, 7.0) if half else OTHERS[::3],
    )


def halves(conn: Connection, q: FloatArray) -> list[int]:
    return column(conn, "SELECT id FROM items ORDER BY embedding <#> %s::vector::halfvec LIMIT 10", [q])


@pytest.mark.parametrize("method", ["hnsw", "ivfflat"])
def test_indexes_of_pgvector_on_codes(items: Connection, method: str) -> None:
    model = value(items, "SELECT bq_train(embedding, 4, 'ip')::text FROM items")
    execute(
        items,
        f"ALTER TABLE items ADD code bqcode(70) GENERATED ALWAYS AS (bq_encode(embedding, '{model}')) STORED",
    )
    options = " WITH (lists = 5)" if method == "ivfflat" else ""
    execute(items, f"CREATE INDEX ON items USING {method} (code bqcode_ip_ops){options}")
    force_index(items)
    check(
        lambda q: column(
            items, f"SELECT id FROM items ORDER BY code <#> bq_query(%s, '{model}') LIMIT 10", [q]
        ),
        (2.0**-20, 2.0**20),
        OTHERS[:1],
    )


@pytest.fixture
def plain(managed: Managed) -> Iterator[Connection]:
    with managed.connect() as conn:
        sql_mode.install(conn)
        execute(conn, "CREATE TABLE scaled (id integer PRIMARY KEY, embedding vector(70))")
        insert(conn, "scaled", range(len(X)), X)
        execute(
            conn,
            "SELECT bqcore.add('scaled', 'embedding', bqcore.train('scaled', 'embedding', metric => 'ip'))",
        )
        execute(conn, "CALL bqcore.fill('scaled', 'embedding')")
        yield conn
        execute(conn, "DROP TABLE scaled")


def test_sql_mode(plain: Connection) -> None:
    """Candidates by Hamming distance, then by estimates, of which few are rescored."""
    search = "SELECT id FROM bqcore.search('scaled', 'embedding', %s, 10, candidates => 300, rescore => 20)"
    check(lambda q: column(plain, search, [q]), (2.0**-20, 2.0**20), OTHERS[:1])
    coded = CodedColumn.read(plain, "scaled", "embedding")
    for q in QUERIES[::5]:
        for scale in (1.0, -0.25, 0.03):
            scaled = np.asarray(q * np.float32(scale))
            statement, parameters = coded.search_statement(scaled, 10, candidates=300, rescore=20)
            ours = [row[0] for row in plain.execute(statement, parameters).fetchall()]
            assert len(set(ours) & set(column(plain, search, [scaled]))) >= 9
            found = np.array(
                column(
                    plain,
                    "SELECT bqcore.estimate(embedding_code, embedding_f_add, embedding_f_rescale, %s, "
                    "(SELECT bqcore.model('scaled', 'embedding'))) FROM scaled ORDER BY id",
                    [scaled],
                )
            )
            model = coded.model
            expected = model.estimate(model.encode(X), scaled, query_bits=4)
            np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())
