"""RaBitQ's corrective factors in the payload, applied by the server's formula query.

Factors are computed in `stages.py`. A score of one-bit codes under Dot, times the largest coordinate of the
query, is sum_i sign(r_i) q'_i for r = R(x - c) and q' = R(q - c). RaBitQ's estimate of <q', r> multiplies it
by f_rescale = |r|^2 / |r|_1. With

    f_add = <x, c>  (cosine, ip)    or    f_add = -|r|^2 / 2  (l2)

f_rescale times that, plus f_add, orders points as the metric does, and so does the exact <q', r> plus f_add.
Under ip q' = R(q - s c) with s = <q, c> / |c|^2, and f_add counts s times: <q, x> = <q', r> + s <x, c>.

References
----------
Gao & Long, "RaBitQ", SIGMOD 2024, equations 4 and 8.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from qdrant_client import models

from bqcore_qdrant.codec import QdrantCodec
from bqcore_qdrant.stages import KEPT

F_RESCALE, F_ADD = "bqcore_f_rescale", "bqcore_f_add"
# In place of 0, which would not tell points without factors from others: far below what a score can show.
_LEAST_WEIGHT = 1e-25
# What a point without factors gets where the codec knows no typical ones and f_add counts once:
# it comes last.
_LAST = (0.0, -1e30)


def defaults_of(codec: QdrantCodec, weight: float = 1.0) -> dict[str, float]:
    """Return what stands for the factors of a point that has none, as after an application's payload write.

    Typical factors rank it by its plain score, however often f_add counts. Without them it comes last.
    """
    if codec.typical_factors is not None:
        return dict(zip((F_RESCALE, F_ADD), codec.typical_factors, strict=True))
    rescale, add = _LAST
    return {F_RESCALE: rescale, F_ADD: add if weight == 1 else max(min(add / weight, 1e37), -1e37)}


def create_indexes(client: Any, name: str) -> None:
    """Index the factors: strict mode takes formulas over indexed fields only."""
    for field in (F_RESCALE, F_ADD):
        client.create_payload_index(name, field_name=field, field_schema=models.PayloadSchemaType.FLOAT)


def staged(
    codec: QdrantCodec,
    using: str,
    query: list[float],
    weight: float,
    request: models.QueryRequest,
    threshold: float | None,
) -> models.QueryRequest:
    """Return the stages of a search: codes, the RaBitQ estimate, floats unless rescoring is off.

    Parameters
    ----------
    codec : QdrantCodec
    using : str
    query : list of float
        Encoded.
    weight : float
        How often f_add counts.
    request : models.QueryRequest
        What was asked, not an exact search; its filter goes into the first stage.
    threshold : float, optional
        In the collection's terms.
    """
    weight = weight or _LEAST_WEIGHT
    exact_score, defaults = _sum("$score", weight), defaults_of(codec, weight)
    params = request.params or models.SearchParams()
    wanted = (request.limit or 10) + (request.offset or 0)
    given = params.quantization
    oversampling = codec.config.oversampling
    if given is not None and given.oversampling is not None:
        oversampling = given.oversampling
    rescore = codec.config.rescore if given is None or given.rescore is None else given.rescore
    depth = max(wanted, math.ceil(wanted * oversampling))
    largest = float(np.abs(np.asarray(query)).max())
    estimate = _sum(models.MultExpression(mult=[largest, "$score", F_RESCALE]), weight)
    codes = models.Prefetch(
        query=query,
        using=using,
        limit=depth,
        filter=request.filter,
        params=params.model_copy(
            update={
                "hnsw_ef": max(params.hnsw_ef or codec.config.hnsw_ef, depth),
                "quantization": models.QuantizationSearchParams(rescore=False),
            }
        ),
    )
    if not rescore:
        return _formula(request, estimate, [codes], threshold, defaults)
    kept = models.Prefetch(
        prefetch=[codes],
        query=models.FormulaQuery(formula=estimate, defaults=defaults),
        limit=max(wanted, math.ceil(KEPT * depth)),
    )
    exact = models.Prefetch(
        prefetch=[kept], query=query, using=using, limit=kept.limit, params=models.SearchParams(exact=True)
    )
    return _formula(request, exact_score, [exact], threshold, defaults)


def _sum(score: Any, weight: float) -> models.SumExpression:
    return models.SumExpression(
        sum=[score, F_ADD if weight == 1 else models.MultExpression(mult=[weight, F_ADD])]
    )


def _formula(
    request: models.QueryRequest,
    formula: Any,
    prefetch: list[models.Prefetch],
    threshold: float | None,
    defaults: dict[str, float],
) -> models.QueryRequest:
    return request.model_copy(
        update={
            "prefetch": prefetch,
            "query": models.FormulaQuery(formula=formula, defaults=defaults),
            "using": None,
            "params": None,
            "filter": None,
            "score_threshold": threshold,
        }
    )


def without_factors(payload: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a payload as it was given."""
    if payload is None:
        return None
    return {name: value for name, value in payload.items() if name not in (F_RESCALE, F_ADD)}
