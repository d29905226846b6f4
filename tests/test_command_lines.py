"""Command lines drawn from a seed, valid and not, over files of every format.

The right answer, or a line that says what is wrong in the words of the shell; never a traceback.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from vector_files import BYTES, STORED_METRICS, WRITERS, write_parquet

from bqcore import cli
from bqcore._validation import METRIC_NAMES

Run = Callable[..., int]

pytest.importorskip("pyarrow", reason="needs bqcore[datasets]")
pytest.importorskip("h5py", reason="needs bqcore[datasets]")

# What can be wrong with a file or an option, and what the error has to name.
FLAWS = {
    "nan": "--drop-invalid",
    "null": "--drop-invalid",
    "two columns": "--column",
    "text column": "number lists",
    "few": "expected at least",
    "cut": "",
    "foreign": "",
    "metric": "manhattan",
    "column": "--column",
    "target": "--target-recall: expected",
    "bytes": "--bytes: expected",
    "codec": "magic",
    "parameter": "not 'bit'",
    "engine": "--engine: expected",
    "word": "--k",
    "both": "--target-recall and --bytes",
    "missing": "no such file",
}


@dataclass
class Line:
    """A command line with what has to come of it."""

    arguments: list[str]
    rows: int
    dim: int
    metric: str
    k: int
    n_invalid: int = 0
    flaw: str | None = None
    about: str = ""
    options: list[str] = field(default_factory=list)


def draw(number: int, folder: Path) -> Line:
    """Draw a file and the command line for it."""
    rng = np.random.default_rng([7, number])
    kind = str(rng.choice(list(WRITERS)))
    n, dim = int(rng.integers(130, 180)), int(rng.integers(3, 12))
    X = (rng.standard_normal((n, dim)) + 0.3).astype(np.float32)
    if kind in BYTES:
        X = rng.integers(0, 255, (n, dim)).astype(np.float32)
    name = str(rng.choice(["docs", "my docs", "order", "it's", "9 lives", "-x", "ünï"]))
    path = folder / name
    flaw = None if rng.random() < 0.5 else str(rng.choice(list(FLAWS)))
    options: list[str] = []
    k = 10
    if rng.random() < 0.3:
        k = int(rng.integers(1, 40))
        options += ["--k", str(k)]
    metric = STORED_METRICS.get(kind, "cosine")
    if rng.random() < 0.5:
        given = str(rng.choice(list(METRIC_NAMES)))
        metric = METRIC_NAMES[given]
        options += ["--metric", given.upper() if rng.random() < 0.3 else given]
    n_invalid = 0
    if flaw in ("nan", "null") or (flaw is None and rng.random() < 0.3 and kind not in BYTES):
        bad = np.arange(2, 9, 3)
        if flaw == "null":
            kind = "parquet"
            metric = metric if "--metric" in options else "cosine"
        if kind in BYTES:
            kind = "npy"
            metric = metric if "--metric" in options else "cosine"
        X[bad] = np.nan
        n_invalid = len(bad)
        if flaw is None:
            options.append("--drop-invalid")
    if flaw == "few":
        X = X[:60]
    if flaw in ("two columns", "text column"):
        kind = "parquet"
    if kind == "npz" and rng.random() < 0.5:
        options += ["--column", "emb"]
    if flaw == "null":
        X[bad] = 1.0
        rows = [None if i in bad else x.tolist() for i, x in enumerate(X)]
        file = write_parquet(path, X, v=_lists(rows))
    elif flaw == "two columns":
        file = write_parquet(path, X, other=[[1.0, 2.0]] * len(X))
    elif flaw == "text column":
        file = write_parquet(path, X, v=[[str(one) for one in x] for x in X])
    else:
        file = WRITERS[kind](path, X)
    whole = file / "base.npy" if kind == "folder" else file / "part-1.parquet" if kind == "parts" else file
    if flaw == "cut":
        whole.write_bytes(whole.read_bytes()[:-7])
    if flaw == "foreign":
        whole.write_bytes(b"hello, this is no such file" * 3)
    options += {
        "metric": ["--metric", "manhattan"],
        "column": ["--column", "nothing"],
        "target": ["--target-recall", str(rng.choice(["1.5", "0", "-1", "nan"]))],
        "bytes": ["--bytes", str(rng.choice(["0", "-4"]))],
        "codec": ["--codec", "magic(bits=1)"],
        "parameter": ["--codec", "rabitq(bit=4)"],
        "engine": ["--engine", "mysql"],
        "word": ["--k", "ten"],
        "both": ["--target-recall", "0.9", "--bytes", "20"],
    }.get(flaw or "", [])
    data = "nowhere.npy" if flaw == "missing" else str(file.relative_to(folder))
    if data.startswith("-"):
        data = f"./{data}"
    quick = ["--seconds", "0", "--engine", "postgres", "--codec", "rabitq(bits=1)", "--json", "-"]
    if flaw == "engine":
        quick = [one for one in quick if one not in ("--engine", "postgres")]
    n_rows = len(X) - n_invalid - (20 if kind == "folder" else 0)
    return Line(["advise", data, *quick, *options], n_rows, dim, metric, k, n_invalid, flaw, kind)


def _lists(rows: list[list[float] | None]) -> object:
    import pyarrow as pa

    return pa.array(rows, type=pa.list_(pa.float32()))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run the command line in an empty folder; return its exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BQCORE_DEBUG", raising=False)
    monkeypatch.delenv("QDRANT_URL", raising=False)

    def main(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["bqcore", *arguments])
        try:
            cli.main()
        except SystemExit as error:
            return int(error.code or 0)
        return 0

    return main


def check(line: Line, code: int, out: str, err: str) -> None:
    shown = f"{line}\n{out[-300:]}\n{err[-2000:]}"
    plain = re.sub(r"[\s│]+", " ", err)
    assert "Traceback" not in err, shown
    assert "pickle" not in err, shown
    assert not re.search(r"\b(metric|column|target_recall|bytes_per_vector|drop_invalid)=", plain), shown
    if line.flaw is not None:
        assert code == 2, shown
        if line.flaw != "column" or line.about in ("parquet", "dimensions", "parts", "npz"):
            assert FLAWS[line.flaw] in plain, shown
        return
    assert code == 0, shown
    data = json.loads(out)
    found = (data["data"]["rows"], data["data"]["dim"], data["data"]["metric"], data["goal"]["k"])
    assert found == (line.rows, line.dim, line.metric, line.k), shown
    assert data["diagnosis"]["n_invalid"] == line.n_invalid, shown
    assert 0 < data["postgres"]["predicted_recall"] <= 1, shown


@pytest.mark.parametrize("number", range(25))
def test_lines_drawn_at_random(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path, number: int
) -> None:
    line = draw(number, tmp_path)
    check(line, run(*line.arguments), *capsys.readouterr())


@pytest.mark.slow
@pytest.mark.parametrize("number", range(25, 225))
def test_many_more_lines(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path, number: int) -> None:
    line = draw(number, tmp_path)
    check(line, run(*line.arguments), *capsys.readouterr())


def _one(folder: Path) -> str:
    rng = np.random.default_rng(3)
    np.save(folder / "x.npy", (rng.standard_normal((420, 6)) + 0.3).astype(np.float32))
    return "x.npy"


@pytest.mark.parametrize(
    ("words", "metric"),
    [
        (["eval", "x.npy", "--codec", "rabitq", "--seeds", "1", "--json", "-"], "cosine"),
        (["eval", "x.npy", "--codec", "rabitq", "--seeds", "1", "--json", "-", "--metric", "dot"], "ip"),
        (["tune", "x.npy", "--codec", "rabitq", "--seconds", "0", "--json", "-"], "cosine"),
        (["tune", "x.npy", "--codec", "rabitq", "--seconds", "0", "--json", "-", "--metric", "L2"], "l2"),
        (["qdrant", "advise", "x.npy", "--config", "turbo2+turbo8 x4", "--json"], "cosine"),
        (["qdrant", "advise", "x.npy", "--config", "turbo2+turbo8 x4", "--json", "--metric", "Euclid"], "l2"),
    ],
)
def test_the_rule_for_the_metric_is_the_same_in_every_command(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], metric: str
) -> None:
    if words[0] == "qdrant":
        pytest.importorskip("qdrant_client", reason="needs bqcore[qdrant]")
    _one(tmp_path)
    code = run(*words)
    out, err = capsys.readouterr()
    assert code == 0, err
    document = json.loads(out)
    about = document[0] if isinstance(document, list) else document.get("data") or document["transform"]
    assert about["metric"] == metric
    note = "does not say its metric: taken as cosine (--metric changes that)"
    assert (note in err) == (metric == "cosine")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["eval", "x.npy", "--codec", "magic"], 2, "codec: expected one of rabitq"),
        (["eval", "x.npy", "--codec", "rabitq", "--metric", "l1"], 2, "--metric: expected 'l2'"),
        (["eval", "x.npy", "--codec", "rabitq", "--column", "v"], 2, "--column v expects a .parquet file"),
        (["tune", "x.npy", "--target-recall", "7"], 2, "--target-recall"),
        (["tune", "x.npy", "--column", "v"], 2, "--column v expects a .parquet file"),
        (["qdrant", "advise", "x.npy", "--target-recall", "7"], 2, "--target-recall"),
        (["qdrant", "advise", "x.npy", "--config", "turbo2+turbo8 x4", "--k", "600"], 2, "at least 601 rows"),
        (["qdrant", "advise", "x.npy", "--column", "v"], 2, "--column v expects a .parquet file"),
        (["qdrant", "create", "x.npy", "c", "--edge", "e"], 2, "x.npy"),
        (["qdrant", "upload", "none.npz", "c", "x.npy", "--edge", "e"], 2, "none.npz"),
        (["qdrant", "verify", "x.npy", "c"], 2, "x.npy"),
        (["postgres", "load", "none.npy", "t", "--dsn", "host=/nowhere"], 2, "none.npy: no such file"),
        (["postgres", "load", "x.npy", "t", "--dsn", "host=/nowhere"], 1, "/nowhere"),
        (
            ["postgres", "load", "x.npy", "t", "--dsn", "x", "--vector-column", "v"],
            2,
            "--vector-column v expects",
        ),
        (["demo", "--data", "none.npy"], 2, "none.npy"),
    ],
)
def test_every_command_says_what_is_wrong_in_the_words_of_the_shell(
    run: Run,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    words: list[str],
    code: int,
    text: str,
) -> None:
    for module in ("qdrant_client", "qdrant_edge", "psycopg"):
        pytest.importorskip(module, reason="needs the adapters' extras")
    _one(tmp_path)
    found = run(*words)
    err = capsys.readouterr().err
    assert found == code, err
    assert text in re.sub(r"[\s│]+", " ", err)
    assert "Traceback" not in err
    assert "pickle" not in err
