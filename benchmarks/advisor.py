"""The advisor against what it could have known: every candidate trained and measured on whole sets.

For three budgets of bytes per set: recall of the advised codec and of the best candidate, recall predicted
and measured, and the arms of rotate-or-not. Measured candidates are kept in a file, so that the advisor can
be changed and judged again without measuring anew.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bqcore import codec_sample
from bqcore.advisor import advise, candidate_specs
from bqcore.cli.tables import print_table, write_json
from bqcore.datasets import Dataset, read
from bqcore.evaluation import exact_search, recall
from bqcore.registry import make_codec
from bqcore.search import search

K = 10
#: Codecs with a rotation to choose; each is measured with and without.
ARMS = ("rabitq(bits=1, rotation={})", "rabitq(bits=2, rotation={})", "turbo(bits=2, rotation={})")


def bimodal(n: int = 20_000, dim: int = 384, n_queries: int = 300) -> Dataset:
    """Clusters of +-1 with a fifth of the signs flipped, on axes of unequal scale: a rotation hurts."""
    rng = np.random.default_rng(0)
    centres = rng.choice([-1.0, 1.0], size=(200, dim))
    drawn = centres[rng.integers(len(centres), size=n + n_queries)]
    drawn *= rng.choice([-1.0, 1.0], size=drawn.shape, p=[0.2, 0.8]) * np.exp(0.3 * rng.normal(size=dim))
    drawn = (drawn + 0.05 * rng.normal(size=drawn.shape)).astype(np.float32)
    truth, _ = exact_search(drawn[:n], drawn[n:], K, "cosine")
    return Dataset("bimodal", drawn[:n], drawn[n:], "cosine", truth)


def budgets(dim: int, bits: list[int]) -> list[int]:
    """Return so many bits per dimension, and 8 bytes."""
    return [-(-dim * each // 8) + 8 for each in bits]


class Measured:
    """Recall of codecs trained on all vectors, kept in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.exists() else {}

    def recall(self, data: Dataset, spec: str) -> float:
        """Return recall@10 of all queries over all vectors, without rescoring."""
        known = self._known.setdefault(data.name, {})
        if spec not in known:
            codec = make_codec(spec, metric=data.metric, random_state=0).fit(data.base)
            ids = search(codec, codec.encode(data.base), data.queries, K).ids
            assert data.ground_truth is not None
            known[spec] = recall(ids, data.ground_truth, K, X=data.base, Q=data.queries, metric=data.metric)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(self._known, indent=1) + "\n")
        return known[spec]


def judge(
    data: Dataset, measured: Measured, own_queries: bool, bits: list[int], progress: Progress
) -> list[dict[str, Any]]:
    """Return a row per budget."""
    rows = []
    queries = None if own_queries else data.queries
    for limit in budgets(data.dim, bits):
        specs = candidate_specs(data.dim, data.n, limit)
        task = progress.add_task(f"{data.name}, {limit} bytes", total=len(specs) + 1)
        found = {}
        for spec in specs:
            progress.update(task, description=f"{data.name}, {limit} bytes: {spec}")
            found[spec] = measured.recall(data, spec)
            progress.advance(task)
        progress.update(task, description=f"{data.name}, {limit} bytes: advice")
        wall, cpu = time.perf_counter(), time.process_time()
        advice = advise(data.base, queries, data.metric, bytes_per_vector=limit)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        progress.update(task, description=f"{data.name}, {limit} bytes", completed=len(specs) + 1)
        first = advice.options[0]
        best = max(found, key=lambda spec: found[spec])
        rows.append(
            {
                "set": data.name,
                "bytes": limit,
                "advised": first.codec,
                "predicted": first.recall,
                "measured": found[first.codec],
                "best": best,
                "best_measured": found[best],
                "regret": found[best] - found[first.codec],
                "error": first.recall - found[first.codec],
                "errors_of_all": {one.codec: one.recall - found[one.codec] for one in advice.options},
                "candidates": found,
                "advice_s": wall,
                "advice_cpu_s": cpu,
            }
        )
    return rows


def judge_rotation(
    data: Dataset, measured: Measured, own_queries: bool, progress: Progress
) -> list[dict[str, Any]]:
    """Return a row per codec that can be rotated or not."""
    rows = []
    for arm in progress.track(ARMS, description=f"{data.name}: rotate or not"):
        specs = [arm.format(rotation) for rotation in ("hadamard", "none")]
        queries = None if own_queries else data.queries
        advice = advise(data.base, queries, data.metric, bytes_per_vector=10**6, codecs=specs)
        found = [measured.recall(data, spec) for spec in specs]
        advised = advice.options[0].codec
        rows.append(
            {
                "set": data.name,
                "codec": arm.split("(")[0] + f" {make_codec(specs[0]).get_params()['bits']} bit",
                "rule": advice.diagnosis.rotation,
                "l1_ratio": advice.diagnosis.l1_ratio,
                "rotated": found[0],
                "kept": found[1],
                "advised": "rotate" if advised == specs[0] else "keep",
                "regret": max(found) - found[specs.index(advised)],
            }
        )
    return rows


def table(rows: list[dict[str, Any]], columns: list[str], title: str) -> Table:
    out = Table(title=title, title_justify="left")
    for name in columns:
        out.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right", no_wrap=True)
    for row in rows:
        cells = (row[name] for name in columns)
        out.add_row(*(f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in cells))
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder that holds the sets")
    parser.add_argument("--sets", nargs="+", help="default: all in the folder, and a bimodal synthetic one")
    parser.add_argument(
        "--bits", type=int, nargs="*", default=[1, 2, 4], help="budgets, per dimension; none: rotation alone"
    )
    parser.add_argument(
        "--own-queries", action="store_true", help="let the advisor see vectors only, no queries"
    )
    parser.add_argument(
        "--sampled",
        action="store_true",
        help="predict as for large sets: from 300 queries and a sample of rows",
    )
    parser.add_argument("--known", type=Path, default=Path("benchmarks/results/advisor_measured.json"))
    parser.add_argument("--json", metavar="FILE", help="write the rows as JSON; - for stdout, without tables")
    options = parser.parse_args()
    if options.sampled:
        codec_sample.ALL_ROWS = 0
    names = options.sets or [*sorted(path.parent.name for path in options.data.glob("*/base.npy")), "bimodal"]
    measured = Measured(options.known)
    codecs, arms = [], []
    columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for name in names:
            data = bimodal() if name == "bimodal" else read(options.data / name)
            arms += judge_rotation(data, measured, options.own_queries, progress)
            codecs += judge(data, measured, options.own_queries, options.bits, progress)
    if options.json != "-":
        shown = "set bytes advised predicted measured error best best_measured regret advice_s advice_cpu_s"
        if codecs:
            print_table(table(codecs, shown.split(), "Advised and best codec, recall@10"))
        print_table(
            table(
                arms,
                ["set", "codec", "rule", "l1_ratio", "rotated", "kept", "advised", "regret"],
                "Rotate or not, recall@10",
            )
        )
    if options.json:
        write_json({"codecs": codecs, "rotation": arms}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
