"""Indexes that meet their rows after CREATE INDEX: rows wait, exactly searched, until there is a model."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psycopg
import pytest
from conftest import Server
from pages import MODEL_PAGE, PAGE, TRAILER, IndexFile
from pgvector.psycopg import register_vector
from standby import catch_up, streaming_standby
from support import (
    BITS,
    Connection,
    FloatArray,
    column,
    configure,
    create_index,
    create_table,
    execute,
    force_index,
    go_on_until_the_limit,
    has_iterative_scan,
    insert,
    search_ids,
    server_options,
    table_recall,
    trained_rows,
    value,
)

from bqcore.datasets import clustered
from bqcore_postgres import EmbeddedServer

pytestmark = pytest.mark.postgres

DATA = clustered(1500, 48, n_queries=40, random_state=71)
#: Far from the origin, so that codes without a centroid are all alike.
BASE: FloatArray = DATA.base + np.float32(3)
QUERIES: FloatArray = DATA.queries + np.float32(3)
WAIT = 400


@contextmanager
def session(server: Server, database: str, rows: int = WAIT) -> Iterator[Connection]:
    """Connect with an index's number of rows to wait for."""
    with server.connect(database, options=f"-c bqcore.train_rows={rows}") as conn:
        conn.execute("SET client_min_messages = error; CREATE EXTENSION IF NOT EXISTS bqcore CASCADE")
        conn.execute("RESET client_min_messages")
        register_vector(conn)
        force_index(conn)
        yield conn


@pytest.fixture(scope="module")
def patched(extension_dir: Path) -> Iterator[EmbeddedServer]:
    """Server that reads files which a test has changed, without their checksums."""
    settings = {"ignore_checksum_failure": "on", "autovacuum": "off", "fsync": "off"}
    with EmbeddedServer(settings=settings, extension_dirs=[extension_dir], **server_options()) as running:
        yield running


@pytest.fixture
def conn(server: Server, database: str) -> Iterator[Connection]:
    """Session whose indexes wait for WAIT rows."""
    with session(server, database) as connection:
        yield connection


def state(conn: Connection, index: str = "items_bq") -> tuple[bool, int, int]:
    """Whether an index has a model, of how many rows, and how many wait."""
    row = execute(
        conn, f"SELECT trained, trained_rows, waiting_rows FROM bqcore_index_info('{index}')"
    ).fetchone()
    assert row is not None
    return bool(row[0]), int(row[1]), int(row[2])


def check(conn: Connection, index: str = "items_bq") -> tuple[int, int, int]:
    """Rows in index and table, and rows without a path, of an index that is sound."""
    row = execute(conn, f"SELECT rows, heap_rows, unreachable FROM bqcore_check('{index}', true)").fetchone()
    assert row is not None
    return int(row[0]), int(row[1]), int(row[2])


def all_rows_reached(conn: Connection, rows: int, table: str = "items", target: str = "embedding") -> None:
    """A scan without a limit returns every row once."""
    if not has_iterative_scan(conn):
        return
    go_on_until_the_limit(conn, mode="relaxed_order")
    configure(conn, hnsw_max_scan_tuples=1_000_000, hnsw_scan_mem_multiplier=100)
    found = search_ids(conn, QUERIES[0], None, "l2", table, target=target)
    assert len(found) == len(set(found)) == rows
    configure(conn, hnsw_iterative_scan="off")


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
    target = "(embedding::halfvec(48))" if kind == "expression" else "embedding"
    query = QUERIES if kind != "expression" else QUERIES.astype(np.float16).astype(np.float32)
    prepare(conn, kind, bits)
    insert(conn, "items", range(len(BASE)), BASE)
    if kind == "ten":
        conn.execute("DELETE FROM items WHERE id >= 2000")
    trained, rows, waiting = state(conn)
    assert (trained, rows, waiting) == (True, WAIT, WAIT)
    if kind in ("nulls", "partial"):
        conn.execute("DELETE FROM items WHERE id < 0 OR id >= 2000")
    where = {"target": target}
    if kind == "expression":
        where["target"] = "embedding::halfvec(48)"
    waiting_recall = measured(conn, query, kind, where["target"])
    all_rows_reached(conn, len(BASE), target=search_target(kind))
    assert value(conn, "SELECT bqcore_train('items_bq')") == WAIT - (10 if kind == "ten" else 0)
    conn.execute("VACUUM items")
    assert state(conn) == (True, WAIT, 0)
    assert check(conn)[:2] == (len(BASE), len(BASE))
    moved_recall = measured(conn, query, kind, where["target"])
    all_rows_reached(conn, len(BASE), target=search_target(kind))
    conn.execute("REINDEX INDEX items_bq")
    rebuilt = measured(conn, query, kind, where["target"])
    assert state(conn)[1] == len(BASE)
    assert min(waiting_recall, moved_recall) >= rebuilt - 0.01, (waiting_recall, moved_recall, rebuilt)


def search_target(kind: str) -> str:
    """What a query has to order by for the index to be used."""
    return "(embedding::halfvec(48))" if kind == "expression" else "embedding"


def measured(conn: Connection, queries: FloatArray, kind: str, target: str) -> float:
    """recall@10 at the default hnsw.ef_search."""
    if kind == "partial":
        execute(conn, "CREATE OR REPLACE VIEW seen AS SELECT * FROM items WHERE id >= 0")
        return table_recall(conn, queries, table="seen")
    return table_recall(conn, queries, target=f"({target})" if kind == "expression" else target)


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


def test_rows_that_nobody_may_read_yet_do_not_make_a_model(server: Server, database: str) -> None:
    with session(server, database) as one, session(server, database) as other:
        create_table(one, BASE[:0])
        create_index(one, 1)
        with one.transaction():
            insert(one, "items", range(390), BASE[:390])
            # 400 rows are listed, of which this session can read ten
            insert(other, "items", range(390, 400), BASE[390:400])
            assert state(other) == (False, 0, 400)
            assert search_ids(other, QUERIES[0], 40) != []
            assert set(search_ids(other, QUERIES[0], 400)) == set(range(390, 400))
        assert state(one) == (False, 0, 400)
        insert(other, "items", range(400, 450), BASE[400:450])
        assert state(other) == (True, 450, 450)
        one.execute("VACUUM items")
        assert state(one) == (True, 450, 0)
        assert check(one)[:2] == (450, 450)


def test_sessions_notice_that_another_one_has_trained(server: Server, database: str) -> None:
    with session(server, database) as one, session(server, database) as other:
        create_table(one, BASE[:0])
        create_index(one, 4)
        insert(one, "items", range(100), BASE[:100])
        insert(other, "items", range(100, 110), BASE[100:110])
        assert len(search_ids(other, QUERIES[0], 10)) == 10
        insert(one, "items", range(110, 600), BASE[110:600])
        assert state(one) == (True, WAIT, WAIT)
        insert(other, "items", range(600, 1500), BASE[600:])
        # compares every code with the model
        assert check(one) == (1500, 1500, 0)
        assert table_recall(other, QUERIES) >= 0.95
        assert value(one, "SELECT bqcore_train('items_bq')") == WAIT
        assert check(other)[:2] == (1500, 1500)


@pytest.mark.parametrize("repeat", [1, 16], ids=["inline", "toasted"])
def test_inserts_deletes_scans_and_vacuum_at_once(server: Server, database: str, repeat: int) -> None:
    """What was committed before a scan is found by it, once, whatever the index goes through meanwhile."""
    dim = 48 * repeat

    def vector(n: int) -> FloatArray:
        return np.tile(BASE[n % 1500] + np.float32(n // 1500), repeat)

    with session(server, database, 100) as conn:
        create_table(conn, np.zeros((0, dim), np.float32))
        create_index(conn, 4)
    stop, problems, lock = threading.Event(), [], threading.Lock()
    committed: set[int] = set()
    removed: set[int] = set()
    numbers = iter(range(1_000_000))

    def guarded(work: Callable[[Connection], None]) -> None:
        try:
            with session(server, database, 100) as own:
                while not stop.is_set():
                    work(own)
        except Exception as error:
            problems.append(repr(error))
            stop.set()

    def add(own: Connection) -> None:
        with lock:
            n = next(numbers)
        with own.transaction(force_rollback=n % 7 == 0):
            insert(own, "items", [n], vector(n)[None])
        old = n - 60
        with lock:
            if n % 7:
                committed.add(n)
            gone = n % 3 == 0 and old in committed
            if gone:
                committed.remove(old)
                removed.add(old)
        if gone:
            own.execute("DELETE FROM items WHERE id = %s", [old])
        if n > 400:
            stop.set()

    def scan(own: Connection) -> None:
        with lock:
            sample = sorted(committed)[:: max(len(committed) // 10, 1)]
        for n in sample:
            found = search_ids(own, vector(n), 20)
            assert len(found) == len(set(found))
            with lock:
                assert n in found or n in removed, (n, found, state(own))

    def clean(own: Connection) -> None:
        # the row that is moved may be one that is scanned, deleted or rolled back
        own.execute("SELECT bqcore_train('items_bq')" if state(own)[0] else "VACUUM items")
        own.execute("VACUUM items")
        time.sleep(0.05)

    threads = [threading.Thread(target=guarded, args=[w]) for w in (add, add, add, scan, scan, clean)]
    for thread in threads:
        thread.start()
    stop.wait(200)
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == []
    with session(server, database, 100) as conn:
        conn.execute("VACUUM items")
        rows = value(conn, "SELECT count(*) FROM items")
        assert rows == len(committed) > 100
        assert state(conn)[0]
        assert check(conn)[:2] == (rows, rows)


def same_answers(conn: Connection) -> list[list[int]]:
    """Nearest rows of all queries."""
    force_index(conn)
    return [search_ids(conn, q, 10) for q in QUERIES]


def test_a_crash_at_any_point(embedded: EmbeddedServer, database: str) -> None:
    def crash() -> None:
        embedded.stop("immediate")
        embedded.start()

    with session(embedded, database) as conn:
        create_table(conn, BASE[:50])
        create_index(conn, 4)
        create_table(conn, BASE[:0], "fleeting", kind="UNLOGGED")
        create_index(conn, 4, table="fleeting")
        conn.execute("CHECKPOINT")
        insert(conn, "items", range(50, 200), BASE[50:200])
        conn.execute("DELETE FROM items WHERE id < 20")
        conn.execute("VACUUM items")
        insert(conn, "items", range(200, 300), BASE[200:300])
        insert(conn, "fleeting", range(1000), BASE[:1000])
    crash()
    with session(embedded, database) as conn:
        assert state(conn) == (False, 0, 280)
        assert check(conn) == (280, 280, 0)
        assert table_recall(conn, QUERIES) == 1.0
        assert state(conn, "fleeting_bq") == (False, 0, 0)
        insert(conn, "fleeting", range(500), BASE[:500])
        assert state(conn, "fleeting_bq") == (True, WAIT, WAIT)
        insert(conn, "items", range(300, 1000), BASE[300:1000])
        before = same_answers(conn)
        model = value(conn, "SELECT bqcore_index_model('items_bq')")
    crash()
    with session(embedded, database) as conn:
        assert state(conn) == (True, WAIT, WAIT)
        assert value(conn, "SELECT bqcore_index_model('items_bq')") == model
        assert check(conn)[:2] == (980, 980)
        assert same_answers(conn) == before
        # in the middle of a move: the rows leave the list in batches
        for milliseconds in range(5, 2000, 5):
            configure(conn, statement_timeout=milliseconds)
            with contextlib.suppress(psycopg.errors.QueryCanceled):
                conn.execute("SELECT bqcore_train('items_bq')")
            if state(conn)[2] < WAIT:
                break
        assert 0 < state(conn)[2] < WAIT
        conn.execute("RESET statement_timeout")
        assert check(conn)[:2] == (980, 980)
    crash()
    with session(embedded, database) as conn:
        assert check(conn)[:2] == (980, 980)
        all_rows_reached(conn, 980)
        conn.execute("VACUUM items")
        assert state(conn) == (True, WAIT, 0)
        assert check(conn)[:2] == (980, 980)
        all_rows_reached(conn, 980)
        # a commit flushes what VACUUM has left to the background writer
        conn.execute("SELECT pg_logical_emit_message(true, 'bqcore', 'flush')")
    crash()
    with session(embedded, database) as conn:
        assert state(conn) == (True, WAIT, 0)
        assert check(conn)[:2] == (980, 980)


def test_a_move_that_broke_off_leaves_no_row_twice(patched: EmbeddedServer) -> None:
    """The state between an element and the end of its place on the list, made by putting the list back."""
    with session(patched, "postgres") as conn:
        conn.execute("DROP TABLE IF EXISTS items")
        create_table(conn, BASE[:500])
        conn.execute("SET bqcore.train_rows = 600")
        create_index(conn, 4)
        conn.execute("CHECKPOINT")
        path = patched.data_dir / value(conn, "SELECT pg_relation_filepath('items_bq')")
        assert state(conn) == (False, 0, 500)
        listed = IndexFile(path)
        assert value(conn, "SELECT bqcore_train('items_bq')") == 500
        before = same_answers(conn)
        conn.execute("CHECKPOINT")
    patched.stop("fast")
    file = IndexFile(path)
    (page,) = file.pages(0xBC02)
    # the first 300 rows have left the list, the others are in both
    start = page * PAGE
    file.data[start : start + PAGE] = listed.data[start : start + PAGE]
    file.data[start + 24 : start + 24 + 200 * 6] = listed.data[start + 24 + 300 * 6 : start + 24 + 500 * 6]
    file.put("H", start + 12, 24 + 200 * 6)
    file.put("I", TRAILER + 32, 200)
    file.put("I", TRAILER + 36, 1)
    file.write()
    patched.start()
    with session(patched, "postgres") as conn:
        assert state(conn) == (True, 500, 200)
        assert check(conn)[:2] == (500, 500)
        assert same_answers(conn) == before
        all_rows_reached(conn, 500)
        assert value(conn, "SELECT bqcore_train('items_bq')") == 0
        assert state(conn) == (True, 500, 0)
        assert check(conn)[:2] == (500, 500)
        assert same_answers(conn) == before


def test_a_standby_follows(embedded: EmbeddedServer) -> None:
    name = "bqcore_waiting_standby"
    embedded.create_database(name)
    try:
        with streaming_standby(embedded) as standby, session(embedded, name) as conn:
            create_table(conn, BASE[:100])
            create_index(conn, 4)
            catch_up(embedded, standby)
            with standby.connect(name) as reader:
                register_vector(reader)
                for rows in (200, 1000):
                    insert(conn, "items", range(rows // 2, rows), BASE[rows // 2 : rows])
                    catch_up(embedded, standby)
                    assert same_answers(reader) == same_answers(conn)
                    assert state(reader) == state(conn)
                with pytest.raises(psycopg.Error, match="recovery is in progress"):
                    reader.execute("SELECT bqcore_train('items_bq')")
                assert state(conn)[0]
                conn.execute("VACUUM items")
                assert state(conn)[2] == 0
                catch_up(embedded, standby)
                assert same_answers(reader) == same_answers(conn)
                assert state(reader) == state(conn)
    finally:
        with embedded.connect() as admin:
            execute(admin, f"DROP DATABASE {name} WITH (FORCE)")


def test_a_crash_while_a_model_was_written(patched: EmbeddedServer) -> None:
    """A model of several pages, one of which has other bytes than the rest: it is made anew."""
    X = np.tile(BASE[:120], 63)
    with session(patched, "postgres", 100) as conn:
        conn.execute("DROP TABLE IF EXISTS items")
        create_table(conn, X[:50])
        create_index(conn, 4)
        conn.execute("CHECKPOINT")
        path = patched.data_dir / value(conn, "SELECT pg_relation_filepath('items_bq')")
    patched.stop("fast")
    file = IndexFile(path)
    pages = file.pages(MODEL_PAGE)
    assert len(pages) == 2
    file.data[pages[1] * PAGE + 100 : pages[1] * PAGE + 2000] = b"\x55" * 1900
    file.write()
    patched.start()
    with session(patched, "postgres") as conn:
        assert check(conn) == (50, 50, 0)
        insert(conn, "items", range(50, 120), X[50:120])
        assert state(conn) == (True, 100, 100)
        conn.execute("VACUUM items")
        assert check(conn)[:2] == (120, 120)


def test_an_index_of_an_older_version_goes_on(patched: EmbeddedServer) -> None:
    with session(patched, "postgres", 0) as conn:
        conn.execute("DROP TABLE IF EXISTS items")
        create_table(conn, BASE[:0])
        create_index(conn, 4)
        insert(conn, "items", range(300), BASE[:300])
        before = same_answers(conn)
        conn.execute("CHECKPOINT")
        path = patched.data_dir / value(conn, "SELECT pg_relation_filepath('items_bq')")
    patched.stop("fast")
    file = IndexFile(path)
    file.put("I", TRAILER + 4, 1)
    file.put("H", 12, TRAILER + 20)
    file.data[TRAILER + 20 : TRAILER + 48] = bytes(28)
    file.write()
    patched.start()
    with session(patched, "postgres") as conn:
        assert state(conn) == (False, 0, 0)
        assert same_answers(conn) == before
        insert(conn, "items", range(300, 400), BASE[300:400])
        conn.execute("VACUUM items")
        notices: list[str] = []
        conn.add_notice_handler(lambda d: notices.append(str(d.message_primary)))
        assert value(conn, "SELECT bqcore_train('items_bq')") == 0
        assert notices == ['index "items_bq" was trained on nothing']
        assert check(conn)[:2] == (400, 400)
        conn.execute("DELETE FROM items")
        conn.execute("VACUUM items")
        assert check(conn)[:2] == (0, 0)
        insert(conn, "items", range(400), BASE[:400])
        conn.execute("REINDEX INDEX items_bq")
        assert state(conn) == (True, 400, 0)


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
