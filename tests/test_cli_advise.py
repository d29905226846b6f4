"""`bqcore advise` and `bqcore tune` on the command line: output, exit codes, errors."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bqcore import cli
from bqcore.datasets import clustered

DATA = clustered(700, 16, n_queries=60, metric="cosine", random_state=1)
QUICK = ("--codec", "rabitq(bits=1)", "--codec", "rabitq(bits=4)", "--seconds", "0", "--engine", "postgres")
Run = Callable[..., int]


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


def folder(base: np.ndarray = DATA.base, queries: np.ndarray = DATA.queries) -> str:
    Path("docs").mkdir()
    np.save("docs/base.npy", base)
    np.save("docs/query.npy", queries)
    Path("docs/meta.json").write_text(json.dumps({"metric": "cosine"}))
    return "docs"


def test_advice_is_printed_with_the_next_commands(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("advise", folder(), *QUICK, "--json", "a.json", "--report", "out/a.html") == 0
    out, err = capsys.readouterr()
    document = json.loads(Path("a.json").read_text())
    assert Path("out/a.html").stat().st_size < 3_000_000
    assert "docs: 700 vectors of 16 dimensions, cosine" in out
    for option in document["options"]:
        assert option["codec"] in out
    for step in document["postgres"]["steps"]:
        assert step["text"].splitlines()[0] in out
    name = f"docs_embedding_bqhnsw{document['postgres']['chosen']['bits']}"
    assert f"CREATE INDEX {name} ON docs USING bqhnsw (embedding vector_cosine_ops)" in out
    assert "Report: out/a.html" in out
    assert "exact neighbours" in err  # progress
    assert "exact neighbours" not in out


def test_json_alone_goes_to_standard_output(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("x.npy", DATA.base)
    assert run("advise", "x.npy", *QUICK, "--json", "-", "--bytes", "10", "--k", "5") == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["goal"]["k"] == 5
    assert document["goal"]["bytes_per_vector"] == 10
    assert document["chosen"] == "rabitq(bits=1)"
    assert "x.npy does not say its metric: taken as cosine" in err


def _nan() -> str:
    base, queries = DATA.base.copy(), DATA.queries.copy()
    base[[5, 9]], queries[0] = np.nan, np.inf
    return folder(base, queries)


def test_invalid_rows_are_counted_and_can_be_left_out(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    path = _nan()
    assert run("advise", path, *QUICK) == 2
    err = capsys.readouterr().err
    assert "2 of 700 rows of base and 1 of 60 rows of queries; --drop-invalid leaves them out" in err
    assert run("advise", path, *QUICK, "--drop-invalid", "--json", "-") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["diagnosis"]["n_invalid"] == 2
    assert document["diagnosis"]["n_invalid_queries"] == 1
    assert document["data"]["rows"] == 698
    assert "--drop-invalid" in document["postgres"]["steps"][1]["text"]


def _text() -> str:
    Path("x.npy").write_text("no vectors")
    return "x.npy"


def _small() -> str:
    np.save("x.npy", DATA.base[:20])
    return "x.npy"


def _wide() -> str:
    return folder(queries=DATA.queries[:, :12])


def _huge() -> str:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 768), }"
    header += b" " * (117 - len(header)) + b"\n"
    Path("x.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    return "x.npy"


def _plain() -> str:
    np.save("x.npy", DATA.base)
    return "x.npy"


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (lambda: "none.npy", (), "none.npy: no such file or folder"),
        (_text, (), "x.npy: expected a whole .npy file of numbers, not these 10 bytes"),
        (_small, (), "x.npy: expected at least 100 rows to predict recall@10 from, not 20"),
        (_wide, (), "queries: expected 16 dimensions, not 12"),
        (_huge, (), "x.npy: expected a whole .npy file of numbers"),
        (_plain, ("--metric", "manhattan"), "manhattan"),
        (_plain, ("--bytes", "0"), "--bytes: expected 1 to 1048576, not 0"),
        (_plain, ("--bytes", str(1 << 70)), "1180591620717411303424"),
        (_plain, ("--k", "700"), "expected at least 701 rows to predict recall@700 from, not 700"),
        (_plain, ("--k", str(1 << 63)), "9,223,372,036,854,775,809 rows"),
        (_plain, ("--target-recall", "1.2"), "--target-recall: expected a number in (0, 1], not 1.2"),
        (
            _plain,
            ("--target-recall", "0.9", "--bytes", "9"),
            "expected one of --target-recall and --bytes, not 0.9 and 9",
        ),
        (_plain, ("--codec", "magic(bits=1)", "--engine", "postgres"), "magic"),
        (_plain, ("--engine", "mysql"), "--engine: expected one of postgres, qdrant, not 'mysql'"),
        (
            lambda: "a.b",
            ("--dsn", "host=/nowhere", "--url", "http://localhost:1"),
            "expected one of --dsn and --url",
        ),
    ],
)
def test_bad_input_is_named_with_exit_code_2(
    run: Run,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[], str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert run("advise", make(), *arguments) == 2
    err = capsys.readouterr().err
    assert message in re.sub(r"\s+", " ", err)
    assert "Traceback" not in err


def test_a_server_that_does_not_answer_is_exit_code_1(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("psycopg", reason="needs bqcore[postgres]")
    assert run("advise", "items.embedding", "--dsn", "host=/nowhere dbname=x connect_timeout=2") == 1
    assert "bqcore: " in capsys.readouterr().err


def test_the_codes_of_the_exit_are_documented(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("advise", "--help") == 0
    text = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    assert "Exit codes: 0 advised; 1 a server, a missing package or another failure; 2 bad input" in text


def test_tuning_prints_a_frontier_and_resumes(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (
        "tune",
        folder(),
        *QUICK[:4],
        "--state",
        "s.json",
        "--target-recall",
        "0.9",
        "--total-rows",
        "100000",
    )
    assert run(*arguments, "--json", "t.json") == 0
    out, _ = capsys.readouterr()
    document = json.loads(Path("t.json").read_text())
    assert "Frontier over 700 rows, 60 queries, recall@10" in out
    assert "recall at 100,000" in out
    assert f"chosen: {document['chosen']['codec']}" in out
    assert run(*arguments, "--json", "-") == 0
    again = json.loads(capsys.readouterr().out)
    assert again["resumed_steps"] == 2
    assert again["chosen"] == document["chosen"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("items", "--live"), "--live: expected one of --dsn, --url and --edge"),
        (("items", "--live", "--edge", "x"), "--live: expected --codec-file"),
        (("none.npy",), "none.npy: no such file or folder"),
    ],
)
def test_bad_tuning_is_exit_code_2(
    run: Run, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert run("tune", *arguments) == 2
    assert message in re.sub(r"\s+", " ", capsys.readouterr().err)
