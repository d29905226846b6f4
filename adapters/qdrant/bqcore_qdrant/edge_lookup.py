"""Ids of points in queries become their vectors, which the embedded engine does not do itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qdrant_client import models

from bqcore_qdrant.edge_fields import only
from bqcore_qdrant.inputs import INFERENCE, as_id, is_array, names_vector, with_inputs

#: Takes a collection, an id and a vector's name; returns the vector.
Lookup = Callable[[str, Any, str], Any]


def with_vectors_for_ids(collection: str, level: Any, lookup: Lookup) -> Any:
    """Return a request or stage without ids: points that are asked for are left out of its results.

    Parameters
    ----------
    collection : str
    level : models.QueryRequest or models.Prefetch
        `lookup_from` says where vectors of ids are, in the collection itself by default.
    lookup : callable
        Takes a collection, an id and a vector's name.
    """
    update: dict[str, Any] = {"lookup_from": None}
    if level.prefetch is not None:
        stages = level.prefetch if isinstance(level.prefetch, list | tuple) else [level.prefetch]
        update["prefetch"] = [with_vectors_for_ids(collection, stage, lookup) for stage in stages]
    if not names_vector(level.query):
        if level.lookup_from is not None:
            raise ValueError(
                f"lookup_from: expected None beside {type(level.query).__name__}, not {level.lookup_from!r}"
            )
        return level.model_copy(update=update)
    place, using, source = level.lookup_from, level.using or "", collection
    mentioned: list[Any] = []
    if place is not None:
        only(place, "collection", "vector")
        source, using = place.collection, using if place.vector is None else place.vector

    def change(given: Any) -> Any:
        if is_array(given) or isinstance(given, (models.SparseVector, *INFERENCE)):
            return given
        id_ = as_id(given)
        if source == collection:
            mentioned.append(id_)
        return lookup(source, id_, using)

    update["query"] = with_inputs(level.query, change)
    if mentioned:
        update["filter"] = models.Filter(
            must=None if level.filter is None else [level.filter],
            must_not=[models.HasIdCondition(has_id=mentioned)],
        )
    return level.model_copy(update=update)
