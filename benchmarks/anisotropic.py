"""Score-aware against plain product quantization: error of the largest inner product, and Recall1@10.

Codes of both have the same bytes and the same rotation; only what training and assignment minimise differs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bqcore.cli.tables import print_table, write_json
from bqcore.datasets import Dataset, read
from bqcore.evaluation import exact_search
from bqcore.pq import PQ

SETS = ("A_minilm_wordnet", "B_sgns200")
PARTS = (32, 16, 12, 8)


def measure(data: Dataset, subspaces: int, rotation: str, *, plain: bool, seed: int) -> tuple[float, float]:
    """Return the mean relative error of each query's largest cosine, and Recall1@10."""
    given: dict[str, Any] = {"eta": 1.0, "query_weight": 0.0} if plain else {}
    codec = PQ(subspaces=subspaces, rotation=rotation, metric=data.metric, random_state=seed, **given)
    estimates = codec.fit(data.base).estimate(codec.encode(data.base), data.queries)
    first, distances = exact_search(data.base, data.queries, 1, data.metric)
    own = np.take_along_axis(estimates, first, axis=1)
    exact = 1 - distances if data.metric == "cosine" else -distances
    found = 1 - own if data.metric == "cosine" else -own
    error = np.abs(found - exact) / np.abs(exact)
    return float(error.mean()), float(((estimates < own).sum(axis=1) < 10).mean())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder that holds the sets")
    parser.add_argument("--sets", nargs="+", default=SETS, help="sets of metric ip or cosine")
    parser.add_argument("--rows", type=int, help="use the first vectors only")
    parser.add_argument("--rotation", default="opq", choices=("none", "opq"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of both codecs; means")
    parser.add_argument(
        "--parts", type=int, nargs="+", default=PARTS, help="dimensions per byte, one budget each"
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write the rows as JSON; - for stdout, without a table"
    )
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with Progress(console=Console(stderr=True)) as progress:
        for name in options.sets:
            data = read(options.data / name, rows=options.rows)
            for part in progress.track(options.parts, description=name):
                row: dict[str, Any] = {"set": name, "bytes": data.dim // part, "seeds": len(options.seeds)}
                for label, plain in (("plain", True), ("score-aware", False)):
                    found = [
                        measure(data, data.dim // part, options.rotation, plain=plain, seed=seed)
                        for seed in options.seeds
                    ]
                    row[f"{label} error"], row[f"{label} 1@10"] = np.mean(found, axis=0).tolist()
                rows.append(row)
    if options.json != "-":
        table = Table(title=f"rotation {options.rotation}", title_justify="left")
        for name in rows[0]:
            table.add_column(name)
        for row in rows:
            table.add_row(*(f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row.values()))
        print_table(table)
    if options.json:
        write_json({"rotation": options.rotation, "results": rows}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
