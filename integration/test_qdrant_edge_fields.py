"""Every field of every model that the embedded client's calls take is done, or refused by name."""

from __future__ import annotations

import enum
import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from qdrant_client import QdrantClient, models
from qdrant_samples import made, samples

from bqcore_qdrant import (
    edge_config,
    edge_expressions,
    edge_filters,
    edge_lookup,
    edge_points,
    edge_queries,
    edge_writes,
)
from bqcore_qdrant.edge import EdgeClient
from bqcore_qdrant.edge_fields import MEANINGLESS, only

pytestmark = pytest.mark.qdrant

# A value that the engine has as its default does the same as none: false for these, 10 results, and so on.
_DEFAULTS = {
    ("SearchParams", "exact", False),
    ("SearchParams", "indexed_only", False),
    ("QuantizationSearchParams", "ignore", False),
    ("AcornSearchParams", "enable", False),
    ("RecommendInput", "strategy", models.RecommendStrategy.AVERAGE_VECTOR),
    ("SparseVectorParams", "modifier", models.Modifier.NONE),
}


class Recorder:
    """Stands for qdrant-edge-py: what is made of it is the list of what it was made from."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.__name__ = name

    def __getattr__(self, name: str) -> Any:
        # What the engine lacks is missing here, too.
        import qdrant_edge

        owner: Any = qdrant_edge
        for part in self._name.split(".")[1:]:
            owner = getattr(owner, part)
        getattr(owner, name)
        return Recorder(f"{self._name}.{name}")

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return (self._name, repr(arguments), repr(sorted(named.items())))

    def __repr__(self) -> str:
        return self._name


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (
        edge_config, edge_expressions, edge_filters, edge_points, edge_queries, edge_writes
    ):  # fmt: skip
        monkeypatch.setattr(module, "edge", Recorder("edge"))


def _looked_up(request: Any) -> Any:
    """Return a request as the engine gets it, with a vector of its own for every place of ids."""
    found = edge_lookup.with_vectors_for_ids(
        "own", request, lambda *place: [float(sum(map(ord, repr(place)))), 1.5]
    )
    return edge_queries.query_request(found)


def _stage(stage: models.Prefetch) -> Any:
    return _looked_up(models.QueryRequest.model_construct(prefetch=[stage], query=_FUSION))


def _queried(query: Any) -> Any:
    return _looked_up(models.QueryRequest.model_construct(query=query, using="field", limit=5))


def _nested(outer: type[BaseModel], field: str) -> Callable[[Any], Any]:
    return lambda one: _queried(outer.model_construct(**{field: one}))


def _filtered(**fields: Any) -> Any:
    return edge_filters.condition(models.FieldCondition.model_construct(key="key", **fields))


def _nearest(**fields: Any) -> Any:
    return _queried(models.NearestQuery.model_construct(nearest=[1.0, 2.0], **fields))


def _params(**fields: Any) -> Any:
    return edge_queries.search_params(models.SearchParams.model_construct(**fields))


def _vector_params(**fields: Any) -> Any:
    params = models.VectorParams(size=4, distance=models.Distance.DOT)
    return edge_config.vector_params(params.model_copy(update=fields), None, None)


def _with_index(**fields: Any) -> Any:
    return edge_config.payload_schema(
        models.TextIndexParams.model_construct(type=models.TextIndexType.TEXT, **fields)
    )


class _Writes(edge_writes.EdgeWrites):
    """What the engine is told, without a shard."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def _shard(self, name: str) -> Any:
        return self

    def update(self, operation: Any) -> None:
        """Keep it."""
        self.told.append(operation)


def _written(operation: type[BaseModel], field: str) -> Callable[[Any], Any]:
    def write(value: Any) -> Any:
        writes = _Writes()
        writes.batch_update_points("own", [operation.model_construct(**{field: value})])
        return writes.told

    return write


_FUSION = models.FusionQuery(fusion=models.Fusion.RRF)
_RRF = models.RrfQuery
_INDEX_MODELS = (
    "Keyword", "Integer", "Float", "Geo", "Bool", "Datetime", "Uuid", "Text"
)  # fmt: skip
#: What takes each model to the engine. Of models with one required field, that alone is walked.
WALKED: dict[str, Callable[[Any], Any]] = {
    "QueryRequest": _looked_up,
    "Prefetch": _stage,
    "LookupLocation": lambda one: _looked_up(models.QueryRequest.model_construct(query=7, lookup_from=one)),
    "NearestQuery": _queried,
    "Mmr": lambda one: _nearest(mmr=one),
    "RecommendQuery": _queried,
    "RecommendInput": _nested(models.RecommendQuery, "recommend"),
    "DiscoverQuery": _queried,
    "DiscoverInput": _nested(models.DiscoverQuery, "discover"),
    "ContextQuery": _queried,
    "ContextPair": _nested(models.ContextQuery, "context"),
    "RelevanceFeedbackQuery": _queried,
    "RelevanceFeedbackInput": _nested(models.RelevanceFeedbackQuery, "relevance_feedback"),
    "FeedbackItem": lambda one: _queried(
        models.RelevanceFeedbackQuery.model_construct(
            relevance_feedback=made(models.RelevanceFeedbackInput).model_copy(update={"feedback": [one]})
        )
    ),
    "NaiveFeedbackStrategyParams": lambda one: _queried(
        models.RelevanceFeedbackQuery.model_construct(
            relevance_feedback=made(models.RelevanceFeedbackInput).model_copy(
                update={"strategy": models.NaiveFeedbackStrategy.model_construct(naive=one)}
            )
        )
    ),
    "OrderByQuery": _queried,
    "OrderBy": edge_queries.order_by,
    "FusionQuery": _queried,
    "RrfQuery": _queried,
    "Rrf": _nested(models.RrfQuery, "rrf"),
    "FormulaQuery": _queried,
    "SampleQuery": _queried,
    "TextQuery": _queried,
    "TextQueryInput": _nested(models.TextQuery, "text"),
    "Bm25Scoring": lambda one: _queried(
        models.TextQuery(text=models.TextQueryInput.model_construct(query="a", scoring=one))
    ),
    "Bm25Params": lambda one: _queried(
        models.TextQuery(
            text=models.TextQueryInput(query="a", scoring=models.Bm25Scoring.model_construct(bm25=one))
        )
    ),
    "SearchParams": edge_queries.search_params,
    "QuantizationSearchParams": lambda one: _params(quantization=one),
    "AcornSearchParams": lambda one: _params(acorn=one),
    "IdfCorpusParams": lambda one: _params(idf=one),
    "Filter": edge_filters.filter_,
    "MinShould": lambda one: edge_filters.filter_(models.Filter.model_construct(min_should=one)),
    "FieldCondition": edge_filters.condition,
    "HasIdCondition": edge_filters.condition,
    "HasVectorCondition": edge_filters.condition,
    "IsEmptyCondition": edge_filters.condition,
    "IsNullCondition": edge_filters.condition,
    "PayloadField": lambda one: edge_filters.condition(models.IsNullCondition.model_construct(is_null=one)),
    "NestedCondition": edge_filters.condition,
    "Nested": lambda one: edge_filters.condition(models.NestedCondition.model_construct(nested=one)),
    "SliceCondition": edge_filters.condition,
    "Slice": lambda one: edge_filters.condition(models.SliceCondition.model_construct(slice=one)),
    "Range": lambda one: _filtered(range=one),
    "DatetimeRange": lambda one: _filtered(range=one),
    "GeoBoundingBox": lambda one: _filtered(geo_bounding_box=one),
    "GeoRadius": lambda one: _filtered(geo_radius=one),
    "GeoPolygon": lambda one: _filtered(geo_polygon=one),
    "GeoLineString": lambda one: _filtered(geo_polygon=models.GeoPolygon.model_construct(exterior=one)),
    "GeoPoint": edge_filters.geo_point,
    "ValuesCount": lambda one: _filtered(values_count=one),
    "DivParams": lambda one: edge_expressions.expression(models.DivExpression.model_construct(div=one)),
    "PowParams": lambda one: edge_expressions.expression(models.PowExpression.model_construct(pow=one)),
    "GeoDistanceParams": lambda one: edge_expressions.expression(
        models.GeoDistance.model_construct(geo_distance=one)
    ),
    "DecayParamsExpression": lambda one: edge_expressions.expression(
        models.LinDecayExpression.model_construct(lin_decay=one)
    ),
    "VectorParams": lambda one: edge_config.vector_params(one, None, None),
    "MultiVectorConfig": lambda one: _vector_params(multivector_config=one),
    "SparseVectorParams": edge_config.sparse_params,
    "SparseIndexParams": lambda one: edge_config.sparse_params(
        models.SparseVectorParams.model_construct(index=one)
    ),
    "HnswConfigDiff": edge_config.hnsw_config,
    "OptimizersConfigDiff": edge_config.optimizers_config,
    "ScalarQuantizationConfig": lambda one: edge_config.quantization_config(
        models.ScalarQuantization.model_construct(scalar=one)
    ),
    "ProductQuantizationConfig": lambda one: edge_config.quantization_config(
        models.ProductQuantization.model_construct(product=one)
    ),
    "BinaryQuantizationConfig": lambda one: edge_config.quantization_config(
        models.BinaryQuantization.model_construct(binary=one)
    ),
    "TurboQuantQuantizationConfig": lambda one: edge_config.quantization_config(
        models.TurboQuantization.model_construct(turbo=one)
    ),
    **{f"{name}IndexParams": edge_config.payload_schema for name in _INDEX_MODELS},
    "StopwordsSet": lambda one: _with_index(stopwords=one),
    "SnowballParams": lambda one: _with_index(stemmer=one),
    "DisabledStemmerParams": lambda one: _with_index(stemmer=one),
    "TextScoringParams": lambda one: _with_index(scoring=one),
    "PointStruct": lambda one: edge_points.points([one]),
    "Batch": edge_points.points,
    "PointVectors": lambda one: edge_points.point_vectors([one]),
    "SparseVector": edge_points.vector,
    "PayloadSelectorInclude": edge_points.payload_selector,
    "PayloadSelectorExclude": edge_points.payload_selector,
    "PointIdsList": _written(models.DeleteOperation, "delete"),
    "FilterSelector": _written(models.DeleteOperation, "delete"),
    "PointsList": _written(models.UpsertOperation, "upsert"),
    "PointsBatch": _written(models.UpsertOperation, "upsert"),
    "SetPayload": _written(models.SetPayloadOperation, "set_payload"),
    "DeletePayload": _written(models.DeletePayloadOperation, "delete_payload"),
    "UpdateVectors": _written(models.UpdateVectorsOperation, "update_vectors"),
    "DeleteVectors": _written(models.DeleteVectorsOperation, "delete_vectors"),
}
for _name in (
    "Mult", "Sum", "Max", "Min", "Neg", "Abs", "Div", "Sqrt", "Pow", "Exp", "Log10", "Ln", "Acosh",
    "LinDecay", "ExpDecay", "GaussDecay", "Datetime", "DatetimeKey",
):  # fmt: skip
    WALKED[f"{_name}Expression"] = edge_expressions.expression
WALKED["GeoDistance"] = edge_expressions.expression
for _name in ("Value", "Text", "TextAny", "Phrase", "Any", "Except", "Prefix", "Substring"):
    WALKED[f"Match{_name}"] = lambda one: _filtered(match=one)
# Fields of which a write needs one: the other is walked beside it.
_BESIDE: dict[tuple[str, str], dict[str, Any]] = {
    (name, field): {"points": [1]}
    for name in ("SetPayload", "DeletePayload", "DeleteVectors")
    for field in ("payload", "key", "keys", "vector", "shard_key")
}
# Examples that have to go together.
_BESIDE["RecommendInput", "negative"] = {"positive": [[1.0, 2.0]]}
_BESIDE["RecommendInput", "strategy"] = {"positive": [[1.0, 2.0]]}
# A name of a vector says nothing without a vector.
_BESIDE["QueryRequest", "using"] = _BESIDE["Prefetch", "using"] = {"query": [1.0, 2.0]}


def outcome(name: str, field: str, value: Any) -> str:
    """Return what becomes of a value in a field of a model: done, refused or silent."""
    model = getattr(models, name)
    take, beside = WALKED[name], _BESIDE.get((name, field), {})
    base = made(model).model_copy(update=beside)
    changed = base.model_copy(update={field: value})
    is_default = _is_default(name, field, value)
    without = base.model_copy(update={field: _other(model, field, changed)})
    try:
        got = take(changed)
    except (TypeError, ValueError) as error:
        text = str(error)
        inner = value
        while isinstance(inner, list | dict) and inner:
            inner = inner[0] if isinstance(inner, list) else next(iter(inner.values()))
        named = [field, name, type(inner).__name__]
        return "refused" if any(one in text for one in named) else f"refused, but not by name: {text}"
    try:
        before = take(without)
    except (TypeError, ValueError, AttributeError):
        return "done"  # there is nothing to do without it
    return "done" if is_default or repr(got) != repr(before) else "silent"


def _is_default(name: str, field: str, value: Any) -> bool:
    """Tell whether a value says what none says: a default, a model without fields, the only member."""
    if isinstance(value, BaseModel):
        return all(getattr(value, one) is None for one in type(value).model_fields)
    if isinstance(value, enum.Enum) and len(type(value)) == 1:
        return field == "type"
    return any((name, field) == one[:2] and value is one[2] for one in _DEFAULTS)


def _other(model: type[BaseModel], field: str, changed: Any) -> Any:
    """Return what a field has without a value: None, or another value where it must have one."""
    info = model.model_fields[field]
    if not info.is_required():
        return None
    own = getattr(changed, field)
    if isinstance(own, BaseModel) or (isinstance(own, list) and own and isinstance(own[0], BaseModel)):
        return []
    others = [value for value in samples(info.annotation) if value != own]
    changes: dict[type, Any] = {int: 5, float: 0.75, str: "00000000-0000-0000-0000-000000000008"}
    return changes.get(type(own), others[0] if others else None)


def test_no_field_is_left_out_without_a_word(recorder: None) -> None:
    counts = {"done": 0, "refused": 0}
    wrong = []
    for name in WALKED:
        for field, info in getattr(models, name).model_fields.items():
            found = {repr(v)[:60]: outcome(name, field, v) for v in samples(info.annotation)}
            kinds = set(found.values())
            wrong += [f"{name}.{field} = {v}: {got}" for v, got in found.items() if got not in counts]
            counts["done" if "done" in kinds else "refused"] += 1
    assert not wrong, "\n".join(wrong)
    print(f"{len(WALKED)} models, fields done {counts['done']}, refused {counts['refused']}, silent 0")
    assert counts["done"] > 150


def test_every_model_of_a_request_is_walked() -> None:
    """Models within models that are walked are walked, or are types of whole values."""
    seen: set[str] = set()

    def within(annotation: Any) -> None:
        for one in typing.get_args(annotation):
            within(one)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            seen.add(annotation.__name__)

    for name in WALKED:
        for info in getattr(models, name).model_fields.values():
            within(info.annotation)
    refused = {
        # Refused whole: texts to embed, shards.
        "Document", "Image", "InferenceObject", "ShardKeyWithFallback",
    }  # fmt: skip
    wrappers = {
        # One field of a model that is walked, or that model's parameters.
        "ScalarQuantization", "ProductQuantization", "BinaryQuantization", "TurboQuantization",
        "NaiveFeedbackStrategy",
    }  # fmt: skip
    assert seen - set(WALKED) == refused | wrappers


def test_every_argument_of_a_call_is_taken_or_refused_by_name(tmp_path: Path) -> None:
    params = models.VectorParams(size=2, distance=models.Distance.DOT)
    taken = 0
    with EdgeClient(tmp_path) as client:
        client.create_collection("c", vectors_config={"v": params})
        for method, call in inspect.getmembers(EdgeClient, inspect.isfunction):
            if method.startswith("_") or not hasattr(QdrantClient, method) or method in ("close", "info"):
                continue
            own = inspect.signature(call).parameters
            assert own["options"].kind is inspect.Parameter.VAR_KEYWORD, method
            required = {
                name: "c" if name == "collection_name" else []
                for name, one in own.items()
                if one.default is inspect.Parameter.empty and name not in ("self", "options")
            }
            if method == "create_collection":
                required |= {"collection_name": "new", "vectors_config": {"v": params}}
            for name in inspect.signature(getattr(QdrantClient, method)).parameters:
                if name in own or name in ("self", "kwargs") or name in MEANINGLESS:
                    taken += 1
                    continue
                if method == "upload_points" and name in ("batch_size", "parallel", "method", "max_retries"):
                    continue  # about a network
                if name in ("update_mode", "update_filter", "field_type"):
                    continue  # taken from the options, and tested beside local mode
                with pytest.raises((TypeError, ValueError), match=name):
                    call(client, **required, **{name: "something"})
                assert not client.collection_exists("new")
            with pytest.raises(TypeError, match="misspelt"):
                call(client, **required, misspelt=1)
    assert taken > 80


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValueError, match=r"does not take QueryRequest.shard_key: expected None, not 'a'"):
        only(models.QueryRequest(shard_key="a", limit=3), "limit")
