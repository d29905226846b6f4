"""Configure Qdrant's own engine for one data set and compare what was predicted with what it does.

    python benchmarks/qdrant_configs.py /path/to/vectors --json result.json

Rows by `group`:

- offered: every option of `QdrantCodec.fit(target_recall=...)`, the chosen one first
- transform: the same configuration with raw vectors and with ours, with and without rescoring
- factors: RaBitQ's corrective factors in the payload, without rescoring, beside the offline estimate
- quantized-only: turbo codes over turbo storage, beside float32 with scalar codes
- upload: points per second with the transform and without

One segment, so that codes alone (no rescoring) are not merged by Euclidean scores that Qdrant orders wrongly
(qdrant#10607). Recall is against exact neighbours of the vectors as given, ties counted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from qdrant_client import models
from rich import box
from rich.console import Console
from rich.table import Table

from bqcore import RaBitQ
from bqcore.datasets import Dataset, read
from bqcore.evaluation import exact_search, recall
from bqcore_qdrant import Collection, Config, QdrantCodec, Transform, upload
from bqcore_qdrant.edge import EdgeClient
from bqcore_qdrant.predict import Sample

K = 10
ERRORS = Console(stderr=True)
ONE_SEGMENT = models.OptimizersConfigDiff(
    default_segment_number=1, max_segment_size=100_000_000, indexing_threshold=1_000
)
COMPARED = ("binary1/binary+float32", "binary1/scalar4bits+float32", "scalar8+float32", "turbo1+float32")
QUANTIZED_ONLY = ("turbo1+turbo8", "turbo2+turbo8")
REFERENCE = "scalar8+float32"
GROUPS = ("offered", "transform", "factors", "quantized-only", "upload")
# Rows of the upload comparison, and repetitions of which the median counts.
UPLOAD_ROWS, UPLOADS = 20_000, 3


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path, metavar="DATA_DIR", help="as bqcore.datasets.read takes it")
    parser.add_argument("--json", type=Path, required=True, metavar="OUT", help="write the rows here")
    parser.add_argument("--metric", choices=("l2", "ip", "cosine"), help="of files that do not say")
    parser.add_argument("--rows", type=int, help="use the first N rows only")
    parser.add_argument("--target", type=float, default=0.95, help="target recall (default .95)")
    parser.add_argument("--queries", type=int, default=500, help="queries at most (default 500)")
    parser.add_argument("--compare", default=",".join(COMPARED), help="configurations of group transform")
    parser.add_argument("--groups", default=",".join(GROUPS), help=f"default: {','.join(GROUPS)}")
    return parser.parse_args()


class Bench:
    """One data set: its exact neighbours, predictions, and rows measured so far."""

    def __init__(self, data: Dataset, n_queries: int) -> None:
        self.X, self.Q, self.metric = data.base, data.queries[:n_queries], data.metric
        self.truth, _ = exact_search(self.X, self.Q, K, self.metric)
        self.rows: list[dict[str, Any]] = []
        n = len(self.X)
        rng = np.random.default_rng(1)
        fifth = self.X[np.sort(rng.choice(n, n // 5, replace=False))]
        self.full = Sample(self.X, self.Q, self.metric, K, n, 0)
        self.fifth = Sample(fifth, self.Q, self.metric, K, n, 0)

    def codec(self, kind: str, config: Config) -> QdrantCodec:
        """Return a codec with a transform learned from all rows."""
        transform = Transform.fit(self.X, self.metric, kind)  # type: ignore[arg-type]
        if config.datatype == "uint8":
            transform = transform.for_uint8(self.X) or transform
        return QdrantCodec(transform, config)

    def predicted(self, sample: Sample, codec: QdrantCodec, oversampling: float, rescore: bool) -> float:
        """Return the recall that a sample predicts."""
        found = sample.predict(codec.transform, [codec.config], [1.0, oversampling])[0]
        return found.recall[oversampling] if rescore else found.recall_without_rescore

    def measure(self, codec: QdrantCodec, group: str, asked: list[tuple[float, bool]], **more: Any) -> None:
        """Build a collection and search it at several oversamplings, rescored or not."""
        config, transform = codec.config, codec.transform
        with tempfile.TemporaryDirectory() as folder, EdgeClient(folder) as client:
            collection = Collection.create(client, "bench", codec, optimizers_config=ONE_SEGMENT)
            start = time.perf_counter()
            upload(collection, self.X, batch_size=1000)
            uploaded = time.perf_counter() - start
            collection.optimize()
            built = time.perf_counter() - start - uploaded
            files = client.disk_bytes("bench")
            codes = files.get("quantized.data", 0) / len(self.X)
            for oversampling, rescore in asked:
                params = models.SearchParams(
                    quantization=models.QuantizationSearchParams(rescore=rescore, oversampling=oversampling)
                )
                found, times = self.search(collection, params)
                measured = recall(found, self.truth, K, X=self.X, Q=self.Q, metric=self.metric)
                row = {
                    "group": group,
                    "config": config.storage + ("" if rescore else " (codes alone)"),
                    "transform": "factors" if transform.factors else transform.kind,
                    "oversampling": oversampling,
                    "recall_at_10": round(measured, 4),
                    "ms": round(float(np.median(times)) * 1e3, 3),
                    "bytes_ram": config.bytes_ram(codec.dim, transform.distance),
                    "bytes_disk": config.bytes_disk(codec.dim, transform.distance),
                    "bytes_codes_on_disk": round(codes, 1),
                    "upload_s": round(uploaded, 1),
                    "build_s": round(built, 1),
                    **more,
                }
                if not transform.factors:
                    row["predicted_recall"] = round(
                        self.predicted(self.full, codec, oversampling, rescore), 4
                    )
                    row["predicted_from_fifth"] = round(
                        self.predicted(self.fifth, codec, oversampling, rescore), 4
                    )
                self.rows.append(row)
                ERRORS.print(
                    " ".join(f"{name}={row.get(name)}" for name in (
                        "group", "config", "transform", "oversampling", "recall_at_10", "predicted_recall",
                        "predicted_from_fifth", "ms",
                    )), markup=False, highlight=False,
                )  # fmt: skip

    def search(self, collection: Collection, params: models.SearchParams) -> tuple[Any, list[float]]:
        """Return ids found, shape (n_queries, 10), and the seconds of every query."""
        found = np.full((len(self.Q), K), -1, dtype=np.int64)
        times = []
        for i, query in enumerate(self.Q):
            start = time.perf_counter()
            points = collection.query_points(query, limit=K, search_params=params, with_payload=False).points
            times.append(time.perf_counter() - start)
            found[i, : len(points)] = [point.id for point in points]
        return found, times


def offered(bench: Bench, target: float) -> dict[str, Any]:
    start = time.perf_counter()
    codec = QdrantCodec.fit(bench.X, bench.metric, target_recall=target, queries=bench.Q)
    seconds = time.perf_counter() - start
    for number, option in enumerate(codec.options):
        bench.measure(
            bench.codec(option.kind, option.config),
            "offered",
            [(option.config.oversampling, True)],
            is_chosen=number == 0,
            target=target,
            raw_recall=option.raw_recall,
        )
    return {"fit_s": round(seconds, 1), "chosen": codec.options[0].config.name, "reason": codec.reason}


def transform(bench: Bench, names: list[str]) -> None:
    for name in names:
        config = Config.parse(name)
        ours = "centre" if config.quantizer == "turbo" else "rotate"
        for kind in ("raw", ours):
            bench.measure(bench.codec(kind, config), "transform", [(1.0, False), (4.0, True)])


def factors(bench: Bench) -> float:
    codec = QdrantCodec.with_factors(bench.X, bench.metric)
    model = RaBitQ(bits=1, metric=bench.metric).fit(bench.X)
    estimates = model.estimate(model.encode(bench.X), bench.Q)
    offline = recall(
        np.argsort(estimates, axis=1)[:, :K], bench.truth, K, X=bench.X, Q=bench.Q, metric=bench.metric
    )
    bench.measure(
        codec,
        "factors",
        [(1.0, False), (8.0, False), (32.0, False), (8.0, True)],
        offline_rabitq=round(offline, 4),
    )
    return offline


def quantized_only(bench: Bench) -> None:
    kind = "raw" if bench.metric == "ip" else "centre"
    reference = bench.codec("raw", Config.parse(REFERENCE))
    whole = reference.config.bytes_disk(reference.dim, reference.transform.distance)
    for name in QUANTIZED_ONLY:
        codec = bench.codec(kind, Config.parse(name))
        share = codec.config.bytes_disk(codec.dim, codec.transform.distance) / whole
        asked = [(over, True) for over in (4.0, 8.0, 12.0)]
        bench.measure(codec, "quantized-only", asked, share_of_float32_scalar8=round(share, 3))


def throughput(bench: Bench) -> dict[str, float]:
    """Points per second of the same uploads with our transform and without, medians."""
    X = bench.X[:UPLOAD_ROWS]
    config = Config("none")
    seconds: dict[str, list[float]] = {"raw": [], "rotate": []}
    for _ in range(UPLOADS):
        for kind, taken in seconds.items():
            codec = bench.codec(kind, dataclasses.replace(config))
            with tempfile.TemporaryDirectory() as folder, EdgeClient(folder) as client:
                collection = Collection.create(client, "bench", codec)
                start = time.perf_counter()
                upload(collection, X, batch_size=256)
                taken.append(time.perf_counter() - start)
    rates = {kind: len(X) / float(np.median(taken)) for kind, taken in seconds.items()}
    return {
        "raw_points_per_s": round(rates["raw"]),
        "transformed_points_per_s": round(rates["rotate"]),
        "ratio": round(rates["rotate"] / rates["raw"], 3),
    }


def table(rows: list[dict[str, Any]], title: str) -> Table:
    out = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    out.add_column("group", no_wrap=True)
    out.add_column("configuration", no_wrap=True)
    for heading in ("transform", "x", "recall@10", "predicted", "from 20 %", "ms", "RAM", "disk"):
        out.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        out.add_row(
            row["group"],
            row["config"] + (" *" if row.get("is_chosen") else ""),
            row["transform"],
            f"{row['oversampling']:g}",
            f"{row['recall_at_10']:.3f}",
            f"{row['predicted_recall']:.3f}" if "predicted_recall" in row else "",
            f"{row['predicted_from_fifth']:.3f}" if "predicted_from_fifth" in row else "",
            f"{row['ms']:.2f}",
            str(row["bytes_ram"]),
            str(row["bytes_disk"]),
        )
    return out


def main() -> None:
    options = arguments()
    data = read(options.data, metric=options.metric, rows=options.rows)
    bench = Bench(data, options.queries)
    n, dim = bench.X.shape
    about: dict[str, Any] = {"data": data.name, "rows": n, "dim": dim, "metric": bench.metric}
    title = f"{data.name}: {n:,} x {dim}, {bench.metric}, {len(bench.Q)} queries"
    ERRORS.print(title, markup=False)
    groups = options.groups.split(",")
    if "offered" in groups:
        about["fit"] = offered(bench, options.target)
    if "transform" in groups:
        transform(bench, options.compare.split(","))
    if "factors" in groups:
        about["offline_rabitq"] = round(factors(bench), 4)
    if "quantized-only" in groups:
        quantized_only(bench)
    if "upload" in groups:
        about["upload"] = throughput(bench)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({**about, "rows_measured": bench.rows}, indent=2), encoding="utf-8")
    console = Console(file=sys.stdout, width=160)
    console.print(table(bench.rows, title))
    console.print(
        json.dumps({name: about[name] for name in about if name in ("fit", "upload", "offline_rabitq")})
    )


if __name__ == "__main__":
    main()
