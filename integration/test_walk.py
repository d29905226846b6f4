"""The extension's own walk through pgvector's graph finds what pgvector's finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psycopg
import pytest
from pgvector.psycopg import register_vector
from support import (
    Connection,
    configure,
    create_index,
    create_table,
    execute,
    force_index,
    insert,
    plan,
    search,
    search_sql,
    server_options,
    size,
)

from bqcore.datasets import clustered
from bqcore_postgres import EmbeddedServer

pytestmark = pytest.mark.postgres

DATA = clustered(1500, 24, n_queries=15, random_state=5)
#: Rows with one vector.
EQUAL = {0, *range(1000, 1025)}


def agree(conn: Connection, ef_search: int = 40, table: str = "items") -> None:
    """Compare all rows of scans with both walks, up to the order of rows that are equally far.

    Which of the elements of equal vectors is the last of hnsw.ef_search is open, and so are their rows. The
    own walk goes no further than pgvector's where a number of rows is to be rescored.
    """
    configure(conn, hnsw_ef_search=ef_search, bqcore_rescore=10_000)
    for q in DATA.queries:
        rows = {}
        for own_walk in ("on", "off"):
            configure(conn, bqcore_own_walk=own_walk)
            rows[own_walk] = [(distance, i) for i, distance in search(conn, q, None, table=table)]
            assert [distance for distance, _ in rows[own_walk]] == sorted(d for d, _ in rows[own_walk])
            assert len({i for _, i in rows[own_walk]}) == len(rows[own_walk])
        own, theirs = (sorted(row for row in found if row[1] not in EQUAL) for found in rows.values())
        assert own == theirs
    configure(conn, bqcore_own_walk="on", bqcore_rescore=-1)
    assert table in plan(conn, search_sql(table=table), {"q": DATA.queries[0]})


@pytest.mark.parametrize(("bits", "m"), [(1, 2), (1, 16), (8, 4)])
def test_over_an_indexs_life(conn: Connection, bits: int, m: int) -> None:
    """With m = 2 the graph has some ten levels; equal vectors share an element until it is full."""
    create_table(conn, DATA.base[:1000])
    insert(conn, "items", range(1000, 1025), np.repeat(DATA.base[:1], 25, axis=0))
    create_index(conn, bits, options=f", m = {m}, ef_construction = 40")
    force_index(conn)
    agree(conn)
    execute(conn, "DELETE FROM items WHERE id % 3 = 0")
    agree(conn)  # of dead rows elements remain
    execute(conn, "VACUUM items")
    insert(conn, "items", range(2000, 2500), DATA.base[1000:])  # some in the place of deleted elements
    agree(conn)
    agree(conn, 1)
    agree(conn, 1000)
    execute(conn, "DELETE FROM items")
    assert search(conn, DATA.queries[0]) == []
    execute(conn, "VACUUM items")
    assert search(conn, DATA.queries[0]) == []


def test_an_empty_and_a_temporary_table(conn: Connection) -> None:
    create_table(conn, DATA.base[:0])
    create_index(conn)
    force_index(conn)
    assert search(conn, DATA.queries[0]) == []
    create_table(conn, DATA.base, "here", kind="TEMPORARY")
    create_index(conn, 4, table="here")
    agree(conn, table="here")


def test_blocks_that_leave_the_buffers(extension_dir: Path) -> None:
    """Where blocks were is only a hint: with 1 MB of buffers they are elsewhere the next time."""
    settings = {"shared_buffers": "1MB", "fsync": "off"}
    server = EmbeddedServer(settings=settings, extension_dirs=[extension_dir], **server_options())
    with server, server.connect() as conn:
        conn.execute("CREATE EXTENSION bqcore CASCADE")
        register_vector(conn)
        create_table(conn, np.concatenate([DATA.base + np.float32(shift) for shift in (0, 0.01, 0.02)]))
        create_index(conn, 8)
        force_index(conn)
        assert size(conn, "items_bq") > 1500000
        agree(conn)
        with pytest.raises(psycopg.errors.DataException, match="dimensions"):
            search(conn, DATA.queries[0][:20])
