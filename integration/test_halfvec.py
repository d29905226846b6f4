"""Indexes over halfvec: columns, and the cast (embedding::halfvec(n)) of a vector column."""

from __future__ import annotations

import pytest
from pgvector.psycopg import register_vector
from support import (
    Connection,
    configure,
    create_index,
    create_table,
    execute,
    force_index,
    plan,
    search,
    search_ids,
    search_sql,
    table_recall,
    trained_rows,
    value,
)

from bqcore.datasets import clustered
from bqcore_postgres import EmbeddedServer

pytestmark = pytest.mark.postgres

DATA = clustered(1000, 100, n_queries=10, random_state=47)
CAST = "(embedding::halfvec(100))"


def prepare(conn: Connection, kind: str, metric: str, bits: int, rows: int, table_kind: str = "") -> str:
    """Create table and index of one kind; return what queries order by."""
    target = CAST if kind == "cast" else "embedding"
    create_table(conn, DATA.base[:rows], kind=table_kind)
    if kind == "column":
        conn.execute("ALTER TABLE items ALTER embedding TYPE halfvec(100)")
    create_index(conn, bits, metric, target=target, type_name="halfvec")
    return target


def put(conn: Connection, first: int, last: int) -> None:
    for i in range(first, last):
        execute(conn, "INSERT INTO items VALUES (%s, %s::vector)", [i, DATA.base[i]])


@pytest.mark.parametrize(
    ("kind", "metric", "bits"),
    [
        ("cast", "l2", 1),
        ("cast", "ip", 4),
        ("cast", "cosine", 8),
        ("column", "cosine", 1),
        ("column", "ip", 4),
    ],
)
def test_halfvec_over_its_life(conn: Connection, kind: str, metric: str, bits: int) -> None:
    target = prepare(conn, kind, metric, bits, 700)
    configure(conn, hnsw_ef_search=200)
    text = search_sql(metric, target=target)

    def check() -> None:
        force_index(conn)
        assert "Index Scan using items_bq" in plan(conn, text, {"q": DATA.queries[0]})
        assert table_recall(conn, DATA.queries, metric, target=target) >= 0.94
        found = dict(search(conn, DATA.queries[0], 100, metric, target=target))
        configure(conn, enable_seqscan="on", enable_sort="on", enable_indexscan="off")
        exact = dict(search(conn, DATA.queries[0], 10_000, metric, target=target))
        configure(conn, enable_indexscan="on")
        # the distance is the operator's own, in half precision
        assert {i: exact[i] for i in found} == found

    check()
    put(conn, 700, 1000)
    check()
    conn.execute("DELETE FROM items WHERE id % 3 = 0")
    conn.execute("UPDATE items SET id = id + 2000 WHERE id % 3 = 1")
    check()
    conn.execute("VACUUM items")
    check()
    conn.execute("REINDEX INDEX CONCURRENTLY items_bq")
    assert trained_rows(conn) == value(conn, "SELECT count(*) FROM items")
    check()


def test_the_cast_and_the_column_itself_have_separate_indexes(conn: Connection) -> None:
    prepare(conn, "cast", "l2", 4, 1000)
    force_index(conn)
    create_index(conn, 4, name="plain")
    for target, index in (("embedding", "plain"), (CAST, "items_bq")):
        assert f"using {index}" in plan(conn, search_sql(target=target), {"q": DATA.queries[0]})
        assert search_ids(conn, DATA.base[5], 1, target=target) == [5]
    # a cast to another dimension is another expression
    other = search_sql(target="(subvector(embedding, 1, 50)::halfvec(50))")
    assert "using" not in plan(conn, other, {"q": DATA.queries[0][:50]})


@pytest.mark.parametrize("kind", ["cast", "column"])
def test_an_unlogged_halfvec_table_is_empty_and_usable_after_a_crash(
    embedded: EmbeddedServer, database: str, conn: Connection, kind: str
) -> None:
    target = prepare(conn, kind, "l2", 1, 500, "UNLOGGED")
    assert trained_rows(conn) == 500
    embedded.restart("immediate")
    with embedded.connect(database) as again:
        register_vector(again)
        force_index(again)
        assert value(again, "SELECT count(*) FROM items") == 0
        assert trained_rows(again) == 0
        assert search(again, DATA.queries[0], target=target) == []
        put(again, 0, 300)
        configure(again, hnsw_ef_search=200)
        assert table_recall(again, DATA.queries, target=target) >= 0.9
        again.execute("REINDEX INDEX items_bq")
        assert trained_rows(again) == 300
        assert table_recall(again, DATA.queries, target=target) >= 0.9
