"""From older versions of the extension to this one."""

from __future__ import annotations

import hashlib
import uuid

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
    execute,
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
OLD = ("0.1.0", "0.2.0")
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


@pytest.mark.parametrize("old", OLD)
def test_upgrade_keeps_indexes_and_adds_what_is_new(server: Server, database: str, old: str) -> None:
    with server.connect(database) as fresh:
        fresh.execute("CREATE EXTENSION bqcore CASCADE")
        expected = members(fresh)
        fresh.execute("DROP EXTENSION bqcore, vector")
    with server.connect(database) as conn:
        conn.execute(f"CREATE EXTENSION bqcore VERSION '{old}' CASCADE".encode())
        register_vector(conn)
        for bits in WIDTHS:
            create_table(conn, DATA.base, f"items{bits}")
            create_index(conn, bits, "cosine", f"items{bits}")
        force_index(conn)
        before = {
            bits: [search(conn, q, 20, "cosine", f"items{bits}") for q in DATA.queries] for bits in WIDTHS
        }
        models = {bits: model(conn, f"items{bits}_bq") for bits in WIDTHS}
        before_upgrade = members(conn)
        assert before_upgrade != expected
        changed = set(before_upgrade) - set(expected)
        assert all("bqcore_recall" in member or "bqcore_index_info" in member for member in changed)
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


def test_upgrade_keeps_who_may_call_recall(server: Server, database: str) -> None:
    """Its new arguments made it another function; a dump must restore the same privileges."""
    role = f"bqcore role {uuid.uuid4().hex[:12]}"
    granted = """
        SELECT a.grantee = 0, pg_get_userbyid(a.grantee), a.is_grantable
        FROM pg_proc p, aclexplode(p.proacl) a
        WHERE proname = 'bqcore_recall' AND grantee <> proowner ORDER BY 1, 2"""
    with server.connect(database) as conn:
        execute(conn, f'CREATE ROLE "{role}"')
        try:
            for statements, expected in (
                ("", []),
                ("REVOKE ALL ON FUNCTION bqcore_recall FROM PUBLIC", []),
                (f'GRANT EXECUTE ON FUNCTION bqcore_recall TO "{role}"', [(True, False), (False, False)]),
                (
                    "REVOKE ALL ON FUNCTION bqcore_recall FROM PUBLIC;"
                    f'GRANT EXECUTE ON FUNCTION bqcore_recall TO "{role}" WITH GRANT OPTION',
                    [(False, True)],
                ),
            ):
                conn.execute("CREATE EXTENSION bqcore VERSION '0.2.0' CASCADE")
                execute(conn, statements)
                conn.execute("ALTER EXTENSION bqcore UPDATE")
                rows = execute(conn, granted).fetchall()
                assert sorted((public, grantable) for public, _, grantable in rows) == sorted(expected)
                assert all(public or name == role for public, name, _ in rows)
                public = value(
                    conn,
                    "SELECT has_function_privilege('pg_monitor', oid, 'EXECUTE') FROM pg_proc "
                    "WHERE proname = 'bqcore_recall'",
                )
                assert public == (statements == "" or any(p for p, _ in expected))
                # what counts as the extension's own is not dumped
                assert not column(
                    conn,
                    "SELECT i.initprivs::text FROM pg_init_privs i JOIN pg_proc p ON p.oid = i.objoid "
                    "WHERE i.classoid = 'pg_proc'::regclass AND p.proname = 'bqcore_recall'",
                )
                conn.execute("DROP EXTENSION bqcore, vector")
        finally:
            execute(conn, f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')
