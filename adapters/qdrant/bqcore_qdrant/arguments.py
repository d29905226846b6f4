"""Arguments of `query_points` as requests, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from qdrant_client import models


def vector_requests(
    queries: npt.NDArray[np.float32],
    using: str,
    k: int,
    query_filter: models.Filter | None,
    search_params: models.SearchParams | None,
    score_threshold: float | None,
) -> list[models.QueryRequest]:
    """Return requests for the k nearest points of queries, shape (n_queries, dim), without payload."""
    return [
        make_request(query, using, None, query_filter, search_params, k, None, False, False, score_threshold)
        for query in queries
    ]


def make_request(
    query: Any,
    using: str | None,
    prefetch: Any,
    query_filter: Any,
    search_params: Any,
    limit: int,
    offset: int | None,
    with_payload: Any,
    with_vectors: Any,
    score_threshold: float | None,
    lookup_from: models.LookupLocation | None = None,
) -> models.QueryRequest:
    """Put arguments of `query_points` into a request; arrays are checked by the codec, not by the model."""
    return models.QueryRequest.model_construct(
        query=query,
        using=using,
        prefetch=prefetch,
        filter=query_filter,
        params=search_params,
        limit=limit,
        offset=offset,
        with_payload=with_payload,
        with_vector=with_vectors,
        score_threshold=score_threshold,
        lookup_from=lookup_from,
    )


def as_arguments(request: models.QueryRequest) -> dict[str, Any]:
    """Return a request as arguments of `query_points`."""
    return {
        "query": request.query,
        "using": request.using,
        "prefetch": request.prefetch,
        "query_filter": request.filter,
        "search_params": request.params,
        "limit": request.limit,
        "offset": request.offset,
        "with_payload": request.with_payload,
        "with_vectors": request.with_vector,
        "score_threshold": request.score_threshold,
        "lookup_from": request.lookup_from,
    }
