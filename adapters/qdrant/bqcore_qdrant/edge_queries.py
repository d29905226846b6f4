"""Queries in the words of qdrant-edge-py. Ids of points have become vectors before (`edge_lookup.py`)."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import qdrant_edge as edge
from qdrant_client import models

from bqcore_qdrant.edge_expressions import expression
from bqcore_qdrant.edge_fields import member, only, text_of, unknown
from bqcore_qdrant.edge_filters import datetime_text, filter_
from bqcore_qdrant.edge_points import payload_selector, vector
from bqcore_qdrant.inputs import is_array

# Results where none are asked for, and the server's constant of reciprocal ranks.
DEFAULT_LIMIT, _RRF_K, _DIVERSITY = 10, 2, 0.5


def search_params(value: models.SearchParams | None) -> Any:
    """Return search parameters; None stays None."""
    if value is None:
        return None
    only(value, "hnsw_ef", "exact", "indexed_only", "quantization", "acorn", "idf")
    quantization: Any = value.quantization
    acorn: Any = value.acorn
    if quantization is not None:
        only(quantization, "ignore", "rescore", "oversampling")
        quantization = edge.QuantizationSearchParams(
            ignore=bool(quantization.ignore),
            rescore=quantization.rescore,
            oversampling=quantization.oversampling,
        )
    if acorn is not None:
        only(acorn, "enable", "max_selectivity")
        acorn = edge.AcornSearchParams(enable=bool(acorn.enable), max_selectivity=acorn.max_selectivity)
    return edge.SearchParams(
        hnsw_ef=value.hnsw_ef,
        exact=bool(value.exact),
        indexed_only=bool(value.indexed_only),
        quantization=quantization,
        acorn=acorn,
        idf=_idf(value.idf),
    )


def _idf(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, models.IdfCorpusParams):
        only(value, "corpus")
        return edge.IdfParams(corpus=filter_(value.corpus))
    if text_of(value) == "global":
        return edge.IdfParams()
    raise unknown("statistics of terms", value)


def query(value: Any, using: str | None, limit: int) -> Any:
    """Return a query; None stays None.

    Parameters
    ----------
    value : object
        Of qdrant-client's models, or a vector.
    using : str, optional
    limit : int
        Results wanted: candidates of MMR where it names no number.

    Raises
    ------
    TypeError, ValueError
        If the engine has no such query.
    """
    if value is None:
        return None
    if isinstance(value, models.NearestQuery):
        only(value, "nearest", "mmr")
        if value.mmr is None:
            return query(value.nearest, using, limit)
        return _mmr(value.nearest, value.mmr, using, limit)
    if isinstance(value, models.RecommendQuery):
        return _recommend(value.recommend, using)
    if isinstance(value, models.DiscoverQuery):
        only(value.discover, "target", "context")
        pairs = _pairs(value.discover.context)
        return edge.Query.Discover(edge.DiscoverQuery(vector(value.discover.target), pairs), using=using)
    if isinstance(value, models.ContextQuery):
        return edge.Query.Context(edge.ContextQuery(_pairs(value.context)), using=using)
    if isinstance(value, models.RelevanceFeedbackQuery):
        return _feedback(value.relevance_feedback, using)
    if isinstance(value, models.FusionQuery):
        is_rrf = value.fusion == models.Fusion.RRF
        return edge.Fusion.Rrf(_RRF_K) if is_rrf else edge.Fusion.Dbsf()
    if isinstance(value, models.RrfQuery):
        only(value.rrf, "k", "weights")
        return edge.Fusion.Rrf(_RRF_K if value.rrf.k is None else value.rrf.k, value.rrf.weights)
    if isinstance(value, models.OrderByQuery):
        return order_by(value.order_by)
    if isinstance(value, models.FormulaQuery):
        only(value, "formula", "defaults")
        return edge.Formula(expression(value.formula), value.defaults or {})
    if isinstance(value, models.SampleQuery):
        return member(value.sample, edge.Sample)
    if isinstance(value, models.TextQuery):
        return _text(value.text, using)
    if isinstance(value, models.SparseVector) or is_array(value):
        return edge.Query.Nearest(vector(value), using=using)
    raise unknown("a query", value)


def _mmr(nearest: Any, mmr: models.Mmr, using: str | None, limit: int) -> Any:
    only(mmr, "diversity", "candidates_limit")
    diversity = _DIVERSITY if mmr.diversity is None else mmr.diversity
    return edge.Mmr(
        vector(nearest),
        1.0 - diversity,
        limit if mmr.candidates_limit is None else mmr.candidates_limit,
        using=using,
    )


def _recommend(given: models.RecommendInput, using: str | None) -> Any:
    only(given, "positive", "negative", "strategy")
    positive, negative = list(given.positive or []), list(given.negative or [])
    strategy = "average_vector" if given.strategy is None else text_of(given.strategy)
    if strategy == "average_vector":
        if not positive:
            raise ValueError("recommend: expected positive examples for average_vector, not 0")
        return edge.Query.Nearest(_average(positive, negative), using=using)
    if not positive and not negative:
        raise ValueError(f"recommend: expected examples for {strategy}, not 0")
    asked = edge.RecommendQuery([vector(one) for one in positive], [vector(one) for one in negative])
    if strategy == "best_score":
        return edge.Query.RecommendBestScore(asked, using=using)
    if strategy == "sum_scores":
        return edge.Query.RecommendSumScores(asked, using=using)
    raise unknown("a strategy of recommendation", given.strategy)


def _average(positive: list[Any], negative: list[Any]) -> Any:
    """Return what a server asks for: the mean, as far again from the mean of the negative examples.

    Of several vectors per example it is all of them, those of negative examples turned round.
    """
    given = (*positive, *negative)
    if not all(is_array(one) for one in given):
        kinds = ", ".join(sorted({type(one).__name__ for one in given}))
        raise ValueError(f"recommend: expected dense examples under average_vector, not {kinds}")
    near, far = ([np.asarray(vector(one), dtype=np.float64) for one in side] for side in (positive, negative))
    depths = {one.ndim for one in (*near, *far)}
    if depths == {2}:
        return [row.tolist() for row in (*np.concatenate(near), *(-one for part in far for one in part))]
    if depths != {1}:
        raise ValueError(
            "recommend: expected positive and negative examples of one kind, "
            f"not of {sorted(depths)} dimensions"
        )
    middle = np.mean(near, axis=0)
    return (2 * middle - np.mean(far, axis=0) if far else middle).tolist()


def _pairs(context: Any) -> list[Any]:
    if context is None:
        return []
    found = []
    for pair in context if isinstance(context, list | tuple) else [context]:
        only(pair, "positive", "negative")
        found.append(edge.ContextPair(vector(pair.positive), vector(pair.negative)))
    return found


def _feedback(given: models.RelevanceFeedbackInput, using: str | None) -> Any:
    only(given, "target", "feedback", "strategy")
    if not isinstance(given.strategy, models.NaiveFeedbackStrategy):
        raise unknown("a strategy of feedback", given.strategy)
    weights = given.strategy.naive
    only(weights, "a", "b", "c")
    items = [edge.FeedbackItem(vector(one.example), one.score) for one in given.feedback]
    strategy = edge.NaiveFeedbackStrategy(weights.a, weights.b, weights.c)
    asked = edge.FeedbackNaiveQuery(vector(given.target), items, strategy)
    return edge.Query.FeedbackNaive(asked, using=using)


def _text(given: Any, using: str | None) -> Any:
    if not using:
        raise ValueError("query: expected `using` to name the text query's field of the payload, not ''")
    if isinstance(given, str):
        return edge.TextQuery(using, given)
    only(given, "query", "scoring")
    scoring = given.scoring
    if scoring is not None:
        only(scoring, "bm25")
        only(scoring.bm25, "k", "b")
        scoring = edge.Bm25Params(k=scoring.bm25.k, b=scoring.bm25.b)
    return edge.TextQuery(using, given.query, scoring)


def order_by(value: Any) -> Any:
    """Return an order by a field of the payload; None stays None."""
    if value is None:
        return None
    if isinstance(value, str):
        return edge.OrderBy(value)
    if not isinstance(value, models.OrderBy):
        raise unknown("an order", value)
    only(value, "key", "direction", "start_from")
    start: Any = value.start_from
    if isinstance(start, datetime.date):
        start = datetime_text(start)
    return edge.OrderBy(value.key, member(value.direction, edge.Direction), start)


def prefetches(value: Any) -> list[Any] | None:
    """Return stages that run before a query; None stays None."""
    if value is None:
        return None
    found = []
    for one in value if isinstance(value, list | tuple) else [value]:
        only(one, "prefetch", "query", "using", "filter", "params", "score_threshold", "limit")
        limit = DEFAULT_LIMIT if one.limit is None else one.limit
        found.append(
            edge.Prefetch(
                limit=limit,
                query=query(one.query, one.using, limit),
                prefetches=prefetches(one.prefetch),
                params=search_params(one.params),
                filter=filter_(one.filter),
                score_threshold=one.score_threshold,
            )
        )
    return found


def query_request(one: models.QueryRequest) -> Any:
    """Return a request."""
    only(
        one, "prefetch", "query", "using", "filter", "params", "score_threshold", "limit", "offset",
        "with_vector", "with_payload",
    )  # fmt: skip
    limit = DEFAULT_LIMIT if one.limit is None else one.limit
    return edge.QueryRequest(
        limit=limit,
        offset=one.offset,
        query=query(one.query, one.using, limit),
        prefetches=prefetches(one.prefetch),
        with_vector=one.with_vector,
        with_payload=payload_selector(one.with_payload),
        filter=filter_(one.filter),
        score_threshold=one.score_threshold,
        params=search_params(one.params),
    )
