"""Indexes that meet their rows after CREATE INDEX: rows wait, exactly searched, until there is a model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest
from conftest import Server
from pgvector.psycopg import register_vector
from support import (
    BITS,
    Connection,
    FloatArray,
    column,
    configure,
    create_index,
    create_table,
    execute,
    has_iterative_scan,
    insert,
    search_ids,
    server_options,
    table_recall,
    trained_rows,
    value,
)
from waiting import BASE, QUERIES, WAIT, all_rows_reached, check, same_answers, session, state

from bqcore_postgres import EmbeddedServer

pytestmark = pytest.mark.postgres


@pytest.fixture
def conn(server: Server, database: str) -> Iterator[Connection]:
    """Session whose indexes wait for WAIT rows."""
    with session(server, database) as connection:
        yield connection


def prepare(conn: Connection, kind: str, bits: int) -> None:
    """An index before its rows, in one of the ways in which that happens."""
    options = f"WITH (bits = {bits})"
    text = f"CREATE INDEX items_bq ON items USING bqhnsw (embedding vector_l2_ops) {options}"
    conn.execute("CREATE TABLE items (id integer, embedding vector(48))")
    if kind in ("ten", "truncate"):
        insert(conn, "items", range(2000, 2010), BASE[:10] if kind == "ten" else BASE[:10] * 5)
    if kind == "nulls":
        conn.execute("INSERT INTO items SELECT 2000 + i, NULL FROM generate_series(1, 1000) i")
    if kind == "partial":
        insert(conn, "items", range(-1000, 0), BASE[:1000] * 5)
        text += " WHERE id >= 0"
    if kind == "expression":
        text = text.replace("(embedding vector", "((embedding::halfvec(48)) halfvec")
    if kind == "unlogged":
        conn.execute("ALTER TABLE items SET UNLOGGED")
    if kind == "concurrently":
        text = text.replace("INDEX", "INDEX CONCURRENTLY")
    execute(conn, text)
    if kind == "truncate":
        conn.execute("TRUNCATE items")
    if kind == "reindex":
        conn.execute("REINDEX INDEX CONCURRENTLY items_bq")


KINDS = [
    "empty",
    "ten",
    "truncate",
    "nulls",
    "partial",
    "expression",
    "unlogged",
    "concurrently",
    "reindex",
]


@pytest.mark.parametrize("kind", KINDS)
def test_as_good_as_an_index_that_is_built_afterwards(conn: Connection, kind: str) -> None:
    bits = 4 if kind in ("ten", "partial") else 1
    target = search_target(kind)
    queries = QUERIES if kind != "expression" else QUERIES.astype(np.float16).astype(np.float32)
    prepare(conn, kind, bits)
    insert(conn, "items", range(len(BASE)), BASE)
    if kind == "ten":
        conn.execute("DELETE FROM items WHERE id >= 2000")
    assert state(conn) == (True, WAIT, WAIT)
    if kind in ("nulls", "partial"):
        conn.execute("DELETE FROM items WHERE id < 0 OR id >= 2000")
    waiting = measured(conn, queries, kind)
    all_rows_reached(conn, len(BASE), target=target)
    assert value(conn, "SELECT bqcore_train('items_bq')") == WAIT - (10 if kind == "ten" else 0)
    conn.execute("VACUUM items")
    assert state(conn) == (True, WAIT, 0)
    assert check(conn)[:2] == (len(BASE), len(BASE))
    moved = measured(conn, queries, kind)
    all_rows_reached(conn, len(BASE), target=target)
    conn.execute("REINDEX INDEX items_bq")
    rebuilt = measured(conn, queries, kind)
    assert state(conn)[1] == len(BASE)
    assert min(waiting, moved) >= rebuilt - 0.01, (waiting, moved, rebuilt)


def search_target(kind: str) -> str:
    """What a query has to order by for the index to be used."""
    return "(embedding::halfvec(48))" if kind == "expression" else "embedding"


def measured(conn: Connection, queries: FloatArray, kind: str) -> float:
    """recall@10 at the default hnsw.ef_search."""
    if kind == "partial":
        execute(conn, "CREATE OR REPLACE VIEW seen AS SELECT * FROM items WHERE id >= 0")
        return table_recall(conn, queries, table="seen")
    return table_recall(conn, queries, target=search_target(kind))


@pytest.mark.parametrize("bits", BITS)
def test_partitions_made_later(conn: Connection, bits: int) -> None:
    conn.execute("CREATE TABLE items (id integer, embedding vector(48)) PARTITION BY RANGE (id)")
    execute(conn, f"CREATE INDEX ON items USING bqhnsw (embedding vector_l2_ops) WITH (bits = {bits})")
    for i in range(3):
        execute(
            conn, f"CREATE TABLE part{i} PARTITION OF items FOR VALUES FROM ({i * 500}) TO ({i * 500 + 500})"
        )
    insert(conn, "items", range(1200), BASE[:1200])
    assert [state(conn, f"part{i}_embedding_idx") for i in range(3)] == [
        (True, WAIT, WAIT),
        (True, WAIT, WAIT),
        (False, 0, 200),
    ]
    waiting = table_recall(conn, QUERIES)
    conn.execute("VACUUM items")
    assert [state(conn, f"part{i}_embedding_idx")[2] for i in range(3)] == [0, 0, 200]
    moved = table_recall(conn, QUERIES)
    configure(conn, bqcore_train_rows=0)
    conn.execute("REINDEX TABLE items")
    assert min(waiting, moved) >= table_recall(conn, QUERIES) - 0.01
    with pytest.raises(psycopg.Error, match="not a bqhnsw index"):
        conn.execute("SELECT bqcore_train('items_embedding_idx')")


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_rows_that_wait_are_searched_exactly(conn: Connection, metric: str) -> None:
    notices: list[str] = []
    conn.add_notice_handler(lambda d: notices.append(str(d.message_primary)))
    create_table(conn, BASE[:100])
    conn.execute("INSERT INTO items VALUES (-1, NULL), (-2, array_fill(0, ARRAY[48])::vector)")
    create_index(conn, 1, metric)
    assert [n for n in notices if "items_bq" in n and "waits for 400" in n] != []
    insert(conn, "items", range(100, 300), BASE[100:300])
    listed = 300 + (metric == "l2")
    assert state(conn) == (False, 0, listed)
    assert check(conn) == (listed, listed, 0)
    conn.execute("DELETE FROM items WHERE id < 0")
    for mode in ("off", "strict_order", "relaxed_order"):
        if mode == "off" or has_iterative_scan(conn):
            configure(conn, hnsw_iterative_scan=mode)
        for own_walk in ("on", "off"):
            configure(conn, bqcore_own_walk=own_walk)
            assert table_recall(conn, QUERIES, metric) == 1.0
            # no window cuts off what is exact
            assert len(search_ids(conn, QUERIES[0], None, metric)) == 300
    assert len(search_ids(conn, None, None, metric)) == 300
    conn.execute("DELETE FROM items WHERE id < 50")
    assert min(search_ids(conn, QUERIES[0], None, metric)) == 50
    conn.execute("VACUUM items")
    assert state(conn) == (False, 0, 250)
    # places that vacuum gave back, taken by other rows
    insert(conn, "items", range(300, 340), BASE[300:340])
    assert check(conn) == (290, 290, 0)
    assert table_recall(conn, QUERIES, metric) == 1.0
    for function in ("index_model('items_bq')", "index_encode('items_bq', '[1]')"):
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="no model yet"):
            execute(conn, f"SELECT bqcore_{function}")


@pytest.mark.parametrize("mode", ["off", "strict_order"])
def test_rows_that_wait_are_rescored_from_codes(conn: Connection, mode: str) -> None:
    create_table(conn, BASE[:300])
    literal = value(conn, "SELECT bq_train(embedding, 8, 'l2')::text FROM items")
    execute(
        conn,
        "ALTER TABLE items ADD code bqcode(48) "
        f"GENERATED ALWAYS AS (bq_encode(embedding, '{literal}')) STORED",
    )
    create_index(conn, 1, options=", rescore_column = 'code'")
    assert state(conn) == (False, 0, 300)
    configure(conn, hnsw_iterative_scan=mode)
    assert table_recall(conn, QUERIES) == 1.0
    insert(conn, "items", range(300, 900), BASE[300:900])
    assert state(conn) == (True, WAIT, WAIT)
    waiting = table_recall(conn, QUERIES)
    assert value(conn, "SELECT bqcore_train('items_bq')") == WAIT
    moved = table_recall(conn, QUERIES)
    conn.execute("REINDEX INDEX items_bq")
    assert min(waiting, moved) >= table_recall(conn, QUERIES) - 0.01


def test_train_makes_a_model_of_fewer_rows(conn: Connection) -> None:
    create_table(conn, BASE[:100])
    create_index(conn, 4)
    assert value(conn, "SELECT bqcore_train('items_bq')") == 100
    assert state(conn) == (True, 100, 0)
    assert value(conn, "SELECT bqcore_train('items_bq')") == 0
    assert check(conn) == (100, 100, 0)
    conn.execute("CREATE ROLE bq_stranger; GRANT ALL ON items TO bq_stranger; SET ROLE bq_stranger")
    try:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="must be owner"):
            conn.execute("SELECT bqcore_train('items_bq')")
    finally:
        conn.execute("RESET ROLE; DROP OWNED BY bq_stranger; DROP ROLE bq_stranger")


def test_expressions_run_as_the_owner_without_the_callers_path(conn: Connection) -> None:
    """A caller's search_path decides nothing in an expression that training and moving evaluate."""
    conn.execute(
        """
        CREATE FUNCTION prepared(v vector) RETURNS vector IMMUTABLE LANGUAGE plpgsql AS
            'BEGIN RETURN bq_helper(v); EXCEPTION WHEN undefined_function THEN RETURN v; END';
        CREATE SCHEMA hostile;
        CREATE FUNCTION hostile.bq_helper(v vector) RETURNS vector IMMUTABLE LANGUAGE plpgsql AS
            'BEGIN RAISE EXCEPTION ''ran the wrong function''; END';
        CREATE TABLE items (id integer, embedding vector(48));
        CREATE INDEX items_bq ON items USING bqhnsw ((prepared(embedding)::vector(48)) vector_l2_ops)
        """
    )
    insert(conn, "items", range(100), BASE[:100])
    conn.execute("SET search_path = hostile, public")
    assert value(conn, "SELECT bqcore_train('items_bq')") == 100
    assert state(conn) == (True, 100, 0)


def test_rows_of_a_transaction_that_is_rolled_back(conn: Connection) -> None:
    create_table(conn, BASE[:0])
    create_index(conn, 1)
    with conn.transaction(force_rollback=True):
        insert(conn, "items", range(1000), -5 * BASE[:1000])
        assert state(conn)[:2] == (True, WAIT)
        assert len(search_ids(conn, QUERIES[0], 10)) == 10
    assert search_ids(conn, QUERIES[0], 10) == []
    conn.execute("VACUUM items")
    # nothing is left of what the model was made of
    assert state(conn) == (False, 0, 0)
    insert(conn, "items", range(len(BASE)), BASE)
    assert state(conn) == (True, WAIT, WAIT)
    conn.execute("VACUUM items")
    moved = table_recall(conn, QUERIES)
    assert check(conn)[:2] == (len(BASE), len(BASE))
    conn.execute("DELETE FROM items")
    conn.execute("VACUUM items")
    assert state(conn) == (False, 0, 0)
    insert(conn, "items", range(len(BASE)), BASE)
    conn.execute("VACUUM items")
    conn.execute("REINDEX INDEX items_bq")
    assert moved >= table_recall(conn, QUERIES) - 0.01


def test_scans_of_a_list_keep_the_size_of_their_backend(conn: Connection) -> None:
    create_table(conn, BASE[:390])
    create_index(conn, 1)
    text = "SELECT sum(total_bytes) FROM pg_backend_memory_contexts"
    for _ in range(20):
        same_answers(conn)
    before = value(conn, text)
    for _ in range(50):
        same_answers(conn)
    assert value(conn, text) - before <= 64 * 1024


def test_lists_of_many_pages_and_their_reuse(server: Server, database: str) -> None:
    with session(server, database, 20_000) as conn:
        create_table(conn, BASE)
        create_index(conn, 1)
        for _ in range(3):
            conn.execute("INSERT INTO items SELECT id + 1500, embedding FROM items WHERE id < 1500")
            conn.execute("DELETE FROM items WHERE id >= 1500")
            conn.execute("VACUUM items")
            assert state(conn) == (False, 0, 1500)
        # three pages at most at a time: two loads of 1500 rows, 1360 on a page
        assert value(conn, "SELECT pg_relation_size('items_bq') / 8192") <= 6
        conn.execute("INSERT INTO items SELECT id + 1500 * i, embedding FROM items, generate_series(1, 4) i")
        assert state(conn) == (False, 0, 7500)
        assert check(conn) == (7500, 7500, 0)
        assert sorted(
            column(
                conn,
                "SELECT id FROM items ORDER BY embedding <-> (SELECT embedding FROM items "
                "WHERE id = 7) LIMIT 5",
            )
        ) == [7, 1507, 3007, 4507, 6007]


def test_the_default(extension_dir: Path) -> None:
    """As users have it."""
    with (
        EmbeddedServer(extension_dirs=[extension_dir], **server_options()) as own,
        own.connect(options="") as conn,
    ):
        conn.execute("CREATE EXTENSION bqcore CASCADE")
        conn.execute("LOAD 'bqcore'")
        register_vector(conn)
        rows = int(value(conn, "SHOW bqcore.train_rows"))
        assert rows == 1000
        create_table(conn, BASE[:900])
        create_index(conn)
        assert state(conn) == (False, 0, 900)
        insert(conn, "items", range(900, 1200), BASE[900:1200])
        assert trained_rows(conn) == rows
