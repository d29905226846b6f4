"""Bring an existing collection into one that bqcore sets up: ids, payloads and other vectors are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from qdrant_client import models

from bqcore._validation import Float32Array
from bqcore_qdrant.codec import QdrantCodec
from bqcore_qdrant.collection import Collection
from bqcore_qdrant.formula import F_ADD, F_RESCALE, without_factors
from bqcore_qdrant.identity import KEY
from bqcore_qdrant.inputs import as_id
from bqcore_qdrant.requests import decode_points
from bqcore_qdrant.sampling import own_vector, random_ids, read_points, sampled_vectors, strict_limit
from bqcore_qdrant.sources import Batch, Source
from bqcore_qdrant.upload import BATCH_SIZE, Progress, Uploaded, upload

# Points whose scores are compared, and results of each.
_SAMPLE, _TOP = 50, 10
# Of these, that are asked for together.
_BATCH = 25
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
    indexes : tuple of str
        Payload fields that are indexed in the target as they are in the source.
    """

    uploaded: Uploaded
    source_points: int
    target_points: int
    n_sampled: int
    largest_score_error: float
    same_results: float
    payloads_equal: bool
    indexes: tuple[str, ...] = ()


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


def source_of(client: Any, name: str, using: str, codec: QdrantCodec | None) -> Collection | None:
    """Return the collection that bqcore set up for a vector; None where it holds vectors as they are.

    Raises
    ------
    ValueError
        If it was set up with a codec and that is missing or another one.
    """
    if codec is not None:
        return Collection(client, name, codec, using)
    metadata = getattr(client.get_collection(name).config, "metadata", None) or {}
    found = metadata.get(KEY)
    if isinstance(found, dict) and found.get("vector") == using:
        raise ValueError(
            f"collection {name!r}: expected its codec {found.get('codec')} (source_codec), not None"
        )
    return None


def sample_vectors(
    client: Any, name: str, using: str, n: int, source_codec: QdrantCodec | None = None
) -> Float32Array:
    """Return vectors of up to n random points, shape (n, dim): what a codec is fitted on."""
    dim, most = source_vector(client, name, using).size, strict_limit(client, name, "max_query_limit")
    _, found = sampled_vectors(client, name, using, dim, n, most)
    if not len(found):
        raise ValueError(f"collection {name!r}: expected points with a vector {using!r}, not 0")
    return found if source_codec is None else source_codec.decode(found)


def _allowed(client: Any, name: str, wanted: int, limit: str = "max_query_limit") -> int:
    """Return a number, cut down to a limit of the source's strict mode."""
    most = strict_limit(client, name, limit)
    return wanted if most is None else min(wanted, most)


def copy_indexes(client: Any, name: str, target: Collection) -> tuple[str, ...]:
    """Index payload fields of a collection as those of another one are; return which."""
    there = target.client.get_collection(target.name).payload_schema or {}
    fields = {
        field: info
        for field, info in (client.get_collection(name).payload_schema or {}).items()
        if field not in (F_ADD, F_RESCALE)
    }
    for field, info in fields.items():
        if field not in there:
            schema = info.data_type if info.params is None else info.params
            target.client.create_payload_index(target.name, field_name=field, field_schema=schema)
    return tuple(sorted(fields))


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
    source_codec: QdrantCodec | None = None,
    progress: Progress | None = None,
) -> Migration:
    """Copy a collection through the codec, by scrolling, and compare.

    Points without the vector, or whose vector is zero under cosine, keep id, payload and other vectors.
    Payload fields are indexed as in the source.

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
    source_codec : QdrantCodec, optional
        Where bqcore set up the source, too: its vectors are brought back first.

    Raises
    ------
    ValueError
        If dimensions or metrics differ, a vector of the source has the name of the codec's, or the source
        was set up with another codec than `source_codec`.
    """
    params = source_vector(client, name, using)
    codec = target.codec
    if params.size != codec.dim:
        raise ValueError(f"collection {name!r}: expected {codec.dim} dimensions, not {params.size}")
    old = source_of(client, name, using, source_codec)
    metric = METRICS[params.distance] if old is None else old.codec.metric
    if metric != codec.metric:
        raise ValueError(f"collection {name!r}: expected metric {codec.metric}, not {metric}")
    n = client.count(name, exact=True).count
    page = _allowed(client, name, batch_size)
    source = Source(_scrolled(client, name, using, target.using, codec.dim, page, old), n, True)
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
    indexes = copy_indexes(client, name, target)
    return compare(client, name, target, old, using=using, uploaded=uploaded, indexes=indexes)


def _scrolled(
    client: Any, name: str, using: str, target_using: str, dim: int, batch_size: int, old: Collection | None
) -> Iterator[Batch]:
    offset: Any = None
    start = 0
    while True:
        points, offset = client.scroll(
            name, limit=batch_size, offset=offset, with_payload=True, with_vectors=True
        )
        if points:
            if old is not None:
                decode_points(old.codec, using, points)
            rows = np.zeros((len(points), dim), dtype=np.float32)
            has_vector = np.zeros(len(points), dtype=bool)
            others: list[dict[str, Any]] = []
            for i, point in enumerate(points):
                vectors = point.vector if isinstance(point.vector, dict) else {"": point.vector}
                own = vectors.get(using)
                if own is not None:
                    rows[i], has_vector[i] = own, True
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
                has_vector,
            )
            start += len(points)
        if offset is None:
            return


def compare(
    client: Any,
    name: str,
    target: Collection,
    old: Collection | None,
    *,
    using: str,
    uploaded: Uploaded,
    indexes: tuple[str, ...],
) -> Migration:
    """Count both collections and compare exact scores and payloads of sampled points."""
    chosen = random_ids(client, name, _SAMPLE, strict_limit(client, name, "max_query_limit"))
    points = read_points(client, name, chosen, using, target.codec.dim, with_payload=True)
    if old is not None:
        decode_points(old.codec, using, points)
    ids = [point.id for point in points]
    there = {
        str(one.id): one.payload or {}
        for one in target.client.retrieve(target.name, ids=ids, with_payload=True, with_vectors=False)
    }
    equal = all(without_factors(there.get(str(point.id))) == (point.payload or {}) for point in points)
    vectors = [
        vector
        for point in points
        if str(point.id) in there and (vector := own_vector(point.vector, using)) is not None
        if target.codec.metric != "cosine" or any(vector)
    ]
    ask_old = partial(client.query_batch_points, name) if old is None else old.query_batch_points
    before = _asked(ask_old, using, vectors, _allowed(client, name, _BATCH, "search_max_batchsize"))
    after = _asked(
        target.query_batch_points, target.using, vectors, target.allowed(_BATCH, "search_max_batchsize")
    )
    errors, same = [0.0], []
    for found, new in zip(before, after, strict=True):
        scores = {str(one.id): one.score for one in found}
        scale = max((abs(score) for score in scores.values()), default=1.0) or 1.0
        errors += [abs(one.score - scores[str(one.id)]) / scale for one in new if str(one.id) in scores]
        same.append(len({str(one.id) for one in new} & set(scores)) / max(1, len(scores)))
    return Migration(
        uploaded=uploaded,
        source_points=client.count(name, exact=True).count,
        target_points=target.client.count(target.name, exact=True).count,
        n_sampled=len(vectors),
        largest_score_error=max(errors),
        same_results=float(np.mean(same)) if same else 1.0,
        payloads_equal=equal,
        indexes=indexes,
    )


def _asked(
    ask: Callable[[list[models.QueryRequest]], Any], using: str, vectors: list[Any], step: int
) -> list[list[Any]]:
    """Return the exact results for vectors, each a list of points, asked for in batches."""
    wanted = [
        models.QueryRequest(
            query=vector,
            using=using or None,
            limit=_TOP,
            params=models.SearchParams(exact=True),
            with_payload=False,
        )
        for vector in vectors
    ]
    out: list[list[Any]] = []
    for start in range(0, len(wanted), step):
        out += [response.points for response in ask(wanted[start : start + step])]
    return out
