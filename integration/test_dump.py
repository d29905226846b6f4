"""pg_dump and restore: the indexes are built anew, with the same options, models and codes."""

from __future__ import annotations

from pathlib import Path

import pytest
from dumps import restored
from support import (
    OPERATORS,
    WIDTHS,
    Connection,
    column,
    configure,
    create_index,
    create_table,
    execute,
    force_index,
    insert,
    model,
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

DATA = clustered(400, 24, n_queries=10, random_state=37)
#: Target of the index, and type of its operator class, by name of the kind.
TARGETS = {
    "vector": ("embedding", "vector"),
    "halfvec": ("embedding", "halfvec"),
    "expression": ("(embedding::halfvec(24))", "halfvec"),
}
CASES = [(kind, metric, bits) for kind in TARGETS for metric in OPERATORS for bits in WIDTHS]


def indexes(conn: Connection) -> list[str]:
    """Definitions and options of all bqhnsw indexes."""
    return column(
        conn,
        "SELECT pg_get_indexdef(c.oid) || ' ' || c.reloptions::text "
        "FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE amname = 'bqhnsw' ORDER BY relname",
    )


def answers(conn: Connection, kind: str, metric: str, table: str) -> list[list[tuple[int, float]]]:
    """Rows of scans that rescore every row of the table: the graph of a restored index is another one."""
    force_index(conn)
    configure(conn, hnsw_ef_search=1000, bqcore_rescore=1000)
    target = TARGETS[kind][0]
    text = search_sql(metric, table, target=target)
    assert f"Index Scan using {table}_bq" in plan(conn, text, {"q": DATA.queries[0]})
    return [search(conn, q, 20, metric, table, target=target) for q in DATA.queries]


def test_dump_and_restore_keep_every_type_metric_and_width(
    embedded: EmbeddedServer, database: str, conn: Connection, tmp_path: Path
) -> None:
    for kind, metric, bits in CASES:
        table = f"{kind}_{metric}_{bits}"
        target, type_name = TARGETS[kind]
        create_table(conn, DATA.base, table)
        if kind == "halfvec":
            execute(conn, f"ALTER TABLE {table} ALTER embedding TYPE halfvec(24)")
        options = f", m = {10 + bits}, ef_construction = {70 + bits}"
        create_index(conn, bits, metric, table, target=target, type_name=type_name, options=options)
    conn.execute("LOAD 'bqcore'")
    definitions = indexes(conn)
    assert len(definitions) == len(CASES)
    before = {case: answers(conn, case[0], case[1], "_".join(map(str, case))) for case in CASES}
    with restored(embedded, database, "custom", tmp_path) as copy:
        copy.execute("LOAD 'bqcore'")
        assert indexes(copy) == definitions
        for (kind, metric, bits), expected in before.items():
            table = f"{kind}_{metric}_{bits}"
            info = (
                f"SELECT bits, metric, m, ef_construction, trained_rows FROM bqcore_index_info('{table}_bq')"
            )
            assert execute(copy, info).fetchone() == (bits, metric, 10 + bits, 70 + bits, len(DATA.base))
            assert model(copy, f"{table}_bq") == model(conn, f"{table}_bq")
            encode = f"SELECT bqcore_index_encode('{table}_bq', %s)"
            assert value(copy, encode, [DATA.queries[0]]) == value(conn, encode, [DATA.queries[0]])
            assert answers(copy, kind, metric, table) == expected
            configure(copy, hnsw_ef_search=100, bqcore_rescore=-1)
            floor = 0.85 if bits == 1 else 0.95
            assert table_recall(copy, DATA.queries, metric, table, TARGETS[kind][0]) >= floor


def test_dump_and_restore_keep_partial_and_partitioned_indexes(
    embedded: EmbeddedServer, database: str, conn: Connection, tmp_path: Path
) -> None:
    """A restored index has seen all rows, also where the old one was built on none."""
    conn.execute("CREATE TABLE parts (id integer, embedding vector(24)) PARTITION BY HASH (id)")
    for i in range(2):
        execute(conn, f"CREATE TABLE parts{i} PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER {i})")
    create_index(conn, 4, "cosine", "parts")
    create_table(conn, DATA.base[:0])
    create_index(conn, 2, "ip", where="WHERE id < 300")
    for table in ("parts", "items"):
        insert(conn, table, range(len(DATA.base)), DATA.base)
    assert trained_rows(conn) == 0
    definitions = indexes(conn)
    assert len(definitions) == 4
    with restored(embedded, database, "plain", tmp_path) as copy:
        assert indexes(copy) == definitions
        assert trained_rows(copy) == 300
        children = column(
            copy, "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'parts_bq'::regclass"
        )
        assert sum(trained_rows(copy, child) for child in children) == len(DATA.base)
        force_index(copy)
        configure(copy, hnsw_ef_search=100)
        assert table_recall(copy, DATA.queries, "cosine", "parts") >= 0.95
        assert all(i < 300 for i in search_ids(copy, DATA.queries[0], 100, "ip", where="WHERE id < 300"))
