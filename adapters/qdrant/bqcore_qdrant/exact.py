"""Exact search of a collection with corrective factors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from qdrant_client import models

from bqcore._validation import Float32Array, unit_or_zero_rows
from bqcore_qdrant.codec import QdrantCodec
from bqcore_qdrant.formula import F_ADD, defaults_of


def exact_with_factors(
    codec: QdrantCodec, using: str, query: Float32Array, request: models.QueryRequest, n_points: int | None
) -> tuple[dict[str, Any], float]:
    """Return what changes in a request, so that it finds the nearest of all points, and their scores' shift.

    Under ip and cosine <R q, R (x - c)> = <q, x> - <q, c>: the query as it is, rotated only, orders all
    points, and factors play no part. Under l2 they do: all points are completed with theirs.

    Parameters
    ----------
    codec : QdrantCodec
        With factors.
    using : str
    query : ndarray of float32, shape (dim,)
    request : models.QueryRequest
        What was asked; ``params.exact`` is set.
    n_points : int, optional
        In the collection; l2 needs it.

    Raises
    ------
    ValueError
        If l2 lacks `n_points`, or the query is zero under cosine.
    """
    transform, rows = codec.transform, query[np.newaxis]
    encoded = codec.encode_query(query)  # checks it
    wanted = request.score_threshold
    if codec.metric == "l2":
        if n_points is None:
            raise ValueError("n_points: expected the number of points for an exact search, not None")
        shift = float(transform.query_shift(rows)[0])
        depth = max(n_points, (request.limit or 10) + (request.offset or 0))
        every = models.Prefetch(
            query=encoded.tolist(), using=using, limit=depth, params=request.params, filter=request.filter
        )
        return {
            "prefetch": [every],
            "query": models.FormulaQuery(
                formula=models.SumExpression(sum=["$score", F_ADD]), defaults=defaults_of(codec)
            ),
            "using": None,
            "params": None,
            "filter": None,
            "score_threshold": None if wanted is None else transform.threshold(wanted, shift),
        }, shift
    plain = replace(transform, factors=False, mean=np.zeros_like(transform.mean))
    queries = unit_or_zero_rows(rows) if codec.metric == "cosine" else rows
    shift = float(queries[0].astype(np.float64) @ transform.mean.astype(np.float64))
    return {
        "query": plain.apply_query(rows)[0].tolist(),
        "using": using,
        "score_threshold": None if wanted is None else wanted - shift,
    }, shift
