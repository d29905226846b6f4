"""`bqcore demo --qdrant`: raw configurations of Qdrant's engine beside the ones that bqcore chooses."""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from rich import box
from rich.table import Table

from bqcore.cli import tables
from bqcore.cli.demo_data import K, Problem
from bqcore.cli.progress import Stages

if TYPE_CHECKING:
    from bqcore_qdrant import QdrantCodec

TARGET = 0.95
# What users set up by hand, with Qdrant's own advice for oversampling.
_RAW = (
    "none+float32 x1",
    "scalar8+float32 x2",
    "binary1/binary+float32 x4",
    "binary1/scalar4bits+float32 x4",
    "turbo1+float32 x4",
)
# Options of ours that are built.
_OURS = 2


@dataclass(frozen=True)
class Row:
    """One configuration, measured."""

    who: str
    config: str
    transform: str
    predicted_recall: float
    recall_at_10: float
    ms: float
    bytes_ram: int
    bytes_disk: int


def require() -> None:
    """Find out at once whether the adapter is there."""
    try:
        import qdrant_edge  # noqa: F401

        import bqcore_qdrant  # noqa: F401
    except ImportError as error:
        raise ImportError(f"--qdrant needs pip install 'bqcore[qdrant]' ({error})") from error


def run(problem: Problem, stages: Stages, json_path: str | None) -> None:
    """Measure raw configurations and ours, and print them side by side."""
    from bqcore_qdrant import Config, QdrantCodec, Transform
    from bqcore_qdrant.predict import Sample

    with stages.stage("choose a configuration") as bar:

        def show(text: str, done: int, total: int) -> None:
            bar.describe(text)
            bar(done, total)

        chosen = QdrantCodec.fit(
            problem.base, problem.metric, target_recall=TARGET, queries=problem.queries, progress=show
        )
    sample = Sample(problem.base, problem.queries, problem.metric, K, len(problem.base), 0)
    raw = Transform.fit(problem.base, problem.metric, "raw")  # type: ignore[arg-type]
    asked: list[tuple[str, QdrantCodec, float]] = []
    for name in _RAW:
        config = Config.parse(name)
        predicted = sample.predict(raw, [config], [config.oversampling])[0].recall[config.oversampling]
        asked.append(("raw", QdrantCodec(raw, config), predicted))
    for option in chosen.options[:_OURS]:
        asked.append(("bqcore", chosen.with_option(option, problem.base), option.recall))
    rows = []
    for who, codec, predicted in asked:
        with stages.stage(f"{codec.config.name}, {codec.transform.kind}"):
            rows.append(_measured(who, codec, predicted, problem))
    n, dim = problem.base.shape
    title = f"{problem.name}: {n:,} vectors of {dim} dimensions, {problem.metric}, target recall {TARGET}"
    out: TextIO = sys.stderr if json_path == "-" else sys.stdout
    tables.print_table(_table(rows, title), out)
    print(f"Chosen: {chosen.config.name}: {chosen.reason}", file=out)
    if json_path is not None:
        document = {
            "data": {"name": problem.name, "rows": n, "dim": dim, "metric": problem.metric},
            "target_recall": TARGET,
            "chosen": chosen.header(),
            "measurements": [vars(row) for row in rows],
            "stage_seconds": stages.seconds,
        }
        tables.write_json(document, json_path)


def _measured(who: str, codec: QdrantCodec, predicted: float, problem: Problem) -> Row:
    import numpy as np

    from bqcore.evaluation import recall
    from bqcore_qdrant import Collection, upload
    from bqcore_qdrant.edge import EdgeClient

    with tempfile.TemporaryDirectory(prefix="bqcore-demo-") as folder, EdgeClient(folder) as client:
        collection = Collection.create(client, "demo", codec)
        upload(collection, problem.base, batch_size=1000)
        collection.optimize()
        found: Any = np.full((len(problem.queries), K), -1, dtype=np.int64)
        times = []
        for i, query in enumerate(problem.queries):
            start = time.perf_counter()
            points = collection.query_points(query, limit=K, with_payload=False).points
            times.append(time.perf_counter() - start)
            found[i, : len(points)] = [point.id for point in points]
    measured = recall(
        found, problem.ground_truth, K, X=problem.base, Q=problem.queries, metric=problem.metric
    )
    distance = codec.transform.distance
    return Row(
        who=who,
        config=codec.config.name,
        transform=codec.transform.kind,
        predicted_recall=round(predicted, 4),
        recall_at_10=round(measured, 4),
        ms=round(float(np.median(times)) * 1e3, 3),
        bytes_ram=codec.config.bytes_ram(codec.dim, distance),
        bytes_disk=codec.config.bytes_disk(codec.dim, distance),
    )


def _table(rows: list[Row], title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("who", no_wrap=True)
    table.add_column("configuration", no_wrap=True)
    table.add_column("transform", no_wrap=True)
    for heading in ("predicted", "recall@10", "ms/query", "RAM B", "disk B"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.who,
            row.config,
            row.transform,
            f"{row.predicted_recall:.3f}",
            f"{row.recall_at_10:.3f}",
            f"{row.ms:.2f}",
            str(row.bytes_ram),
            str(row.bytes_disk),
        )
    return table
