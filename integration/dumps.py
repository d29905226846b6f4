"""Databases that went through pg_dump."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pgvector.psycopg import register_vector
from support import Connection, execute

from bqcore_postgres import EmbeddedServer


@contextmanager
def restored(server: EmbeddedServer, database: str, dump_format: str, folder: Path) -> Iterator[Connection]:
    """Connect to a copy of a database that went through pg_dump."""
    for program in ("pg_dump", "psql", "pg_restore"):
        if not (server.bin_dir / program).exists():
            pytest.skip(f"{server.bin_dir} has no {program}")
    file, copy = folder / "dump", f"{database}_copy"

    def run(program: str, *arguments: str | Path) -> None:
        done = subprocess.run(
            [server.bin_dir / program, *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""

    run("pg_dump", "--format", dump_format, "--file", file, "--dbname", server.dsn(database))
    server.create_database(copy)
    try:
        if dump_format == "plain":
            run("psql", "-Xqo", "/dev/null", "-v", "ON_ERROR_STOP=1", "-f", file, "-d", server.dsn(copy))
        else:
            run("pg_restore", "--jobs", "2", "--exit-on-error", "--dbname", server.dsn(copy), file)
        with server.connect(copy) as conn:
            register_vector(conn)
            yield conn
    finally:
        with server.connect() as admin:
            execute(admin, f"DROP DATABASE {copy} WITH (FORCE)")
