"""Recall of a live collection, against its own exact search."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from qdrant_client import models

from bqcore._validation import Float32Array, as_vectors, check_int, zero_rows
from bqcore_qdrant.collection import Collection
from bqcore_qdrant.payloads import count_without_factors
from bqcore_qdrant.sampling import sampled_vectors

Progress = Callable[[int, int], None]

MAX_QUERIES = 200
# Scores this close, relative to the k-th, are ties.
_TIE = 1e-5


@dataclass(frozen=True)
class Verification:
    """What a check of a live collection found.

    Parameters
    ----------
    recall, standard_error : float
        Mean recall@k over queries against exact search, and its standard error.
    predicted_recall : float, optional
        What the codec promised.
    n_queries, k : int
    ms, exact_ms : float
        Median time per query with the codec's parameters, and of exact search.
    points, indexed : int
        Points, and vectors that have graph and codes; fresh ones do not.
    n_without_factors : int, default 0
        Points whose corrective factors are gone, as after an application's `overwrite_payload`: searches put
        typical ones in their place. `restore_factors` writes them again.
    """

    recall: float
    standard_error: float
    predicted_recall: float | None
    n_queries: int
    k: int
    ms: float
    exact_ms: float
    points: int
    indexed: int
    n_without_factors: int = 0

    @property
    def is_as_predicted(self) -> bool:
        """Whether no point lacks its factors, and recall is hardly below the prediction.

        Hardly: by .02 and two standard errors at most.
        """
        if self.n_without_factors:
            return False
        if self.predicted_recall is None:
            return True
        return self.recall >= self.predicted_recall - 0.02 - 2 * self.standard_error

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return {**asdict(self), "is_as_predicted": self.is_as_predicted}


def verify(
    collection: Collection,
    queries: npt.ArrayLike | None = None,
    k: int = 10,
    *,
    n_queries: int = MAX_QUERIES,
    query_filter: models.Filter | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Measure recall@k of a collection as it is now.

    Exact search goes over primary storage, without codes and graph: where that is turbo or uint8, what it
    lost against the floats does not show here, but is part of the prediction.

    Parameters
    ----------
    collection : Collection
    queries : ndarray of float32, shape (n, dim), optional
        By default vectors of random points, each without itself among its results.
    k : int, default 10
    n_queries : int, default 200
        The most that are asked.
    query_filter : models.Filter, optional
        Measure searches under this filter.
    progress : callable, optional
        Called with queries done and queries in all.

    Raises
    ------
    ValueError
        If the collection is empty or its strict mode forbids exact search.
    """
    k = check_int(k, name="k", low=1)
    n_queries = check_int(n_queries, name="n_queries", low=1)
    if collection.strict_limit("search_allow_exact") is False:
        raise ValueError(
            f"collection {collection.name!r}: its strict mode forbids exact search, which verify needs"
        )
    info = collection.client.get_collection(collection.name)
    if not info.points_count:
        raise ValueError(f"collection {collection.name!r}: expected points, not 0")
    own: list[Any] = []
    if queries is None:
        own, asked = random_points(collection, n_queries)
    else:
        asked = as_vectors(queries, name="queries", dim=collection.codec.dim)[:n_queries]
        if collection.codec.metric == "cosine":
            asked = np.delete(asked, zero_rows(asked), axis=0)
    if not len(asked):
        raise ValueError(f"collection {collection.name!r}: expected vectors to ask for, not 0")
    shares, times, exact_times = [], [], []
    for i, query in enumerate(asked):
        depth = k + 1 if own else k
        exact, seconds = _timed(collection, query, depth, models.SearchParams(exact=True), query_filter)
        exact_times.append(seconds)
        found, seconds = _timed(collection, query, depth, None, query_filter)
        times.append(seconds)
        left_out = {str(own[i])} if own else set()
        truth = [point for point in exact if str(point.id) not in left_out][:k]
        if truth:
            shares.append(_share(truth, [p for p in found if str(p.id) not in left_out][:k], collection))
        if progress is not None:
            progress(i + 1, len(asked))
    return Verification(
        recall=float(np.mean(shares)),
        standard_error=float(np.std(shares) / math.sqrt(len(shares))),
        predicted_recall=collection.codec.option.recall if collection.codec.option else None,
        n_queries=len(shares),
        k=k,
        ms=float(np.median(times)) * 1e3,
        exact_ms=float(np.median(exact_times)) * 1e3,
        points=int(info.points_count),
        indexed=int(info.indexed_vectors_count or 0),
        n_without_factors=count_without_factors(collection),
    )


def _timed(
    collection: Collection, query: Float32Array, k: int, params: Any, query_filter: Any
) -> tuple[list[Any], float]:
    start = time.perf_counter()
    response = collection.query_points(
        query, limit=k, search_params=params, query_filter=query_filter, with_payload=False
    )
    return response.points, time.perf_counter() - start


def _share(truth: list[Any], found: list[Any], collection: Collection) -> float:
    """Share of the true neighbours found; a point that scores like the last of them counts as one."""
    known = {str(point.id) for point in truth}
    last = truth[-1].score
    slack = _TIE * max(abs(last), 1e-9)
    is_distance = collection.codec.metric == "l2"
    hits = sum(
        str(point.id) in known
        or (point.score <= last + slack if is_distance else point.score >= last - slack)
        for point in found
    )
    return float(min(hits, len(truth))) / len(truth)


def random_points(collection: Collection, n: int) -> tuple[list[Any], Float32Array]:
    """Return ids and vectors, as they were given, of random points that have the codec's vector."""
    codec = collection.codec
    most = collection.strict_limit("max_query_limit")
    ids, rows = sampled_vectors(collection.client, collection.name, collection.using, codec.dim, n, most)
    return ids, codec.decode(rows)
