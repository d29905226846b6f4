"""Configure Qdrant's own engine for one data set and compare what was predicted with what it does.

    python benchmarks/qdrant_configs.py /path/to/vectors --json result.json

Rows by `group`:

- offered: every option of `QdrantCodec.fit(target_recall=...)`, the chosen one first
- chosen-from-fifth: what the same chooses when it sees 20 % of the rows
- transform: the same configuration with raw vectors and with ours, with and without rescoring
- factors: RaBitQ's corrective factors in the payload, without rescoring, beside the offline estimate
- quantized-only: turbo codes over turbo storage, beside float32 with scalar codes
- upload: points per second with the transform and without

Every collection is built once and its rows are written to OUT at once: what was interrupted goes on where it
was, unless --fresh is given. --seconds stops between two collections, to be run again.

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
from collections.abc import Callable
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
from bqcore_qdrant.choose import Option
from bqcore_qdrant.edge import EdgeClient
from bqcore_qdrant.predict import Sample
from bqcore_qdrant.predict_factors import predict_factors

K = 10
ERRORS = Console(stderr=True)
ONE_SEGMENT = models.OptimizersConfigDiff(
    default_segment_number=1, max_segment_size=100_000_000, indexing_threshold=1_000
)
COMPARED = ("binary1/binary+float32", "binary1/scalar4bits+float32", "scalar8+float32", "turbo1+float32")
QUANTIZED_ONLY = ("turbo1+turbo8", "turbo2+turbo8")
REFERENCE = "scalar8+float32"
# What tells rows apart.
KEYS = ("group", "config", "transform", "oversampling")
GROUPS = ("offered", "chosen-from-fifth", "transform", "factors", "quantized-only", "upload")
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
    parser.add_argument("--fresh", action="store_true", help="measure again what OUT has already")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no collection after these")
    return parser.parse_args()


Asked = list[tuple[float, bool]]


class Bench:
    """One data set: its exact neighbours, what is to be measured, and rows measured so far."""

    def __init__(self, data: Dataset, options: argparse.Namespace) -> None:
        self.X, self.Q, self.metric = data.base, data.queries[: options.queries], data.metric
        self.target, self.file = options.target, options.json
        self.end = time.monotonic() + options.seconds
        n = len(self.X)
        self.about: dict[str, Any] = {
            "data": data.name,
            "rows": n,
            "dim": self.X.shape[1],
            "metric": self.metric,
            "queries": len(self.Q),
            "target": self.target,
        }
        self.rows: list[dict[str, Any]] = []
        if self.file.is_file() and not options.fresh:
            known = json.loads(self.file.read_text(encoding="utf-8"))
            if any(known.get(name) != value for name, value in self.about.items()):
                raise SystemExit(f"{self.file}: measured on other data or targets; see --fresh")
            self.rows = known.pop("rows_measured")
            self.about = known
        self.truth, _ = exact_search(self.X, self.Q, K, self.metric)
        rng = np.random.default_rng(1)
        self.fifth = self.X[np.sort(rng.choice(n, n // 5, replace=False))]
        self.whole_sample = Sample(self.X, self.Q, self.metric, K, n, 0)
        self.fifth_sample = Sample(self.fifth, self.Q, self.metric, K, n, 0)
        self.asked: dict[str, tuple[QdrantCodec, list[tuple[str, Asked, dict[str, Any]]]]] = {}

    def codec(self, kind: str, config: Config) -> QdrantCodec:
        """Return a codec with a transform learned from all rows."""
        transform = Transform.fit(self.X, self.metric, kind)  # type: ignore[arg-type]
        if config.datatype == "uint8":
            transform = transform.for_uint8(self.X) or transform
        return QdrantCodec(transform, config)

    def ask(self, codec: QdrantCodec, group: str, asked: Asked, **more: Any) -> None:
        """Note what is to be measured, unless it was."""
        names = [self._key(codec, group, *one) for one in asked]
        known = {tuple(row[name] for name in KEYS) for row in self.rows}
        if not known.issuperset(names):
            self.asked.setdefault(codec.hash, (codec, []))[1].append((group, asked, more))

    @staticmethod
    def _key(codec: QdrantCodec, group: str, oversampling: float, rescore: bool) -> tuple[Any, ...]:
        config = codec.config.storage + ("" if rescore else " (codes alone)")
        return (group, config, "factors" if codec.transform.factors else codec.transform.kind, oversampling)

    def save(self) -> None:
        """Write what is known to the JSON file."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**self.about, "rows_measured": self.rows}, indent=2)
        new = self.file.with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        new.replace(self.file)

    def run(self) -> None:
        """Build every collection that was asked for and search it."""
        for left, (codec, wanted) in zip(range(len(self.asked), 0, -1), self.asked.values(), strict=True):
            if time.monotonic() > self.end:
                raise SystemExit(f"{left} of {len(self.asked)} collections left: run it again")
            self._measure(codec, wanted)
            self.save()
        self.asked.clear()

    def _measure(self, codec: QdrantCodec, wanted: list[tuple[str, Asked, dict[str, Any]]]) -> None:
        config, transform = codec.config, codec.transform
        overs = sorted({over for _, asked, _ in wanted for over, _ in asked})
        predicted = {}
        for name, sample in (
            ("predicted_recall", self.whole_sample),
            ("predicted_from_fifth", self.fifth_sample),
        ):
            if transform.factors:
                predicted[name] = predict_factors(sample, transform, config, overs)
            else:
                predicted[name] = sample.predict(transform, [config], overs)[0]
        with tempfile.TemporaryDirectory() as folder, EdgeClient(folder) as client:
            collection = Collection.create(client, "bench", codec, optimizers_config=ONE_SEGMENT)
            start = time.perf_counter()
            upload(collection, self.X, batch_size=1000)
            uploaded = time.perf_counter() - start
            collection.optimize()
            built = time.perf_counter() - start - uploaded
            codes = client.disk_bytes("bench").get("quantized.data", 0) / len(self.X)
            found: dict[tuple[float, bool], tuple[float, float]] = {}
            for group, asked, more in wanted:
                for over, rescore in asked:
                    if (over, rescore) not in found:
                        found[over, rescore] = self.search(collection, over, rescore)
                    measured, ms = found[over, rescore]
                    row = {
                        **dict(zip(KEYS, self._key(codec, group, over, rescore), strict=True)),
                        "recall_at_10": round(measured, 4),
                        "ms": round(ms, 3),
                        "bytes_ram": config.bytes_ram(codec.dim, transform.distance),
                        "bytes_disk": config.bytes_disk(codec.dim, transform.distance),
                        "bytes_codes_on_disk": round(codes, 1),
                        "upload_s": round(uploaded, 1),
                        "build_s": round(built, 1),
                        **more,
                    }
                    for name, one in predicted.items():
                        if rescore:
                            row[name] = round(one.recall[over], 4)
                        elif (
                            not transform.factors or over == overs[-1]
                        ):  # else predicted for other candidates
                            row[name] = round(one.recall_without_rescore, 4)
                    self.rows.append(row)
                    shown = (*KEYS, "recall_at_10", "predicted_recall", "predicted_from_fifth", "ms")
                    text = " ".join(f"{name}={row.get(name)}" for name in shown)
                    ERRORS.print(text, markup=False, highlight=False, soft_wrap=True)

    def search(self, collection: Collection, over: float, rescore: bool) -> tuple[float, float]:
        """Return recall@10 and the median milliseconds of a query."""
        params = models.SearchParams(
            quantization=models.QuantizationSearchParams(rescore=rescore, oversampling=over)
        )
        found = np.full((len(self.Q), K), -1, dtype=np.int64)
        times = []
        for i, query in enumerate(self.Q):
            start = time.perf_counter()
            points = collection.query_points(query, limit=K, search_params=params, with_payload=False).points
            times.append(time.perf_counter() - start)
            found[i, : len(points)] = [point.id for point in points]
        measured = recall(found, self.truth, K, X=self.X, Q=self.Q, metric=self.metric)
        return measured, float(np.median(times)) * 1e3


def fitted(bench: Bench, name: str, rows: Any, **more: Any) -> list[Option]:
    """Return the options of a fit, from the JSON file where it was made before."""
    if name not in bench.about:
        start = time.perf_counter()
        codec = QdrantCodec.fit(rows, bench.metric, target_recall=bench.target, queries=bench.Q, **more)
        bench.about[name] = {
            "fit_s": round(time.perf_counter() - start, 1),
            "chosen": codec.options[0].config.name,
            "reason": codec.reason,
            "options": [option.as_dict() for option in codec.options],
        }
        bench.save()
    return [Option.from_dict(one) for one in bench.about[name]["options"]]


def offered(bench: Bench) -> None:
    for number, option in enumerate(fitted(bench, "fit", bench.X)):
        bench.ask(
            bench.codec(option.kind, option.config),
            "offered",
            [(option.config.oversampling, True)],
            is_chosen=number == 0,
            raw_recall=option.raw_recall,
        )


def chosen_from_fifth(bench: Bench) -> None:
    option = fitted(bench, "fit_from_fifth", bench.fifth, n_total=len(bench.X))[0]
    bench.ask(
        bench.codec(option.kind, option.config), "chosen-from-fifth", [(option.config.oversampling, True)]
    )


def transform(bench: Bench, names: list[str]) -> None:
    for name in names:
        config = Config.parse(name)
        ours = "centre" if config.quantizer == "turbo" else "rotate"
        for kind in ("raw", ours):
            bench.ask(bench.codec(kind, config), "transform", [(1.0, False), (4.0, True)])


def factors(bench: Bench) -> None:
    model = RaBitQ(bits=1, metric=bench.metric).fit(bench.X)
    estimates = model.estimate(model.encode(bench.X), bench.Q)
    offline = recall(
        np.argsort(estimates, axis=1)[:, :K], bench.truth, K, X=bench.X, Q=bench.Q, metric=bench.metric
    )
    bench.about["offline_rabitq"] = round(offline, 4)
    bench.ask(
        QdrantCodec.with_factors(bench.X, bench.metric),
        "factors",
        [(1.0, False), (8.0, False), (32.0, False), (8.0, True)],
        offline_rabitq=round(offline, 4),
    )


def quantized_only(bench: Bench) -> None:
    kind = "raw" if bench.metric == "ip" else "centre"
    reference = bench.codec("raw", Config.parse(REFERENCE))
    whole = reference.config.bytes_disk(reference.dim, reference.transform.distance)
    for name in QUANTIZED_ONLY:
        codec = bench.codec(kind, Config.parse(name))
        share = codec.config.bytes_disk(codec.dim, codec.transform.distance) / whole
        asked = [(over, True) for over in (4.0, 8.0, 12.0)]
        bench.ask(codec, "quantized-only", asked, share_of_float32_scalar8=round(share, 3))


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
    bench = Bench(read(options.data, metric=options.metric, rows=options.rows), options)
    about = bench.about
    title = f"{about['data']}: {about['rows']:,} x {about['dim']}, {bench.metric}, {about['queries']} queries"
    ERRORS.print(title, markup=False)
    work: dict[str, Callable[[], None]] = {
        "offered": lambda: offered(bench),
        "chosen-from-fifth": lambda: chosen_from_fifth(bench),
        "transform": lambda: transform(bench, options.compare.split(",")),
        "factors": lambda: factors(bench),
        "quantized-only": lambda: quantized_only(bench),
    }
    groups = options.groups.split(",")
    for name in groups:
        if name in work:
            work[name]()
    bench.run()
    if "upload" in groups:
        about["upload"] = throughput(bench)
    bench.save()
    console = Console(file=sys.stdout, width=160)
    console.print(table(bench.rows, title))
    for name in ("fit", "fit_from_fifth"):
        if name in about:
            console.print(
                f"{name}: {about[name]['chosen']} in {about[name]['fit_s']} s; {about[name]['reason']}"
            )
    console.print(json.dumps({name: about[name] for name in ("upload", "offline_rabitq") if name in about}))


if __name__ == "__main__":
    main()
