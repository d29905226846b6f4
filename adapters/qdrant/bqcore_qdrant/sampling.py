"""Random points of a collection: their ids in one answer, what they hold in pages."""

from __future__ import annotations

from typing import Any

import numpy as np
from qdrant_client import models

from bqcore._validation import Float32Array

# Coordinates in one answer: some 12 MB as JSON, which a slow server sends well within a minute.
_PAGE_COORDINATES = 1 << 20
# Draws of ids, each within the strict mode's limit.
_MOST_DRAWS = 50


def strict_limit(client: Any, name: str, limit: str) -> int | None:
    """Return a limit of a collection's strict mode; None without one."""
    strict = getattr(client.get_collection(name).config, "strict_mode_config", None)
    most = getattr(strict, limit, None) if strict is not None and strict.enabled else None
    return None if most is None else int(most)


def random_ids(client: Any, name: str, n: int, most: int | None) -> list[Any]:
    """Return ids of up to n different random points; no draw asks for more than `most`, if that is given."""
    found: dict[str, Any] = {}
    limit = n if most is None else min(n, most)
    for _ in range(min(_MOST_DRAWS, -(-2 * n // limit)) if limit < n else 1):
        drawn = client.query_points(
            name,
            query=models.SampleQuery(sample=models.Sample.RANDOM),
            limit=limit,
            with_payload=False,
            with_vectors=False,
        ).points
        found |= {str(point.id): point.id for point in drawn}
        if len(drawn) < limit or len(found) >= n:
            break
    return list(found.values())[:n]


def read_points(
    client: Any, name: str, ids: list[Any], using: str, dim: int, *, with_payload: bool
) -> list[models.Record]:
    """Return points by their ids with one vector, in pages of some megabytes; others are left out.

    Parameters
    ----------
    client : QdrantClient or EdgeClient
    name : str
    ids : list of int or str
    using : str
        Name of the vector; "" is the unnamed one.
    dim : int
        Its dimensions.
    with_payload : bool
    """
    step = max(1, _PAGE_COORDINATES // max(1, dim))
    found: list[models.Record] = []
    for start in range(0, len(ids), step):
        found += client.retrieve(
            name,
            ids=ids[start : start + step],
            with_payload=with_payload,
            with_vectors=[using] if using else True,
        )
    return found


def own_vector(value: Any, using: str) -> Any:
    """Return a point's vector of a name; None where it has none."""
    if isinstance(value, dict):
        return value.get(using)
    return value if using == "" else None


def sampled_vectors(
    client: Any, name: str, using: str, dim: int, n: int, most: int | None
) -> tuple[list[Any], Float32Array]:
    """Return ids and stored vectors, shape (m, dim), of up to n random points that have the vector.

    `most` is the strict mode's `max_query_limit`, if it has one.
    """
    ids, rows = [], []
    for point in read_points(client, name, random_ids(client, name, n, most), using, dim, with_payload=False):
        vector = own_vector(point.vector, using)
        if vector is not None:
            ids.append(point.id)
            rows.append(vector)
    return ids, np.asarray(rows, dtype=np.float32).reshape(len(rows), dim)
