"""bqcore_recall, against its definition in Python."""

from __future__ import annotations

import concurrent.futures
import time

import numpy as np
import psycopg
import pytest
from conftest import Server
from pgvector import Vector
from support import (
    BITS,
    METRICS,
    OPERATORS,
    Connection,
    FloatArray,
    configure,
    create_index,
    create_table,
    execute,
    force_index,
    search_ids,
    value,
)

from bqcore.datasets import clustered
from bqcore.evaluation import exact_distances

pytestmark = pytest.mark.postgres

both_bits = pytest.mark.parametrize("bits", BITS)
both_metrics = pytest.mark.parametrize("metric", METRICS)

DATA = clustered(600, 24, n_queries=10, random_state=19)


def self_recall(conn: Connection, ids: list[int], metric: str, k: int) -> float:
    """Recall@k with every row of ids as a query that does not count as its own neighbour; ties are hits."""
    found = possible = 0
    X = DATA.base[ids]
    for i, x in zip(ids, X, strict=True):
        distances = exact_distances(X, x[None], np.arange(len(ids))[None], metric)[0]
        exact = dict(zip(ids, distances, strict=True))
        del exact[i]
        kth = sorted(exact.values())[: min(k, len(exact))][-1]
        returned = [j for j in search_ids(conn, x, k + 1, metric) if j != i][:k]
        found += sum(exact[j] <= kth + 1e-6 * abs(kth) for j in returned)
        possible += min(k, len(exact))
    return found / possible


@both_bits
@both_metrics
def test_recall_follows_its_definition(conn: Connection, metric: str, bits: int) -> None:
    create_table(conn, DATA.base[:400])
    create_index(conn, bits, metric, options=", m = 4, ef_construction = 16")
    force_index(conn)
    configure(conn, hnsw_ef_search=15)
    measured = {}
    for k in (1, 5, 10):
        measured[k] = value(conn, "SELECT bqcore_recall('items_bq', %s, 400)", [k])
        assert measured[k] == pytest.approx(self_recall(conn, list(range(400)), metric, k), abs=0.005)
    assert measured[10] < 1
    assert value(conn, "SELECT bqcore_recall('items_bq', 10, 100)") == pytest.approx(measured[10], abs=0.05)
    assert value(conn, "SELECT bqcore_recall('items_bq')") == value(conn, "SELECT bqcore_recall('items_bq')")
    # where numbers decide, a scan returns ef_search rows at most
    configure(conn, bqcore_rescore=100)
    assert value(conn, "SELECT bqcore_recall('items_bq', 30, 400)") <= 15 / 30
    configure(conn, hnsw_ef_search=200, bqcore_rescore=-1)
    assert value(conn, "SELECT bqcore_recall('items_bq')") > measured[10]


def test_recall_counts_what_the_index_holds(conn: Connection) -> None:
    """Rows that are NULL, zero, deleted or outside the predicate are neither queries nor neighbours."""
    create_table(conn, DATA.base)
    create_index(conn, 4, "cosine", where="WHERE id < 200")
    conn.execute("UPDATE items SET embedding = NULL WHERE id % 10 = 1")
    execute(conn, "UPDATE items SET embedding = %s WHERE id %% 10 = 2", [np.zeros(24)])
    conn.execute("DELETE FROM items WHERE id % 10 = 3")
    kept = [i for i in range(200) if i % 10 not in (1, 2, 3)]
    configure(conn, hnsw_ef_search=400)
    assert value(conn, "SELECT bqcore_recall('items_bq', 10, 1000)") >= 0.99
    # with 139 neighbours wanted and present, every one of them has to be returned
    assert value(conn, "SELECT bqcore_recall('items_bq', 139, 1000)") >= 0.99
    assert len(kept) == 140


def test_recall_takes_ties_for_hits(conn: Connection) -> None:
    create_table(conn, np.tile(DATA.base[:1], (300, 1)))
    create_index(conn)
    assert value(conn, "SELECT bqcore_recall('items_bq', 5, 50)") == 1


def test_recall_of_an_expression_index(conn: Connection) -> None:
    create_table(conn, DATA.base)
    create_index(conn, 4, target="(subvector(embedding, 1, 12)::vector(12))")
    configure(conn, hnsw_ef_search=200)
    assert value(conn, "SELECT bqcore_recall('items_bq', 10, 50)") >= 0.97


def queries_recall(conn: Connection, X: FloatArray, queries: FloatArray, metric: str, k: int) -> float:
    """Recall@k of searches for queries that are no rows; ties are hits."""
    found = possible = 0
    distances = exact_distances(X, queries, np.tile(np.arange(len(X)), (len(queries), 1)), metric)
    for q, exact in zip(queries, distances, strict=True):
        n = min(k, len(X))
        kth = np.sort(exact)[n - 1]
        found += sum(exact[j] <= kth + 1e-6 * abs(kth) for j in search_ids(conn, q, k, metric))
        possible += n
    return found / possible


@both_bits
@pytest.mark.parametrize("metric", OPERATORS)
def test_recall_of_given_queries_follows_its_definition(conn: Connection, metric: str, bits: int) -> None:
    create_table(conn, DATA.base[:400])
    create_index(conn, bits, metric, options=", m = 4, ef_construction = 16")
    force_index(conn)
    configure(conn, hnsw_ef_search=15)
    queries = [Vector(q) for q in DATA.queries]
    for k in (1, 10):
        measured = value(conn, "SELECT bqcore_recall('items_bq', %s, 100, %s)", [k, queries])
        expected = queries_recall(conn, DATA.base[:400], DATA.queries, metric, k)
        assert measured == pytest.approx(expected, abs=0.005)
    by_name = "SELECT bqcore_recall('items_bq', k => 10, queries => %s)"
    assert value(conn, by_name, [queries]) == measured
    assert value(conn, "SELECT bqcore_recall('items_bq', 10, 100, NULL)") == value(
        conn, "SELECT bqcore_recall('items_bq')"
    )


def test_rows_are_neighbours_of_given_queries_that_equal_them(conn: Connection) -> None:
    create_table(conn, DATA.base[:20])
    create_index(conn, 4)
    rows = [Vector(x) for x in DATA.base[:20]]
    # a table of one row has a neighbour for a query and none for itself
    conn.execute("DELETE FROM items WHERE id > 0")
    assert value(conn, "SELECT bqcore_recall('items_bq')") is None
    assert value(conn, "SELECT bqcore_recall('items_bq', queries => %s)", [rows]) == 1


@pytest.mark.parametrize("metric", METRICS)
def test_given_queries_are_cast_to_the_type_of_the_index(conn: Connection, metric: str) -> None:
    create_table(conn, DATA.base)
    conn.execute("ALTER TABLE items ALTER embedding TYPE halfvec(24)")
    create_index(conn, 4, metric, type_name="halfvec")
    create_index(conn, 4, metric, name="cast_bq", target="(embedding::vector(24))")
    configure(conn, hnsw_ef_search=400)
    queries = [Vector(q) for q in DATA.queries]
    for name in ("items_bq", "cast_bq"):
        assert value(conn, "SELECT bqcore_recall(%s::regclass, 10, 1, %s)", [name, queries]) >= 0.99
    with pytest.raises(psycopg.errors.NumericValueOutOfRange, match="halfvec"):
        value(conn, "SELECT bqcore_recall('items_bq', queries => %s)", [[Vector([1e6] * 24)]])


@pytest.mark.parametrize(
    ("queries", "error", "message"),
    [
        ("ARRAY[]::vector[]", psycopg.errors.InvalidParameterValue, "between 1 and 10000 vectors, not 0"),
        ("'{NULL}'::vector[]", psycopg.errors.NullValueNotAllowed, "number 1 of 1 is"),
        ("array_fill('[1]'::vector, ARRAY[10001])", psycopg.errors.InvalidParameterValue, "not 10001"),
        (
            "(SELECT array_agg(embedding) || '[1,2]'::vector FROM l2_1 WHERE id < 2)",
            psycopg.errors.DataException,
            "expected 100 dimensions, not 2, in query 3 of 3",
        ),
    ],
)
def test_given_queries_are_checked(
    session: Connection, queries: str, error: type[psycopg.Error], message: str
) -> None:
    with pytest.raises(error, match=message):
        execute(session, f"SELECT bqcore_recall('l2_1_bq', queries => {queries})")


def test_a_zero_query_has_no_neighbours_under_cosine(conn: Connection) -> None:
    create_table(conn, DATA.base)
    create_index(conn, 4, "cosine")
    zero = Vector(np.zeros(24))
    assert value(conn, "SELECT bqcore_recall('items_bq', queries => %s)", [[zero]]) is None
    with_others = [zero, *(Vector(q) for q in DATA.queries)]
    assert value(conn, "SELECT bqcore_recall('items_bq', queries => %s)", [with_others]) == value(
        conn, "SELECT bqcore_recall('items_bq', queries => %s)", [with_others[1:]]
    )


def test_recall_locks_the_table_before_the_index(server: Server, conn: Connection, database: str) -> None:
    """As TRUNCATE does: the other order would be a deadlock."""
    create_table(conn, DATA.base[:50])
    create_index(conn)
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    with server.connect(database) as other, concurrent.futures.ThreadPoolExecutor(1) as pool:
        with conn.transaction():
            conn.execute("LOCK TABLE items IN ACCESS EXCLUSIVE MODE")
            running = pool.submit(value, other, "SELECT bqcore_recall('items_bq')")
            until = time.monotonic() + 20
            while not value(conn, waiting):
                assert time.monotonic() < until
                time.sleep(0.01)
            held = value(conn, "SELECT count(*) FROM pg_locks WHERE relation = 'items_bq'::regclass")
        assert running.result() > 0.9
    assert held == 0


@pytest.mark.parametrize("rows", [0, 1])
def test_recall_without_neighbours_is_null(conn: Connection, rows: int) -> None:
    create_table(conn, DATA.base[:rows])
    create_index(conn)
    assert value(conn, "SELECT bqcore_recall('items_bq')") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("0", "k must be between 1 and 1000, not 0"),
        ("1001", "k must be between 1 and 1000, not 1001"),
        ("10, 0", "n_queries must be between 1 and 10000, not 0"),
        ("10, 10001", "n_queries must be between 1 and 10000, not 10001"),
    ],
)
def test_recall_parameters_out_of_range(session: Connection, arguments: str, message: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=message):
        execute(session, f"SELECT bqcore_recall('l2_1_bq', {arguments})")
