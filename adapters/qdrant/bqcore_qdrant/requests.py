"""What is sent to a collection and what comes back, for clients of every kind: no connection here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from qdrant_client import models
from qdrant_client.http.models import QueryResponse

from bqcore._validation import Float32Array, InputTypeError
from bqcore_qdrant import formula
from bqcore_qdrant.codec import QdrantCodec
from bqcore_qdrant.exact import exact_with_factors
from bqcore_qdrant.inputs import (
    INFERENCE,
    WITH_EXAMPLES,
    is_array,
    names_vector,
    one_vector,
    plain_input,
    with_inputs,
)
from bqcore_qdrant.scorers import SCALAR_QUANTILE
from bqcore_qdrant.versions import Version

_TURBO_BITS = {1: "bits1", 1.5: "bits1_5", 2: "bits2", 4: "bits4", 8: "bits8"}
_BINARY_BITS = {1: "one_bit", 1.5: "one_and_half_bits", 2: "two_bits"}
#: What a stage and a request have in common.
_SHARED = ("prefetch", "query", "using", "params", "filter", "score_threshold", "limit")


# ---- what a collection is made of ----


def vector_params(codec: QdrantCodec, version: Version) -> models.VectorParams:
    """Return the parameters of the vector that the codec stores: codes in memory, vectors on disk."""
    config = codec.config
    has_codes = config.quantizer != "none"
    placement: dict[str, Any] = {}
    if has_codes:
        placement = {"memory": models.Memory.COLD} if version.has("memory placement") else {"on_disk": True}
    return models.VectorParams(
        size=codec.dim,
        distance=models.Distance(codec.transform.distance),
        datatype=None if config.datatype == "float32" else models.Datatype(config.datatype),
        quantization_config=_quantization(codec, version),
        **placement,
    )


def _quantization(codec: QdrantCodec, version: Version) -> Any:
    config = codec.config
    pinned: dict[str, Any] = {"always_ram": True}
    if version.has("memory placement"):
        pinned = {"memory": models.Memory.PINNED}
    if config.quantizer == "turbo":
        bits = models.TurboQuantBitSize(_TURBO_BITS[config.bits])
        return models.TurboQuantization(turbo=models.TurboQuantQuantizationConfig(bits=bits, **pinned))
    if config.quantizer == "binary":
        return models.BinaryQuantization(
            binary=models.BinaryQuantizationConfig(
                encoding=models.BinaryQuantizationEncoding(_BINARY_BITS[config.bits]),
                query_encoding=models.BinaryQuantizationQueryEncoding(config.query_encoding),
                **pinned,
            )
        )
    if config.quantizer == "scalar":
        return models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(
                type=models.ScalarType.INT8, quantile=SCALAR_QUANTILE, **pinned
            )
        )
    return None


# ---- requests ----


def search_params(codec: QdrantCodec, given: models.SearchParams | None) -> models.SearchParams:
    """Return search parameters: the codec's, unless the caller's say otherwise.

    Rescoring is on unless it is switched off explicitly. An exact search needs neither codes nor graph.
    """
    given = given or models.SearchParams()
    own = given.quantization
    if codec.config.quantizer == "none":
        return given.model_copy(update={"hnsw_ef": given.hnsw_ef or codec.config.hnsw_ef})
    quantization = models.QuantizationSearchParams(
        ignore=own.ignore if own else None,
        rescore=codec.config.rescore if own is None or own.rescore is None else own.rescore,
        oversampling=codec.config.oversampling
        if own is None or own.oversampling is None
        else own.oversampling,
    )
    return given.model_copy(
        update={"hnsw_ef": given.hnsw_ef or codec.config.hnsw_ef, "quantization": quantization}
    )


def _checked_examples(codec: QdrantCodec, query: Any, lookup_from: Any) -> None:
    """Check that a query's examples mean in the collection what they mean to its user.

    Raises
    ------
    ValueError
        If vectors are transformed and the query is not one that a transform carries over.
    """
    if isinstance(query, models.SparseVector):
        raise ValueError("query: expected a dense vector for the codec's vector, not SparseVector")
    if codec.transform.kind == "raw":
        return
    if lookup_from is not None:
        raise ValueError(
            "lookup_from: expected None, not another collection's vectors: those of this one are transformed"
        )
    is_nearest = isinstance(query, models.NearestQuery)
    if isinstance(query, INFERENCE) or (isinstance(query, WITH_EXAMPLES) and not is_nearest):
        raise ValueError(
            f"query: expected a vector, a fusion, an order or a formula, not {type(query).__name__}: "
            "the vectors of this collection are transformed"
        )
    if is_nearest:
        _checked_examples(codec, query.nearest, None)
        # Distances between points stay what they were under l2 alone.
        if query.mmr is not None and (codec.metric != "l2" or codec.transform.factors):
            raise ValueError(
                f"mmr: expected None under {codec.metric}, not {query.mmr!r}: the vectors of this collection "
                "are transformed, and their diversity is another one"
            )


def _encoded(codec: QdrantCodec, query: Any, lookup_from: Any) -> tuple[Any, float]:
    """Return a query of the codec's vector as the collection takes it, and the shift of its scores."""
    _checked_examples(codec, query, lookup_from)
    shifts = [0.0]

    def change(given: Any) -> Any:
        if is_array(given):
            vector = one_vector(given, codec.dim)
            shifts.append(float(codec.transform.query_shift(vector[np.newaxis])[0]))
            return codec.encode_query(vector).tolist()
        given = plain_input(given)
        is_id = not isinstance(given, (models.SparseVector, *INFERENCE))
        if is_id and codec.transform.kind != "raw" and codec.metric == "ip":
            raise ValueError(
                "query: expected a vector, not a point's id: stored and asked vectors differ under ip"
            )
        return given

    encoded = with_inputs(query, change)
    if isinstance(query, models.NearestQuery) and query.mmr is None and is_array(query.nearest):
        encoded = encoded.nearest
    # Queries of several vectors are asked of raw collections only: no shift.
    return encoded, shifts[-1]


def wants_count(codec: QdrantCodec, using: str, request: models.QueryRequest) -> bool:
    """Tell whether `encode_request` needs the number of points: for exact searches that look at all."""
    if not (codec.transform.factors and codec.metric == "l2"):
        return False
    stages: list[Any] = [request]
    for one in stages:
        stages += _stages(one.prefetch)
        if names_vector(one.query) and (one.using or using) == using and one.params and one.params.exact:
            return True
    return False


def encode_request(
    codec: QdrantCodec, using: str, request: models.QueryRequest, n_points: int | None = None
) -> tuple[models.QueryRequest, float | None]:
    """Return a request as the collection takes it, and the shift of its scores; None leaves them alone.

    Vectors and thresholds are translated where they concern the codec's vector, in all stages. Where a query
    names a vector but no `using`, it is the codec's; where it names none, there is no `using`.

    Parameters
    ----------
    codec : QdrantCodec
    using : str
        The codec's vector.
    request : models.QueryRequest
    n_points : int, optional
        In the collection, where `wants_count` asks for them.

    Raises
    ------
    TypeError, ValueError
        If a query is of an unknown type, or one that transformed vectors do not carry over.
    """
    if not isinstance(request, models.QueryRequest):
        raise InputTypeError(f"request: expected models.QueryRequest, not {type(request).__name__}")
    fields, shift = _encode_one(codec, using, request, n_points)
    return request.model_copy(update=fields), shift


def _stages(prefetch: Any) -> list[models.Prefetch]:
    if prefetch is None:
        return []
    stages = [prefetch] if isinstance(prefetch, models.Prefetch) else list(prefetch)
    for one in stages:
        if not isinstance(one, models.Prefetch):
            raise InputTypeError(f"prefetch: expected models.Prefetch, not {type(one).__name__}")
    return stages


def _encode_one(
    codec: QdrantCodec, using: str, given: Any, n_points: int | None
) -> tuple[dict[str, Any], float | None]:
    """Return what changes in a request or stage, and the shift of its scores if they are the codec's."""
    query, fields = given.query, dict[str, Any]()
    stages = _stages(given.prefetch)
    is_ours = names_vector(query) and (given.using or using) == using
    is_ours = is_ours and not (isinstance(query, models.SparseVector) and not given.using)
    if is_ours and codec.transform.factors:
        return _with_factors(codec, using, given, n_points)
    if stages:
        # These weigh the scores of stages, which have to be the metric's then.
        by_score = isinstance(query, models.FusionQuery) and query.fusion == models.Fusion.DBSF
        in_metric = by_score or isinstance(query, models.FormulaQuery)
        fields["prefetch"] = [
            _encode_stage(codec, using, one, n_points, in_metric, by_score) for one in stages
        ]
    if not names_vector(query):
        # A text query's `using` is a field of the payload.
        if given.using is not None and (given.using == using or not given.using):
            fields["using"] = None
        return fields, None
    if not is_ours:
        fields["query"] = with_inputs(query, plain_input)
        return fields, None
    fields["query"], shift = _encoded(codec, query, given.lookup_from)
    fields["using"] = using
    fields["params"] = search_params(codec, given.params)
    if given.score_threshold is not None:
        fields["score_threshold"] = codec.transform.threshold(given.score_threshold, shift)
    return fields, shift


def _with_factors(
    codec: QdrantCodec, using: str, given: Any, n_points: int | None
) -> tuple[dict[str, Any], float]:
    query = given.query
    _checked_examples(codec, query, given.lookup_from)
    vector = query.nearest if isinstance(query, models.NearestQuery) else query
    if given.prefetch is not None or not is_array(vector):
        raise ValueError(
            "query: expected a vector without prefetch stages, which a collection with factors makes itself, "
            f"not {type(vector).__name__} with prefetch = {given.prefetch!r}"
        )
    checked = one_vector(vector, codec.dim)
    wanted = models.QueryRequest.model_construct(**{name: getattr(given, name, None) for name in _SHARED})
    wanted.offset = getattr(given, "offset", None)
    if given.params is not None and given.params.exact:
        return exact_with_factors(codec, using, checked, wanted, n_points)
    shift = float(codec.transform.query_shift(checked[np.newaxis])[0])
    threshold = given.score_threshold
    threshold = None if threshold is None else codec.transform.threshold(threshold, shift)
    encoded = codec.encode_query(checked).tolist()
    weight = float(codec.transform.query_weight(checked[np.newaxis])[0])
    staged = formula.staged(codec, using, encoded, weight, wanted, threshold)
    return {name: getattr(staged, name) for name in _SHARED if name != "limit"}, shift


def _encode_stage(
    codec: QdrantCodec,
    using: str,
    stage: models.Prefetch,
    n_points: int | None,
    in_metric: bool,
    by_score: bool,
) -> models.Prefetch:
    fields, shift = _encode_one(codec, using, stage, n_points)
    encoded = stage.model_copy(update=fields)
    score = metric_score(codec, shift, falling=by_score) if in_metric and shift is not None else "$score"
    if score == "$score":
        return encoded
    return models.Prefetch(prefetch=[encoded], query=models.FormulaQuery(formula=score), limit=encoded.limit)


def metric_score(codec: QdrantCodec, shift: float, *, falling: bool = False) -> Any:
    """Return a formula that turns a stage's score into one of the metric.

    Parameters
    ----------
    codec : QdrantCodec
    shift : float
        Of the stage's query.
    falling : bool, default False
        Negate distances: a fusion by scores takes the largest for the best, and would turn them round.
    """
    transform = codec.transform
    score: Any = "$score"
    if transform.metric == "l2":
        if transform.factors:
            square = models.SumExpression(sum=[shift, models.MultExpression(mult=[-2.0, "$score"])])
            # Rounding may bring the square of a distance of 0 below it.
            score = models.SqrtExpression(sqrt=models.AbsExpression(abs=square))
        elif transform.scale != 1.0:
            score = models.MultExpression(mult=[1.0 / transform.scale, "$score"])
        return models.NegExpression(neg=score) if falling else score
    if transform.kind == "raw":
        return score
    if transform.metric == "cosine" and not transform.factors:
        fall = models.MultExpression(mult=[-0.5 / transform.scale**2, "$score", "$score"])
        return models.SumExpression(sum=[1.0, fall])
    return models.SumExpression(sum=["$score", shift])


# ---- answers ----


def decode_response(
    codec: QdrantCodec, using: str, response: QueryResponse, shift: float | None
) -> QueryResponse:
    """Return an answer with scores of the metric and vectors as they were given."""
    points = list(response.points)
    for point in points:
        if shift is not None:
            point.score = codec.transform.score(point.score, shift)
    decode_points(codec, using, points)
    return QueryResponse(points=points)


def decode_points(codec: QdrantCodec, using: str, points: Sequence[Any]) -> None:
    """Undo the transform of vectors that came back with points, and take factors from payloads, in place."""
    if codec.transform.factors:
        for point in points:
            point.payload = formula.without_factors(point.payload)
    if codec.transform.kind == "raw":
        return
    for point in points:
        vector = point.vector
        if isinstance(vector, Mapping) and using in vector:
            point.vector = {**vector, using: decoded(codec, vector[using])}
        elif using == "" and isinstance(vector, list):
            point.vector = decoded(codec, vector)


def decoded(codec: QdrantCodec, vector: Any) -> list[float]:
    """Return one stored vector as it was given."""
    row: Float32Array = np.asarray(vector, dtype=np.float32)[np.newaxis]
    return [float(value) for value in codec.decode(row)[0]]
