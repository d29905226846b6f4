"""Writes of points, vectors and payloads in the embedded engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import qdrant_edge as edge
from qdrant_client import models

from bqcore_qdrant.edge_collections import DONE, EdgeCollections
from bqcore_qdrant.edge_fields import check_options, member, only, refused, unknown
from bqcore_qdrant.edge_filters import filter_
from bqcore_qdrant.edge_points import point_vectors
from bqcore_qdrant.edge_points import points as as_points
from bqcore_qdrant.inputs import as_id

_Result = models.UpdateResult


def _chosen(selector: Any) -> tuple[list[Any] | None, Any]:
    """Return ids, or a filter, that a write is for."""
    if isinstance(selector, models.PointIdsList):
        only(selector, "points")
        return [as_id(one) for one in selector.points], None
    if isinstance(selector, models.FilterSelector):
        only(selector, "filter")
        return None, filter_(selector.filter)
    if isinstance(selector, models.Filter):
        return None, filter_(selector)
    if isinstance(selector, list | tuple):
        return [as_id(one) for one in selector], None
    raise unknown("ids of points or a filter", selector)


class EdgeWrites(EdgeCollections):
    """Collections, and writes to them, each done when its call returns."""

    def _apply(self, name: str, operation: str, selector: Any, *arguments: Any) -> _Result:
        """Carry out an operation that comes in two forms, for ids and for a filter."""
        ids, chosen = _chosen(selector)
        if ids is not None and not ids:
            return DONE
        made = getattr(edge.UpdateOperation, operation if chosen is None else f"{operation}_by_filter")
        self._shard(name).update(made(ids if chosen is None else chosen, *arguments))
        return DONE

    def upsert(
        self,
        collection_name: str,
        points: Sequence[models.PointStruct] | models.Batch,
        update_mode: models.UpdateMode | None = None,
        update_filter: models.Filter | None = None,
        **options: Any,
    ) -> _Result:
        """Write points; one whose id is there is replaced, unless mode or filter say otherwise."""
        check_options("upsert", options)
        made = as_points(points)
        if not made:
            raise ValueError("points: expected at least 1, not 0")
        operation = edge.UpdateOperation.upsert_points(
            made, condition=filter_(update_filter), update_mode=member(update_mode, edge.UpdateMode)
        )
        self._shard(collection_name).update(operation)
        return DONE

    def upload_points(
        self, collection_name: str, points: Sequence[models.PointStruct], **options: Any
    ) -> None:
        """Write points, as `upsert` does: there is no network to try again over."""
        mode, chosen = options.pop("update_mode", None), options.pop("update_filter", None)
        check_options("upload_points", options, "batch_size", "parallel", "method", "max_retries")
        self.upsert(collection_name, list(points), mode, chosen)

    def delete(self, collection_name: str, points_selector: Any, **options: Any) -> _Result:
        """Delete points, by ids or by a filter."""
        check_options("delete", options)
        return self._apply(collection_name, "delete_points", points_selector)

    def update_vectors(
        self,
        collection_name: str,
        points: Sequence[models.PointVectors],
        update_filter: models.Filter | None = None,
        **options: Any,
    ) -> _Result:
        """Replace vectors of points that are there."""
        check_options("update_vectors", options)
        made = edge.UpdateOperation.update_vectors(point_vectors(points), condition=filter_(update_filter))
        self._shard(collection_name).update(made)
        return DONE

    def delete_vectors(
        self, collection_name: str, vectors: Sequence[str], points: Any, **options: Any
    ) -> _Result:
        """Take vectors of some names from points."""
        check_options("delete_vectors", options)
        return self._apply(collection_name, "delete_vectors", points, list(vectors))

    # ---- payloads ----

    def set_payload(
        self,
        collection_name: str,
        payload: dict[str, Any],
        points: Any,
        key: str | None = None,
        **options: Any,
    ) -> _Result:
        """Write fields of payloads, under a field where one is named; others stay."""
        check_options("set_payload", options)
        return self._apply(collection_name, "set_payload", points, payload, key)

    def overwrite_payload(
        self, collection_name: str, payload: dict[str, Any], points: Any, **options: Any
    ) -> _Result:
        """Replace payloads."""
        check_options("overwrite_payload", options)
        return self._apply(collection_name, "overwrite_payload", points, payload)

    def delete_payload(
        self, collection_name: str, keys: Sequence[str], points: Any, **options: Any
    ) -> _Result:
        """Take fields from payloads."""
        check_options("delete_payload", options)
        return self._apply(collection_name, "delete_payload", points, list(keys))

    def clear_payload(self, collection_name: str, points_selector: Any, **options: Any) -> _Result:
        """Take all fields from payloads."""
        check_options("clear_payload", options)
        return self._apply(collection_name, "clear_payload", points_selector)

    def batch_update_points(
        self, collection_name: str, update_operations: Sequence[Any], **options: Any
    ) -> list[_Result]:
        """Carry out several writes, one after the other."""
        check_options("batch_update_points", options)
        return [self._write(collection_name, one) for one in update_operations]

    def _write(self, name: str, one: Any) -> _Result:
        if isinstance(one, models.UpsertOperation):
            given = one.upsert
            only(given, "points", "batch", "update_filter", "update_mode")
            rows: Any = given.points if isinstance(given, models.PointsList) else given.batch
            return self.upsert(name, rows, given.update_mode, given.update_filter)
        if isinstance(one, models.DeleteOperation):
            return self.delete(name, one.delete)
        if isinstance(one, models.SetPayloadOperation):
            set_ = one.set_payload
            only(set_, "payload", "points", "filter", "key")
            return self.set_payload(name, set_.payload, _selector(set_), set_.key)
        if isinstance(one, models.OverwritePayloadOperation):
            new = one.overwrite_payload
            only(new, "payload", "points", "filter")
            return self.overwrite_payload(name, new.payload, _selector(new))
        if isinstance(one, models.DeletePayloadOperation):
            gone = one.delete_payload
            only(gone, "keys", "points", "filter")
            return self.delete_payload(name, gone.keys, _selector(gone))
        if isinstance(one, models.ClearPayloadOperation):
            return self.clear_payload(name, one.clear_payload)
        if isinstance(one, models.UpdateVectorsOperation):
            only(one.update_vectors, "points", "update_filter")
            return self.update_vectors(name, one.update_vectors.points, one.update_vectors.update_filter)
        if isinstance(one, models.DeleteVectorsOperation):
            own = one.delete_vectors
            only(own, "points", "filter", "vector")
            return self.delete_vectors(name, own.vector, _selector(own))
        raise unknown("a write", one)


def _selector(given: Any) -> Any:
    """Return the points that a write of a batch is for: ids or a filter, one of them."""
    if (given.points is None) == (given.filter is None):
        raise refused(type(given).__name__, "points and filter", "both or neither")
    return given.filter if given.points is None else given.points
