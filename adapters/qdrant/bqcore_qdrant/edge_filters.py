"""Filters in the words of qdrant-edge-py."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import Any

import qdrant_edge as edge
from qdrant_client import models

from bqcore_qdrant.edge_fields import only, unknown


def filter_(value: models.Filter | None) -> Any:
    """Return a filter; None stays None."""
    if value is None:
        return None
    if not isinstance(value, models.Filter):
        raise unknown("a filter", value)
    only(value, "must", "should", "must_not", "min_should")
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
    """Return one condition of a filter.

    Raises
    ------
    TypeError, ValueError
        If the engine has no such condition.
    """
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
        only(value.nested, "key", "filter")
        return edge.NestedCondition(value.nested.key, filter_(value.nested.filter) or edge.Filter())
    if isinstance(value, models.SliceCondition):
        only(value.slice, "total", "index")
        # The engine's type stubs leave it out.
        return edge.SliceCondition(value.slice.total, value.slice.index)  # type: ignore[attr-defined]
    if isinstance(value, models.FieldCondition):
        return _field_condition(value)
    raise unknown("a condition", value)


def _field_condition(value: models.FieldCondition) -> Any:
    only(
        value, "key", "match", "range", "geo_bounding_box", "geo_radius", "geo_polygon", "values_count",
        "is_empty", "is_null",
    )  # fmt: skip
    count, box, radius, polygon = (
        value.values_count, value.geo_bounding_box, value.geo_radius, value.geo_polygon
    )  # fmt: skip
    return edge.FieldCondition(
        key=value.key,
        match=None if value.match is None else _match(value.match),
        range=None if value.range is None else _range(value.range),
        geo_bounding_box=None
        if box is None
        else edge.GeoBoundingBox(geo_point(box.top_left), geo_point(box.bottom_right)),
        geo_radius=None if radius is None else edge.GeoRadius(geo_point(radius.center), radius.radius),
        geo_polygon=None
        if polygon is None
        else edge.GeoPolygon(
            _ring(polygon.exterior),
            None if polygon.interiors is None else [_ring(one) for one in polygon.interiors],
        ),
        values_count=None
        if count is None
        else edge.ValuesCount(lt=count.lt, gt=count.gt, lte=count.lte, gte=count.gte),
        is_empty=value.is_empty,
        is_null=value.is_null,
    )


def geo_point(value: models.GeoPoint) -> Any:
    """Return a point of the earth."""
    return edge.GeoPoint(value.lon, value.lat)


def _ring(value: models.GeoLineString) -> list[Any]:
    return [geo_point(one) for one in value.points]


def _match(value: Any) -> Any:
    if isinstance(value, models.MatchValue) and isinstance(value.value, bool):
        # qdrant-edge-py 0.9 takes True for the number 1, which matches nothing.
        raise unknown("a match of numbers or text", value.value)
    known: list[tuple[type, Callable[[Any], Any]]] = [
        (models.MatchValue, lambda v: edge.MatchValue(v.value)),
        (models.MatchAny, lambda v: edge.MatchAny(v.any)),
        (models.MatchExcept, lambda v: edge.MatchExcept(v.except_)),
        (models.MatchText, lambda v: edge.MatchText(v.text)),
        (models.MatchTextAny, lambda v: edge.MatchTextAny(v.text_any)),
        (models.MatchPhrase, lambda v: edge.MatchPhrase(v.phrase)),
        (models.MatchPrefix, lambda v: edge.MatchPrefix(v.prefix)),
        (models.MatchSubstring, lambda v: edge.MatchSubstring(v.substring)),
    ]
    for kind, make in known:
        if isinstance(value, kind):
            return make(value)
    raise unknown("a match", value)


def _range(value: Any) -> Any:
    if isinstance(value, models.DatetimeRange):
        ends = {name: getattr(value, name) for name in ("gte", "gt", "lte", "lt")}
        return edge.RangeDateTime(**{k: None if v is None else datetime_text(v) for k, v in ends.items()})
    if not isinstance(value, models.Range):
        raise unknown("a range", value)
    return edge.RangeFloat(gte=value.gte, gt=value.gt, lte=value.lte, lt=value.lt)


def datetime_text(value: datetime.datetime | datetime.date) -> str:
    """Return a date as the engine reads it; one without a time zone is UTC, as on a server."""
    if not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day)
    if value.tzinfo is None:
        value = value.replace(tzinfo=datetime.UTC)
    return value.isoformat()
