from __future__ import annotations

import importlib
import importlib.util
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from bqcore import cli, corpus
from bqcore.cli import demo_data, picture, tables
from bqcore.cli.progress import Stages

demo_module = importlib.import_module("bqcore.cli.demo")


@dataclass(frozen=True)
class Synthetic:
    index: str
    bits: int
    ef_search: int
    recall_at_10: float
    cpu_ms: float | None
    p50_ms: float
    size_bytes: int
    build_s: float


def _results(is_local: bool = True) -> list[Synthetic]:
    candidates = [
        ("vector", 32, 40e6),
        ("halfvec", 16, 23e6),
        ("bit", 1, 7e6),
        ("bqhnsw", 1, 8e6),
        ("bqhnsw", 4, 12e6),
    ]
    return [
        Synthetic(
            index,
            bits,
            ef,
            1 - (i + 1) * 0.8 / ef,
            ef * (0.003 + 0.0003 * i) if is_local else None,
            ef * 0.005,
            int(size),
            2.0 + i,
        )
        for i, (index, bits, size) in enumerate(candidates)
        for ef in (40, 100, 200)
    ]


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run where `demo-output` may be made, as if the server parts were installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo_module, "_check_first", lambda dsn, output: None)
    return tmp_path


def _run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bqcore", *arguments])
    monkeypatch.delenv("BQCORE_DEBUG", raising=False)
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    return int(exit_info.value.code or 0)


def test_help_names_the_commands() -> None:
    result = CliRunner().invoke(cli.app, ["--help"])
    assert result.exit_code == 0
    assert "demo" in result.output
    assert "postgres" in result.output


def test_demo_help_names_the_options() -> None:
    result = CliRunner().invoke(cli.app, ["demo", "--help"], env={"COLUMNS": "120"})
    assert result.exit_code == 0
    for option in ("--data", "--dsn", "--query", "--rows", "--json", "--output", "--ef", "--metric"):
        assert option in result.output


def test_version_is_printed() -> None:
    result = CliRunner().invoke(cli.app, ["--version"])
    assert result.exit_code == 0
    assert result.output.startswith("bqcore ")


def test_help_needs_no_heavy_module() -> None:
    heavy = ("sklearn", "scipy", "matplotlib", "psycopg", "h5py", "pyarrow")
    code = (
        "import sys; from bqcore import cli; from typer.testing import CliRunner; "
        "assert CliRunner().invoke(cli.app, ['--help']).exit_code == 0; "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.usefixtures("in_tmp")
def test_missing_data_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run_main(monkeypatch, "demo", "--data", "/no/such/folder") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("bqcore: ")
    assert "/no/such/folder" in lines[-1]
    assert not any("Traceback" in line for line in lines)


@pytest.mark.usefixtures("in_tmp")
def test_question_about_foreign_vectors_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run_main(monkeypatch, "demo", "--data", "mine.npy", "--query", "why") == 2
    assert "mine.npy" in capsys.readouterr().err


@pytest.mark.usefixtures("in_tmp")
def test_debug_lets_errors_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BQCORE_DEBUG", "")
    monkeypatch.setattr(sys, "argv", ["bqcore", "--debug", "demo", "--data", "/no/such/folder"])
    with pytest.raises(FileNotFoundError):
        cli.main()


def test_wrong_option_is_a_usage_error() -> None:
    assert CliRunner().invoke(cli.app, ["demo", "--ef", "0"]).exit_code == 2


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_table_is_whole_when_piped(columns: str) -> None:
    title = "A title that is longer than forty characters"
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_cli import _results; "
        "from bqcore.cli import tables; "
        f"tables.print_table(tables.comparison_table(_results(), {title!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": columns},
    )
    rows = [line for line in done.stdout.splitlines() if " ms " in line]
    assert len(rows) == 15
    assert "…" not in done.stdout
    first = rows[0].split()
    assert first == ["hnsw", "vector", "40.0", "MB", "1.00", "2.0", "s", "40", "0.980", "0.12", "ms", "1.00"]
    assert title in done.stdout


def test_remote_servers_get_wall_time() -> None:
    file = io.StringIO()
    tables.print_table(tables.comparison_table(_results(is_local=False), "t"), file)
    assert "wall/query" in file.getvalue()
    assert "CPU" not in file.getvalue()
    assert "wall" in tables.legend(_results(is_local=False))


def test_ratios_are_blank_without_the_reference_index() -> None:
    file = io.StringIO()
    tables.print_table(tables.comparison_table(_results()[3:], "t"), file)
    assert "halfvec" in file.getvalue()


def test_json_goes_to_file_and_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = {"n": np.int64(3), "x": np.float32(0.5), "ids": np.arange(2), "path": tmp_path}
    tables.write_json(document, str(tmp_path / "new" / "numbers.json"))
    tables.write_json(document, "-")
    expected = {"n": 3, "x": 0.5, "ids": [0, 1], "path": str(tmp_path)}
    assert json.loads((tmp_path / "new" / "numbers.json").read_text()) == expected
    assert json.loads(capsys.readouterr().out) == expected


@pytest.mark.parametrize("is_local", [True, False])
def test_picture_is_a_png(tmp_path: Path, is_local: bool) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "new" / "demo.png"
    picture.save_comparison(_results(is_local), path, "Synthetic: 20,000 vectors")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000


def test_missing_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"bqcore\[plot\]"):
        demo_module._check_first(None, tmp_path)


def test_picture_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not 0"):
        picture.save_comparison([], tmp_path / "demo.png", "nothing")


def test_user_data_is_sampled_and_zero_vectors_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    X = np.random.default_rng(0).normal(size=(400, 16)).astype(np.float32)
    X[[3, 5]] = 0
    np.save(tmp_path / "mine.npy", X)
    problem = demo_data.user_data(tmp_path / "mine.npy", None, 100, Stages())
    notes = " ".join(capsys.readouterr().err.split())
    assert problem.metric == "cosine"
    assert problem.base.shape == (100, 16)
    assert problem.ground_truth.shape == (len(problem.queries), 10)
    assert "2 zero vectors" in notes
    assert "100 of the 378 vectors" in notes
    row = int(problem.titles[50].removeprefix("row "))
    np.testing.assert_array_equal(problem.base[50], X[row])


def test_documentation_problem_holds_its_queries_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    standard = [source for source in corpus._sources() if source.is_standard]
    monkeypatch.setattr(corpus, "_sources", lambda: standard)
    problem = demo_data.documentation(["split a string"], 2_000, Stages())
    assert len(problem.base) == len(problem.titles) == len(problem.texts) <= 2_000
    assert problem.base.shape[1] >= 256
    assert problem.samples[0][0] == "split a string"
    best = problem.titles[int(np.argmax(problem.base @ problem.samples[0][1]))]
    assert "split" in best.lower() or "str" in best.lower()
    with pytest.raises(ValueError, match="zyzzyva"):
        demo_data.documentation(["zyzzyva"], 2_000, Stages())
