"""SQL mode among hostile roles: planted operators and functions, names made to break out, rows of others."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import numpy as np
import psycopg
import pytest
from conftest import Managed
from pgvector.psycopg import register_vector
from psycopg import sql
from support import Connection, column, execute, insert, value

from bqcore.datasets import clustered
from bqcore_postgres import sql_mode
from bqcore_postgres.sql_mode.client import CodedColumn
from bqcore_postgres.sql_mode.install import installed_version

pytestmark = pytest.mark.postgres

DATA = clustered(200, 24, n_queries=3, random_state=2)

#: Operators that fit the statements of SQL mode better than those of pg_catalog, which convert an argument.
TRAPS = [
    ("=", "oid", "regclass", "boolean"),
    ("~~", "name", "name", "boolean"),
    ("~~", "name", "unknown", "boolean"),
    ("*", "double precision", "bigint", "double precision"),
    ("*", "real", "double precision", "double precision"),
    ("-", "double precision", "double precision", "double precision"),
    ("<", "integer", "bigint", "boolean"),
    (">=", "tid", "text", "boolean"),
    ("||", "name", "text", "text"),
]


@pytest.fixture
def conn(managed: Managed) -> Iterator[Connection]:
    """The managed role's connection, SQL mode installed."""
    with managed.connect() as connection:
        sql_mode.install(connection)
        yield connection
        connection.execute("ROLLBACK; RESET search_path")
        execute(connection, "DROP TABLE IF EXISTS items CASCADE")
        execute(connection, "DROP SCHEMA IF EXISTS bqcore CASCADE")


@pytest.fixture
def admin(managed: Managed) -> Iterator[Connection]:
    """A superuser's connection to the same database."""
    with managed.server.connect(managed.database) as connection:
        register_vector(connection)
        yield connection


@pytest.fixture
def other(managed: Managed, admin: Connection) -> Iterator[str]:
    """A role that may create objects in schema public, and schemas."""
    name = f"bqcore_hostile_{uuid.uuid4().hex[:12]}"
    execute(admin, f"CREATE ROLE {name}; GRANT CREATE ON SCHEMA public TO {name}")
    execute(admin, f"GRANT CREATE ON DATABASE {managed.database} TO {name}")
    yield name
    admin.execute("RESET SESSION AUTHORIZATION; RESET search_path")
    execute(admin, f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


def plant(conn: Connection, schema: str = "public") -> None:
    """Create operators whose functions fail."""
    for number, (operator, left, right, result) in enumerate(TRAPS):
        if "unknown" in (left, right):
            continue
        name = f"{schema}.trap_{number}"
        execute(
            conn,
            f"CREATE FUNCTION {name}({left}, {right}) RETURNS {result} LANGUAGE plpgsql "
            "AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$",
        )
        execute(
            conn,
            f"CREATE OPERATOR {schema}.{operator} (FUNCTION = {name}, LEFTARG = {left}, RIGHTARG = {right})",
        )


def set_up(conn: Connection) -> None:
    execute(conn, "CREATE TABLE public.items (id integer PRIMARY KEY, embedding extensions.vector(24))")
    insert(conn, "items", range(200), DATA.base)
    execute(conn, "SELECT bqcore.add('items', 'embedding', bqcore.train('items', 'embedding'))")
    execute(conn, "CALL bqcore.fill('items', 'embedding')")


def use(conn: Connection) -> None:
    """Whatever a role does with SQL mode."""
    set_up(conn)
    assert value(conn, "SELECT count(embedding_code) FROM items") == 200
    found = execute(conn, "SELECT id FROM bqcore.search('items', 'embedding', %s, 5, 50, 10)", [DATA.base[7]])
    assert found.fetchall()[0][0] == 7
    text = value(conn, "SELECT bqcore.search_sql('items', 'embedding', %s, 5, 50, 10)", [DATA.base[7]])
    assert execute(conn, text).fetchall()[0][0] == 7
    statement, parameters = CodedColumn.read(conn, "items", "embedding").search_statement(
        DATA.base[7], 5, candidates=50, rescore=10
    )
    assert conn.execute(statement, parameters).fetchall()[0][0] == 7
    assert column(conn, "SELECT column_name FROM bqcore.columns") == ["embedding"]
    execute(conn, "SELECT bqcore.remove('items', 'embedding')")


@pytest.mark.parametrize("planted", ["before the installation", "after it", "ahead of pg_catalog"])
def test_planted_operators_are_never_run(
    conn: Connection, admin: Connection, other: str, planted: str
) -> None:
    """A schema that others may write to is in the search path of who installs and who uses."""
    if planted == "before the installation":
        execute(conn, "DROP SCHEMA bqcore CASCADE")
    execute(admin, f"SET SESSION AUTHORIZATION {other}")
    if planted == "ahead of pg_catalog":
        execute(admin, "CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC")
        plant(admin, "evil")
        execute(conn, "SET search_path = evil, public, extensions, pg_catalog")
    else:
        plant(admin)
    sql_mode.install(conn)
    before = value(conn, "SELECT pg_catalog.current_setting('search_path')")
    use(conn)
    assert value(conn, "SELECT pg_catalog.current_setting('search_path')") == before
    execute(conn, "RESET search_path")


def test_the_script_leaves_the_search_path_as_it_was(conn: Connection) -> None:
    execute(conn, "SET search_path = public, extensions, pg_temp")
    execute(conn, sql_mode.script("extensions"))
    assert value(conn, "SHOW search_path") == "public, extensions, pg_temp"


def test_installing_runs_nothing_of_a_schema_that_was_there(
    managed: Managed, admin: Connection, other: str
) -> None:
    """Whoever owns schema bqcore owns what is run in it: a superuser must not be lured into it."""
    execute(admin, f"SET SESSION AUTHORIZATION {other}")
    execute(
        admin, "CREATE SCHEMA bqcore; CREATE TABLE public.seen (who text); GRANT ALL ON public.seen TO PUBLIC"
    )
    execute(
        admin,
        "CREATE FUNCTION bqcore.sql_version() RETURNS text LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO public.seen VALUES (current_user); RETURN '0.0.1'; END $$",
    )
    execute(admin, "RESET SESSION AUTHORIZATION")
    assert installed_version(admin) is None
    with pytest.raises(RuntimeError, match=f"schema bqcore belongs to {other}"):
        sql_mode.install(admin)
    assert column(admin, "SELECT who FROM public.seen") == []
    execute(admin, "DROP SCHEMA bqcore CASCADE; DROP TABLE public.seen")


def test_installing_replaces_no_function_of_somebody_else(
    conn: Connection, admin: Connection, other: str
) -> None:
    """CREATE OR REPLACE keeps the owner, who could change the function afterwards."""
    execute(admin, f"ALTER FUNCTION bqcore.wrap64(numeric) OWNER TO {other}")
    with pytest.raises(RuntimeError, match=rf"bqcore.wrap64\(numeric\) belongs to {other}"):
        sql_mode.install(conn)


def test_a_planted_trigger_function_is_not_taken(conn: Connection, admin: Connection, other: str) -> None:
    """The owner of a function that add replaced could change it, and who writes to the table would run it."""
    execute(admin, f"SET SESSION AUTHORIZATION {other}")
    execute(
        admin,
        "CREATE FUNCTION public.items_embedding_bqcore() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RETURN NEW; END $$",
    )
    execute(admin, "RESET SESSION AUTHORIZATION")
    admin.execute("SET search_path = public, extensions")
    set_up(admin)
    owner = value(
        admin,
        "SELECT p.proowner::regrole::text FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid "
        "WHERE t.tgrelid = 'items'::regclass AND t.tgname LIKE 'zz_bqcore_%'",
    )
    assert owner == value(admin, "SELECT current_user::text")
    execute(admin, "DROP TABLE items")


def test_remove_drops_no_function_of_others(conn: Connection, admin: Connection, other: str) -> None:
    """A trigger that only looks like one of bqcore.add names a function that something else needs."""
    execute(
        admin,
        "CREATE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$",
    )
    execute(admin, f"SET SESSION AUTHORIZATION {other}")
    arguments = "'embedding', 'c', 'f', 'g', 'l2', 'none', '0', '1', '[1,2]'"
    execute(
        admin,
        "CREATE TABLE public.bait (id integer, embedding extensions.vector(2), c bit(2), f real, g real); "
        "CREATE TRIGGER zz_bqcore_2 BEFORE INSERT ON public.bait FOR EACH ROW "
        f"EXECUTE FUNCTION public.audit({arguments})",
    )
    execute(admin, "RESET SESSION AUTHORIZATION")
    execute(admin, "SELECT bqcore.remove('public.bait', 'embedding')")
    assert value(admin, "SELECT to_regprocedure('public.audit()') IS NOT NULL")
    execute(admin, "DROP FUNCTION public.audit()")


NAMES = [
    "'); DROP TABLE victim; --",
    '"; DROP TABLE victim; --',
    "$body$; DROP TABLE victim; $body$",
    "a\\000b\\",
    "%s %(q)s %b {x} {} %%",
    "%1$s %I %L",
    "\t\n ü \u202e 漢字 🐘",
    "NULL",
    "'\"`$1",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_do_not_break_out(conn: Connection, name: str) -> None:
    schema, table, vectors, key = (f"{prefix}{name}" for prefix in "stvk")
    names = {
        "s": sql.Identifier(schema),
        "t": sql.Identifier(schema, table),
        "v": sql.Identifier(vectors),
        "k": sql.Identifier(key),
    }
    execute(conn, "CREATE TABLE IF NOT EXISTS victim (id integer)")
    conn.execute(sql.SQL("CREATE SCHEMA {s}").format(**names))
    conn.execute(sql.SQL("CREATE TABLE {t} ({k} text PRIMARY KEY, {v} vector(24))").format(**names))
    statement = sql.SQL("COPY {t} FROM STDIN (FORMAT BINARY)").format(**names)
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(["text", "vector"])
        for i, x in enumerate(DATA.base[:60]):
            copy.write_row((f"{name}{i}", x))
    quoted = sql.Identifier(schema, table).as_string(conn)
    conn.execute(
        "SELECT bqcore.add(%(t)s, %(c)s, bqcore.train(%(t)s, %(c)s, metric => 'l2'))",
        {"t": quoted, "c": vectors},
    )
    conn.execute("CALL bqcore.fill(%s, %s)", [quoted, vectors])
    arguments = [quoted, vectors, DATA.base[7], key]
    rows = conn.execute(
        "SELECT id FROM bqcore.search_as(NULL::text, %s, %s, %s, 3, 50, 20, key => %s)", arguments
    ).fetchall()
    assert rows[0][0] == f"{name}7"
    filtered = conn.execute(
        "SELECT id FROM bqcore.search_as(NULL::text, %s, %s, %s, 3, 50, 20, key => %s, "
        "filter => jsonb_build_object(%s::text, jsonb_build_array(%s::text, %s::text)))",
        [*arguments, key, f"{name}3", f"{name}4"],
    ).fetchall()
    assert {row[0] for row in filtered} == {f"{name}3", f"{name}4"}
    coded = CodedColumn.read(conn, quoted, vectors)
    assert coded.copy(conn, DATA.base[60:61], {key: ["new"]}, ["text"]) == 1
    for rescore in (10, 50):
        text, parameters = coded.search_statement(
            DATA.base[60],
            1,
            key=key,
            candidates=50,
            rescore=rescore,
            where=sql.SQL("t.{} <> {}").format(sql.Identifier(key.replace("%", "%%")), sql.Literal("x")),
        )
        assert conn.execute(text, parameters).fetchall()[0][0] == "new"
    assert vectors in column(conn, "SELECT column_name::text FROM bqcore.columns")
    conn.execute("SELECT bqcore.remove(%s, %s)", [quoted, vectors])
    conn.execute(sql.SQL("DROP SCHEMA {s} CASCADE").format(**names))
    execute(conn, "DROP TABLE victim")


def test_arguments_are_values(conn: Connection) -> None:
    set_up(conn)
    for attack in ("l2'; DROP TABLE items; --", "cosine') --"):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="metric"):
            conn.execute("SELECT bqcore.train('items', 'embedding', 10, %s)", [attack])
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="rotation"):
            conn.execute("SELECT bqcore.train('items', 'embedding', 10, 'l2', %s)", [attack])
        with pytest.raises(psycopg.errors.UndefinedColumn):
            conn.execute(
                "SELECT * FROM bqcore.search('items', 'embedding', %s, key => %s)", [DATA.base[0], attack]
            )
        with pytest.raises(psycopg.errors.UndefinedColumn):
            conn.execute(
                "SELECT * FROM bqcore.search('items', 'embedding', %s, "
                "filter => jsonb_build_object(%s::text, 1))",
                [DATA.base[0], attack],
            )
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            conn.execute(
                "SELECT * FROM bqcore.search('items', 'embedding', %s, "
                "filter => jsonb_build_object('id', %s::text))",
                [DATA.base[0], attack],
            )


def test_searches_and_training_respect_policies_and_columns(
    conn: Connection, admin: Connection, other: str
) -> None:
    set_up(conn)
    execute(conn, f"GRANT SELECT ON items TO {other}")
    execute(
        conn, "ALTER TABLE items ENABLE ROW LEVEL SECURITY; CREATE POLICY even ON items USING (id % 2 = 0)"
    )
    execute(admin, f"SET SESSION AUTHORIZATION {other}; SET search_path = public, extensions")
    rows = execute(
        admin, "SELECT id FROM bqcore.search('items', 'embedding', %s, 10)", [DATA.base[7]]
    ).fetchall()
    assert len(rows) == 10
    assert all(row[0] % 2 == 0 for row in rows)
    centroid = value(
        admin,
        "SELECT (bqcore.train('items', 'embedding', metric => 'l2', rotation => 'none') "
        "->> 'centroid')::vector",
    )
    assert np.abs(centroid.to_numpy() - DATA.base[::2].mean(axis=0)).max() < 1e-5
    execute(admin, "RESET SESSION AUTHORIZATION")
    execute(conn, f"ALTER TABLE items DISABLE ROW LEVEL SECURITY; REVOKE ALL ON items FROM {other}")
    execute(conn, f"GRANT SELECT (id, embedding_code) ON items TO {other}")
    execute(admin, f"SET SESSION AUTHORIZATION {other}")
    for call in (
        "* FROM bqcore.search('items', 'embedding', array_fill(1, '{24}')::vector)",
        "bqcore.train('items', 'embedding')",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            execute(admin, f"SELECT {call}")


def test_a_temporary_object_shadows_nothing(conn: Connection) -> None:
    execute(conn, "CREATE TEMP TABLE rotations (dim int, seed bigint, i int, axis text)")
    for name in ("pg_class", "pg_trigger", "pg_attribute", "pg_index", "pg_proc", "columns"):
        execute(conn, f"CREATE TEMP TABLE {name} (oid oid, relkind text)")
    execute(conn, "SET search_path = pg_temp, public, extensions")
    execute(conn, "CREATE TABLE public.items (id integer PRIMARY KEY, embedding extensions.vector(24))")
    insert(conn, "public.items", range(200), DATA.base)
    execute(conn, "SELECT bqcore.add('public.items', 'embedding', bqcore.train('public.items', 'embedding'))")
    execute(conn, "CALL bqcore.fill('public.items', 'embedding')")
    rows = execute(conn, "SELECT id FROM bqcore.search('public.items', 'embedding', %s, 3)", [DATA.base[7]])
    assert rows.fetchall()[0][0] == 7
    assert value(conn, "SELECT count(*) FROM pg_temp.rotations") == 0


def test_the_cache_of_rotations_may_be_closed(conn: Connection, admin: Connection, other: str) -> None:
    """Who may not fill it trains and writes all the same, more slowly."""
    execute(conn, "REVOKE EXECUTE ON FUNCTION bqcore.prepare_rotation(int, bigint) FROM PUBLIC")
    set_up(conn)
    execute(conn, f"GRANT SELECT, INSERT ON items TO {other}; DELETE FROM bqcore.rotations")
    execute(admin, f"SET SESSION AUTHORIZATION {other}; SET search_path = public, extensions")
    execute(admin, "INSERT INTO items (id, embedding) SELECT 1000, embedding FROM items WHERE id = 1")
    assert value(admin, "SELECT count(DISTINCT embedding_code) FROM items WHERE id IN (1, 1000)") == 1
    assert value(admin, "SELECT bqcore.train('items', 'embedding') ->> 'dim'") == "24"
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        execute(admin, "SELECT bqcore.prepare_rotation(24, 99)")
    assert value(admin, "SELECT count(*) FROM bqcore.rotations") == 0


#: Functions of SQL mode by as whom they run; all may be called by PUBLIC, and all but `fill` pin search_path.
AS_CALLER = """
    add cleanup default_candidates encode encode estimate fill filter_sql is_trigger_function make_model
    make_trigger model model_id query read_model remove renamed residual rotate rotation_axes rotation_signs
    search search_as search_sql setup sql_version statement train vector_column weight widen_search
    with_suffix wrap64"""
#: Writes the cache of rotations, whose rows follow from its two numbers: nothing of the caller's.
AS_OWNER = ["prepare_rotation"]
#: Commits, which a pinned search_path forbids; names its schemas.
UNPINNED = ["fill"]


def test_every_function_is_known_by_whose_rights_it_has(conn: Connection) -> None:
    rows = execute(
        conn,
        "SELECT proname, prosecdef, proconfig = ARRAY['search_path=pg_catalog, pg_temp'] FROM pg_proc "
        "WHERE pronamespace = 'bqcore'::regnamespace ORDER BY proname",
    ).fetchall()
    assert [name for name, owner, _ in rows if not owner] == sorted(AS_CALLER.split())
    assert [name for name, owner, _ in rows if owner] == AS_OWNER
    assert [name for name, _, pinned in rows if not pinned] == UNPINNED
    # tables of the schema: PUBLIC reads rotations, and writes nothing
    assert (
        execute(
            conn,
            "SELECT relname FROM pg_class WHERE relnamespace = 'bqcore'::regnamespace "
            "AND relkind IN ('r', 'v') "
            "AND has_table_privilege('pg_monitor', oid, 'INSERT, UPDATE, DELETE, TRUNCATE')",
        ).fetchall()
        == []
    )
