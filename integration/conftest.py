"""A server with the extension for every test here.

BQCORE_TEST_DSN names one that runs, BQCORE_TEST_IMAGE an image to run in a container; else it is embedded.
Where BQCORE_TEST_PRELOAD names a library, the embedded one loads it first (make memory-postgres).
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import containers
import pytest

pytest.importorskip("psycopg", reason="integration tests need psycopg: pip install 'bqcore[postgres]'")

import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql
from psycopg.conninfo import make_conninfo
from releases import PGVECTOR
from support import (
    BITS,
    METRICS,
    RELEASE,
    Connection,
    FloatArray,
    create_index,
    create_table,
    pg_config,
    server_options,
)

from bqcore.datasets import clustered
from bqcore.evaluation import exact_search
from bqcore_postgres import EmbeddedServer, build, source_dir

DSN_VARIABLE = "BQCORE_TEST_DSN"

# Most tests look at graphs and models of a few hundred rows: their indexes do not wait for more rows. Those
# that do have a test file with options of its own, test_waiting*.py.
os.environ.setdefault("PGOPTIONS", "-c bqcore.train_rows=0")

#: Begun first, so that no worker is left alone with one of them at the end.
LONG = (
    "tour.md",
    "advise.md",
    "test_advice",
    "test_pgvector_versions",
    "test_embedded",
    "test_cancel",
    "test_crash",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A file's tests share a worker, and with it servers; pages of the documentation share nothing."""
    groups = {}
    for item in items:
        page = getattr(getattr(item, "callspec", None), "params", {}).get("page")
        groups[item] = page or item.path.stem
        if config.pluginmanager.hasplugin("xdist"):
            item.add_marker(pytest.mark.xdist_group(groups[item]))
    order = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(groups[item], len(LONG)))


class ExistingServer:
    """The part of `EmbeddedServer` that works on a server which is not ours to stop."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def dsn(self, dbname: str = "postgres") -> str:
        return make_conninfo(self._dsn, dbname=dbname)

    def connect(self, dbname: str = "postgres", **kwargs: Any) -> psycopg.Connection[Any]:
        kwargs.setdefault("autocommit", True)
        return psycopg.connect(self.dsn(dbname), **kwargs)

    def create_database(self, name: str) -> None:
        with self.connect() as conn:
            conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


Server = EmbeddedServer | ExistingServer


def _control_version(control: Path) -> str:
    text = control.read_text() if control.is_file() else ""
    found = re.search(r"^default_version\s*=\s*'([^']+)'", text, re.MULTILINE)
    return found.group(1) if found else "none"


def pytest_report_header() -> list[str]:
    if dsn := os.environ.get(DSN_VARIABLE):
        try:
            with psycopg.connect(dsn, connect_timeout=10) as conn:
                versions = conn.execute(
                    "SELECT name, default_version FROM pg_available_extensions "
                    "WHERE name IN ('vector', 'bqcore') ORDER BY name"
                ).fetchall()
                server = conn.info.parameter_status("server_version")
        except psycopg.Error as error:
            return [f"postgres: {DSN_VARIABLE} does not work: {error}".strip()]
        return [f"postgres: {server} ({DSN_VARIABLE}), {', '.join(' '.join(row) for row in versions)}"]
    if image := containers.image():
        return [f"postgres: container of {image}"]
    if RELEASE is not None and RELEASE not in PGVECTOR:
        return [f"postgres: expected BQCORE_TEST_RELEASE in {sorted(PGVECTOR)}, not {RELEASE!r}"]
    try:
        program = pg_config()
    except (ImportError, pytest.skip.Exception) as missing:
        return [f"postgres: none ({missing})"]
    server = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    share = subprocess.run([program, "--sharedir"], capture_output=True, text=True, check=True).stdout.strip()
    vector = _control_version(Path(share) / "extension" / "vector.control")
    try:
        bqcore = _control_version(source_dir()[1] / "bqcore.control")
    except RuntimeError:
        bqcore = "none"
    return [f"postgres: {server} (embedded), vector {vector}, bqcore {bqcore}"]


@pytest.fixture(scope="session")
def extension_dir() -> Path:
    """Compiled extension for the embedded server."""
    try:
        program = pg_config()
        source_dir()
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{DSN_VARIABLE} is not set, and {error}")
    # A compiler error is a failure, not a reason to skip.
    folder = build(program)
    if preload := os.environ.get("BQCORE_TEST_PRELOAD"):
        # of the server and of programs that are started from here, not of this process or of compilers
        os.environ["LD_PRELOAD"] = preload
    return folder


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Server with pgvector and the extension available, shared by the session."""
    if dsn := os.environ.get(DSN_VARIABLE):
        yield ExistingServer(dsn)
        return
    if name := containers.image():
        with containers.postgres(name) as running:
            yield ExistingServer(running.dsn)
        return
    folder: Path = request.getfixturevalue("extension_dir")
    settings = {"shared_buffers": "256MB"}
    with EmbeddedServer(settings=settings, extension_dirs=[folder], **server_options()) as embedded:
        yield embedded


@pytest.fixture(scope="session")
def plain_server() -> Iterator[Server]:
    """Server with pgvector alone, as a managed one: no library of ours."""
    if dsn := os.environ.get(DSN_VARIABLE):
        yield ExistingServer(dsn)
        return
    try:
        pg_config()
    except ImportError as error:
        pytest.skip(f"{DSN_VARIABLE} is not set, and {error}")
    with EmbeddedServer(settings={"shared_buffers": "128MB"}, **server_options()) as embedded:
        yield embedded


@dataclass(frozen=True)
class Managed:
    """A database with pgvector on `plain_server`, and a role in it that is no superuser."""

    server: Server
    database: str
    role: str

    @contextlib.contextmanager
    def connect(self) -> Iterator[Connection]:
        """Connect as the role."""
        with self.server.connect(self.database) as connection:
            connection.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(self.role)))
            register_vector(connection)
            yield connection


@pytest.fixture(scope="module")
def managed(plain_server: Server) -> Iterator[Managed]:
    """A database of a role that may create schemas in it."""
    role = f"bqcore_managed_{uuid.uuid4().hex[:12]}"
    with plain_server.connect() as admin, _fresh_database(plain_server) as name:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        with plain_server.connect(name) as own:
            # in a schema of its own, as some providers have it
            own.execute("CREATE SCHEMA extensions; CREATE EXTENSION vector SCHEMA extensions")
            own.execute("GRANT USAGE ON SCHEMA extensions TO PUBLIC")
            for statement in (
                sql.SQL("GRANT CREATE ON DATABASE {name} TO {role}"),
                sql.SQL("GRANT CREATE ON SCHEMA public TO {role}"),
            ):
                own.execute(statement.format(role=sql.Identifier(role), name=sql.Identifier(name)))
            own.execute(
                sql.SQL("ALTER DATABASE {} SET search_path = public, extensions").format(sql.Identifier(name))
            )
        yield Managed(plain_server, name, role)
        with plain_server.connect(name) as own:
            own.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(role)))
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Folder that the server's user may enter; as root, pytest's own are closed to it."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="bq-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def embedded(server: Server) -> EmbeddedServer:
    """Shared server, for tests that restart it."""
    if not isinstance(server, EmbeddedServer):
        pytest.skip(f"restarts the server, which is not embedded but a container or named by {DSN_VARIABLE}")
    return server


@contextlib.contextmanager
def _fresh_database(server: Server) -> Iterator[str]:
    name = f"bqcore_test_{uuid.uuid4().hex[:12]}"
    server.create_database(name)
    yield name
    with server.connect() as admin:
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def _recycled(server: Server) -> Iterator[str]:
    with _fresh_database(server) as name:
        yield name


@pytest.fixture
def database(server: Server, _recycled: str) -> Iterator[str]:
    """Name of an empty database; emptied afterwards, which is ten times as fast as making another one."""
    yield _recycled
    with server.connect(_recycled) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        schemas = admin.execute(
            "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
        ).fetchall()
        admin.execute("SET client_min_messages = warning")
        for row in schemas:
            admin.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(row[0])))
        # as initdb makes it
        admin.execute("CREATE SCHEMA public AUTHORIZATION pg_database_owner")
        admin.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")


@pytest.fixture
def conn(server: Server, database: str) -> Iterator[Connection]:
    """Connection in autocommit mode to an empty database with the extension."""
    with server.connect(database) as connection:
        connection.execute("CREATE EXTENSION bqcore CASCADE")
        register_vector(connection)
        yield connection


@pytest.fixture
def quiet(server: Server, conn: Connection) -> Iterator[None]:
    """Fail when client or server log got a warning, as leaked pins and relations are reported."""
    if not isinstance(server, EmbeddedServer):
        pytest.skip("reads log and process of the server, which may be on another machine")
    received: list[str] = []

    def collect(diagnostic: psycopg.errors.Diagnostic) -> None:
        received.append(f"{diagnostic.severity}: {diagnostic.message_primary}")

    conn.execute("SET client_min_messages = warning")
    conn.add_notice_handler(collect)
    path = server.data_dir / "server.log"
    start = path.stat().st_size
    yield
    conn.remove_notice_handler(collect)
    logged = path.read_bytes()[start:].decode(errors="replace")
    assert received == []
    assert [line for line in logged.splitlines() if "WARNING" in line or "leak" in line] == []


@dataclass(frozen=True, eq=False)
class Corpus:
    """A database with the same rows in tables l2_1, l2_4, cosine_1 and cosine_4, each with one bqhnsw index.

    The names tell metric and bits. Tests only read it.
    """

    database: str
    base: FloatArray
    queries: FloatArray
    truth: dict[str, Any]


@pytest.fixture(scope="session")
def corpus(server: Server) -> Iterator[Corpus]:
    """5,000 clustered vectors of 100 dimensions, indexed four times, with ground truth per metric."""
    data = clustered(5000, 100, n_queries=40, random_state=7)
    truth = {metric: exact_search(data.base, data.queries, 100, metric)[0] for metric in METRICS}
    with _fresh_database(server) as name:
        with server.connect(name) as connection:
            connection.execute("CREATE EXTENSION bqcore CASCADE")
            for metric in METRICS:
                for bits in BITS:
                    create_table(connection, data.base, f"{metric}_{bits}")
                    create_index(connection, bits, metric, f"{metric}_{bits}")
        yield Corpus(name, data.base, data.queries, truth)


@pytest.fixture
def session(server: Server, corpus: Corpus) -> Iterator[Connection]:
    """Connection of one test to the corpus, with the library loaded so that its settings exist."""
    with server.connect(corpus.database) as connection:
        connection.execute("LOAD 'vector'")
        connection.execute("LOAD 'bqcore'")
        register_vector(connection)
        yield connection
