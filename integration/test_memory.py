"""A backend that scans and inserts for long keeps its size, and nobody warns of leaks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psycopg
import pytest
from conftest import Corpus
from support import (
    BITS,
    Connection,
    configure,
    create_index,
    create_table,
    execute,
    force_index,
    search_ids,
    search_sql,
    value,
)

from bqcore.datasets import clustered

pytestmark = pytest.mark.postgres

both_bits = pytest.mark.parametrize("bits", BITS)

DATA = clustered(1000, 100, n_queries=20, random_state=29)


def context_bytes(conn: Connection) -> int:
    """Bytes of all memory contexts of this backend."""
    return int(value(conn, "SELECT sum(total_bytes) FROM pg_backend_memory_contexts"))


def resident_bytes(conn: Connection) -> int:
    """Private resident bytes of this backend: shared buffers, as it touches them, do not count."""
    statm = Path(f"/proc/{conn.info.backend_pid}/statm").read_text().split()
    return (int(statm[1]) - int(statm[2])) * 4096


@contextmanager
def steady(conn: Connection, kilobytes: int = 64) -> Iterator[None]:
    """Let memory contexts grow by some kilobytes at most, and the process by a megabyte."""
    before, resident = context_bytes(conn), resident_bytes(conn)
    yield
    assert context_bytes(conn) - before <= kilobytes * 1024
    assert resident_bytes(conn) - resident <= 1024 * 1024


def fill(conn: Connection, bits: int) -> None:
    create_table(conn, DATA.base)
    create_index(conn, bits)
    conn.execute("CREATE INDEX by_id ON items (id)")
    force_index(conn)


def scans(conn: Connection) -> int:
    conn.execute("SELECT pg_stat_force_next_flush()")
    return int(value(conn, "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'items_bq'"))


@pytest.mark.parametrize(("bits", "times"), [(1, 50_000), (4, 5000)])
@pytest.mark.usefixtures("quiet")
def test_scans_do_not_grow_the_backend(conn: Connection, bits: int, times: int) -> None:
    fill(conn, bits)
    text = """
        DO $$
        DECLARE q vector;
        BEGIN
            FOR i IN 1..{} LOOP
                SELECT embedding INTO q FROM items WHERE id = i % 1000;
                PERFORM id FROM items ORDER BY embedding <-> q LIMIT 10;
            END LOOP;
        END $$"""
    execute(conn, text.format(200))
    before = scans(conn)
    with steady(conn):
        execute(conn, text.format(times))
    assert scans(conn) == before + times


@both_bits
@pytest.mark.usefixtures("quiet")
def test_rescans_do_not_grow_a_running_query(conn: Connection, bits: int) -> None:
    fill(conn, bits)
    with conn.transaction():
        conn.execute("""
            DECLARE c CURSOR FOR SELECT a.id, b.id FROM
            (SELECT * FROM items ORDER BY id) a CROSS JOIN generate_series(1, 3) CROSS JOIN LATERAL
            (SELECT id FROM items i ORDER BY i.embedding <-> a.embedding LIMIT 1) b""")
        assert len(execute(conn, "FETCH 200 FROM c").fetchall()) == 200
        with steady(conn):
            rows = execute(conn, "FETCH 2800 FROM c").fetchall()
    assert len(rows) == 2800
    assert sum(a == b for a, b in rows) >= 2750


@both_bits
def test_a_long_scan_keeps_its_window_only(session: Connection, corpus: Corpus, bits: int) -> None:
    """pgvector remembers what it has visited; what the wrapper holds does not grow with that."""
    configure(session, hnsw_iterative_scan="relaxed_order", bqcore_rescore=40, bqcore_own_walk="off")
    force_index(session)
    own = "SELECT sum(total_bytes) FROM pg_backend_memory_contexts WHERE name LIKE 'bqhnsw%%'"
    text = f"DECLARE c CURSOR FOR {search_sql('l2', f'l2_{bits}', limit=None)}"
    with session.transaction():
        session.execute(text.encode(), {"q": corpus.queries[0]})
        execute(session, "FETCH 10 FROM c")
        first = value(session, own)
        assert len(execute(session, "FETCH 4000 FROM c").fetchall()) == 4000
        assert value(session, own) <= first + 16 * 1024


@both_bits
@pytest.mark.usefixtures("quiet")
def test_inserts_do_not_grow_the_backend(conn: Connection, bits: int) -> None:
    fill(conn, bits)
    with conn.transaction():
        for i in range(50):
            execute(conn, "INSERT INTO items VALUES (%s, %s)", [2000 + i, DATA.base[i] * 2])
        with steady(conn):
            for i in range(300):
                execute(conn, "INSERT INTO items VALUES (%s, %s)", [3000 + i, DATA.base[i] * 3])
    assert search_ids(conn, DATA.base[250] * 3, 1) == [3250]


@pytest.mark.usefixtures("quiet")
def test_one_statement_with_many_inserts_does_not_grow(conn: Connection) -> None:
    fill(conn, 1)
    text = """
        INSERT INTO items SELECT id + {0}, embedding * array_fill({0}, ARRAY[100])::vector
        FROM items WHERE id < 300"""
    execute(conn, text.format(1000))
    with steady(conn):
        execute(conn, text.format(2000))


@pytest.mark.usefixtures("quiet")
def test_failed_scans_and_inserts_do_not_grow_the_backend(conn: Connection) -> None:
    fill(conn, 1)
    huge = np.full(100, 3e38, np.float32)

    def fail(times: int) -> None:
        for _ in range(times):
            for statement, argument in (
                ("SELECT id FROM items ORDER BY embedding <-> %s LIMIT 1", np.ones(3)),
                ("SELECT id FROM items ORDER BY embedding <-> %s LIMIT 1", huge),
                ("INSERT INTO items VALUES (-1, %s)", huge),
            ):
                with pytest.raises(psycopg.DataError):
                    execute(conn, statement, [argument])

    fail(20)
    with steady(conn):
        fail(100)
    assert search_ids(conn, DATA.base[7], 1) == [7]


@pytest.mark.usefixtures("quiet")
def test_rebuilds_and_functions_do_not_grow_the_backend(conn: Connection) -> None:
    create_table(conn, DATA.base[:100])
    create_index(conn, 4)
    force_index(conn)

    def rebuild(times: int) -> None:
        for _ in range(times):
            conn.execute("REINDEX INDEX items_bq")
            assert search_ids(conn, DATA.base[7], 1) == [7]
            execute(conn, "SELECT bqcore_recall('items_bq', 3, 10)")
            execute(conn, "SELECT bqcore_index_info('items_bq')")
            execute(conn, "SELECT length(bqcore_index_model('items_bq'))")
            execute(conn, "SELECT bqcore_index_estimate('items_bq', embedding, embedding) FROM items")

    rebuild(10)
    with steady(conn):
        rebuild(60)
