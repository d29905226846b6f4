"""Every line that `bqcore advise` prints is run as printed: readers x options x engines."""

from __future__ import annotations

import datetime
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Server
from support import execute, value

from bqcore import cli

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from vector_files import BYTES, WRITERS, write_parquet

pa = pytest.importorskip("pyarrow", reason="needs bqcore[datasets]")
N, DIM = 150, 8
Run = Callable[[str], int]

#: Options of `advise`, and what they do to the file.
OPTIONS = {
    "plain": [],
    "ip": ["--metric", "dot"],
    "k": ["--k", "20", "--metric", "euclidean"],
    "zeros": ["--metric", "cosine"],
    "dropped": ["--drop-invalid", "--metric", "cosine"],
    "budget": ["--bytes", "30"],
}
QUICK = ["--seconds", "0", "--codec", "rabitq(bits=1)"]


def vectors(option: str, kind: str) -> np.ndarray:
    rng = np.random.default_rng(5)
    X = (rng.standard_normal((N, DIM)) + 0.3).astype(np.float32)
    if kind in BYTES:
        X = rng.integers(0, 255, (N, DIM)).astype(np.float32)
    if option == "zeros":
        X[::40] = 0
    if option == "dropped" and kind not in BYTES:
        X[3::40] = np.nan
    return X


def tags(path: Path, X: np.ndarray) -> Path:
    return write_parquet(path, X, tags=[["a", "b"]] * len(X), n=[[1, None]] * len(X))


def payload(path: Path, X: np.ndarray) -> Path:
    moment = datetime.datetime(2024, 1, 1)
    return write_parquet(
        path,
        X,
        when=[moment] * len(X),
        day=[moment.date()] * len(X),
        price=[float("nan")] * len(X),
        raw=[b"\xff\x00"] * len(X),
        nested=[{"at": moment, "x": [1.5, float("inf")]}] * len(X),
    )


def text_ids(path: Path, X: np.ndarray) -> Path:
    return write_parquet(path, X, id=[f"doc-{i}" for i in range(len(X))])


def double_ids(path: Path, X: np.ndarray) -> Path:
    return write_parquet(path, X, id=[i // 2 for i in range(len(X))])


def nulls(path: Path, X: np.ndarray) -> Path:
    rows = [None if i == 0 else [] if i == 7 else x.tolist() for i, x in enumerate(X)]
    return write_parquet(path, X, v=pa.array(rows, type=pa.list_(pa.float32())))


READERS = {
    **WRITERS,
    "tags": tags,
    "payload": payload,
    "text ids": text_ids,
    "double ids": double_ids,
    "nulls": nulls,
}
#: What a reader's file needs in any case.
NEEDED = {"tags": ["--column", "v"], "nulls": ["--drop-invalid"]}
# Each reader with one option, each option with several readers; all of them take minutes.
ALL = [(reader, option) for reader in READERS for option in OPTIONS]
FEW = [("npy", "zeros"), ("parquet", "dropped"), ("tags", "k"), ("fbin", "ip")]
CASES = [
    pytest.param(reader, option, marks=[] if (reader, option) in FEW else [pytest.mark.slow])
    for reader, option in ALL
]
NAMES = ("order", "my docs", "it's", "9 lives", "-x")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a line of a shell in an empty folder; return its exit code."""
    monkeypatch.chdir(tmp_path)
    for name in ("BQCORE_DEBUG", "QDRANT_URL"):
        monkeypatch.delenv(name, raising=False)

    def main(line: str) -> int:
        words = [os.path.expandvars(word) for word in shlex.split(line)]
        monkeypatch.setattr(sys, "argv", words)
        try:
            cli.main()
        except SystemExit as error:
            return int(error.code or 0)
        return 0

    return main


def printed(run: Run, capsys: pytest.CaptureFixture[str], reader: str, option: str, engine: str) -> list[str]:
    """Write a file, advise on it, and return the lines that are printed for an engine."""
    name = NAMES[ALL.index((reader, option)) % len(NAMES)]
    file = READERS[reader](Path(name), vectors(option, reader))
    given = OPTIONS[option] + [one for one in NEEDED.get(reader, []) if one not in OPTIONS[option]]
    data = f"./{file}" if str(file).startswith("-") else str(file)
    code = run(shlex.join(["bqcore", "advise", data, *given, "--engine", engine, *QUICK]))
    out, err = capsys.readouterr()
    assert code == 0, err
    lines = [line.strip() for line in out.splitlines() if line.startswith("    ")]
    starts = ("bqcore ", "CREATE ", "ANALYZE ", "SET ", "SELECT ")
    found = [line for line in lines if line.startswith(starts)]
    assert found
    return found


@pytest.mark.qdrant
@pytest.mark.parametrize(("reader", "option"), CASES)
def test_lines_for_qdrant_run(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path, reader: str, option: str
) -> None:
    pytest.importorskip("qdrant_edge", reason="needs bqcore[qdrant]")
    lines = printed(run, capsys, reader, option, "qdrant")
    assert [line.split()[2] for line in lines] == ["advise", "create", "upload", "verify"]
    for line in lines:
        code = run(line)
        out, err = capsys.readouterr()
        assert code == 0, f"{line}\n{out}\n{err}"
    from bqcore_qdrant.edge import EdgeClient

    (folder,) = tmp_path.glob("qdrant_*")
    with EdgeClient(folder) as client:
        name = folder.name.removeprefix("qdrant_")
        n = client.count(name, exact=True).count
        points = client.scroll(name, limit=3, with_payload=True)[0]
    assert n == expected(reader, option)
    if reader in ("text ids", "double ids"):
        assert [one.id for one in points] == [0, 1, 2] if option != "dropped" else True
        assert "id" in points[0].payload
    if reader == "payload":
        assert points[0].payload["when"] == "2024-01-01T00:00:00"
        assert points[0].payload["price"] is None
        assert points[0].payload["nested"] == {"at": "2024-01-01T00:00:00", "x": [1.5, None]}


@pytest.mark.qdrant
@pytest.mark.parametrize(("k", "code"), [(600, 2), (151, 2), (70, 0)])
def test_tuning_wants_no_more_points_than_there_are(
    run: Run, capsys: pytest.CaptureFixture[str], k: int, code: int
) -> None:
    pytest.importorskip("qdrant_edge", reason="needs bqcore[qdrant]")
    np.save("x.npy", vectors("plain", "npy"))
    for line in (
        "bqcore qdrant advise x.npy --config 'turbo2+turbo8 x4' --output c.npz",
        "bqcore qdrant create c.npz c --edge e",
        "bqcore qdrant upload c.npz c x.npy --edge e",
    ):
        assert run(line) == 0, capsys.readouterr().err
    assert run(f"bqcore tune c --live --edge e --codec-file c.npz --seconds 0 --k {k}") == code
    if code:
        assert f"--k: expected 1 to 150, not {k}" in capsys.readouterr().err


@pytest.mark.postgres
@pytest.mark.parametrize(("reader", "option"), CASES)
def test_lines_for_postgres_run(
    run: Run,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    server: Server,
    database: str,
    reader: str,
    option: str,
) -> None:
    monkeypatch.setenv("DSN", server.dsn(database))
    lines = printed(run, capsys, reader, option, "postgres")
    with server.connect(database) as conn:
        for line in lines:
            if not line.startswith("bqcore "):
                execute(conn, line)
                continue
            code = run(line)
            assert code == 0, f"{line}\n{capsys.readouterr().err}"
        (created,) = (line for line in lines if line.startswith("CREATE TABLE"))
        table = created.removeprefix("CREATE TABLE ").partition(" (id ")[0]
        n = value(conn, f"SELECT count(*) FROM {table}")
    assert n == expected(reader, option)


def expected(reader: str, option: str) -> int:
    """Rows that are stored: folders keep their queries, and what is not finite may be left out."""
    invalid = 2 if reader == "nulls" else 0
    if option == "dropped" and reader not in BYTES:
        bad = set(range(3, N, 40))
        invalid = (
            len(bad - set(range(N - 20, N)))
            if reader == "folder"
            else len(bad | ({0, 7} if invalid else set()))
        )
    return N - invalid - (20 if reader == "folder" else 0)
