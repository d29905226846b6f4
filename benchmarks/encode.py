"""Encoding times of SAQ and of RaBitQ at equal code bits, in turns in one process: CPU time of one thread.

python benchmarks/encode.py DATA_DIR [--rounds 15] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # before numpy is loaded

from rich.progress import track

from bqcore import _kernels, datasets, make_codec

PAIRS = [
    ("saq(bits=1)", "rabitq(bits=1)"),
    ("saq(bits=1,factors=pair)", "rabitq(bits=1)"),
    ("saq(bits=1,centroids=256)", "rabitq(bits=1,centroids=256)"),
    ("saq(bits=2)", "rabitq(bits=2)"),
    ("saq(bits=4)", "rabitq(bits=4)"),
]
ROWS = 1 << 13


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the rows here too")
    options = parser.parse_args()
    X = datasets.read(options.data_dir).base
    specs = list(dict.fromkeys(spec for pair in PAIRS for spec in pair))
    codecs = {spec: make_codec(spec).fit(X) for spec in track(specs, "train")}
    times: dict[str, list[float]] = {spec: [] for spec in specs}
    rows = X[:ROWS]
    for _ in track(range(options.rounds), "encode"):
        for spec, codec in codecs.items():
            start = time.process_time()
            codec.encode(rows)
            times[spec].append((time.process_time() - start) / len(rows) * 1e6)
    found = [
        {
            "codec": ours,
            "bytes": codecs[ours].bytes_per_vector,
            "encode_us": statistics.median(times[ours]),
            "other": other,
            "other_bytes": codecs[other].bytes_per_vector,
            "other_us": statistics.median(times[other]),
            "ratio": statistics.median(a / b for a, b in zip(times[ours], times[other], strict=True)),
        }
        for ours, other in PAIRS
    ]
    print(f"{options.data_dir.name}, dim {X.shape[1]}, {_kernels.active_isa()}, {options.rounds} rounds")
    for row in found:
        print(
            f"{row['codec']:26} {row['bytes']:4} bytes {row['encode_us']:6.2f} us   {row['other']:29} "
            f"{row['other_bytes']:4} bytes {row['other_us']:6.2f} us   ratio {row['ratio']:.2f}"
        )
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
