"""Training times of codecs on a set blown up to many rows: rows drawn again with a small error added."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bqcore._validation import Float32Array
from bqcore.cli.tables import print_table, write_json
from bqcore.datasets import read
from bqcore.registry import make_codec

SPECS = tuple(
    spec
    for name in ("rabitq", "saq", "osq", "learned_binary")
    for spec in (
        (f"{name}(bits=1)",) if name == "osq" else (f"{name}(bits=1)", f"{name}(bits=1, centroids=256)")
    )
)


def jittered(X: Float32Array, n: int, share: float = 0.1) -> Float32Array:
    """Return X and more rows of it, with a Gaussian error of `share` of each coordinate's deviation."""
    rng = np.random.default_rng(0)
    more = X[rng.integers(len(X), size=max(0, n - len(X)))]
    noise = rng.normal(size=more.shape) * (share * X.std(axis=0))
    return np.concatenate([X, more + noise.astype(np.float32)])[:n]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of vectors")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--codec", action="append", metavar="SPEC", help=f"default: {', '.join(SPECS)}")
    parser.add_argument(
        "--json", metavar="FILE", help="write the rows as JSON; - for stdout, without a table"
    )
    options = parser.parse_args()
    data = read(options.data)
    X = jittered(data.base, options.rows)
    rows: list[dict[str, Any]] = []
    with Progress(console=Console(stderr=True)) as progress:
        for spec in progress.track(options.codec or SPECS, description="training"):
            codec = make_codec(spec, metric=data.metric, random_state=0)
            wall, cpu = time.perf_counter(), time.process_time()
            codec.fit(X)
            row = {"codec": spec, "train_s": time.perf_counter() - wall}
            rows.append({**row, "train_cpu_s": time.process_time() - cpu})
    if options.json != "-":
        table = Table(title=f"{data.name}: {len(X):,} rows of {data.dim} dimensions", title_justify="left")
        for name in rows[0]:
            table.add_column(name)
        for row in rows:
            table.add_row(*(f"{cell:.1f}" if isinstance(cell, float) else cell for cell in row.values()))
        print_table(table)
    if options.json:
        write_json({"data": data.name, "rows": len(X), "dim": data.dim, "results": rows}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
