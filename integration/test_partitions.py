"""Partitioned tables: an index on the parent, partitions that come and go, rows that move."""

from __future__ import annotations

import numpy as np
import pytest
from support import (
    Connection,
    column,
    configure,
    create_index,
    create_table,
    execute,
    force_index,
    insert,
    model,
    search,
    search_ids,
    stored_rows,
    table_recall,
    trained_rows,
    value,
)

from bqcore import RaBitQ
from bqcore.datasets import clustered

pytestmark = pytest.mark.postgres

DATA = clustered(1600, 24, n_queries=10, random_state=43)


def children(conn: Connection, index: str = "items_bq") -> dict[str, str]:
    """Indexes of the partitions, by the name of their table."""
    rows = execute(
        conn,
        "SELECT indrelid::regclass::text, indexrelid::regclass::text FROM pg_inherits "
        "JOIN pg_index ON indexrelid = inhrelid WHERE inhparent = %s::regclass AND indisvalid",
        [index],
    )
    return dict(rows.fetchall())


def add_partition(conn: Connection, number: int) -> None:
    """Partition p<number> takes 400 ids."""
    execute(
        conn,
        f"CREATE TABLE p{number} PARTITION OF items "
        f"FOR VALUES FROM ({number * 400}) TO ({number * 400 + 400})",
    )


@pytest.fixture
def items(conn: Connection) -> Connection:
    """Session with table items, which has rows in the first two of its partitions."""
    conn.execute("CREATE TABLE items (id integer, embedding vector(24)) PARTITION BY RANGE (id)")
    for number in range(2):
        add_partition(conn, number)
    insert(conn, "items", range(800), DATA.base[:800])
    configure(conn, hnsw_ef_search=100)
    force_index(conn)
    return conn


def check(conn: Connection, metric: str) -> None:
    assert table_recall(conn, DATA.queries, metric) >= 0.95
    text = f"EXPLAIN SELECT id FROM items ORDER BY embedding {'<->' if metric == 'l2' else '<=>'} %s LIMIT 10"
    report = "\n".join(column(conn, text, [DATA.queries[0]]))
    for index in children(conn).values():
        assert f"Index Scan using {index}" in report


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_partitions_are_created_attached_and_detached(items: Connection, metric: str) -> None:
    create_index(items, 4, metric, options=", m = 12")
    check(items, metric)
    add_partition(items, 2)
    insert(items, "items", range(800, 1200), DATA.base[800:1200])

    # without an index of its own: ATTACH builds one over its rows; with one: ATTACH adopts it as it is
    create_table(items, DATA.base[:0], "p3")
    insert(items, "p3", range(1200, 1400), DATA.base[1200:1400])
    items.execute("ALTER TABLE items ATTACH PARTITION p3 FOR VALUES FROM (1200) TO (1400)")
    create_table(items, DATA.base[:0], "p4")
    insert(items, "p4", range(1400, 1600), DATA.base[1400:])
    create_index(items, 8, metric, "p4")
    adopted = value(items, "SELECT pg_relation_filenode('p4_bq')")
    items.execute("ALTER TABLE items ATTACH PARTITION p4 FOR VALUES FROM (1400) TO (1600)")
    assert children(items)["p4"] == "p4_bq"
    assert value(items, "SELECT pg_relation_filenode('p4_bq')") == adopted

    indexes = children(items)
    assert sorted(indexes) == ["p0", "p1", "p2", "p3", "p4"]
    info = "SELECT bits, m, trained_rows FROM bqcore_index_info(%s)"
    shown = {table: execute(items, info, [index]).fetchone() for table, index in indexes.items()}
    assert shown == {
        "p0": (4, 12, 400), "p1": (4, 12, 400), "p2": (4, 12, 0), "p3": (4, 12, 200), "p4": (8, 16, 200)
    }  # fmt: skip
    check(items, metric)

    gone = search_ids(items, DATA.base[450], 1, metric)
    assert gone == [450]
    items.execute("ALTER TABLE items DETACH PARTITION p1")
    check(items, metric)
    assert search_ids(items, DATA.base[450], 1, metric) != gone
    assert search_ids(items, DATA.base[450], 1, metric, "p1") == gone
    insert(items, "p1", [5000], DATA.queries[:1])
    assert search_ids(items, DATA.queries[0], 1, metric, "p1") == [5000]
    assert table_recall(items, DATA.queries, metric, "p1") >= 0.95


def test_rows_move_between_partitions(items: Connection) -> None:
    create_index(items, 4)
    add_partition(items, 2)
    moved = [i for i in range(800) if i % 4 == 0]
    items.execute("UPDATE items SET id = 800 + id / 4 WHERE id % 4 = 0")
    assert value(items, "SELECT count(*) FROM p2") == len(moved)
    check(items, "l2")
    for i in moved[::20]:
        assert search_ids(items, DATA.base[i], 1) == [800 + i // 4]
    items.execute("VACUUM items")
    check(items, "l2")
    items.execute("TRUNCATE p0")
    assert stored_rows(items)[0].min() == 401
    check(items, "l2")
    items.execute("DROP TABLE p1")
    check(items, "l2")
    assert stored_rows(items)[0].tolist() == list(range(800, 1000))


@pytest.mark.parametrize("concurrently", ["", "CONCURRENTLY"])
def test_every_partition_has_a_centroid_of_its_own(items: Connection, concurrently: str) -> None:
    items.execute("TRUNCATE items")
    create_index(items, 1)
    insert(items, "items", range(800), DATA.base[:800])
    assert [trained_rows(items, index) for index in children(items).values()] == [0, 0]
    execute(items, f"REINDEX INDEX {concurrently} items_bq")
    for table, index in children(items).items():
        first = int(table[1:]) * 400
        centroid = RaBitQ.from_bytes(model(items, index)).centroid_
        np.testing.assert_allclose(centroid, DATA.base[first : first + 400].mean(axis=0), atol=1e-6)
    configure(items, hnsw_ef_search=200)
    assert table_recall(items, DATA.queries) >= 0.9


def test_an_index_on_the_parent_alone_is_valid_with_the_last_attached(items: Connection) -> None:
    items.execute("CREATE INDEX items_bq ON ONLY items USING bqhnsw (embedding vector_l2_ops)")
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'items_bq'::regclass"
    for number in range(2):
        assert not value(items, valid)
        create_index(items, 4, table=f"p{number}", concurrently=True)
        execute(items, f"ALTER INDEX items_bq ATTACH PARTITION p{number}_bq")
    assert value(items, valid)
    check(items, "l2")
    items.execute("DROP INDEX items_bq")
    assert value(items, "SELECT count(*) FROM pg_class WHERE relname LIKE '%%bq'") == 0
    assert len(search(items, DATA.queries[0])) == 10
