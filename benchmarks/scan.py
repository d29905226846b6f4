"""Exhaustive search on one thread: bqcore's scan beside other libraries', queries alone and in batches of 64.

Recall and time are measured on the set as it is and, with ``--rows``, on so many jittered rows of it, whose
codes lie beyond the last-level cache; recall there by an exact pass for the first 200 queries. The systems
take turns, a round each after a query that is not counted, and a time is the median of rounds of CPU time, so
that a busy machine meets all of them alike: compare ratios within a run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # before the libraries are loaded

import numpy as np
from rich.progress import Progress
from scan_systems import Entry, Ours, System, bandwidth, rescored, systems
from synthetic import jittered

from bqcore import RaBitQ, _kernels
from bqcore._validation import Float32Array, normalize
from bqcore.datasets import Dataset, read
from bqcore.evaluation import exact_search, recall

BATCHES = (1, 64)
# Queries in a turn.
QUERIES = 64
# Searches with one thread and with two in a round.
PAIRS = 3
OVERSAMPLING = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12, 16, 20, 30, 40)
TARGET = 0.99
# Queries whose neighbours among jittered rows are searched exactly.
TRUTH_QUERIES = 200


def measured(system: System, Q: Float32Array, k: int, batch: int, n_queries: int) -> float:
    """CPU seconds per query, after one that is not counted: another system's data is in the caches."""
    system.nearest(Q[:batch], k)
    start = time.process_time()
    for first in range(0, n_queries, batch):
        system.nearest(Q[first : first + batch], k)
    return (time.process_time() - start) / n_queries


def build(entry: Entry, train: Float32Array, X: Float32Array) -> tuple[System, float]:
    start = time.perf_counter()
    system = entry.make()
    system.build(train, X)
    return system, time.perf_counter() - start


def times(
    built: dict[str, System], Q: Float32Array, n: int, k: int, rounds: int, progress: Progress
) -> dict[tuple[str, int], dict[str, float]]:
    """Median, least and greatest ns per vector of every system and batch size, in turns."""
    task = progress.add_task("timing", total=rounds * len(built))
    found: dict[tuple[str, int], list[float]] = {}
    for number in range(rounds + 1):
        for name, system in built.items():
            for batch in BATCHES:
                n_queries = batch if number == 0 else QUERIES
                one = measured(system, Q, k, batch, n_queries) / n * 1e9
                if number:  # the first round warms up
                    found.setdefault((name, batch), []).append(one)
            if number:
                progress.advance(task)
    return {
        key: {"median": float(np.median(all_)), "min": min(all_), "max": max(all_)}
        for key, all_ in found.items()
    }


def rows_of(
    entries: list[Entry], data: Dataset, X: Float32Array, Q: Float32Array, options: Any, progress: Progress
) -> tuple[list[dict[str, Any]], dict[str, str], dict[str, System]]:
    """Measure every system on rows X; recall against exact neighbours."""
    asked, truth = data.queries, data.ground_truth
    if X is not data.base:
        asked = data.queries[:TRUTH_QUERIES]
        truth = exact_search(X, asked, 10, data.metric)[0]
    built, rows, skipped, seconds = {}, [], {}, {}
    task = progress.add_task(f"building, {len(X):,} rows", total=len(entries))
    for entry in entries:
        try:
            built[entry.name], seconds[entry.name] = build(entry, data.base, X)
        except (ImportError, RuntimeError, ValueError, MemoryError) as error:
            skipped[entry.name] = str(error)
        progress.advance(task)
    ns = times(built, Q, len(X), options.k, options.rounds, progress)
    reads = bandwidth()
    for name, system in built.items():
        quality = {
            "recall_at_10": recall(system.nearest(asked, 10), truth, 10),
            "recall_10_in_100": in_first(system.nearest(asked, 100), truth),
        }
        for batch in BATCHES:
            found = ns[name, batch]
            scanned = system.scanned_bytes or system.bytes_per_vector
            rows.append(
                {
                    "name": name,
                    "version": system.version,
                    "n": len(X),
                    "batch": batch,
                    "ns_per_vector": found["median"],
                    "ns_per_vector_min": found["min"],
                    **quality,
                    "bytes_per_vector": system.bytes_per_vector,
                    "scanned_bytes_per_vector": scanned,
                    "build_s": seconds[name],
                    "read_share_of_bandwidth": scanned / found["median"] * 1e9 / reads
                    if batch == 1
                    else None,
                    "bandwidth_bytes_per_s": reads,
                }
            )
    return rows, skipped, built


def in_first(found: np.ndarray, truth: np.ndarray, k: int = 10) -> float:
    """Share of the k true neighbours among all rows found."""
    return float(np.mean([len(np.intersect1d(a, b[:k])) / k for a, b in zip(found, truth, strict=True)]))


def rescored_rows(data: Dataset, Q: Float32Array, options: Any, progress: Progress) -> list[dict[str, Any]]:
    """Time per query of every system at the least oversampling that reaches the target recall."""
    rows, built = [], {}
    choices = list(rescored(data.dim, data.metric))
    task = progress.add_task("rescored", total=len(choices))
    for name, make in choices:
        try:
            system = make(1.0)
            system.build(data.base, data.base)
            for oversampling in OVERSAMPLING:
                system.oversampling = oversampling
                reached = recall(system.nearest(Q, 10), data.ground_truth, 10)
                if reached >= TARGET:
                    break
            built[name] = system
            rows.append(
                {"name": name, "oversampling": oversampling, "recall_at_10": reached}
                | {"bytes_per_vector": system.bytes_per_vector, "reaches_target": reached >= TARGET}
            )
        except (ImportError, RuntimeError, ValueError) as error:
            rows.append({"name": name, "skipped": str(error)})
        progress.advance(task)
    ns = times(built, Q, 1, 10, options.rounds, progress)
    for row in rows:
        if row["name"] in built:
            row["us_per_query"] = {batch: ns[row["name"], batch]["median"] / 1000 for batch in BATCHES}
    return rows


def scaling(metric: str, X: Float32Array, Q: Float32Array, options: Any) -> dict[str, Any]:
    """Scan time against n with its R^2, and two threads against one."""
    sizes = sorted({int(s) for s in np.geomspace(min(10_000, len(X)), len(X), 7)})
    built = {}
    for n in sizes:
        built[n] = Ours(RaBitQ(bits=1, metric=metric))
        built[n].build(X[:50_000], X[:n])
    us: dict[tuple[int, int], list[float]] = {(n, batch): [] for n in sizes for batch in BATCHES}
    walls: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(options.rounds + 1):
        for n, system in built.items():
            for batch in BATCHES:
                us[n, batch].append(measured(system, Q, 10, batch, QUERIES) * 1e6)
        for n_threads in (*walls,) * PAIRS:
            start = time.perf_counter()
            built[sizes[-1]].index.search(Q[:256], 10, n_threads=n_threads)
            walls[n_threads].append(time.perf_counter() - start)
    # in pairs: the machine's speed changes within a run
    speedups = [one / two for one, two in zip(walls[1][PAIRS:], walls[2][PAIRS:], strict=True)]
    found: dict[str, Any] = {"speedup_of_2_threads": float(np.median(speedups))}
    for batch in BATCHES:
        total = np.array([np.median(us[n, batch][1:]) for n in sizes])
        left = total - np.polynomial.Polynomial.fit(sizes, total, 1)(np.array(sizes))
        found[f"us_per_query_{batch}"] = dict(zip(sizes, total.tolist(), strict=True))
        found[f"r_squared_{batch}"] = float(1 - left.var() / total.var()) if len(sizes) > 2 else None
    return found


def picture(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """Recall against time of single queries, size by bytes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    for row in rows:
        if row["batch"] != 1 or row["n"] != rows[0]["n"]:
            continue
        ours = row["name"].startswith("bqcore")
        axes.scatter(
            row["ns_per_vector"],
            row["recall_at_10"],
            s=row["bytes_per_vector"],
            alpha=0.6,
            c="C1" if ours else "C0",
        )
        axes.annotate(row["name"], (row["ns_per_vector"], row["recall_at_10"]), fontsize=7)
    axes.set(xscale="log", xlabel="ns per vector, one query on one thread", ylabel="recall@10", title=title)
    figure.savefig(path, dpi=150)


def table(document: dict[str, Any]) -> str:
    heads = (f"{'n':>9}", f"{'system':28}", "batch", "ns/vector", "recall@10", "10 in 100", "bytes")
    lines = ["  ".join(heads)]
    for row in document["rows"]:
        quality = [f"{row[key]:.3f}" for key in ("recall_at_10", "recall_10_in_100")]
        lines.append(
            f"{row['n']:>9} {row['name']:28} {row['batch']:>5} {row['ns_per_vector']:>10.3f} {quality[0]:>9} "
            f"{quality[1]:>9} {row['bytes_per_vector']:>7.0f}"
        )
    for row in document["rescored"]:
        lines.append(f"rescored {json.dumps(row)}")
    lines.append(f"scaling {json.dumps(document['scaling'])}")
    lines.append("versions: " + ", ".join(sorted({row["version"] for row in document["rows"]})))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of one set")
    parser.add_argument("--json", type=Path, required=True, help="written, and a picture beside it")
    parser.add_argument("--rows", type=int, help="time so many jittered rows too")
    parser.add_argument("--only", nargs="*", default=[], help="systems whose name contains one of these")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--k", type=int, default=10)
    options = parser.parse_args()
    data = read(options.data)
    if data.metric == "cosine":
        data = Dataset(**{**vars(data), "base": normalize(data.base), "queries": normalize(data.queries)})
    entries = [
        one
        for one in systems(data.dim, data.metric)
        if not options.only or any(part in one.name for part in options.only)
    ]
    with Progress(disable=not sys.stderr.isatty()) as progress:
        rows, skipped, built = rows_of(entries, data, data.base, data.queries, options, progress)
        del built
        table_ = rescored_rows(data, data.queries, options, progress) if not options.only else []
        if options.rows:
            X = jittered(data.base, options.rows)
            more, also, _ = rows_of(entries, data, X, data.queries, options, progress)
            rows, skipped = rows + more, skipped | also
        else:
            X = data.base
        grown = scaling(data.metric, X, data.queries, options)
    document = {
        "set": data.name,
        "machine": platform.processor() or platform.machine(),
        "isa": _kernels.active_isa(),
        "rows": rows,
        "rescored": table_,
        "scaling": grown,
        "skipped": skipped,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    picture(rows, options.json.with_suffix(".png"), data.name)
    print(table(document))
    for name, reason in skipped.items():
        print(f"skipped {name}: {reason}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
