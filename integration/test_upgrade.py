"""From version 0.1.0 of the extension to this one."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from conftest import Server
from pgvector.psycopg import register_vector
from support import (
    WIDTHS,
    Connection,
    column,
    create_index,
    create_table,
    force_index,
    model,
    search,
    value,
)

import bqcore
from bqcore.datasets import clustered
from bqcore_postgres import source_dir

pytestmark = pytest.mark.postgres

DATA = clustered(500, 24, n_queries=5, random_state=41)
OLD = "0.1.0"
#: SHA-256 of scripts that servers out there may have run: they never change again.
FROZEN = {
    "bqcore--0.1.0.sql": "7ad2cc31ee3df9641d1721cf08abff84614dcc8f2a5a2ce3187ca18ee95c691f",
    "bqcore--0.1.0--0.2.0.sql": "92c8ceb36d836446a33979ad3a7c4b19919cd8f289e79c795b9246bb8a762480",
}


def members(conn: Connection) -> list[str]:
    """All objects of the extension, as Postgres describes them, with the definitions of functions."""
    return column(
        conn,
        """
        SELECT concat_ws(' ', pg_describe_object(classid, objid, objsubid), prosrc, provolatile, proparallel)
        FROM pg_depend LEFT JOIN pg_proc p ON p.oid = objid AND classid = 'pg_proc'::regclass
        WHERE deptype = 'e'
            AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'bqcore') ORDER BY 1""",
    )


def test_scripts_of_old_versions_are_frozen() -> None:
    try:
        folder = source_dir()[1] / "sql"
    except RuntimeError as error:
        pytest.skip(str(error))
    for name, digest in FROZEN.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_upgrade_keeps_indexes_and_adds_the_types(server: Server, database: str) -> None:
    with server.connect(database) as fresh:
        fresh.execute("CREATE EXTENSION bqcore CASCADE")
        expected = members(fresh)
        fresh.execute("DROP EXTENSION bqcore, vector")
    with server.connect(database) as conn:
        conn.execute(f"CREATE EXTENSION bqcore VERSION '{OLD}' CASCADE".encode())
        register_vector(conn)
        for bits in WIDTHS:
            create_table(conn, DATA.base, f"items{bits}")
            create_index(conn, bits, "cosine", f"items{bits}")
        force_index(conn)
        before = {
            bits: [search(conn, q, 20, "cosine", f"items{bits}") for q in DATA.queries] for bits in WIDTHS
        }
        models = {bits: model(conn, f"items{bits}_bq") for bits in WIDTHS}
        assert set(members(conn)) < set(expected)
        assert value(conn, "SELECT trained_rows FROM bqcore_index_info('items1_bq')") == len(DATA.base)
    with server.connect(database) as conn:
        register_vector(conn)
        conn.execute("ALTER EXTENSION bqcore UPDATE")
        assert (
            value(conn, "SELECT extversion FROM pg_extension WHERE extname = 'bqcore'") == bqcore.__version__
        )
        assert members(conn) == expected
        force_index(conn)
        for bits in WIDTHS:
            assert [search(conn, q, 20, "cosine", f"items{bits}") for q in DATA.queries] == before[bits]
            assert model(conn, f"items{bits}_bq") == models[bits]
        text = """SELECT bq_distance(bq_encode(embedding, m), bq_query(embedding, m))
            FROM items8, (SELECT %s::bytea::bqmodel AS m) AS stored"""
        np.testing.assert_allclose(column(conn, text, [models[8]]), 0, atol=5e-3)
