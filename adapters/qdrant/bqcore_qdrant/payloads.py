"""Corrective factors that an application's payload writes removed: counted and written again."""

from __future__ import annotations

from typing import Any

import numpy as np
from qdrant_client import models

from bqcore_qdrant.collection import Collection
from bqcore_qdrant.formula import F_ADD, F_RESCALE
from bqcore_qdrant.sampling import own_vector
from bqcore_qdrant.stages import factors

# Points whose factors are written together.
_BATCH = 256


def _without_factors(collection: Collection) -> models.Filter:
    return models.Filter(
        must=[models.HasVectorCondition(has_vector=collection.using)],
        should=[
            models.IsEmptyCondition(is_empty=models.PayloadField(key=field)) for field in (F_RESCALE, F_ADD)
        ],
    )


def count_without_factors(collection: Collection) -> int:
    """Return how many points have the codec's vector, but lack a factor of it; 0 for codecs without factors.

    `overwrite_payload`, `clear_payload` and `delete_payload` of an application remove them, and so does an
    upsert of its own. Such a point is searched with typical factors in their place.
    """
    if not collection.codec.transform.factors:
        return 0
    found = collection.client.count(collection.name, count_filter=_without_factors(collection), exact=True)
    return int(found.count)


def restore_factors(collection: Collection) -> int:
    """Write the factors of points that lack one, taken from their stored vectors; return how many.

    Payload and vectors stay as they are.
    """
    codec = collection.codec
    if not codec.transform.factors:
        return 0
    done, offset = 0, None
    size = collection.allowed(_BATCH, "max_query_limit")
    while True:
        points, offset = collection.client.scroll(
            collection.name,
            scroll_filter=_without_factors(collection),
            limit=size,
            offset=offset,
            with_payload=False,
            with_vectors=[collection.using],
        )
        if points:
            rows = [own_vector(point.vector, collection.using) for point in points]
            stored = np.asarray(rows, dtype=np.float32)
            found = factors(codec.transform, codec.decode(stored), stored).tolist()
            writes: list[Any] = [
                models.SetPayloadOperation(
                    set_payload=models.SetPayload(payload={F_RESCALE: rescale, F_ADD: add}, points=[point.id])
                )
                for point, (rescale, add) in zip(points, found, strict=True)
            ]
            collection.client.batch_update_points(collection.name, update_operations=writes, wait=True)
            done += len(points)
        if offset is None:
            return done
