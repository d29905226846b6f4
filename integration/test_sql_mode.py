"""SQL mode as a whole: who may install it, what it leaves behind, dumps, and the C extension beside it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest
from conftest import Managed, Server
from psycopg import sql
from psycopg.conninfo import make_conninfo
from support import Connection, column, create_table, execute, insert, value
from typer.testing import CliRunner

from bqcore.cli import app
from bqcore.datasets import clustered
from bqcore_postgres import EmbeddedServer, sql_mode
from bqcore_postgres.sql_mode.install import installed_version

pytestmark = pytest.mark.postgres

DATA = clustered(300, 24, n_queries=5, random_state=2)


@pytest.fixture
def conn(managed: Managed) -> Iterator[Connection]:
    """The role's connection to a database where SQL mode is installed."""
    with managed.connect() as connection:
        sql_mode.install(connection)
        yield connection
        execute(connection, "DROP TABLE IF EXISTS items")
        execute(connection, "DROP SCHEMA IF EXISTS bqcore CASCADE")


def set_up(conn: Connection, table: str = "items") -> None:
    """A table with a key, a text, and codes."""
    execute(conn, f"CREATE TABLE {table} (id integer PRIMARY KEY, note text, embedding vector(24))")
    insert(conn, table, range(300), DATA.base)
    execute(conn, f"SELECT bqcore.add('{table}', 'embedding', bqcore.train('{table}', 'embedding'))")
    execute(conn, f"CALL bqcore.fill('{table}', 'embedding')")


def found(conn: Connection, table: str = "items") -> list[tuple[int, float]]:
    """What searches return."""
    rows: list[tuple[int, float]] = []
    for q in DATA.queries:
        rows += execute(conn, "SELECT * FROM bqcore.search(%s, 'embedding', %s, 5)", [table, q]).fetchall()
    return rows


def test_an_ordinary_role_installs_uses_and_removes_it(managed: Managed, conn: Connection) -> None:
    assert value(conn, "SELECT usesuper FROM pg_user WHERE usename = current_user") is False
    assert column(conn, "SELECT extname::text FROM pg_extension WHERE extname <> 'plpgsql'") == ["vector"]
    again = sql_mode.install(conn)
    assert (again.role, again.replaced, again.pgvector_schema) == (
        managed.role,
        sql_mode.SQL_VERSION,
        "extensions",
    )
    set_up(conn)
    assert value(conn, "SELECT count(*) FROM items WHERE embedding_code IS NULL") == 0
    assert len(found(conn)) == 25
    with pytest.raises(
        RuntimeError, match=r"columns with codes remain \(1\).*bqcore.remove\('public.items', 'embedding'\)"
    ):
        sql_mode.uninstall(conn)
    execute(conn, "SELECT bqcore.remove('items', 'embedding')")
    names = column(
        conn,
        "SELECT attname::text FROM pg_attribute "
        "WHERE attrelid = 'items'::regclass AND attnum > 0 AND NOT attisdropped",
    )
    assert names == ["id", "note", "embedding"]
    assert value(conn, "SELECT count(*) FROM pg_proc WHERE proname LIKE 'items%'") == 0
    assert sql_mode.uninstall(conn) is True
    assert sql_mode.uninstall(conn) is False
    assert value(conn, "SELECT to_regnamespace('bqcore')") is None


def test_renamed_columns_stop_writes_until_they_are_named(conn: Connection) -> None:
    set_up(conn)
    before = found(conn)
    execute(conn, "ALTER TABLE items RENAME embedding TO vec")
    execute(conn, "ALTER TABLE items RENAME embedding_code TO bits")
    write = "INSERT INTO items (id, vec) SELECT 1000, vec FROM items WHERE id = 1"
    with pytest.raises(psycopg.errors.UndefinedColumn, match="items lacks one of the columns") as failure:
        execute(conn, write)
    assert "bqcore.renamed(" in (failure.value.diag.message_hint or "")
    for error, old, new in (
        (psycopg.errors.DuplicateColumn, "note", "vec"),
        (psycopg.errors.UndefinedColumn, "embedding", "nothing"),
        (psycopg.errors.UndefinedObject, "other", "vec"),
    ):
        with pytest.raises(error):
            execute(conn, "SELECT bqcore.renamed('items', %s, %s)", [old, new])
    for old, new in (("embedding", "vec"), ("embedding_code", "bits")):
        execute(conn, "SELECT bqcore.renamed('items', %s, %s)", [old, new])
    rows = [
        execute(conn, "SELECT * FROM bqcore.search('items', 'vec', %s, 5)", [q]).fetchall()
        for q in DATA.queries
    ]
    assert [row for part in rows for row in part] == before
    execute(conn, write)
    assert value(conn, "SELECT count(DISTINCT bits) FROM items WHERE id IN (1, 1000)") == 1
    assert column(conn, "SELECT bqcore.cleanup()") == []
    execute(conn, "SELECT bqcore.remove('items', 'vec')")


def test_cleanup_drops_the_functions_of_dropped_tables(conn: Connection) -> None:
    set_up(conn)
    execute(conn, "CREATE TABLE other (id integer PRIMARY KEY, embedding vector(24))")
    execute(conn, "SELECT bqcore.add('other', 'embedding', bqcore.model('items', 'embedding'))")
    execute(conn, "DROP TABLE items")
    assert column(conn, "SELECT bqcore.cleanup()") == ["public.items_embedding_bqcore()"]
    execute(conn, "DROP TABLE other")
    assert sql_mode.uninstall(conn)
    assert value(conn, "SELECT count(*) FROM pg_proc WHERE proname LIKE '%embedding_bqcore%'") == 0


def test_functions_pin_their_search_path(conn: Connection) -> None:
    rows = execute(
        conn,
        "SELECT p.oid::regprocedure::text, p.proconfig, p.prosecdef, p.prokind::text FROM pg_proc p "
        "WHERE p.pronamespace = 'bqcore'::regnamespace",
    ).fetchall()
    assert len(rows) > 15
    pinned = ["search_path=pg_catalog, pg_temp"]
    # a procedure that commits may not set anything
    assert {row[0] for row in rows if row[1] != pinned} == {"bqcore.fill(regclass,name,integer)"}
    assert {row[0] for row in rows if row[2]} == {"bqcore.prepare_rotation(integer,bigint)"}


def test_nobody_shadows_the_operators_it_uses(conn: Connection) -> None:
    """Operators that fit better than pg_catalog's would run with the caller's rights."""
    execute(conn, "CREATE FUNCTION public.trap(real, float8) RETURNS float8 LANGUAGE sql AS 'SELECT 1 / 0'")
    execute(conn, "CREATE OPERATOR public.* (FUNCTION = public.trap, LEFTARG = real, RIGHTARG = float8)")
    try:
        set_up(conn)
        assert (
            len(
                execute(
                    conn,
                    "SELECT * FROM bqcore.search('items', 'embedding', %s, 5, 50, 10)",
                    [DATA.queries[0]],
                ).fetchall()
            )
            == 5
        )
    finally:
        execute(conn, "DROP FUNCTION public.trap CASCADE")


def test_other_roles_use_what_the_owner_set_up(managed: Managed, conn: Connection) -> None:
    set_up(conn)
    other = f"{managed.role}_other"
    with managed.server.connect(managed.database) as admin:
        execute(admin, f"CREATE ROLE {other}")
        try:
            execute(admin, f"GRANT SELECT, INSERT ON items TO {other}")
            execute(admin, f"SET SESSION AUTHORIZATION {other}")
            execute(admin, "INSERT INTO items (id, embedding) SELECT 1000, embedding FROM items WHERE id = 1")
            assert value(admin, "SELECT count(embedding_code) FROM items WHERE id IN (1, 1000)") == 2
            rows = execute(
                admin,
                "SELECT id FROM bqcore.search('items', 'embedding', "
                "(SELECT embedding FROM items WHERE id = 1), 2)",
            ).fetchall()
            assert {row[0] for row in rows} == {1, 1000}
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                execute(admin, "SELECT bqcore.remove('items', 'embedding')")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                execute(admin, "DELETE FROM bqcore.rotations")
            execute(admin, "RESET SESSION AUTHORIZATION")
            execute(admin, f"REVOKE SELECT ON items FROM {other}")
            execute(admin, f"SET SESSION AUTHORIZATION {other}")
            for call in (
                "search('items', 'embedding', array_fill(1, '{24}')::vector)",
                "train('items', 'embedding')",
            ):
                with pytest.raises(
                    psycopg.errors.InsufficientPrivilege, match="permission denied for table items"
                ):
                    execute(admin, f"SELECT bqcore.{call}")
        finally:
            execute(admin, "RESET SESSION AUTHORIZATION")
            execute(admin, f"DROP OWNED BY {other}")
            execute(admin, f"DROP ROLE {other}")


def test_a_role_without_create_is_told_what_it_lacks(plain_server: Server, managed: Managed) -> None:
    role = f"{managed.role}_poor"
    with plain_server.connect(managed.database) as conn:
        execute(conn, f"CREATE ROLE {role}")
        try:
            execute(conn, f"SET SESSION AUTHORIZATION {role}")
            with pytest.raises(
                RuntimeError,
                match=f"lacks CREATE on database {managed.database}.*GRANT CREATE ON DATABASE.*AUTHORIZATION",
            ):
                sql_mode.install(conn)
            execute(conn, "RESET SESSION AUTHORIZATION")
            # the second of the two ways that the error names
            execute(conn, f"CREATE SCHEMA bqcore AUTHORIZATION {role}")
            execute(conn, f"SET SESSION AUTHORIZATION {role}")
            assert sql_mode.install(conn).role == role
            execute(conn, "RESET SESSION AUTHORIZATION")
            execute(conn, f"SET SESSION AUTHORIZATION {managed.role}")
            with pytest.raises(RuntimeError, match=f"schema bqcore belongs to {role}"):
                sql_mode.install(conn)
        finally:
            execute(conn, "RESET SESSION AUTHORIZATION")
            execute(conn, f"DROP OWNED BY {role} CASCADE")
            execute(conn, f"DROP ROLE {role}")


def test_install_refuses_what_it_cannot_work_with(
    plain_server: Server, database: str, managed: Managed
) -> None:
    with (
        plain_server.connect() as conn,
        pytest.raises(RuntimeError, match="database postgres has no pgvector: CREATE EXTENSION vector first"),
    ):
        sql_mode.install(conn)
    with managed.connect() as conn:
        execute(conn, "CREATE SCHEMA bqcore; CREATE TABLE bqcore.mine (x int)")
        try:
            with pytest.raises(
                RuntimeError, match=r"schema bqcore holds bqcore\.mine.* and SQL mode needs it for itself"
            ):
                sql_mode.install(conn)
            execute(conn, "DROP TABLE bqcore.mine")
            sql_mode.install(conn)
            execute(
                conn,
                "CREATE OR REPLACE FUNCTION bqcore.sql_version() RETURNS text LANGUAGE sql "
                "AS $$ SELECT '99.0.0' $$",
            )
            with pytest.raises(RuntimeError, match=r"has SQL mode 99.0.0, newer than this package's"):
                sql_mode.install(conn)
        finally:
            execute(conn, "DROP SCHEMA bqcore CASCADE")


@pytest.mark.parametrize("first", ["extension", "sql"])
def test_it_lives_beside_the_extension(server: Server, database: str, first: str) -> None:
    """The schema is SQL mode's, the prefix bq the extension's: neither has a name of the other."""
    with server.connect(database) as conn:
        execute(conn, "CREATE EXTENSION vector")
        steps = [lambda: execute(conn, "CREATE EXTENSION bqcore"), lambda: sql_mode.install(conn)]
        for step in steps if first == "extension" else steps[::-1]:
            step()
        set_up(conn)
        before = found(conn)
        execute(conn, "CREATE INDEX ON items USING bqhnsw (embedding vector_cosine_ops)")
        execute(conn, "LOAD 'bqcore'")  # reserves settings named bqcore.
        execute(conn, "UPDATE items SET note = 'x'")
        execute(conn, "UPDATE items SET embedding_code = NULL")
        assert found(conn) == before
        shared = column(
            conn,
            "SELECT a.proname::text FROM pg_proc a JOIN pg_proc b USING (proname) "
            "WHERE a.pronamespace = 'bqcore'::regnamespace AND b.pronamespace = 'public'::regnamespace",
        )
        assert shared == []
        execute(conn, "DROP EXTENSION bqcore CASCADE")
        assert found(conn) == before
        execute(conn, "SELECT bqcore.remove('items', 'embedding')")
        execute(conn, "CREATE EXTENSION bqcore SCHEMA bqcore")
        with pytest.raises(
            RuntimeError, match=r"holds extension bqcore.*ALTER EXTENSION bqcore SET SCHEMA public"
        ):
            sql_mode.uninstall(conn)
        execute(conn, "ALTER EXTENSION bqcore SET SCHEMA public")
        assert sql_mode.uninstall(conn) is True
        assert value(conn, "SELECT count(*) FROM pg_extension WHERE extname = 'bqcore'") == 1


def test_dump_and_restore_lose_nothing(
    plain_server: Server, managed: Managed, conn: Connection, tmp_path: Path
) -> None:
    if not isinstance(plain_server, EmbeddedServer):
        pytest.skip("runs the server's own pg_dump")
    # a schema that sorts before bqcore: its data are restored first
    execute(conn, "CREATE SCHEMA aaa")
    try:
        set_up(conn, "aaa.items")
        everything = (
            "SELECT id, embedding::text, embedding_code::text, embedding_f_add, embedding_f_rescale "
            "FROM aaa.items ORDER BY id"
        )
        before, answers = execute(conn, everything).fetchall(), found(conn, "aaa.items")
        dsn = plain_server.dsn(managed.database)
        dump = subprocess.run([plain_server.bin_dir / "pg_dump", dsn], check=True, capture_output=True)
        fresh = f"{managed.database}_restored"
        plain_server.create_database(fresh)
        try:
            restored = subprocess.run(
                [plain_server.bin_dir / "psql", "-q", "-v", "ON_ERROR_STOP=1", plain_server.dsn(fresh)],
                input=dump.stdout, capture_output=True, check=False,
            )  # fmt: skip
            assert restored.returncode == 0, restored.stderr.decode()
            with plain_server.connect(fresh) as there:
                execute(there, "SET search_path = public, extensions")
                assert execute(there, everything).fetchall() == before
                from pgvector.psycopg import register_vector

                register_vector(there)
                assert found(there, "aaa.items") == answers
                assert installed_version(there) == sql_mode.SQL_VERSION
                # triggers work, also without the cache of rotations
                execute(there, "TRUNCATE bqcore.rotations")
                execute(
                    there,
                    "INSERT INTO aaa.items (id, embedding) "
                    "SELECT id + 1000, embedding FROM aaa.items WHERE id < 5",
                )
                again = execute(there, everything).fetchall()
                assert [row[1:] for row in again if row[0] >= 1000] == [row[1:] for row in before[:5]]
                execute(there, "TRUNCATE bqcore.rotations; SET default_transaction_read_only = on")
                assert len(found(there, "aaa.items")) == 25
        finally:
            with plain_server.connect() as admin:
                admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(fresh)))
    finally:
        execute(conn, "DROP SCHEMA aaa CASCADE")


def test_partitions_are_searched_as_one(conn: Connection) -> None:
    execute(conn, "CREATE TABLE items (id integer PRIMARY KEY, embedding vector(24)) PARTITION BY RANGE (id)")
    execute(conn, "CREATE TABLE items_1 PARTITION OF items FOR VALUES FROM (0) TO (150)")
    execute(conn, "CREATE TABLE items_2 PARTITION OF items FOR VALUES FROM (150) TO (1000)")
    insert(conn, "items", range(200), DATA.base[:200])
    execute(
        conn, "SELECT bqcore.add('items', 'embedding', bqcore.train('items', 'embedding', metric => 'l2'))"
    )
    execute(conn, "CALL bqcore.fill('items', 'embedding')")
    insert(conn, "items", range(200, 300), DATA.base[200:])
    assert value(conn, "SELECT count(*) FROM items WHERE embedding_code IS NULL") == 0
    for i in (0, 149, 150, 299):
        assert execute(
            conn, "SELECT id FROM bqcore.search('items', 'embedding', %s, 1)", [DATA.base[i]]
        ).fetchone() == (i,)


def test_command_line_installs_prints_and_uninstalls(managed: Managed) -> None:
    run = CliRunner().invoke
    dsn = make_conninfo(managed.server.dsn(managed.database), options="-c role=" + managed.role)
    printed = run(app, ["postgres", "install", "--sql", "--print", "--vector-schema", 'a "b"'])
    assert printed.exit_code == 0
    assert '"a ""b""".vector' in printed.output
    assert "@vector@" not in printed.output
    done = run(app, ["postgres", "install", "--sql", "--dsn", dsn, "--json"])
    assert done.exit_code == 0, done.output
    assert f'"role": "{managed.role}"' in done.output
    assert "bqcore.search(" in run(app, ["postgres", "install", "--sql", "--dsn", dsn]).output
    assert "Dropped schema bqcore" in run(app, ["postgres", "uninstall", "--dsn", dsn]).output
    assert "There is no SQL mode" in run(app, ["postgres", "uninstall", "--dsn", dsn]).output
    wrong = run(app, ["postgres", "install", "--dsn", dsn])
    assert isinstance(wrong.exception, ValueError)
    assert "add --sql" in str(wrong.exception)


def test_empty_tables_and_long_samples(conn: Connection) -> None:
    create_table(conn, np.zeros((0, 24), np.float32))
    with pytest.raises(
        psycopg.errors.DataException, match=r"expected rows to train from, not an empty .*items"
    ):
        execute(conn, "SELECT bqcore.train('items', 'embedding')")
    insert(conn, "items", range(300), DATA.base)
    execute(conn, "ANALYZE items")
    few = value(conn, "SELECT bqcore.train('items', 'embedding', 50)")
    assert 0 < few["n_trained"] <= 50
