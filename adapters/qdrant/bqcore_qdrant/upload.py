"""Fill a collection: batches in parallel, each acknowledged; an interrupted upload is taken up again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from qdrant_client import models

from bqcore._validation import as_vectors, check_int, zero_rows
from bqcore_qdrant.codec import QdrantCodec
from bqcore_qdrant.collection import Collection
from bqcore_qdrant.formula import F_ADD, F_RESCALE
from bqcore_qdrant.inputs import PointId
from bqcore_qdrant.sources import Batch, open_source
from bqcore_qdrant.stages import factors

Progress = Callable[[int, int | None], None]
T = TypeVar("T")
R = TypeVar("R")

BATCH_SIZE = 256
# Batches that wait for a free thread, per thread.
_AHEAD = 2


class Target(Protocol):
    """What points are made for."""

    codec: QdrantCodec
    using: str


@dataclass(frozen=True)
class Uploaded:
    """What an upload did.

    Parameters
    ----------
    n_points : int
        In the source.
    n_written, n_present : int
        Sent now; found in the collection and left alone (``resume``).
    n_without_vector : int
        Zero vectors under cosine, and points that had none: written with id and payload only.
    """

    n_points: int
    n_written: int
    n_present: int
    n_without_vector: int


def upload(
    collection: Collection,
    source: Any,
    *,
    ids: Sequence[PointId] | None = None,
    payloads: Sequence[Mapping[str, Any]] | None = None,
    batch_size: int = BATCH_SIZE,
    parallel: int = 1,
    resume: bool = False,
    zero_vectors: str = "error",
    max_retries: int = 3,
    id_column: str = "id",
    vector_column: str | None = None,
    drop_invalid: bool = False,
    progress: Progress | None = None,
) -> Uploaded:
    """Transform and write points.

    A point is written whole or not at all, under its own id: whatever was cut off can be sent again, and with
    ``resume`` only what is missing is. Order of batches is kept only with one thread.

    Parameters
    ----------
    collection : Collection
    source, ids, payloads, id_column, vector_column
        As `sources.open_source` takes them.
    batch_size : int, default 256
    parallel : int, default 1
        Threads.
    resume : bool, default False
        Leave points alone whose ids are in the collection; else they are replaced.
    zero_vectors : {"error", "keep"}, default "error"
        Under cosine: refuse a zero vector, or write its point without the vector, so that searches skip it.
        The same goes for rows of a table that have no vector.
    max_retries : int, default 3
        Of a batch, by the client.
    drop_invalid : bool, default False
        Leave rows of a file out that have no vector, or hold NaN or inf.
    progress : callable, optional
        Called with points done and points in all (None where that is not known).

    Raises
    ------
    TypeError, ValueError
        If an id occurs twice, or a vector is zero (and that is refused), not finite, or of other dimensions.
        What came before is in the collection; correct the source and resume.
    """
    size = check_int(batch_size, name="batch_size", low=1)
    threads = check_int(parallel, name="parallel", low=1)
    if zero_vectors not in ("error", "keep"):
        raise ValueError(f"zero_vectors: expected 'error' or 'keep', not {zero_vectors!r}")
    limit = collection.strict_limit("upsert_max_batchsize")
    if limit is not None:
        size = min(size, int(limit))
    opened = open_source(
        source,
        batch_size=size,
        ids=ids,
        payloads=payloads,
        id_column=id_column,
        vector_column=vector_column,
        missing="drop" if drop_invalid else "keep" if zero_vectors == "keep" else "error",
    )
    asks = resume and collection.client.count(collection.name, exact=True).count > 0
    n_points = n_written = n_present = n_empty = 0

    def send(batch: Batch) -> tuple[int, int, int, int]:
        total = len(batch.ids)
        if asks:
            batch = missing(collection, batch)
        points, empty = as_points(collection, batch, zero_vectors)
        if points:
            collection.client.upload_points(
                collection.name, points, batch_size=len(points), max_retries=max_retries, wait=True
            )
        return total, len(points), total - len(points), empty

    batches = opened.batches if opened.has_distinct_ids else _distinct(opened.batches)
    for total, written, present, empty in _in_parallel(send, batches, threads):
        n_points, n_written = n_points + total, n_written + written
        n_present, n_empty = n_present + present, n_empty + empty
        if progress is not None:
            progress(n_points, opened.n)
    return Uploaded(n_points, n_written, n_present, n_empty)


def as_points(collection: Target, batch: Batch, zero_vectors: str) -> tuple[list[models.PointStruct], int]:
    """Return a batch as points of the collection, and how many of them have no vector."""
    codec = collection.codec
    if not batch.ids:
        return [], 0
    try:
        rows = as_vectors(batch.vectors, name="vectors", dim=codec.dim)
        empty = np.zeros(len(rows), dtype=bool) if batch.has_vector is None else ~batch.has_vector
        zeros = [i for i in zero_rows(rows) if not empty[i]] if codec.metric == "cosine" else []
        empty[zeros] = True
        if zeros and zero_vectors == "error":
            first = zeros[0]
            raise ValueError(
                f"vectors: expected a direction under cosine, but that of id {batch.ids[first]} is zero: "
                "leave it out, or keep its point without the vector (zero_vectors='keep')"
            )
    except ValueError as error:
        raise ValueError(f"points {batch.start} to {batch.start + len(batch.ids) - 1}: {error}") from error
    stored = codec.transform.apply(rows)
    lists = stored.tolist()
    extra = factors(codec.transform, rows, stored).tolist() if codec.transform.factors else None
    points = []
    for i, (id_, payload) in enumerate(zip(batch.ids, batch.payloads, strict=True)):
        vectors: dict[str, Any] = {} if batch.others is None else dict(batch.others[i])
        if not empty[i]:
            vectors[collection.using] = lists[i]
            if extra is not None:
                payload = {**payload, F_RESCALE: extra[i][0], F_ADD: extra[i][1]}
        points.append(models.PointStruct.model_construct(id=id_, vector=vectors, payload=payload))
    return points, int(empty.sum())


def missing(collection: Collection, batch: Batch) -> Batch:
    """Return the points of a batch that the collection does not have."""
    found = collection.client.retrieve(collection.name, ids=batch.ids, with_payload=False, with_vectors=False)
    known = {str(one.id) for one in found}
    rows = [i for i, id_ in enumerate(batch.ids) if str(id_) not in known]
    return batch if len(rows) == len(batch.ids) else batch.part(rows)


def _distinct(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Pass batches on and refuse an id that occurs twice."""
    seen: dict[PointId, int] = {}
    for batch in batches:
        for position, id_ in enumerate(batch.ids, batch.start):
            first = seen.setdefault(id_, position)
            if first != position:
                raise ValueError(
                    f"ids: expected every id once, but {id_} is that of points {first} and {position}"
                )
        yield batch


def _in_parallel(work: Callable[[T], R], items: Iterator[T], threads: int) -> Iterator[R]:
    """Yield results as they come; the first error stops the rest."""
    if threads == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        running: set[Future[R]] = set()
        try:
            for item in items:
                running.add(pool.submit(work, item))
                if len(running) >= threads * _AHEAD:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for one in done:
                        yield one.result()
            for one in running:
                yield one.result()
        except BaseException:
            for one in running:
                one.cancel()
            raise
