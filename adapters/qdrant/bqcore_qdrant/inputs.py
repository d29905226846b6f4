"""What a query may be: vectors of any array library and ids of points; all else is refused by name."""

from __future__ import annotations

import array
import numbers
import uuid
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel
from qdrant_client import models

from bqcore._validation import Float32Array, InputTypeError, as_vectors

PointId = int | str


def _known(*names: str) -> tuple[type, ...]:
    """Return the models that this qdrant-client has."""
    return tuple(getattr(models, name) for name in names if hasattr(models, name))


#: Queries that are about stages, payload or chance, not about a vector.
WITHOUT_VECTOR = _known("FusionQuery", "RrfQuery", "FormulaQuery", "SampleQuery", "OrderByQuery", "TextQuery")
#: Queries that hold vectors or ids of points.
WITH_EXAMPLES = _known(
    "NearestQuery", "RecommendQuery", "DiscoverQuery", "ContextQuery", "RelevanceFeedbackQuery"
)
#: What a server turns into vectors itself.
INFERENCE = _known("Document", "Image", "InferenceObject")


def names_vector(query: Any) -> bool:
    """Tell whether a query is about a vector, so that `using` has a meaning for it."""
    return query is not None and not isinstance(query, WITHOUT_VECTOR)


def is_array(value: Any) -> bool:
    """Tell whether a value is an array of some library, or a sequence."""
    if isinstance(value, np.generic | str | bytes | bytearray | Mapping | BaseModel | type):
        return False
    return isinstance(value, np.ndarray | Sequence | array.array | memoryview) or any(
        hasattr(value, name) for name in ("__array__", "__dlpack__")
    )


def as_numbers(value: Any, name: str) -> npt.NDArray[Any]:
    """Return an array of real numbers from one of any library, or from sequences of numbers or arrays.

    Raises
    ------
    TypeError
        If an element is not a real number.
    ValueError
        If rows differ in length.
    """
    if isinstance(value, np.ndarray):
        found: Any = value
    elif hasattr(value, "__array__"):
        found = np.asarray(value)
    elif hasattr(value, "__dlpack__"):
        found = np.from_dlpack(value)
    else:
        # A list: its elements tell what numpy would hide (a bool among floats, text that reads as a number).
        found = np.empty(len(value), dtype=object)
        found[:] = [_element(one, name) for one in value]
    if found.dtype != object:
        return np.asarray(found)
    parts = [_element(one, name) for one in found]
    try:
        return np.asarray(parts, dtype=np.float64 if _are_scalars(parts) else None)
    except ValueError as error:
        raise ValueError(f"{name}: expected rows of equal length: {error}") from error


def _element(value: Any, name: str) -> Any:
    if is_array(value):
        return as_numbers(value, name)
    is_number = isinstance(value, numbers.Real | Decimal) and not isinstance(value, bool | np.bool_)
    if not is_number:
        raise InputTypeError(f"{name}: expected real numbers, not {value!r} ({type(value).__name__})")
    return float(value)


def _are_scalars(parts: Sequence[Any]) -> bool:
    return all(not isinstance(one, np.ndarray) or one.ndim == 0 for one in parts)


def one_vector(value: Any, dim: int) -> Float32Array:
    """Return a single query, shape (dim,), from a vector or from a matrix of one row.

    Raises
    ------
    TypeError, ValueError
        If elements are not finite real numbers, dims differ, or there are several rows.
    """
    found = as_numbers(value, "query")
    if found.ndim == 1:
        found = found[np.newaxis]
    if found.ndim == 2 and len(found) != 1:
        raise ValueError(f"query: expected one vector, not {len(found)}: search takes several")
    return np.asarray(as_vectors(found, name="query", dim=dim)[0])


def several_vectors(value: Any, dim: int) -> Float32Array:
    """Return queries, shape (n, dim), from one or several of them.

    Raises
    ------
    TypeError, ValueError
        As `one_vector`.
    """
    found = as_numbers(value, "query") if is_array(value) else np.asarray(value)
    return as_vectors(found[np.newaxis] if found.ndim == 1 else found, name="query", dim=dim)


def plain_input(value: Any) -> Any:
    """Return a vector or an id as qdrant-client takes it; models pass as they are.

    Raises
    ------
    TypeError
        If it is neither.
    """
    if is_array(value):
        return as_numbers(value, "query").tolist()
    if isinstance(value, (models.SparseVector, *INFERENCE)):
        return value
    return point_id(value)


def point_id(value: Any) -> Any:
    """Return an id of a point: a number, or a UUID as text.

    Raises
    ------
    TypeError, ValueError
        If it is neither.
    """
    if isinstance(value, str | uuid.UUID | int | np.integer) and not isinstance(value, bool | np.bool_):
        return as_id(value)
    raise InputTypeError(
        "query: expected a vector, the id of a point or a query of qdrant_client.models, "
        f"not {type(value).__module__}.{type(value).__name__}"
    )


def as_id(value: Any) -> PointId:
    """Return an id as Qdrant takes it: an unsigned whole number or a UUID.

    Raises
    ------
    TypeError, ValueError
        If it is neither.
    """
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, str):
        try:
            return str(uuid.UUID(value))
        except ValueError:
            raise ValueError(f"id: expected a whole number >= 0 or a UUID, not {value!r}") from None
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise InputTypeError(f"id: expected a whole number >= 0 or a UUID, not {value!r}")
    if not 0 <= int(value) < 1 << 64:
        raise ValueError(f"id: expected a whole number in [0, 2**64), not {value}")
    return int(value)


def with_inputs(query: Any, change: Callable[[Any], Any]) -> Any:
    """Return a query with every vector and id in it changed; one of `WITH_EXAMPLES`, a vector or an id."""
    if isinstance(query, models.NearestQuery):
        return query.model_copy(update={"nearest": change(query.nearest)})
    if isinstance(query, models.RecommendQuery):
        given = query.recommend
        sides = {
            side: None if examples is None else [change(one) for one in examples]
            for side, examples in (("positive", given.positive), ("negative", given.negative))
        }
        return query.model_copy(update={"recommend": given.model_copy(update=sides)})
    if isinstance(query, models.DiscoverQuery):
        asked = query.discover
        update = {"target": change(asked.target), "context": _pairs(asked.context, change)}
        return query.model_copy(update={"discover": asked.model_copy(update=update)})
    if isinstance(query, models.ContextQuery):
        return query.model_copy(update={"context": _pairs(query.context, change)})
    if isinstance(query, WITH_EXAMPLES):
        return _feedback(query, change)
    return change(query)


def _feedback(query: Any, change: Callable[[Any], Any]) -> Any:
    """Return a query by relevance feedback, which clients before 1.17 do not have, with examples changed."""
    asked = query.relevance_feedback
    items = [one.model_copy(update={"example": change(one.example)}) for one in asked.feedback]
    update = {"target": change(asked.target), "feedback": items}
    return query.model_copy(update={"relevance_feedback": asked.model_copy(update=update)})


def _pairs(context: Any, change: Callable[[Any], Any]) -> Any:
    if context is None:
        return None
    return [
        pair.model_copy(update={"positive": change(pair.positive), "negative": change(pair.negative)})
        for pair in (context if isinstance(context, list | tuple) else [context])
    ]
