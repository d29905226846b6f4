"""What is sent to a collection and what comes back, for clients of every kind: no connection here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from qdrant_client import models
from qdrant_client.http.models import QueryResponse

from bqcore._validation import Float32Array
from bqcore_qdrant import formula
from bqcore_qdrant.codec import QdrantCodec
from bqcore_qdrant.scorers import SCALAR_QUANTILE
from bqcore_qdrant.versions import Version

_TURBO_BITS = {1: "bits1", 1.5: "bits1_5", 2: "bits2", 4: "bits4", 8: "bits8"}
_BINARY_BITS = {1: "one_bit", 1.5: "one_and_half_bits", 2: "two_bits"}
#: Queries other than a vector, an id or a stage's own; their vectors would need another transform each.
_UNSUPPORTED: tuple[type, ...] = tuple(
    getattr(models, name)
    for name in (
        "RecommendQuery", "DiscoverQuery", "ContextQuery", "RelevanceFeedbackQuery",
        # These become vectors behind the adapter's back.
        "Document", "Image", "InferenceObject",
    )
    if hasattr(models, name)  # clients before 1.17 have fewer
)  # fmt: skip


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


def is_vector(query: Any) -> bool:
    """Tell whether a query is a dense vector."""
    if isinstance(query, np.ndarray):
        return True
    return isinstance(query, Sequence) and not isinstance(query, str) and all(
        isinstance(one, int | float) and not isinstance(one, bool) for one in query
    )  # fmt: skip


def _encoded(codec: QdrantCodec, query: Any) -> tuple[Any, float, bool]:
    """Return a query as the collection takes it, the shift of its scores, and whether these are ours."""
    if isinstance(query, models.NearestQuery):
        inner, shift, is_ours = _encoded(codec, query.nearest)
        return (
            (inner if is_ours and query.mmr is None else query.model_copy(update={"nearest": inner})),
            shift,
            is_ours,
        )
    if is_vector(query):
        vector = np.asarray(query, dtype=np.float32)
        out = codec.encode_query(vector)
        return out.tolist(), float(codec.transform.query_shift(vector[np.newaxis])[0]), True
    if isinstance(query, _UNSUPPORTED) and codec.transform.kind != "raw":
        raise ValueError(
            f"query: expected a vector, a fusion, an order or a formula, not {type(query).__name__}: "
            "the vectors of this collection are transformed"
        )
    if isinstance(query, str | int) and codec.transform.kind != "raw" and codec.metric == "ip":
        raise ValueError(
            "query: expected a vector, not a point's id: stored and asked vectors differ under ip"
        )
    return query, 0.0, isinstance(query, str | int)


def encode_request(
    codec: QdrantCodec, using: str, request: models.QueryRequest
) -> tuple[models.QueryRequest, float | None]:
    """Return a request as the collection takes it, and the shift of its scores; None leaves them alone.

    Vectors and thresholds are translated where they concern the codec's vector, in all stages.
    """
    fields: dict[str, Any] = {}
    if request.prefetch is not None:
        stages = request.prefetch if isinstance(request.prefetch, list) else [request.prefetch]
        fields["prefetch"] = [_encode_stage(codec, using, one) for one in stages]
    shift: float | None = None
    if codec.transform.factors and (request.using or "") == using:
        return _with_factors(codec, using, request)
    if request.query is not None and (request.using or "") == using:
        fields["query"], found, is_ours = _encoded(codec, request.query)
        if is_ours:
            shift = found
            fields["params"] = search_params(codec, request.params)
            if request.score_threshold is not None:
                fields["score_threshold"] = codec.transform.threshold(request.score_threshold, found)
    return _copied(request, fields), shift


def _with_factors(
    codec: QdrantCodec, using: str, request: models.QueryRequest
) -> tuple[models.QueryRequest, float | None]:
    query = request.query.nearest if isinstance(request.query, models.NearestQuery) else request.query
    if request.prefetch is not None or not is_vector(query):
        raise ValueError(
            "query: expected a vector without prefetch stages, which a collection with factors makes itself, "
            f"not {type(request.query).__name__}"
        )
    vector, shift, _ = _encoded(codec, query)
    weight = float(codec.transform.query_weight(np.asarray(query, dtype=np.float32)[np.newaxis])[0])
    wanted = request.score_threshold
    threshold = None if wanted is None else codec.transform.threshold(wanted, shift)
    return formula.staged(codec, using, vector, weight, request, threshold), shift


def _encode_stage(codec: QdrantCodec, using: str, stage: models.Prefetch) -> models.Prefetch:
    fields: dict[str, Any] = {}
    if stage.prefetch is not None:
        inner = stage.prefetch if isinstance(stage.prefetch, list) else [stage.prefetch]
        fields["prefetch"] = [_encode_stage(codec, using, one) for one in inner]
    if stage.query is not None and (stage.using or "") == using:
        fields["query"], shift, is_ours = _encoded(codec, stage.query)
        if is_ours:
            fields["params"] = search_params(codec, stage.params)
            if stage.score_threshold is not None:
                fields["score_threshold"] = codec.transform.threshold(stage.score_threshold, shift)
    return stage.model_copy(update=fields)


def _copied(request: models.QueryRequest, fields: Mapping[str, Any]) -> models.QueryRequest:
    return request.model_copy(update=dict(fields))


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
