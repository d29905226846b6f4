"""Values of every type that fields of qdrant-client's models have, made from their annotations."""

from __future__ import annotations

import datetime
import enum
import types
import typing
import uuid
from typing import Any

from pydantic import BaseModel

# Models that hold models of their own kind end here.
_DEEPEST = 4
# A text that is an id as well.
_TEXT = "00000000-0000-0000-0000-000000000009"
# Fields without which a model asks for nothing.
_NEEDED: dict[str, dict[str, Any]] = {"RecommendInput": {"positive": [[1.0, 2.0]]}}


def samples(annotation: Any, depth: int = 0) -> list[Any]:
    """Return values of a type: one per arm of a union, every member of an enumeration, both booleans.

    None is left out.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return samples(arguments[0], depth)
    if origin in (typing.Union, types.UnionType):
        arms = [one for one in arguments if one is not type(None)]
        # Within a model the first arm is enough: each has its turn where it is walked itself.
        found = [samples(one, depth) for one in (arms[:1] if depth else arms)]
        return [value for values in found for value in values]
    if origin is list:
        return [[value] for value in samples(arguments[0], depth)]
    if origin is dict:
        return [{"name": value} for value in samples(arguments[1], depth)]
    if annotation is Any:
        return [_TEXT]
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return list(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [] if depth >= _DEEPEST else [made(annotation, depth + 1)]
    plain: dict[Any, list[Any]] = {
        bool: [True, False], int: [3], float: [0.25], str: [_TEXT], uuid.UUID: [uuid.UUID(int=7)],
        datetime.datetime: [datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC)],
        datetime.date: [datetime.date(2020, 1, 2)],
    }  # fmt: skip
    return plain[annotation]


def made(model: type[BaseModel], depth: int = 0) -> Any:
    """Return a model with its required fields filled; optional ones are None."""
    fields: dict[str, Any] = dict(_NEEDED.get(model.__name__, {}))
    for name, field in model.model_fields.items():
        if field.is_required():
            # The last arm of a union of inputs is a text to be embedded; the first is a vector, a number.
            fields[name] = next(iter(samples(field.annotation, depth)), None)
    return model.model_construct(**fields)
