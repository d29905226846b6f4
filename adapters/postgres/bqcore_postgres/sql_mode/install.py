"""Put the SQL functions into a database, and take them out again."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from bqcore_postgres.candidates import quote_name, raw_sql

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[Any]

#: Version of the SQL functions; rises with every change of them.
SQL_VERSION = "0.3.0"
#: binary_quantize, bit_hamming_ops and l1 distances came with it.
MIN_PGVECTOR = (0, 7, 0)
MIN_POSTGRES = 14
SCHEMA = "bqcore"

_HEADER = """\
-- bqcore SQL mode {version}: RaBitQ codes in plain SQL, with pgvector {pgvector} or later in schema {vector}.
-- not IF NOT EXISTS, which asks for CREATE on the database even where the schema exists
DO $$ BEGIN IF to_regnamespace('bqcore') IS NULL THEN CREATE SCHEMA bqcore; END IF; END $$;
GRANT USAGE ON SCHEMA bqcore TO PUBLIC;
CREATE OR REPLACE FUNCTION bqcore.sql_version() RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$ SELECT '{version}'::text $$;
COMMENT ON FUNCTION bqcore.sql_version() IS 'version of bqcore''s SQL mode in this schema';
"""
# The operators of a view are looked up when it is made: in no schema that others may write to.
_PIN = """\
DO $$ BEGIN
	PERFORM pg_catalog.set_config('bqcore_sql.search_path', pg_catalog.current_setting('search_path'), false);
	PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
END $$;
"""
_UNPIN = """
DO $$ BEGIN
	PERFORM pg_catalog.set_config('search_path', pg_catalog.current_setting('bqcore_sql.search_path'), false);
END $$;
"""


@dataclass(frozen=True)
class SqlInstallReport:
    """What `install` did.

    Parameters
    ----------
    database, role : str
        Where, and who owns the functions.
    version : str
        Version that is there now.
    replaced : str or None
        Version that was there before.
    pgvector, pgvector_schema : str
        Version and schema of pgvector.
    """

    database: str
    role: str
    version: str
    replaced: str | None
    pgvector: str
    pgvector_schema: str

    def as_dict(self) -> dict[str, Any]:
        """Return values that JSON can hold."""
        return asdict(self)


def script(vector_schema: str = "public") -> str:
    """Return the SQL that makes the schema ``bqcore``, for psql or a managed server's console.

    Parameters
    ----------
    vector_schema : str
        Schema of the extension vector. Everything of pgvector is named with it, because the functions pin
        search_path to pg_catalog.
    """
    return _PIN + _body(vector_schema) + _UNPIN


def _body(vector_schema: str) -> str:
    header = _HEADER.format(
        version=SQL_VERSION,
        pgvector=_dotted(MIN_PGVECTOR),
        vector=vector_schema.replace("\n", " "),
    )
    folder = resources.files(__package__) / "sql"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda f: f.name)
    body = "\n".join(file.read_text(encoding="utf-8") for file in files)
    return header + "\n" + body.replace("@vector@", quote_name(vector_schema))


def install(conn: Connection) -> SqlInstallReport:
    """Make or renew the schema ``bqcore`` in the connection's database, in one transaction.

    Needs no superuser: CREATE on the database, or an empty schema ``bqcore`` that the role owns.

    Parameters
    ----------
    conn : psycopg.Connection

    Returns
    -------
    SqlInstallReport

    Raises
    ------
    RuntimeError
        If the server or pgvector is too old or pgvector missing, if the role may not create the schema, or if
        a schema ``bqcore`` is there that holds something else or a newer version.
    """
    with _pinned(conn):
        database, role, server = _one(
            conn, "SELECT current_database(), current_user, current_setting('server_version_num')::int"
        )
        if server // 10000 < MIN_POSTGRES:
            raise RuntimeError(f"expected Postgres {MIN_POSTGRES} or later, not {server // 10000}")
        pgvector, vector_schema = _pgvector(conn, database)
        replaced = _existing(conn, database, role)
        conn.execute(raw_sql(_body(vector_schema)))
    return SqlInstallReport(database, role, SQL_VERSION, replaced, pgvector, vector_schema)


def uninstall(conn: Connection) -> bool:
    """Drop the schema ``bqcore``; False if there is none of ours.

    Raises
    ------
    RuntimeError
        If columns with codes remain: `bqcore.remove` drops them first.
    """
    with _pinned(conn):
        if installed_version(conn) is None:
            return False
        columns = conn.execute(
            "SELECT table_name::text, column_name FROM bqcore.columns ORDER BY 1, 2"
        ).fetchall()
        if columns:
            calls = "; ".join(
                f"SELECT bqcore.remove({_literal(table)}, {_literal(column)})" for table, column in columns
            )
            raise RuntimeError(f"columns with codes remain ({len(columns)}); first run: {calls}")
        _refuse_others(conn)
        conn.execute("SELECT bqcore.cleanup()")
        conn.execute("SET LOCAL client_min_messages = warning")
        conn.execute("DROP SCHEMA bqcore CASCADE")
    return True


def installed_version(conn: Connection) -> str | None:
    """Version of the SQL functions in a database, None where there are none.

    It is read, not asked for: a function that somebody else put there would run with our rights.
    """
    with _pinned(conn):
        row = conn.execute(
            "SELECT prosrc FROM pg_proc WHERE oid = to_regprocedure('bqcore.sql_version()')"
        ).fetchone()
    found = None if row is None else re.fullmatch(r"\s*SELECT '([0-9.]+)'(::text)?\s*", row[0])
    return None if found is None else found[1]


@contextlib.contextmanager
def _pinned(conn: Connection) -> Iterator[None]:
    """One transaction, in which names mean those of pg_catalog."""
    with conn.transaction():
        (before,) = _one(conn, "SELECT pg_catalog.current_setting('search_path')")
        setting = "SELECT pg_catalog.set_config('search_path', %s, true)"
        conn.execute(setting, ["pg_catalog, pg_temp"])
        yield
        # The transaction may be a part of the caller's.
        conn.execute(setting, [before])


def _pgvector(conn: Connection, database: str) -> tuple[str, str]:
    row = conn.execute(
        "SELECT extversion, nspname FROM pg_extension "
        "JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'vector'"
    ).fetchone()
    minimum = _dotted(MIN_PGVECTOR)
    if row is None:
        raise RuntimeError(
            f"database {database} has no pgvector: CREATE EXTENSION vector first ({minimum} or later)"
        )
    if _parts(row[0]) < MIN_PGVECTOR:
        raise RuntimeError(
            f"expected pgvector {minimum} or later, not {row[0]}: ALTER EXTENSION vector UPDATE"
        )
    return str(row[0]), str(row[1])


def _existing(conn: Connection, database: str, role: str) -> str | None:
    """Check that the schema can be made or renewed; return the version in it."""
    row = conn.execute(
        "SELECT n.nspowner::regrole::text, has_schema_privilege(n.oid, 'CREATE'), "
        "pg_has_role(n.nspowner, 'USAGE'), me.rolsuper AND NOT o.rolsuper "
        "FROM pg_namespace n JOIN pg_roles o ON o.oid = n.nspowner, pg_roles me "
        "WHERE n.nspname = 'bqcore' AND me.rolname = current_user"
    ).fetchone()
    if row is None:
        (may_create,) = _one(conn, "SELECT has_database_privilege(current_database(), 'CREATE')")
        if not may_create:
            raise RuntimeError(
                f"role {role} may not create schema bqcore: it lacks CREATE on database {database}. "
                f"Its owner can run GRANT CREATE ON DATABASE {quote_name(database)} TO {quote_name(role)}, "
                f"or CREATE SCHEMA bqcore AUTHORIZATION {quote_name(role)}"
            )
        return None
    owner, may_create, owns, outranks = row
    if not (may_create and owns):
        raise RuntimeError(
            f"schema bqcore belongs to {owner}, and role {role} is not a member of that role: "
            "install as its owner"
        )
    if outranks:
        raise RuntimeError(
            f"schema bqcore belongs to {owner}, who may change what is in it, and superuser {role} would run "
            f"that: install as its owner (SET ROLE {owner})"
        )
    _refuse_foreign_functions(conn)
    version = installed_version(conn)
    _refuse_others(conn)
    if version is not None and _parts(version) > _parts(SQL_VERSION):
        raise RuntimeError(
            f"database {database} has SQL mode {version}, newer than this package's {SQL_VERSION}: "
            "upgrade bqcore"
        )
    return version


def _refuse_foreign_functions(conn: Connection) -> None:
    """Check that no function to be replaced belongs to a role that could change it afterwards."""
    foreign = conn.execute(
        "SELECT p.oid::regprocedure::text, p.proowner::regrole::text FROM pg_proc p "
        "JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_roles o ON o.oid = p.proowner "
        "WHERE n.nspname = 'bqcore' AND NOT o.rolsuper AND p.proowner <> n.nspowner "
        "AND o.rolname <> current_user ORDER BY 1"
    ).fetchall()
    if foreign:
        function, owner = foreign[0]
        raise RuntimeError(
            f"function {function} belongs to {owner}, not to the owner of schema bqcore: drop it, or give it "
            "to that role (ALTER FUNCTION ... OWNER TO ...)"
        )


def _refuse_others(conn: Connection) -> None:
    """Check that the schema is SQL mode's own: what it drops must not be anybody else's."""
    if others := _others(conn):
        raise RuntimeError(
            f"schema bqcore holds {', '.join(others[:3])}{', ...' * (len(others) > 3)}, "
            "and SQL mode needs it for itself: move that elsewhere first "
            "(ALTER EXTENSION bqcore SET SCHEMA public, or ALTER SCHEMA bqcore RENAME TO ...)"
        )


def _others(conn: Connection) -> list[str]:
    """Extensions in the schema ``bqcore``; without a version of ours, every object in it."""
    extensions = conn.execute(
        "SELECT 'extension ' || extname FROM pg_extension WHERE extnamespace::regnamespace::text = 'bqcore'"
    ).fetchall()
    objects: list[Any] = []
    if installed_version(conn) is None:
        objects = conn.execute(
            "SELECT o FROM (SELECT oid::regclass::text, relnamespace FROM pg_class UNION ALL "
            "SELECT oid::regprocedure::text, pronamespace FROM pg_proc UNION ALL "
            "SELECT oid::regtype::text, typnamespace FROM pg_type) AS f(o, n) "
            "WHERE n::regnamespace::text = 'bqcore' ORDER BY 1"
        ).fetchall()
    return [str(name) for (name,) in (*extensions, *objects)]


def _one(conn: Connection, statement: str) -> tuple[Any, ...]:
    row = conn.execute(raw_sql(statement)).fetchone()
    assert row is not None
    return tuple(row)


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
