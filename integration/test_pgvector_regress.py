"""pgvector's own regression tests of hnsw, run with bqhnsw in its place.

Their files are not part of this project: PGVECTOR_SOURCE names a checkout of pgvector 0.8. Each file is taken
apart at its headings, the comments. A section runs and is compared line by line, or is in `NOT_APPLICABLE`.
"""

from __future__ import annotations

import difflib
import os
import re
import subprocess
from pathlib import Path

import psycopg
import pytest
from conftest import Server
from support import Connection, execute, pg_config, pgvector_version

pytestmark = pytest.mark.postgres

SOURCE_VARIABLE = "PGVECTOR_SOURCE"
#: File and heading of what bqhnsw has no operator classes for, and why.
NOT_APPLICABLE = {
    ("hnsw_vector", "L1"): "an estimate from codes is of inner products: l1 is no function of them",
    ("hnsw_halfvec", "L1"): "as for vector",
    ("hnsw_bit", "hamming"): "bits are as short as their codes would be",
    ("hnsw_bit", "jaccard"): "as hamming",
    ("hnsw_bit", "varbit"): "as hamming",
    ("hnsw_bit", "dimensions"): "as hamming",
    ("hnsw_sparsevec", "L2"): "a rotation fills a sparse vector: its code would be longer than itself",
    ("hnsw_sparsevec", "inner product"): "as L2",
    ("hnsw_sparsevec", "cosine"): "as L2",
    ("hnsw_sparsevec", "L1"): "as L2",
    ("hnsw_sparsevec", "non-zero elements"): "as L2",
}
#: File and heading of what runs and differs: the lines (a unified diff without context), and why.
DIFFERENCES: dict[tuple[str, str], tuple[list[str], str]] = {
    ("hnsw_vector", "dimensions"): (
        ["-ERROR:  column cannot have more than 2000 dimensions for hnsw index"],
        "an element holds a code, not the vector: 16,000 dimensions of 1 bit fit a page",
    ),
    ("hnsw_halfvec", "dimensions"): (
        ["-ERROR:  column cannot have more than 4000 dimensions for hnsw index"],
        "as for vector",
    ),
}
FILES = sorted({name for name, _ in NOT_APPLICABLE})
HEADING = re.compile(r"^-- (.+)$")


@pytest.fixture(scope="module")
def source() -> Path:
    """Folder of pgvector's tests."""
    folder = os.environ.get(SOURCE_VARIABLE)
    if not folder:
        pytest.skip(f"{SOURCE_VARIABLE} names no checkout of pgvector")
    tests = Path(folder) / "test"
    if not (tests / "sql" / "hnsw_vector.sql").exists():
        pytest.fail(f"{SOURCE_VARIABLE}={folder} has no test/sql/hnsw_vector.sql")
    return tests


def sections(text: str) -> dict[str, list[str]]:
    """Lines by heading; those before the first have the heading ""."""
    found: dict[str, list[str]] = {"": []}
    heading = ""
    for line in text.splitlines():
        if match := HEADING.match(line):
            heading = match.group(1)
            assert heading not in found
            found[heading] = []
        elif line:
            found[heading].append(line.rstrip())
    return found


def with_bqhnsw(path: Path) -> dict[str, list[str]]:
    text = path.read_text()
    return sections(text.replace("USING hnsw ", "USING bqhnsw "))


def run(dsn: str, script: str) -> str:
    """Output of psql as pg_regress calls it."""
    environment = {key: text for key, text in os.environ.items() if not key.startswith("PG")}
    done = subprocess.run(
        [pg_config().parent / "psql", "-X", "-a", "-q", "-d", dsn],
        input=script,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**environment, "LC_ALL": "C"},
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_pgvector(source: Path, server: Server, database: str, conn: Connection, name: str) -> None:
    if pgvector_version(conn) < (0, 8):
        pytest.skip("the files are those of pgvector 0.8")
    script = with_bqhnsw(source / "sql" / f"{name}.sql")
    expected = with_bqhnsw(source / "expected" / f"{name}.out")
    applicable = [heading for heading in script if heading and (name, heading) not in NOT_APPLICABLE]
    assert {heading for file, heading in NOT_APPLICABLE if file == name} <= set(script)
    lines = list(script[""])
    for heading in applicable:
        lines += [f"-- {heading}", *script[heading]]
    found = sections(run(server.dsn(database), "\n".join(lines) + "\n"))
    for heading in applicable:
        difference = difflib.unified_diff(expected[heading], found[heading], lineterm="", n=0)
        changed = [line for line in difference if not line.startswith(("---", "+++", "@@"))]
        wanted, _ = DIFFERENCES.get((name, heading), ([], ""))
        assert changed == wanted, f"{name}: {heading}"


@pytest.mark.parametrize("name", FILES)
def test_what_is_left_out_is_refused(source: Path, conn: Connection, name: str) -> None:
    script = with_bqhnsw(source / "sql" / f"{name}.sql")
    left_out = [heading for file, heading in NOT_APPLICABLE if file == name]
    classes = {found for h in left_out for found in re.findall(r"\b\w+_ops\b", "\n".join(script[h]))}
    assert classes
    for operator_class in sorted(classes):
        kind = operator_class.split("_")[0]
        execute(conn, f"CREATE TABLE {operator_class} (val {kind}(3))")
        message = f'operator class "{operator_class}" does not exist for access method "bqhnsw"'
        with pytest.raises(psycopg.errors.UndefinedObject, match=message):
            execute(conn, f"CREATE INDEX ON {operator_class} USING bqhnsw (val {operator_class})")
