"""Collections' parameters in the words of qdrant-edge-py."""

from __future__ import annotations

from typing import Any

import qdrant_edge as edge
from qdrant_client import models

from bqcore_qdrant.edge_fields import member, only, text_of, unknown

# The server's defaults for a graph, of which the engine wants every number.
_M, _EF_CONSTRUCT, _FULL_SCAN = 16, 100, 10_000


def memory_of(value: Any) -> Any:
    """Return a placement in memory; None stays None."""
    return member(value, edge.Memory)


def vector_params(params: models.VectorParams, quantization: Any, hnsw: Any) -> Any:
    """Return parameters of one vector; its own quantization and graph win over the collection's."""
    only(
        params, "size", "distance", "datatype", "quantization_config", "hnsw_config", "memory", "on_disk",
        "multivector_config",
    )  # fmt: skip
    several: Any = params.multivector_config
    if several is not None:
        only(several, "comparator")
        several = edge.MultiVectorConfig(member(several.comparator, edge.MultiVectorComparator))
    return edge.EdgeVectorParams(
        size=params.size,
        distance=member(text_of(params.distance).lower(), edge.Distance),
        datatype=member(params.datatype, edge.VectorStorageDatatype),
        quantization_config=quantization_config(params.quantization_config or quantization),
        hnsw_config=hnsw_config(params.hnsw_config or hnsw),
        multivector_config=several,
        memory=memory_of(params.memory),
        on_disk=params.on_disk,
    )


def sparse_params(params: models.SparseVectorParams) -> Any:
    """Return parameters of one sparse vector."""
    only(params, "index", "modifier")
    index = params.index or models.SparseIndexParams()
    only(index, "full_scan_threshold", "on_disk", "memory", "datatype")
    is_plain = params.modifier is None or text_of(params.modifier) == "none"
    return edge.EdgeSparseVectorParams(
        full_scan_threshold=index.full_scan_threshold,
        on_disk=index.on_disk,
        modifier=None if is_plain else member(params.modifier, edge.Modifier),
        datatype=member(index.datatype, edge.VectorStorageDatatype),
        memory=memory_of(index.memory),
    )


def hnsw_config(config: models.HnswConfigDiff | None) -> Any:
    """Return graph parameters, with the server's defaults for what is left open."""
    if config is None:
        return None
    only(
        config, "m", "ef_construct", "full_scan_threshold", "max_indexing_threads", "on_disk", "memory",
        "payload_m", "inline_storage",
    )  # fmt: skip
    return edge.HnswIndexConfig(
        m=_M if config.m is None else config.m,
        ef_construct=_EF_CONSTRUCT if config.ef_construct is None else config.ef_construct,
        full_scan_threshold=_FULL_SCAN if config.full_scan_threshold is None else config.full_scan_threshold,
        max_indexing_threads=config.max_indexing_threads or 0,
        on_disk=config.on_disk,
        payload_m=config.payload_m,
        inline_storage=config.inline_storage,
        memory=memory_of(config.memory),
    )


def optimizers_config(config: models.OptimizersConfigDiff | None) -> Any:
    """Return when segments are merged, cleaned and indexed."""
    config = config or models.OptimizersConfigDiff()
    names = (
        "deleted_threshold", "vacuum_min_vector_number", "default_segment_number", "max_segment_size",
        "indexing_threshold", "prevent_unoptimized",
    )  # fmt: skip
    only(config, *names)
    return edge.EdgeOptimizersConfig(**{name: getattr(config, name) for name in names})


def quantization_config(config: Any) -> Any:
    """Return a quantization configuration; None stays None."""
    if config is None:
        return None
    if isinstance(config, models.TurboQuantization):
        turbo = config.turbo
        only(turbo, "bits", "always_ram", "memory")
        # Here an underscore stands for the point of a number.
        size = None if turbo.bits is None else text_of(turbo.bits).capitalize()
        return edge.TurboQuantQuantizationConfig(
            bits=None if size is None else getattr(edge.TurboQuantBitSize, size),
            memory=memory_of(turbo.memory),
            always_ram=turbo.always_ram,
        )
    if isinstance(config, models.BinaryQuantization):
        binary = config.binary
        only(binary, "encoding", "query_encoding", "always_ram", "memory")
        query = binary.query_encoding
        names = {"scalar4bits": "Scalar4Bits", "scalar8bits": "Scalar8Bits"}
        return edge.BinaryQuantizationConfig(
            encoding=member(binary.encoding, edge.BinaryQuantizationEncoding),
            query_encoding=getattr(edge.BinaryQuantizationQueryEncoding, names[text_of(query)])
            if query is not None and text_of(query) in names
            else member(query, edge.BinaryQuantizationQueryEncoding),
            memory=memory_of(binary.memory),
            always_ram=binary.always_ram,
        )
    if isinstance(config, models.ScalarQuantization):
        scalar = config.scalar
        only(scalar, "type", "quantile", "always_ram", "memory")
        return edge.ScalarQuantizationConfig(
            type=member(scalar.type, edge.ScalarType),
            quantile=scalar.quantile,
            memory=memory_of(scalar.memory),
            always_ram=scalar.always_ram,
        )
    if isinstance(config, models.ProductQuantization):
        product = config.product
        only(product, "compression", "always_ram", "memory")
        return edge.ProductQuantizationConfig(
            compression=member(product.compression, edge.CompressionRatio),
            memory=memory_of(product.memory),
            always_ram=product.always_ram,
        )
    raise unknown("a quantization", config)


# ---- payload indexes ----


def _kind(name: str, *fields: str) -> tuple[type, str, tuple[str, ...]]:
    return getattr(models, name), name, ("on_disk", "memory", "enable_hnsw", "nested", *fields)


_INDEXES: tuple[tuple[Any, str, tuple[str, ...]], ...] = (
    _kind("KeywordIndexParams", "is_tenant", "prefix"),
    _kind("IntegerIndexParams", "lookup", "range", "is_principal"),
    _kind("FloatIndexParams", "is_principal"),
    _kind("GeoIndexParams"),
    _kind("BoolIndexParams"),
    _kind("DatetimeIndexParams", "is_principal"),
    _kind("UuidIndexParams", "is_tenant"),
    _kind(
        "TextIndexParams", "tokenizer", "min_token_len", "max_token_len", "lowercase", "ascii_folding",
        "phrase_matching", "stopwords", "stemmer", "scoring",
    ),
)  # fmt: skip


def payload_schema(schema: Any) -> Any:
    """Return the type of a payload index, or its parameters.

    Raises
    ------
    TypeError, ValueError
        If the engine has no such index.
    """
    for kind, name, fields in _INDEXES:
        if isinstance(schema, kind):
            only(schema, "type", *fields)
            given = {field: _index_value(field, getattr(schema, field)) for field in fields}
            return getattr(edge, name)(**given)
    if isinstance(schema, str | models.PayloadSchemaType):
        return member(schema, edge.PayloadSchemaType)
    raise unknown("a payload index", schema)


def _index_value(field: str, value: Any) -> Any:
    if field == "memory":
        return memory_of(value)
    if field == "tokenizer":
        return member(value, edge.TokenizerType)
    if isinstance(value, models.StopwordsSet):
        only(value, "languages", "custom")
        languages = value.languages
        return edge.StopwordsSet(
            languages=None if languages is None else {member(one, edge.Language) for one in languages},
            custom=None if value.custom is None else set(value.custom),
        )
    if field == "stopwords":
        return member(value, edge.Language)
    if isinstance(value, models.SnowballParams):
        only(value, "type", "language")
        return edge.SnowballParams(member(value.language, edge.SnowballLanguage))
    if isinstance(value, models.DisabledStemmerParams):
        return edge.DisabledStemmer()
    if isinstance(value, models.TextScoringParams):
        only(value, "type")
        return edge.TextScoringParams(member(value.type, edge.TextScoringType))
    return value
