"""What Postgres' own modules say of tables and indexes: amcheck, pageinspect and pg_buffercache."""

from __future__ import annotations

import pytest
from pages import META_DIM, META_MAGIC
from pgvector.psycopg import register_vector
from support import (
    BITS,
    Connection,
    column,
    configure,
    create_index,
    create_table,
    execute,
    force_index,
    insert,
    search,
    search_sql,
    value,
)

from bqcore.datasets import clustered
from bqcore_postgres import EmbeddedServer

pytestmark = pytest.mark.postgres

DATA = clustered(1200, 100, n_queries=5, random_state=89)
#: Buffers of a relation that somebody has pinned.
PINNED = """
    SELECT count(*) FROM pg_buffercache
    WHERE relfilenode = pg_relation_filenode(%s::regclass) AND relforknumber = 0 AND pinning_backends > 0
      AND reldatabase = (SELECT oid FROM pg_database WHERE datname = current_database())"""


def load_module(conn: Connection, name: str) -> None:
    """Create an extension of contrib, or skip where the server's package has none."""
    if value(conn, "SELECT count(*) FROM pg_available_extensions WHERE name = %s", [name]) == 0:
        pytest.skip(f"this server has no {name}")
    execute(conn, f"CREATE EXTENSION IF NOT EXISTS {name}")


@pytest.mark.parametrize("bits", BITS)
def test_heap_and_indexes_are_sound_after_a_crash(
    embedded: EmbeddedServer, database: str, conn: Connection, bits: int
) -> None:
    load_module(conn, "amcheck")
    create_table(conn, DATA.base[:800])
    conn.execute("ALTER TABLE items ADD PRIMARY KEY (id)")
    create_index(conn, bits, "cosine")
    conn.execute("CHECKPOINT")
    conn.execute("DELETE FROM items WHERE id % 3 = 0")
    conn.execute("VACUUM items")
    insert(conn, "items", range(800, 1200), DATA.base[800:])
    other = embedded.connect(database)
    register_vector(other)
    other.execute("BEGIN")
    insert(other, "items", range(2000, 2100), DATA.base[:100])
    embedded.restart("immediate")
    other.close()
    with embedded.connect(database) as again:
        assert execute(again, "SELECT blkno, offnum, msg FROM verify_heapam('items')").fetchall() == []
        again.execute("SELECT bt_index_check('items_pkey', heapallindexed => true)")
        rows, heap = (
            execute(again, "SELECT rows, heap_rows FROM bqcore_check('items_bq', true)").fetchone() or ()
        )
        assert heap == value(again, "SELECT count(*) FROM items") == 800 - 267 + 400
        # those of the transaction that the crash ended stay until VACUUM
        assert heap <= rows <= heap + 100
        again.execute("VACUUM items")
        assert value(again, "SELECT rows FROM bqcore_check('items_bq', true)") == heap
        assert execute(again, "SELECT blkno, offnum, msg FROM verify_heapam('items')").fetchall() == []


@pytest.mark.parametrize("bits", BITS)
def test_every_page_of_an_index_is_a_page(conn: Connection, bits: int) -> None:
    """Bounds of the header hold, line pointers lie in them, and pages of one kind have one special size."""
    load_module(conn, "pageinspect")
    create_table(conn, DATA.base)
    create_index(conn, bits)
    blocks = value(conn, "SELECT pg_relation_size('items_bq') / 8192")
    headers = execute(
        conn,
        "SELECT lower, upper, special, pagesize, version FROM generate_series(0, %s - 1) AS block, "
        "LATERAL page_header(get_raw_page('items_bq', block::int))",
        [blocks],
    ).fetchall()
    assert len(headers) == blocks > 3
    assert {(pagesize, version) for *_, pagesize, version in headers} == {(8192, 4)}
    assert all(24 <= lower <= upper <= special <= 8192 for lower, upper, special, _, _ in headers)
    # pgvector's next block and page identifier, and what bqhnsw keeps at the end of the metapage
    assert {special for _, _, special, _, _ in headers} == {8184}
    metapage = bytes(value(conn, "SELECT get_raw_page('items_bq', 0)"))
    assert int.from_bytes(metapage[META_MAGIC : META_MAGIC + 4], "little") == 0xA953A953
    assert int.from_bytes(metapage[META_DIM : META_DIM + 4], "little") == 100


@pytest.mark.parametrize("bits", BITS)
def test_a_scan_keeps_no_page_of_the_index_pinned(conn: Connection, bits: int) -> None:
    """Between fetches, pages of the rows returned and looked at last are held; afterwards none is."""
    load_module(conn, "pg_buffercache")
    create_table(conn, DATA.base)
    create_index(conn, bits)
    force_index(conn)
    for mode in ("off", "strict_order", "relaxed_order"):
        configure(conn, hnsw_iterative_scan=mode)
        with conn.transaction():
            conn.execute(f"DECLARE c CURSOR FOR {search_sql(limit=None)}".encode(), {"q": DATA.queries[0]})
            assert len(execute(conn, "FETCH 5 FROM c").fetchall()) == 5
            assert value(conn, PINNED, ["items_bq"]) == 0
            assert value(conn, PINNED, ["items"]) <= 2
        assert value(conn, PINNED, ["items"]) == 0
    insert(conn, "items", [5000], DATA.queries[:1])
    assert search(conn, DATA.queries[0], 1)[0][0] == 5000
    assert column(conn, PINNED, ["items_bq"]) == column(conn, PINNED, ["items"]) == [0]
