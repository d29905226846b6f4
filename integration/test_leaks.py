"""Backends keep their size over many scans and inserts, and a scan stays within its documented memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Server
from pgvector.psycopg import register_vector
from support import (
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
from bqcore_postgres import EmbeddedServer

pytestmark = pytest.mark.postgres

DATA = clustered(1000, 24, n_queries=20, random_state=31)
LARGE = clustered(20_000, 16, n_queries=1, random_state=33)

SCANS = """
    DO $$
    DECLARE q vector;
    BEGIN
        FOR i IN 1..{} LOOP
            SELECT embedding INTO q FROM items WHERE id = i % 1000;
            PERFORM id FROM items ORDER BY embedding <-> q LIMIT 10;
        END LOOP;
    END $$"""
# Vectors that are not there yet, each in a statement of its own.
INSERTS = """
    DO $$
    BEGIN
        FOR i IN 1..{} LOOP
            INSERT INTO items
            SELECT nextval('more'), embedding * array_fill((1 + random())::real, ARRAY[24])::vector
            FROM items WHERE id = i % 1000 LIMIT 1;
        END LOOP;
    END $$"""
#: A rescored row that waits: 48 bytes, which the allocator rounds up to 64, with its header and bounds.
WAITING_BYTES = 88
#: An element that the walk has kept, with its entries in queues.
WALK_BYTES = 88 + 3 * 8
#: One that it has looked at: in a hash table at most three quarters full, place, distance, entry of a queue.
VISITED_BYTES = 11 + 16 + 8
M = 8


@pytest.fixture
def items(server: Server, conn: Connection) -> Connection:
    if not isinstance(server, EmbeddedServer):
        pytest.skip("reads the server's processes, which may be on another machine")
    create_table(conn, DATA.base)
    create_index(conn, options=f", ef_construction = 16, m = {M}")
    conn.execute("CREATE INDEX by_id ON items (id); CREATE SEQUENCE more START 1000")
    force_index(conn)
    return conn


def anonymous_bytes(conn: Connection) -> int:
    """Memory of this backend that no file and no other process shares."""
    for line in Path(f"/proc/{conn.info.backend_pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("expected a line RssAnon")


def slope(conn: Connection, text: str, times: int, samples: int) -> tuple[float, int]:
    """Bytes that a repetition adds, fitted over samples after a tenth to warm up, and bytes added in all."""
    execute(conn, text.format(max(200, times // 10)))
    at, sizes = [0], [anonymous_bytes(conn)]
    for _ in range(samples):
        execute(conn, text.format(times // samples))
        at.append(at[-1] + times // samples)
        sizes.append(anonymous_bytes(conn))
    return float(np.polyfit(at, sizes, 1)[0]), sizes[-1] - sizes[0]


def check_slope(conn: Connection, text: str, times: int) -> None:
    """One lost chunk per repetition is 16 bytes at least, and a page per thousand of them is 4."""
    per_repetition, total = slope(conn, text, times, 20)
    # shown by pytest -rP
    print(f"{times} repetitions: {per_repetition:.3f} bytes each by slope, {total} in all")
    # in a short run a single page would look like a slope
    assert per_repetition < max(2.0, 16 * 4096 / times)
    assert total <= 256 * 1024


def test_some_scans_leave_nothing(items: Connection) -> None:
    check_slope(items, SCANS, 6000)


def test_some_inserts_leave_nothing(items: Connection) -> None:
    check_slope(items, INSERTS, 2000)


@pytest.mark.slow
def test_100000_scans_leave_nothing(items: Connection) -> None:
    check_slope(items, SCANS, 100_000)


@pytest.mark.slow
def test_100000_inserts_leave_nothing(items: Connection) -> None:
    check_slope(items, INSERTS, 100_000)
    # a tenth more to warm up
    assert value(items, "SELECT count(*) FROM items") == 111_000
    q = value(items, "SELECT embedding FROM items WHERE id = 110999")
    configure(items, hnsw_ef_search=1000)
    assert search_ids(items, q, 1) == [110_999]


@pytest.fixture(scope="module")
def large(server: Server) -> str:
    """Database with 20,000 rows and an index."""
    name = "bqcore_test_scan_memory"
    with server.connect() as admin:
        execute(admin, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    server.create_database(name)
    with server.connect(name) as conn:
        conn.execute("CREATE EXTENSION bqcore CASCADE")
        create_table(conn, LARGE.base)
        create_index(conn, options=f", ef_construction = 16, m = {M}")
    return name


def scan_bytes(server: Server, database: str, fetch: int, **settings: object) -> tuple[int, int, int]:
    """Rows that a cursor returned, bytes of our contexts, and bytes that all contexts grew by."""
    with server.connect(database) as conn:
        register_vector(conn)
        conn.execute("LOAD 'vector'; LOAD 'bqcore'")
        configure(conn, **settings)
        force_index(conn)
        everything = "SELECT sum(total_bytes) FROM pg_backend_memory_contexts"
        text = search_sql("l2", limit=None)
        conn.execute(text.replace("ORDER", "WHERE id < 0 ORDER").encode(), {"q": LARGE.queries[0]})
        with conn.transaction():
            execute(conn, "SELECT 1")
            value(conn, everything)
            before = value(conn, everything)
            conn.execute(f"DECLARE c CURSOR FOR {text}".encode(), {"q": LARGE.queries[0]})
            returned = len(execute(conn, f"FETCH {fetch} FROM c").fetchall())
            ours = value(conn, everything + " WHERE name LIKE 'bqhnsw%%'")
            grown = int(value(conn, everything) - before)
            print(f"{settings}: {returned} rows, {ours} bytes of ours, {grown} in all")
            return returned, int(ours), grown


@pytest.mark.parametrize("ef_search", [40, 1000])
def test_a_scan_keeps_what_waits(server: Server, large: str, ef_search: int) -> None:
    returned, ours, total = scan_bytes(server, large, 10, hnsw_ef_search=ef_search)
    assert returned == 10
    # the walk ends with 10 ef_search elements, and an element has 2 m neighbours; all arrays may have doubled
    walk = 10 * ef_search * 2 * (WALK_BYTES + WAITING_BYTES + 2 * M * VISITED_BYTES)
    # two contexts start with 8 kB each, and blocks double
    assert ours <= 2 * 8192 + walk
    assert total < 2 * 1024 * 1024


@pytest.mark.parametrize("mode", ["strict_order", "relaxed_order"])
@pytest.mark.parametrize("work_mem", ["64kB", "1MB", "4MB"])
def test_an_iterative_scan_respects_work_mem(server: Server, large: str, mode: str, work_mem: str) -> None:
    """Read to its end, the scan stops at work_mem times hnsw.scan_mem_multiplier."""
    returned, ours, total = scan_bytes(
        server,
        large,
        20_000,
        hnsw_iterative_scan=mode,
        hnsw_max_scan_tuples=1_000_000,
        work_mem=work_mem,
        hnsw_ef_search=40,
    )
    limit = {"64kB": 64, "1MB": 1024, "4MB": 4096}[work_mem] * 1024
    assert returned >= 40
    # the first walk is made whatever it takes, and rows that wait come on top of the walk's share
    assert ours <= 1.5 * max(limit, 96 * 1024)
    assert total - ours <= 1024 * 1024
