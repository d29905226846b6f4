"""qdrant-client's models in the words of qdrant-edge-py, which are the same under other names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import qdrant_edge as edge
from qdrant_client import models

if TYPE_CHECKING:
    from collections.abc import Callable

_DISTANCES = {
    models.Distance.COSINE: edge.Distance.Cosine,
    models.Distance.EUCLID: edge.Distance.Euclid,
    models.Distance.DOT: edge.Distance.Dot,
    models.Distance.MANHATTAN: edge.Distance.Manhattan,
}
_SCHEMAS = {name: getattr(edge.PayloadSchemaType, name.capitalize()) for name in (
    "keyword", "integer", "float", "geo", "text", "bool", "datetime", "uuid"
)}  # fmt: skip
_ENCODINGS = {"one_bit": "OneBit", "two_bits": "TwoBits", "one_and_half_bits": "OneAndHalfBits"}
_QUERY_ENCODINGS = {
    "default": "Default",
    "binary": "Binary",
    "scalar4bits": "Scalar4Bits",
    "scalar8bits": "Scalar8Bits",
}


def _unknown(what: str, value: object) -> TypeError:
    return TypeError(f"the embedded engine: expected {what} that it knows, not {type(value).__name__}")


def _name(value: Any) -> str:
    return str(value.value if hasattr(value, "value") else value)


def _capitalised(value: Any, enum: Any) -> Any:
    """Return the member of an Edge enumeration for one of qdrant-client's; None stays None."""
    return None if value is None else getattr(enum, _name(value).capitalize())


# ---- collection ----


def vector_params(params: models.VectorParams, quantization: Any, hnsw: Any) -> edge.EdgeVectorParams:
    """Return parameters of one vector; its own quantization and graph win over the collection's."""
    return edge.EdgeVectorParams(
        size=params.size,
        distance=_DISTANCES[params.distance],
        datatype=_capitalised(params.datatype, edge.VectorStorageDatatype),
        quantization_config=quantization_config(params.quantization_config or quantization),
        hnsw_config=hnsw_config(params.hnsw_config or hnsw),
        memory=_capitalised(params.memory, edge.Memory),
        on_disk=params.on_disk,
    )


def hnsw_config(config: models.HnswConfigDiff | None) -> edge.HnswIndexConfig | None:
    """Return graph parameters, with the server's defaults for what is left open."""
    if config is None:
        return None
    return edge.HnswIndexConfig(
        m=16 if config.m is None else config.m,
        ef_construct=100 if config.ef_construct is None else config.ef_construct,
        full_scan_threshold=10_000 if config.full_scan_threshold is None else config.full_scan_threshold,
        max_indexing_threads=config.max_indexing_threads or 0,
        payload_m=config.payload_m,
        memory=_capitalised(config.memory, edge.Memory),
    )


def quantization_config(config: Any) -> Any:
    """Return a quantization configuration; None stays None."""
    if config is None:
        return None
    if isinstance(config, models.TurboQuantization):
        turbo = config.turbo
        bits = None if turbo.bits is None else getattr(edge.TurboQuantBitSize, _name(turbo.bits).capitalize())
        memory = _capitalised(turbo.memory, edge.Memory)
        return edge.TurboQuantQuantizationConfig(bits=bits, memory=memory, always_ram=turbo.always_ram)
    if isinstance(config, models.BinaryQuantization):
        binary = config.binary
        encoding, query = binary.encoding, binary.query_encoding
        return edge.BinaryQuantizationConfig(
            encoding=None if encoding is None else getattr(
                edge.BinaryQuantizationEncoding, _ENCODINGS[_name(encoding)]
            ),
            query_encoding=None if query is None else getattr(
                edge.BinaryQuantizationQueryEncoding, _QUERY_ENCODINGS[_name(query)]
            ),
            memory=_capitalised(binary.memory, edge.Memory),
            always_ram=binary.always_ram,
        )  # fmt: skip
    if isinstance(config, models.ScalarQuantization):
        scalar = config.scalar
        return edge.ScalarQuantizationConfig(
            type=edge.ScalarType.Int8,
            quantile=scalar.quantile,
            memory=_capitalised(scalar.memory, edge.Memory),
            always_ram=scalar.always_ram,
        )
    raise _unknown("a quantization", config)


def payload_schema(schema: Any) -> Any:
    """Return the type of a payload index."""
    name = _name(getattr(schema, "type", schema))
    if name not in _SCHEMAS:
        raise _unknown("a payload index", schema)
    return _SCHEMAS[name]


# ---- points ----


def vector(value: Any) -> Any:
    """Return a vector, or vectors by name."""
    if isinstance(value, Mapping):
        return {name: vector(one) for name, one in value.items()}
    if isinstance(value, models.SparseVector):
        return edge.SparseVector(indices=list(value.indices), values=list(value.values))
    if hasattr(value, "tolist"):
        return value.tolist()
    return value


def from_vector(value: Any) -> Any:
    """Return what `vector` gave."""
    if isinstance(value, Mapping):
        if set(value) == {""}:
            return from_vector(value[""])
        return {name: from_vector(one) for name, one in value.items()}
    if isinstance(value, edge.SparseVector):
        return models.SparseVector(indices=list(value.indices), values=list(value.values))
    return value


def point_id(value: Any) -> Any:
    """Return an id as qdrant-client gives it: numbers, and UUIDs as text."""
    return value if isinstance(value, int) else str(value)


def payload_selector(value: Any) -> Any:
    """Return which payload is asked for."""
    if isinstance(value, models.PayloadSelectorInclude):
        return edge.PayloadSelector.Include(value.include)
    if isinstance(value, models.PayloadSelectorExclude):
        return edge.PayloadSelector.Exclude(value.exclude)
    return value


# ---- filters ----


def filter_(value: models.Filter | None) -> edge.Filter | None:
    """Return a filter; None stays None."""
    if value is None:
        return None
    least = value.min_should
    return edge.Filter(
        must=_conditions(value.must),
        should=_conditions(value.should),
        must_not=_conditions(value.must_not),
        min_should=None
        if least is None
        else edge.MinShould(_conditions(least.conditions) or [], least.min_count),
    )


def _conditions(value: Any) -> list[Any] | None:
    if value is None:
        return None
    return [condition(one) for one in (value if isinstance(value, Sequence) else [value])]


def condition(value: Any) -> Any:
    """Return one condition of a filter."""
    if isinstance(value, models.Filter):
        return filter_(value)
    if isinstance(value, models.HasIdCondition):
        return edge.HasIdCondition(set(value.has_id))
    if isinstance(value, models.IsEmptyCondition):
        return edge.IsEmptyCondition(value.is_empty.key)
    if isinstance(value, models.IsNullCondition):
        return edge.IsNullCondition(value.is_null.key)
    if isinstance(value, models.HasVectorCondition):
        return edge.HasVectorCondition(value.has_vector)
    if isinstance(value, models.NestedCondition):
        return edge.NestedCondition(value.nested.key, filter_(value.nested.filter) or edge.Filter())
    if isinstance(value, models.FieldCondition):
        count, box, radius = value.values_count, value.geo_bounding_box, value.geo_radius
        return edge.FieldCondition(
            key=value.key,
            match=None if value.match is None else _match(value.match),
            range=None if value.range is None else _range(value.range),
            geo_bounding_box=None
            if box is None
            else edge.GeoBoundingBox(_geo(box.top_left), _geo(box.bottom_right)),
            geo_radius=None if radius is None else edge.GeoRadius(_geo(radius.center), radius.radius),
            values_count=None
            if count is None
            else edge.ValuesCount(lt=count.lt, gt=count.gt, lte=count.lte, gte=count.gte),
            is_empty=value.is_empty,
            is_null=value.is_null,
        )  # fmt: skip
    raise _unknown("a condition", value)


def _geo(value: models.GeoPoint) -> edge.GeoPoint:
    return edge.GeoPoint(value.lon, value.lat)


def _match(value: Any) -> Any:
    if isinstance(value, models.MatchValue) and isinstance(value.value, bool):
        # qdrant-edge-py 0.9 takes True for the number 1, which matches nothing.
        raise _unknown("a match of numbers or text", value.value)
    known: list[tuple[type, Callable[[Any], Any]]] = [
        (models.MatchValue, lambda v: edge.MatchValue(v.value)),
        (models.MatchAny, lambda v: edge.MatchAny(v.any)),
        (models.MatchExcept, lambda v: edge.MatchExcept(v.except_)),
        (models.MatchText, lambda v: edge.MatchText(v.text)),
        (models.MatchTextAny, lambda v: edge.MatchTextAny(v.text_any)),
        (models.MatchPhrase, lambda v: edge.MatchPhrase(v.phrase)),
    ]
    for kind, make in known:
        if isinstance(value, kind):
            return make(value)
    raise _unknown("a match", value)


def _range(value: Any) -> Any:
    if isinstance(value, models.DatetimeRange):
        ends = {name: getattr(value, name) for name in ("gte", "gt", "lte", "lt")}
        return edge.RangeDateTime(**{k: None if v is None else v.isoformat() for k, v in ends.items()})
    return edge.RangeFloat(gte=value.gte, gt=value.gt, lte=value.lte, lt=value.lt)


# ---- queries ----


def search_params(value: models.SearchParams | None) -> edge.SearchParams | None:
    """Return search parameters; None stays None."""
    if value is None:
        return None
    quantization = value.quantization
    return edge.SearchParams(
        hnsw_ef=value.hnsw_ef,
        exact=bool(value.exact),
        indexed_only=bool(value.indexed_only),
        quantization=None if quantization is None else edge.QuantizationSearchParams(
            ignore=bool(quantization.ignore),
            rescore=quantization.rescore,
            oversampling=quantization.oversampling,
        ),
    )  # fmt: skip


def query(value: Any, using: str | None) -> Any:
    """Return a query; None stays None."""
    if value is None:
        return None
    if isinstance(value, models.NearestQuery):
        return query(value.nearest, using)
    if isinstance(value, models.FusionQuery):
        return edge.Fusion.Rrf(2) if value.fusion == models.Fusion.RRF else edge.Fusion.Dbsf()
    if isinstance(value, models.OrderByQuery):
        order = value.order_by
        return edge.OrderBy(order if isinstance(order, str) else order.key)
    if isinstance(value, models.FormulaQuery):
        return edge.Formula(expression(value.formula), value.defaults or {})
    if isinstance(value, models.SampleQuery):
        return edge.Sample.Random
    if isinstance(value, list | models.SparseVector) or hasattr(value, "tolist"):
        return edge.Query.Nearest(vector(value), using=using)
    raise _unknown("a query", value)


def prefetches(value: Any) -> list[edge.Prefetch] | None:
    """Return stages that run before a query; None stays None."""
    if value is None:
        return None
    return [
        edge.Prefetch(
            limit=one.limit or 10,
            query=query(one.query, one.using),
            prefetches=prefetches(one.prefetch),
            params=search_params(one.params),
            filter=filter_(one.filter),
            score_threshold=one.score_threshold,
        )
        for one in (value if isinstance(value, Sequence) else [value])
    ]


def expression(value: Any) -> Any:
    """Return a formula's expression."""
    if isinstance(value, str):
        return edge.Expression.Variable(value)
    if isinstance(value, int | float):
        return edge.Expression.Constant(float(value))
    if isinstance(value, models.MultExpression):
        return edge.Expression.Mult([expression(one) for one in value.mult])
    if isinstance(value, models.SumExpression):
        return edge.Expression.Sum([expression(one) for one in value.sum])
    if isinstance(value, models.NegExpression):
        return edge.Expression.Neg(expression(value.neg))
    return edge.Expression.Condition(condition(value))
