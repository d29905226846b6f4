"""Rows that wait while other sessions change them, after crashes, on a standby, in old indexes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest
from conftest import Server
from pages import MODEL_PAGE, PAGE, TRAILER, IndexFile
from pgvector.psycopg import register_vector
from standby import catch_up, streaming_standby
from support import (
    Connection,
    FloatArray,
    configure,
    create_index,
    create_table,
    execute,
    insert,
    search_ids,
    server_options,
    table_recall,
    value,
)
from waiting import BASE, QUERIES, WAIT, all_rows_reached, check, same_answers, session, state

from bqcore_postgres import EmbeddedServer

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def patched(extension_dir: Path) -> Iterator[EmbeddedServer]:
    """Server that reads files which a test has changed, without their checksums."""
    settings = {"ignore_checksum_failure": "on", "autovacuum": "off", "fsync": "off"}
    with EmbeddedServer(settings=settings, extension_dirs=[extension_dir], **server_options()) as running:
        yield running


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
