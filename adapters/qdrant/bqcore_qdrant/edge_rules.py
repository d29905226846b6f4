"""What a server refuses before an engine sees it; the engine in this process gets the same requests."""

from __future__ import annotations

import math
from typing import Any

from qdrant_client import models

_LARGEST_SIZE, _LARGEST_NAME, _MMR_CANDIDATES = 65_536, 255, 16_384


def check_limit(limit: int | None, what: str = "limit") -> None:
    """Check a number of results."""
    if limit is not None and limit < 1:
        raise ValueError(f"{what} value {limit} is invalid. Must be 1 or larger.")


def check_request(request: models.QueryRequest) -> None:
    """Check a request and its stages as a server does.

    Raises
    ------
    ValueError
        If a number is out of range, a stage or query is missing, or `using` stands beside a fusion.
    """
    check_limit(request.limit)
    if request.offset is not None and request.offset < 0:
        raise ValueError(f"offset value {request.offset} is invalid. Must be 0 or larger.")
    _check_level(request)


def _stages(prefetch: Any) -> list[models.Prefetch]:
    if prefetch is None:
        return []
    return list(prefetch) if isinstance(prefetch, list | tuple) else [prefetch]


def _check_level(level: Any) -> None:
    query, stages = level.query, _stages(level.prefetch)
    if stages and query is None:
        raise ValueError("A query is needed to merge the prefetches.")
    if level.score_threshold is not None:
        if query is None:
            raise ValueError("A query is needed to use the score_threshold.")
        if isinstance(query, models.OrderByQuery):
            raise ValueError("Can't use score_threshold with an order_by query.")
        if math.isnan(level.score_threshold):
            raise ValueError("score_threshold: expected a number, not nan")
    is_fusion = isinstance(query, models.FusionQuery | models.RrfQuery)
    if is_fusion and level.using:
        raise ValueError("Fusion queries cannot be combined with the 'using' field.")
    if not stages and (is_fusion or isinstance(query, models.FormulaQuery)):
        raise ValueError(f"Cannot perform {type(query).__name__} without prefetches")
    _check_query(query, len(stages))
    _check_params(level.params)
    for stage in stages:
        check_limit(stage.limit, "prefetch limit")
        _check_level(stage)


def _check_query(query: Any, n_stages: int) -> None:
    if isinstance(query, models.RrfQuery):
        k, weights = query.rrf.k, query.rrf.weights
        if k is not None and k < 1:
            raise ValueError(f"rrf k value {k} is invalid. Must be 1 or larger.")
        if weights is not None and len(weights) != n_stages:
            raise ValueError(f"rrf weights: expected {n_stages}, one per prefetch, not {len(weights)}")
    elif isinstance(query, models.NearestQuery) and query.mmr is not None:
        diversity, most = query.mmr.diversity, query.mmr.candidates_limit
        if diversity is not None and not 0 <= diversity <= 1:
            raise ValueError(f"mmr diversity value {diversity} is invalid. Must be from 0.0 to 1.0.")
        if most is not None and not 0 <= most <= _MMR_CANDIDATES:
            raise ValueError(
                f"mmr candidates_limit value {most} is invalid. Must be from 0 to {_MMR_CANDIDATES}."
            )
    elif isinstance(query, models.RelevanceFeedbackQuery):
        b = query.relevance_feedback.strategy.naive.b
        if b < 0:
            raise ValueError(f"naive feedback b value {b} is invalid. Must be 0 or larger.")


def _check_params(params: models.SearchParams | None) -> None:
    if params is None:
        return
    over = params.quantization.oversampling if params.quantization is not None else None
    if over is not None and not over >= 1:
        raise ValueError(f"oversampling value {over} is invalid. Must be 1.0 or larger.")
    share = params.acorn.max_selectivity if params.acorn is not None else None
    if share is not None and not 0 <= share <= 1:
        raise ValueError(f"acorn max_selectivity value {share} is invalid. Must be from 0.0 to 1.0.")


def check_collection(name: str, vectors: dict[str, models.VectorParams]) -> None:
    """Check a new collection's name and sizes."""
    if len(name) > _LARGEST_NAME:
        raise ValueError(f"collection name: expected up to {_LARGEST_NAME} characters, not {len(name)}")
    for own, params in vectors.items():
        if not 1 <= params.size <= _LARGEST_SIZE:
            raise ValueError(f"vector {own!r}: expected a size in 1..{_LARGEST_SIZE}, not {params.size}")


def check_order(order_by: Any, offset: Any) -> None:
    """Check the arguments of an ordered scroll."""
    if order_by is not None and offset is not None:
        raise ValueError("Offset is not supported in conjunction with `order_by` scroll parameter")
