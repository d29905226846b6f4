"""Whether scans are as fast as they were: times per numpy's float32 product, beside a stored baseline.

Ratios carry over between runs of one machine and, roughly, between machines of one instruction set; the
baseline has an entry for each. ``--update`` stores what was measured.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # before numpy is loaded

import numpy as np

from bqcore import RaBitQ, ScanIndex, _kernels
from bqcore.saq import SAQ

BASELINE = Path(__file__).with_name("scan_baseline.json")
ROWS, DIM, QUERIES = 40_000, 256, 64


def ratios(rounds: int) -> dict[str, float]:
    """Least CPU time of each scan per least CPU time of numpy's, in turns."""
    rng = np.random.default_rng(0)
    X = (rng.standard_normal((ROWS, DIM)) * np.linspace(2, 0.5, DIM)).astype(np.float32)
    Q = X[:QUERIES] + rng.standard_normal((QUERIES, DIM)).astype(np.float32)
    indexes = {}
    for name, codec in (("rabitq1", RaBitQ(1)), ("rabitq4", RaBitQ(4)), ("saq1", SAQ(1))):
        indexes[name] = ScanIndex(codec.fit(X), codec.encode(X))
    runs = {"numpy": lambda: Q @ X.T}
    for name, index in indexes.items():
        runs[f"{name} single"] = lambda index=index: [index.search(q, 10) for q in Q]
        runs[f"{name} batch"] = lambda index=index: index.search(Q, 10)
    best = dict.fromkeys(runs, np.inf)
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - start)
    return {name: best[name] / best["numpy"] for name in runs if name != "numpy"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tolerance", type=float, default=1.5, help="times the stored ratio")
    parser.add_argument("--update", action="store_true")
    options = parser.parse_args()
    stored = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    found, isa = ratios(options.rounds), _kernels.active_isa()
    if options.update:
        stored[isa] = {name: round(ratio, 5) for name, ratio in found.items()}
        BASELINE.write_text(json.dumps(stored, indent=2) + "\n")
    if isa not in stored:
        print(f"no baseline for {isa}: scan_check.py --update stores one", file=sys.stderr)
        return 1
    slower = 0
    for name, ratio in found.items():
        limit = stored[isa][name] * options.tolerance
        slower += ratio > limit
        mark = "SLOWER" if ratio > limit else "ok"
        print(f"{name:16} {ratio:.4f} of numpy float32, at most {limit:.4f}  {mark}")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
