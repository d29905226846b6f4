"""Versions of Postgres: asked for in one header, which refuses those that were not tried."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from support import Connection, execute

import bqcore
from bqcore_postgres import source_dir

pytestmark = pytest.mark.postgres


def test_the_library_tells_its_version(conn: Connection) -> None:
    if conn.info.server_version < 180000:
        pytest.skip("before Postgres 18 a library does not tell its version")
    conn.execute("LOAD 'bqcore'")
    told = execute(conn, "SELECT module_name, version FROM pg_get_loaded_modules()").fetchall()
    assert ("bqcore", bqcore.__version__) in told


def test_versions_of_postgres_are_asked_for_in_one_file() -> None:
    """A new version of Postgres is then a matter of that file, which refuses those that were not tried."""
    try:
        sources = sorted((source_dir()[1] / "src").iterdir())
    except RuntimeError as error:
        pytest.skip(str(error))
    asking = [path.name for path in sources if re.search(r"PG_VERSION_NUM|PG_MAJORVERSION", path.read_text())]
    assert asking == ["pg_compat.h"]


@pytest.mark.parametrize(
    ("version", "accepted"), [(150010, False), (160000, True), (180004, True), (190000, False)]
)
def test_a_postgres_that_was_not_tried_is_refused_by_the_compiler(
    tmp_path: Path, version: int, accepted: bool
) -> None:
    try:
        header = (source_dir()[1] / "src" / "pg_compat.h").read_text()
    except RuntimeError as error:
        pytest.skip(str(error))
    refusal = header[header.index("#if PG_VERSION_NUM <") : header.index("#endif") + len("#endif")]
    (tmp_path / "guard.c").write_text(f"#define PG_VERSION_NUM {version}\n{refusal}\n")
    done = subprocess.run(
        ["cc", "-fsyntax-only", str(tmp_path / "guard.c")], capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) == accepted
    assert accepted or "bqcore needs Postgres 16, 17 or 18" in done.stderr
