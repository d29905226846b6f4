"""Bring an existing collection into one that bqcore sets up: ids, payloads and other vectors are kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from qdrant_client import models

from bqcore._validation import Float32Array
from bqcore_qdrant.collection import Collection
from bqcore_qdrant.formula import without_factors
from bqcore_qdrant.sources import Batch, Source, as_id
from bqcore_qdrant.upload import BATCH_SIZE, Progress, Uploaded, upload

# Points whose scores are compared, and results of each.
_SAMPLE, _TOP = 50, 10
METRICS = {models.Distance.COSINE: "cosine", models.Distance.EUCLID: "l2", models.Distance.DOT: "ip"}


@dataclass(frozen=True)
class Migration:
    """What a migration did, and how the two collections compare.

    Parameters
    ----------
    uploaded : Uploaded
    source_points, target_points : int
    n_sampled : int
        Points asked for in both collections by exact search.
    largest_score_error : float
        Largest difference of a score, relative to the largest score of its query.
    same_results : float
        Share of results that both have.
    payloads_equal : bool
        Of the sampled points.
    """

    uploaded: Uploaded
    source_points: int
    target_points: int
    n_sampled: int
    largest_score_error: float
    same_results: float
    payloads_equal: bool


def source_vector(client: Any, name: str, using: str = "") -> models.VectorParams:
    """Return the parameters of a collection's vector.

    Raises
    ------
    ValueError
        If the collection or its vector does not exist, or has several vectors per point, or Manhattan
        distances.
    """
    if not client.collection_exists(name):
        raise ValueError(f"collection {name!r}: expected one that exists")
    vectors = client.get_collection(name).config.params.vectors
    named = vectors if isinstance(vectors, dict) else {"": vectors}
    if using not in named or named[using] is None:
        raise ValueError(
            f"collection {name!r}: expected a vector {using!r}, not only {', '.join(map(repr, named))}"
        )
    params: models.VectorParams = named[using]
    if params.multivector_config is not None:
        raise ValueError(f"collection {name!r}: expected one vector per point under {using!r}, not several")
    if params.distance not in METRICS:
        raise ValueError(f"collection {name!r}: expected Cosine, Euclid or Dot, not {params.distance}")
    return params


def other_vectors(
    client: Any, name: str, using: str
) -> tuple[dict[str, models.VectorParams], dict[str, models.SparseVectorParams]]:
    """Return the parameters of a collection's vectors beside one: dense and sparse."""
    params = client.get_collection(name).config.params
    named = params.vectors if isinstance(params.vectors, dict) else {}
    dense = {key: value for key, value in named.items() if key != using}
    return dense, dict(params.sparse_vectors or {})


def sample_vectors(client: Any, name: str, using: str, n: int) -> Float32Array:
    """Return vectors of up to n random points, shape (n, dim): what a codec is fitted on."""
    wanted: Any = [using] if using else True
    found = client.query_points(
        name,
        query=models.SampleQuery(sample=models.Sample.RANDOM),
        limit=n,
        with_payload=False,
        with_vectors=wanted,
    )
    rows = [vector for point in found.points if (vector := _vector(point.vector, using)) is not None]
    if not rows:
        raise ValueError(f"collection {name!r}: expected points with a vector {using!r}, not 0")
    return np.asarray(rows, dtype=np.float32)


def _vector(value: Any, using: str) -> Any:
    if isinstance(value, dict):
        return value.get(using)
    return value if using == "" else None


def migrate(
    client: Any,
    name: str,
    target: Collection,
    *,
    using: str = "",
    batch_size: int = BATCH_SIZE,
    parallel: int = 1,
    resume: bool = True,
    max_retries: int = 3,
    progress: Progress | None = None,
) -> Migration:
    """Copy a collection through the codec, by scrolling, and compare.

    Points without the vector, or whose vector is zero under cosine, keep id, payload and other vectors.

    Parameters
    ----------
    client : QdrantClient or EdgeClient
        Of the source; it may be the target's.
    name : str
        Source collection, which is not changed.
    target : Collection
    using : str, default ""
        The vector that goes through the codec; "" is the unnamed one. Others keep their names.
    batch_size, parallel, resume, max_retries, progress
        As in `upload`.

    Raises
    ------
    ValueError
        If dimensions or metrics differ, or a vector of the source has the name of the codec's.
    """
    params = source_vector(client, name, using)
    codec = target.codec
    if params.size != codec.dim:
        raise ValueError(f"collection {name!r}: expected {codec.dim} dimensions, not {params.size}")
    if METRICS[params.distance] != codec.metric:
        raise ValueError(
            f"collection {name!r}: expected metric {codec.metric}, not {METRICS[params.distance]}"
        )
    n = client.count(name, exact=True).count
    source = Source(_scrolled(client, name, using, target.using, codec.dim, batch_size), n)
    uploaded = upload(
        target,
        source,
        batch_size=batch_size,
        parallel=parallel,
        resume=resume,
        zero_vectors="keep",
        max_retries=max_retries,
        progress=progress,
    )
    return compare(client, name, target, using=using, uploaded=uploaded)


def _scrolled(
    client: Any, name: str, using: str, target_using: str, dim: int, batch_size: int
) -> Iterator[Batch]:
    offset: Any = None
    start = 0
    while True:
        points, offset = client.scroll(
            name, limit=batch_size, offset=offset, with_payload=True, with_vectors=True
        )
        if points:
            rows = np.zeros((len(points), dim), dtype=np.float32)
            others: list[dict[str, Any]] = []
            for i, point in enumerate(points):
                vectors = point.vector if isinstance(point.vector, dict) else {"": point.vector}
                own = vectors.get(using)
                if own is not None:
                    rows[i] = own
                rest = {key: value for key, value in vectors.items() if key != using and value is not None}
                if target_using in rest:
                    raise ValueError(f"collection {name!r}: expected no other vector named {target_using!r}")
                others.append(rest)
            yield Batch(
                [as_id(point.id) for point in points],
                rows,
                [dict(point.payload or {}) for point in points],
                others,
                start,
            )
            start += len(points)
        if offset is None:
            return


def compare(client: Any, name: str, target: Collection, *, using: str, uploaded: Uploaded) -> Migration:
    """Count both collections and compare exact scores and payloads of sampled points."""
    exact = models.SearchParams(exact=True)
    found = client.query_points(
        name,
        query=models.SampleQuery(sample=models.Sample.RANDOM),
        limit=_SAMPLE,
        with_payload=True,
        with_vectors=[using] if using else True,
    )
    errors, same, equal, n_sampled = [0.0], [], True, 0
    for point in found.points:
        there = target.client.retrieve(target.name, ids=[point.id], with_payload=True, with_vectors=False)
        if not there:
            equal = False
            continue
        equal &= (without_factors(there[0].payload) or {}) == (point.payload or {})
        vector = _vector(point.vector, using)
        if vector is None or (target.codec.metric == "cosine" and not any(vector)):
            continue
        n_sampled += 1
        old = client.query_points(
            name, query=vector, using=using or None, limit=_TOP, search_params=exact, with_payload=False
        ).points
        new = target.query_points(vector, limit=_TOP, search_params=exact, with_payload=False).points
        scores = {str(one.id): one.score for one in old}
        scale = max((abs(score) for score in scores.values()), default=1.0) or 1.0
        errors += [abs(one.score - scores[str(one.id)]) / scale for one in new if str(one.id) in scores]
        same.append(len({str(one.id) for one in new} & set(scores)) / max(1, len(scores)))
    return Migration(
        uploaded=uploaded,
        source_points=client.count(name, exact=True).count,
        target_points=target.client.count(target.name, exact=True).count,
        n_sampled=n_sampled,
        largest_score_error=max(errors),
        same_results=float(np.mean(same)) if same else 1.0,
        payloads_equal=equal,
    )
