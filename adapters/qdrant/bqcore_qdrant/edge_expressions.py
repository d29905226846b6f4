"""Formulas in the words of qdrant-edge-py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qdrant_edge as edge
from qdrant_client import models

from bqcore_qdrant.edge_fields import only
from bqcore_qdrant.edge_filters import condition, geo_point


def _each(values: Any) -> list[Any]:
    return [expression(one) for one in values]


def _div(value: Any) -> Any:
    only(value, "left", "right", "by_zero_default")
    return edge.Expression.Div(expression(value.left), expression(value.right), value.by_zero_default)


def _pow(value: Any) -> Any:
    return edge.Expression.Pow(expression(value.base), expression(value.exponent))


def _distance(value: Any) -> Any:
    return edge.Expression.GeoDistance(geo_point(value.origin), value.to)


def _decay(kind: str) -> Callable[[Any], Any]:
    def made(value: Any) -> Any:
        only(value, "x", "target", "midpoint", "scale")
        target = None if value.target is None else expression(value.target)
        return edge.Expression.Decay(
            getattr(edge.DecayKind, kind), expression(value.x), target, value.midpoint, value.scale
        )

    return made


# Each model of an expression has one field.
_KNOWN: dict[type, tuple[str, Callable[[Any], Any]]] = {
    models.MultExpression: ("mult", lambda v: edge.Expression.Mult(_each(v))),
    models.SumExpression: ("sum", lambda v: edge.Expression.Sum(_each(v))),
    models.NegExpression: ("neg", lambda v: edge.Expression.Neg(expression(v))),
    models.MaxExpression: ("max", lambda v: edge.Expression.Max(_each(v))),
    models.MinExpression: ("min", lambda v: edge.Expression.Min(_each(v))),
    models.AbsExpression: ("abs", lambda v: edge.Expression.Abs(expression(v))),
    models.SqrtExpression: ("sqrt", lambda v: edge.Expression.Sqrt(expression(v))),
    models.ExpExpression: ("exp", lambda v: edge.Expression.Exp(expression(v))),
    models.LnExpression: ("ln", lambda v: edge.Expression.Ln(expression(v))),
    models.Log10Expression: ("log10", lambda v: edge.Expression.Log10(expression(v))),
    models.AcoshExpression: ("acosh", lambda v: edge.Expression.Acosh(expression(v))),
    models.DivExpression: ("div", _div),
    models.PowExpression: ("pow", _pow),
    models.GeoDistance: ("geo_distance", _distance),
    models.DatetimeExpression: ("datetime", lambda v: edge.Expression.Datetime(v)),
    models.DatetimeKeyExpression: ("datetime_key", lambda v: edge.Expression.DatetimeKey(v)),
    models.LinDecayExpression: ("lin_decay", _decay("Lin")),
    models.ExpDecayExpression: ("exp_decay", _decay("Exp")),
    models.GaussDecayExpression: ("gauss_decay", _decay("Gauss")),
}


def expression(value: Any) -> Any:
    """Return a formula's expression.

    Raises
    ------
    TypeError, ValueError
        If the engine has no such expression.
    """
    if isinstance(value, str):
        return edge.Expression.Variable(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return edge.Expression.Constant(float(value))
    if type(value) in _KNOWN:
        field, make = _KNOWN[type(value)]
        only(value, field)
        return make(getattr(value, field))
    return edge.Expression.Condition(condition(value))
