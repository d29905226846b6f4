"""A collection for vectors: the configuration that `bqcore qdrant advise` would choose, and the commands."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore._validation import Float32Array
from bqcore.study.source import shell_path
from bqcore_qdrant.choose import Option
from bqcore_qdrant.codec import QdrantCodec

#: Rows and queries that storages are ranked by, and those that the best of them are predicted from.
SAMPLE_ROWS, SAMPLE_QUERIES, REFINED_ROWS, REFINED_QUERIES = 5_000, 150, 20_000, 200
#: Features that are used where no server is asked.
SERVER = "1.20"
# Storages that are predicted from more rows.
_REFINED = 4
#: HNSW's links, the same for every configuration, in bytes per vector.
GRAPH_BYTES = 45
# A server indexes segments from 10,000 kB on and has up to eight of them. Other points are coded without the
# statistics of the rows: up to .03 less recall than predicted.
_MOST_UNINDEXED = 8 * 10_000 * 1024
_SMALL_THRESHOLD = 1


def sampled(X: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    """Return a random sample of rows in their order, the same every time."""
    if rows >= len(X):
        return X
    return np.asarray(X[np.sort(np.random.default_rng(0).choice(len(X), rows, replace=False))])


def fit(
    X: Float32Array,
    queries: Float32Array | None,
    metric: str,
    *,
    target_recall: float,
    bytes_per_vector: int | None = None,
    n_total: int,
    k: int = 10,
    server_version: str = SERVER,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[QdrantCodec, Option]:
    """Choose a configuration: storages are ranked by few rows, the best of them predicted from more.

    Parameters
    ----------
    X, queries, metric, target_recall, n_total, k, server_version, progress
        As `QdrantCodec.fit`.
    bytes_per_vector : int, optional
        In place of `target_recall`: the best recall within them.

    Returns
    -------
    codec : QdrantCodec
        With its options.
    option : Option
        The chosen one.

    Raises
    ------
    TypeError, ValueError
        As `QdrantCodec.fit`.
    """
    goal: dict[str, Any] = (
        {"bytes_per_vector": bytes_per_vector} if bytes_per_vector else {"target_recall": target_recall}
    )
    asked = None if queries is None else sampled(queries, SAMPLE_QUERIES)
    about: dict[str, Any] = {"server_version": server_version, "k": k, "n_total": n_total}
    codec = QdrantCodec.fit(
        sampled(X, SAMPLE_ROWS), metric, queries=asked, progress=progress, **about, **goal
    )
    if len(X) > SAMPLE_ROWS:
        # Few rows tell which storages are worth it, more of them at how many candidates.
        first = dict.fromkeys(option.config.storage for option in codec.options)
        codec = QdrantCodec.fit(
            sampled(X, REFINED_ROWS),
            metric,
            queries=None if queries is None else sampled(queries, REFINED_QUERIES),
            among=list(first)[:_REFINED],
            progress=progress,
            **about,
            **goal,
        )
    assert codec.option is not None
    return codec, codec.option


def commands(
    data: str,
    option: Option,
    metric: str,
    *,
    name: str,
    upload: str | None,
    queries: str | None = None,
    k: int = 10,
    url: str | None = None,
    server_version: str = SERVER,
    rows: int | None = None,
    float_nbytes: int | None = None,
    column: str | None = None,
    drop_invalid: bool = False,
    has_zeros: bool = False,
    has_usable_ids: bool = True,
) -> list[str]:
    """Return shell lines that set up, fill and check a collection for a configuration.

    Parameters
    ----------
    data : str
        Path of the vectors.
    option : Option
        What is set up.
    metric : {"l2", "ip", "cosine"}
    name : str
        Of the collection; files and the engine's folder are named after it.
    upload : str or None
        File that is uploaded; None leaves the upload to the reader.
    queries : str, optional
        File of queries that recall is checked with; by default points of the collection are.
    k : int, default 10
    url : str, optional
        Server; without it the embedded engine in a folder.
    server_version : str
    rows : int, optional
        Sample that recall is predicted from.
    float_nbytes : int, optional
        Of all vectors as float32. Where segments may stay below the server's threshold, the collection
        gets a lower one.
    column : str, optional
        Of the file, where it has several of vectors.
    drop_invalid : bool, default False
        Rows that are not finite are left out.
    has_zeros : bool, default False
        Under cosine: whether zero vectors may be among the rows.
    has_usable_ids : bool, default True
        False where the file has an id column with values that Qdrant does not take: ids are row numbers.
    """
    where = f"--url {shlex.quote(url)}" if url else f"--edge {shlex.quote(f'qdrant_{name}')}"
    codec = shlex.quote(f"{name}-qdrant.npz")
    sample = f" --rows {rows}" if rows else ""
    is_small = float_nbytes is not None and float_nbytes < _MOST_UNINDEXED
    threshold = f" --indexing-threshold {_SMALL_THRESHOLD}" if is_small else ""
    drop = " --drop-invalid" if drop_invalid else ""
    named = "" if column is None else f" --column {shlex.quote(column)}"
    lines = [
        f"bqcore qdrant advise {shell_path(data)}{named}{drop} --metric {metric} "
        f"--config {shlex.quote(option.config.name)} --transform {option.kind} "
        f"--k {k}{sample} --server-version {server_version} --output {codec}",
        f"bqcore qdrant create {codec} {name} {where}{threshold}",
    ]
    if upload is not None:
        options = "" if column is None else f" --vector-column {shlex.quote(column)}"
        options += "" if has_usable_ids else " --id-column ''"
        options += f"{drop} --keep-zero" if has_zeros and metric == "cosine" else drop
        lines.append(f"bqcore qdrant upload {codec} {name} {shell_path(upload)} {where}{options}")
    asked = f" --queries {shell_path(queries)}" if queries else ""
    return [*lines, f"bqcore qdrant verify {codec} {name} {where} --k {k}{asked}"]


def option_dict(option: Option) -> dict[str, Any]:
    """Return an option as JSON shows it."""
    return {
        "config": option.config.name,
        "transform": option.kind,
        "recall": option.recall,
        "codes_recall": option.recall_without_rescore,
        "raw_recall": option.raw_recall,
        "oversampling": option.config.oversampling,
        "hnsw_ef": option.config.hnsw_ef,
        "ram_bytes": option.bytes_ram + GRAPH_BYTES,
        "disk_bytes": option.bytes_disk + GRAPH_BYTES,
        "reason": option.reason,
    }


def migrate_commands(
    source: str,
    target: str,
    *,
    url: str,
    using: str = "",
    target_recall: float,
    bytes_per_vector: int | None = None,
) -> list[str]:
    """Return shell lines that copy a collection into one set up by bqcore, and check it."""
    codec = shlex.quote(f"{target}-qdrant.npz")
    goal = (
        f"--bytes-per-vector {bytes_per_vector}" if bytes_per_vector else f"--target-recall {target_recall:g}"
    )
    vector = f" --using {shlex.quote(using)}" if using else ""
    names = f"{shlex.quote(source)} {shlex.quote(target)}"
    return [
        f"bqcore qdrant migrate {names} --url {shlex.quote(url)}{vector} {goal} --codec {codec}",
        f"bqcore qdrant verify {codec} {shlex.quote(target)} --url {shlex.quote(url)}{vector}",
    ]
