"""The engine in this process (qdrant-edge-py) behind the methods of `qdrant_client.QdrantClient`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import qdrant_edge as edge
from qdrant_client import models
from qdrant_client.http.models import QueryResponse

from bqcore_qdrant.arguments import make_request
from bqcore_qdrant.edge_fields import check_options
from bqcore_qdrant.edge_filters import filter_
from bqcore_qdrant.edge_lookup import with_vectors_for_ids
from bqcore_qdrant.edge_points import payload_selector, point_id, record, scored, vector_selector
from bqcore_qdrant.edge_queries import order_by as ordered
from bqcore_qdrant.edge_queries import query_request
from bqcore_qdrant.edge_rules import check_limit, check_order, check_request
from bqcore_qdrant.edge_writes import EdgeWrites
from bqcore_qdrant.inputs import as_id


class EdgeClient(EdgeWrites):
    """Collections under a folder, each a shard of the embedded engine.

    Methods and arguments are those of `qdrant_client.QdrantClient`, as far as they go: what the engine cannot
    do is refused by name. Points are searched at once; `optimize` builds graphs and codes, which a server
    does in the background.

    Parameters
    ----------
    path : path-like
        Created where it does not exist. One process at a time.
    """

    def count(
        self,
        collection_name: str,
        count_filter: models.Filter | None = None,
        exact: bool = True,
        **options: Any,
    ) -> models.CountResult:
        """Count points."""
        check_options("count", options)
        request = edge.CountRequest(exact=exact, filter=filter_(count_filter))
        return models.CountResult(count=self._shard(collection_name).count(request))

    def retrieve(
        self,
        collection_name: str,
        ids: Sequence[Any],
        with_payload: Any = True,
        with_vectors: Any = False,
        **options: Any,
    ) -> list[models.Record]:
        """Return points by their ids; those that do not exist are left out."""
        check_options("retrieve", options)
        found = self._shard(collection_name).retrieve(
            [as_id(one) for one in ids], payload_selector(with_payload), vector_selector(with_vectors)
        )
        return [record(one) for one in found]

    def scroll(
        self,
        collection_name: str,
        scroll_filter: models.Filter | None = None,
        limit: int = 10,
        order_by: Any = None,
        offset: Any = None,
        with_payload: Any = True,
        with_vectors: Any = False,
        **options: Any,
    ) -> tuple[list[models.Record], Any]:
        """Return points in the order of their ids, and the id that the next page begins with.

        With `order_by` they come in the order of a field of the payload, which must be indexed, and no page
        follows.
        """
        check_options("scroll", options)
        check_limit(limit)
        check_order(order_by, offset)
        request = edge.ScrollRequest(
            offset=None if offset is None else as_id(offset),
            limit=limit,
            filter=filter_(scroll_filter),
            with_payload=payload_selector(with_payload),
            with_vector=vector_selector(with_vectors),
            order_by=ordered(order_by),
        )
        found, following = self._shard(collection_name).scroll(request)
        return [record(one) for one in found], None if following is None else point_id(following)

    # ---- queries ----

    def query_points(
        self,
        collection_name: str,
        query: Any = None,
        using: str | None = None,
        prefetch: Any = None,
        query_filter: models.Filter | None = None,
        search_params: models.SearchParams | None = None,
        limit: int = 10,
        offset: int | None = None,
        with_payload: Any = True,
        with_vectors: Any = False,
        score_threshold: float | None = None,
        lookup_from: models.LookupLocation | None = None,
        **options: Any,
    ) -> QueryResponse:
        """Search."""
        check_options("query_points", options)
        request = make_request(
            query,
            using,
            prefetch,
            query_filter,
            search_params,
            limit,
            offset,
            with_payload,
            with_vectors,
            score_threshold,
            lookup_from,
        )
        return self.query_batch_points(collection_name, [request])[0]

    def query_batch_points(
        self, collection_name: str, requests: Sequence[models.QueryRequest], **options: Any
    ) -> list[QueryResponse]:
        """Search with several requests at once."""
        check_options("query_batch_points", options)
        shard = self._shard(collection_name)
        for one in requests:
            check_request(one)
        made = [query_request(with_vectors_for_ids(collection_name, one, self._lookup)) for one in requests]
        return [QueryResponse(points=[scored(point) for point in shard.query(one)]) for one in made]

    def _lookup(self, name: str, id_: Any, using: str) -> Any:
        """Return a point's vector.

        Raises
        ------
        ValueError
            If it has none.
        """
        found = self.retrieve(name, [id_], with_payload=False, with_vectors=[using] if using else True)
        vector: Any = found[0].vector if found else None
        vector = vector.get(using) if isinstance(vector, dict) else vector
        if vector is None:
            raise ValueError(f"query: expected the id of a point with a vector {using!r}, not {id_!r}")
        return vector
