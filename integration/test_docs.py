"""Every command, query and program in the pages for newcomers is run as it stands, page by page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Server

from bqcore.datasets import clustered

DOCS = Path(__file__).parent.parent / "docs"
#: Pages that take minutes.
LONG_PAGES = ("tour.md", "advise.md")
PAGES = ("tour.md", "advise.md", "estimates.md", "limits.md", "README.md")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: What a reader has: a file of vectors, with rows to clean, as limits.md has it.
VECTORS = clustered(900, 24, random_state=3).base


def blocks(page: str) -> list[tuple[str, str]]:
    return FENCE.findall((DOCS / page).read_text(encoding="utf-8"))


def test_every_block_is_of_a_kind_that_is_run() -> None:
    for page in PAGES:
        assert {kind for kind, _ in blocks(page)} <= {"sh", "python", "sql"}


def test_pages_link_to_what_is_there() -> None:
    for page in DOCS.glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", page.read_text(encoding="utf-8")):
            assert (DOCS / target).exists(), f"{page.name}: {target}"


def test_options_in_the_table_exist() -> None:
    help_text = _shell("COLUMNS=300 bqcore advise --help", Path.cwd(), "")
    for names in re.findall(
        r"^\| (`--[^|]*) \|", (DOCS / "advise.md").read_text(encoding="utf-8"), re.MULTILINE
    ):
        for name in re.findall(r"`(--[\w-]+)`", names):
            assert name in help_text, name


@pytest.mark.postgres
@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.long] * (page in LONG_PAGES)) for page in PAGES]
)
def test_a_page_runs_from_top_to_bottom(
    server: Server, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    if page == "tour.md":
        pytest.importorskip("qdrant_edge", reason="the tour needs bqcore[qdrant]")
    np.save(tmp_path / "vectors.npy", VECTORS)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for kind, text in blocks(page):
        if kind == "sh":
            _shell(text, tmp_path, server.dsn(database))
        elif kind == "sql":
            with server.connect(database) as conn:
                for statement in text.split(";"):
                    if statement.strip():
                        conn.execute(statement.encode())
        else:
            exec(compile(text, page, "exec"), names)  # later blocks of a page use names of earlier ones


def _shell(text: str, folder: Path, dsn: str) -> str:
    return _run(["sh", "-ec", text], folder, DSN=dsn)


def _run(command: list[str], folder: Path, **environment: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
    return done.stdout
