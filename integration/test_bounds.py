"""How many candidates a scan looks at: as many as the wanted rows need, with any bits, LIMIT and copies."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
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
    has_iterative_scan,
    search,
    search_ids,
    value,
)

from bqcore.datasets import Dataset, clustered
from bqcore.evaluation import exact_distances
from bqcore_postgres.measure import BackendClock

pytestmark = pytest.mark.postgres

every_width = pytest.mark.parametrize("bits", WIDTHS)

EF_SEARCH = 40
DATA = clustered(4000, 64, n_queries=60, random_state=31)
#: 25 copies of each, more than an element of the graph holds rows.
COPIES = 25
DOCUMENTS = clustered(160, 48, n_queries=25, random_state=32)


def create_hnsw(
    conn: Connection, table: str = "items", metric: str = "l2", type_name: str = "vector"
) -> None:
    execute(conn, f"CREATE INDEX {table}_hnsw ON {table} USING hnsw (embedding {type_name}_{metric}_ops)")
    execute(conn, f"ANALYZE {table}")


def all_distances(data: Dataset) -> NDArray[np.float64]:
    """Return the squared distances of all rows to each query, shape (n_queries, n)."""
    ids = np.tile(np.arange(len(data.base)), (len(data.queries), 1))
    return exact_distances(data.base, data.queries, ids, "l2")


def recall(
    conn: Connection, k: int, queries: FloatArray, X: FloatArray, metric: str, where: str = ""
) -> float:
    """Return the share of the k nearest rows, ties included, among k that the index returns.

    Ids are row numbers.
    """
    matching = np.array(column(conn, f"SELECT id FROM items {where} ORDER BY id"))
    total = 0.0
    for q in queries:
        distances = exact_distances(X, q[None], matching[None], metric)[0]
        kth = np.partition(distances, k - 1)[k - 1]
        found = search_ids(conn, q, k, metric, "items", where)
        assert len(set(found)) == len(found)
        near = exact_distances(X, q[None], np.array(found, dtype=np.int64)[None], metric)[0]
        total += float((near <= kth * (1 + 1e-6) + 1e-9).sum()) / k
    return total / len(queries)


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_recall_at_any_limit_is_that_of_hnsw_at_equal_ef_search(conn: Connection, metric: str) -> None:
    create_table(conn, DATA.base)
    create_hnsw(conn, metric=metric)
    force_index(conn)
    limits = (10, 20, EF_SEARCH)
    theirs = [recall(conn, k, DATA.queries, DATA.base, metric) for k in limits]
    execute(conn, "DROP INDEX items_hnsw")
    for bits in WIDTHS:
        create_index(conn, bits, metric)
        ours = [recall(conn, k, DATA.queries, DATA.base, metric) for k in limits]
        slack = 0.03 if bits == 1 else 0.02
        assert min(np.subtract(ours, theirs)) >= -slack, (bits, ours, theirs)
        execute(conn, "DROP INDEX items_bq")


@every_width
def test_a_cursor_that_names_no_limit_recalls_as_hnsw_does(conn: Connection, bits: int) -> None:
    create_table(conn, DATA.base)
    create_index(conn, bits)
    force_index(conn)
    nearest = np.argsort(all_distances(DATA), axis=1)
    found = []
    for q in DATA.queries:
        with conn.transaction():
            text = "DECLARE c CURSOR FOR SELECT id FROM items ORDER BY embedding <-> %s"
            conn.execute(text, [q])
            found.append([row[0] for row in conn.execute("FETCH 20 FROM c").fetchall()])
    shares = [len(set(ids) & set(true[:20].tolist())) / 20 for ids, true in zip(found, nearest, strict=True)]
    assert np.mean(shares) >= 0.93


@every_width
@pytest.mark.parametrize("type_name", ["vector", "halfvec"])
def test_copies_of_a_row_are_all_found(conn: Connection, bits: int, type_name: str) -> None:
    X = np.tile(DOCUMENTS.base, (COPIES, 1))
    create_table(conn, X)
    if type_name == "halfvec":
        execute(conn, f"ALTER TABLE items ALTER embedding TYPE halfvec({X.shape[1]})")
    create_index(conn, bits, type_name=type_name)
    force_index(conn)
    copies = np.arange(len(X)) % len(DOCUMENTS.base)
    nearest = all_distances(DOCUMENTS).argmin(axis=1)
    whole = found = 0
    for q, document in zip(DOCUMENTS.queries, nearest, strict=True):
        text = f"SELECT id FROM items ORDER BY embedding <-> %s::{type_name} LIMIT {COPIES}"
        documents = copies[column(conn, text, [q])]
        assert len(documents) == COPIES
        # all copies of one document, in the end
        whole += len(set(documents)) == 1
        found += documents[0] == document
    # of the three elements of a document the graph, built by several workers, may leave one out of reach
    assert whole >= 0.9 * len(DOCUMENTS.queries)
    assert found >= 0.9 * len(DOCUMENTS.queries)


@pytest.mark.parametrize("mode", ["strict_order", "relaxed_order"])
def test_filters_over_copies_recall_as_hnsw_does(conn: Connection, mode: str) -> None:
    """Rows of one tenant: one copy of each document."""
    X = np.tile(DOCUMENTS.base, (COPIES, 1))
    create_table(conn, X, columns=", tenant integer")
    execute(conn, f"UPDATE items SET tenant = id / {len(DOCUMENTS.base)}")
    execute(conn, "VACUUM FULL items")
    create_hnsw(conn)
    force_index(conn)
    configure(conn, hnsw_iterative_scan=mode)
    theirs = recall(conn, 10, DOCUMENTS.queries, X, "l2", "WHERE tenant = 3")
    execute(conn, "DROP INDEX items_hnsw")
    for bits in WIDTHS:
        create_index(conn, bits)
        assert recall(conn, 10, DOCUMENTS.queries, X, "l2", "WHERE tenant = 3") >= theirs - 0.01
        execute(conn, "DROP INDEX items_bq")


@every_width
@pytest.mark.parametrize(("ef_search", "limit"), [(40, 40), (100, 100), (200, 200), (200, 150), (40, 90)])
def test_a_limit_of_ef_search_and_beyond_is_filled(
    conn: Connection, bits: int, ef_search: int, limit: int
) -> None:
    create_table(conn, DATA.base[:, :8])
    create_index(conn, bits, "cosine")
    force_index(conn)
    configure(conn, hnsw_ef_search=ef_search)
    for q in DATA.queries[:20, :8]:
        rows = search(conn, q, limit, "cosine")
        assert len({row[0] for row in rows}) == limit
        # rows that were found late come last, none comes between
        drops = sum(b < a for (_, a), (_, b) in itertools.pairwise(rows))
        assert drops <= 1


def inversions(rows: Sequence[tuple[int, float]]) -> int:
    return sum(b < a for (_, a), (_, b) in itertools.pairwise(rows))


def test_relaxed_order_is_hardly_ever_out_of_order(conn: Connection) -> None:
    """pgvector's own has dozens of inversions here: at most twice as many is what bqhnsw promises."""
    create_table(conn, DATA.base)
    create_hnsw(conn)
    force_index(conn)
    configure(conn, hnsw_iterative_scan="relaxed_order")
    theirs = sum(inversions(search(conn, q, 300)) for q in DATA.queries[:20])
    execute(conn, "DROP INDEX items_hnsw")
    for bits in WIDTHS:
        create_index(conn, bits)
        assert sum(inversions(search(conn, q, 300)) for q in DATA.queries[:20]) <= 2 * theirs
        execute(conn, "DROP INDEX items_bq")


def test_filtered_iterative_scans_take_no_more_cpu_than_those_of_hnsw(conn: Connection) -> None:
    """Rows that the filter leaves out cost no distance: vectors are out of line here, 6 kB each."""
    if not has_iterative_scan(conn):
        pytest.skip("needs hnsw.iterative_scan, which came with pgvector 0.8.0")
    clock = BackendClock(conn)
    if not clock.works:
        pytest.skip("reads the server's CPU time, which is on another machine")
    data = clustered(2500, 1536, n_queries=40, random_state=33)
    create_table(conn, data.base, columns=", kind integer")
    execute(conn, "UPDATE items SET kind = id % 50")
    execute(conn, "VACUUM FULL items")

    def measure(bits: int) -> tuple[float, float]:
        """Seconds of CPU, the least of five rounds, and recall."""
        force_index(conn)
        configure(conn, hnsw_iterative_scan="strict_order")
        seconds = []
        for _ in range(5):
            start = clock.seconds()
            for q in data.queries:
                search_ids(conn, q, 10, "cosine", "items", "WHERE kind = 7")
            seconds.append(clock.seconds() - start)
        return min(seconds), recall(conn, 10, data.queries, data.base, "cosine", "WHERE kind = 7")

    create_hnsw(conn, metric="cosine")
    their_seconds, their_recall = measure(0)
    execute(conn, "DROP INDEX items_hnsw")
    for bits in (1, 2, 4):
        create_index(conn, bits, "cosine")
        seconds, found = measure(bits)
        assert found >= their_recall - 0.01
        assert seconds <= 1.1 * their_seconds
        execute(conn, "DROP INDEX items_bq")


def test_epsilon_has_bounds(conn: Connection) -> None:
    execute(conn, "LOAD 'bqcore'")
    assert float(value(conn, "SHOW bqcore.epsilon")) == 1.25
    for wrong in (-0.1, 10.5):
        with pytest.raises(Exception, match="outside the valid range"):
            configure(conn, bqcore_epsilon=wrong)
