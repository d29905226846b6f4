"""What sessions see of each other: the specs of isolation/, their output compared with what is stored."""

from __future__ import annotations

import difflib
import os
import subprocess
from pathlib import Path

import pytest
from conftest import Server
from support import Connection, pg_config, value

pytestmark = pytest.mark.postgres

FOLDER = Path(__file__).parent / "isolation"
SPECS = sorted(path.stem for path in (FOLDER / "specs").glob("*.spec"))


@pytest.fixture(scope="module")
def isolationtester() -> Path:
    """Return the program, which comes with the server's files for extensions."""
    try:
        config = pg_config()
    except ImportError as error:
        pytest.skip(str(error))
    pgxs = subprocess.run([config, "--pgxs"], check=True, capture_output=True, text=True).stdout.strip()
    program = Path(pgxs).parents[1] / "test" / "isolation" / "isolationtester"
    if not program.exists():
        pytest.skip(f"{program} is missing: this server's package has no isolationtester")
    return program


def test_every_spec_has_its_output() -> None:
    assert SPECS
    assert sorted(path.stem for path in (FOLDER / "expected").glob("*.out")) == SPECS


@pytest.mark.parametrize("name", SPECS)
def test_sessions_see(
    isolationtester: Path, server: Server, database: str, conn: Connection, name: str, tmp_path: Path
) -> None:
    """A difference goes to a file whose path the failure tells, to be read and, if right, stored."""
    found = tmp_path / f"{name}.out"
    # of the suite's PGOPTIONS those for few rows; servers and users that are named there are others
    kept = {key: text for key, text in os.environ.items() if not key.startswith("PG")}
    environment = {**kept, "PGOPTIONS": os.environ.get("PGOPTIONS", "")}
    with (FOLDER / "specs" / f"{name}.spec").open() as spec, found.open("w") as output:
        done = subprocess.run(
            [isolationtester, server.dsn(database)],
            stdin=spec,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=300,
            env=environment,
        )
    assert done.returncode == 0, done.stderr
    expected = (FOLDER / "expected" / f"{name}.out").read_text().splitlines()
    difference = difflib.unified_diff(
        expected, found.read_text().splitlines(), "expected", str(found), lineterm=""
    )
    lines = list(difference)
    assert not lines, "\n".join(lines)
    assert value(conn, "SELECT count(*) FROM pg_class WHERE relname = 'items'") == 0
