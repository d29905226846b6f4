"""Points and their parts in the words of qdrant-edge-py, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import qdrant_edge as edge
from qdrant_client import models

from bqcore_qdrant.edge_fields import only, unknown
from bqcore_qdrant.inputs import as_id, as_numbers, is_array


def vector(value: Any) -> Any:
    """Return a vector, or vectors by name.

    Raises
    ------
    TypeError
        If it is neither dense, sparse nor several of one point, as a text that a server would embed.
    """
    if isinstance(value, Mapping):
        return {name: vector(one) for name, one in value.items()}
    if isinstance(value, models.SparseVector):
        indices, values = [int(one) for one in value.indices], [float(one) for one in value.values]
        if len(indices) != len(values):
            raise ValueError(f"sparse vector: expected {len(indices)} values, not {len(values)}")
        if len(set(indices)) != len(indices):
            raise ValueError(f"sparse vector: expected every index once, not {indices}")
        return edge.SparseVector(indices=indices, values=values)
    if isinstance(value, list) and value and isinstance(value[0], float):
        return value
    if is_array(value):
        return as_numbers(value, "vector").tolist()
    raise unknown("a vector", value)


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
    if value is None or isinstance(value, bool) or _are_names(value):
        return value
    raise unknown("a choice of payload", value)


def vector_selector(value: Any) -> Any:
    """Return which vectors are asked for: all, none, or those of names."""
    if value is None or isinstance(value, bool) or _are_names(value):
        return value
    raise unknown("a choice of vectors", value)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def points(value: Any) -> list[Any]:
    """Return points, from a list of them or from columns."""
    if isinstance(value, models.Batch):
        only(value, "ids", "vectors", "payloads")
        payloads: Any = [None] * len(value.ids) if value.payloads is None else value.payloads
        vectors: Any = value.vectors
        if isinstance(vectors, dict):
            names = list(vectors)
            vectors = [dict(zip(names, row, strict=True)) for row in zip(*vectors.values(), strict=True)]
        rows: Any = zip(value.ids, vectors, payloads, strict=True)
    else:
        rows = iter([_parts(point) for point in value])
    return [
        edge.Point(id=as_id(id_), vector=vector(own), payload=payload or {}) for id_, own, payload in rows
    ]


def _parts(point: Any) -> tuple[Any, Any, Any]:
    if not isinstance(point, models.PointStruct):
        raise unknown("a point", point)
    only(point, "id", "vector", "payload")
    return point.id, point.vector, point.payload


def point_vectors(value: Any) -> list[Any]:
    """Return vectors that replace those of points."""
    found = []
    for one in value:
        only(one, "id", "vector")
        found.append(edge.PointVectors(as_id(one.id), vector(one.vector)))
    return found


def record(one: Any) -> models.Record:
    """Return a point as qdrant-client has it."""
    return models.Record(
        id=point_id(one.id), payload=one.payload, vector=from_vector(one.vector), order_value=one.order_value
    )


def scored(one: Any) -> models.ScoredPoint:
    """Return a result as qdrant-client has it."""
    return models.ScoredPoint.model_construct(
        id=point_id(one.id),
        version=one.version,
        score=one.score,
        payload=one.payload,
        vector=from_vector(one.vector),
        order_value=one.order_value,
    )
