"""The search side of `Collection` for `qdrant_client.AsyncQdrantClient`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from qdrant_client import models
from qdrant_client.http.models import QueryResponse

from bqcore_qdrant import requests
from bqcore_qdrant.codec import QdrantCodec
from bqcore_qdrant.collection import VECTOR, as_arguments, make_request
from bqcore_qdrant.identity import KEY, IdentityFile, check_identity
from bqcore_qdrant.sources import open_source
from bqcore_qdrant.upload import as_points
from bqcore_qdrant.versions import Version


class AsyncCollection:
    """A collection that bqcore set up, searched and filled without blocking.

    Made by `open`; collections are created with `Collection.create`, once.

    Parameters
    ----------
    client : AsyncQdrantClient
    name : str
    codec : QdrantCodec
    using : str
    """

    def __init__(self, client: Any, name: str, codec: QdrantCodec, using: str = VECTOR) -> None:
        self.client, self.name, self.codec, self.using = client, name, codec, using

    @classmethod
    async def open(cls, client: Any, name: str, codec: QdrantCodec, using: str = VECTOR) -> Self:
        """Return a collection after checking that it belongs to the codec.

        Raises
        ------
        ValueError
            If it does not exist, or belongs to another codec; the text has both hashes.
        """
        version = Version.parse((await client.info()).version)
        if not await client.collection_exists(name):
            raise ValueError(f"collection {name!r}: expected one that exists")
        found: Mapping[str, Any] | None
        if version.has("collection metadata"):
            found = ((await client.get_collection(name)).config.metadata or {}).get(KEY)
        else:
            found = IdentityFile(codec.path).read(name)
        check_identity(name, found, codec, using)
        return cls(client, name, codec, using)

    async def query_points(
        self,
        query: Any = None,
        *,
        using: str | None = None,
        prefetch: Any = None,
        query_filter: models.Filter | None = None,
        search_params: models.SearchParams | None = None,
        limit: int = 10,
        offset: int | None = None,
        with_payload: Any = True,
        with_vectors: Any = False,
        score_threshold: float | None = None,
        **options: Any,
    ) -> QueryResponse:
        """Search, as `Collection.query_points` does."""
        request = make_request(
            query, using or self.using, prefetch, query_filter, search_params, limit, offset, with_payload,
            with_vectors, score_threshold,
        )  # fmt: skip
        asked, shift = requests.encode_request(self.codec, self.using, request)
        response = await self.client.query_points(self.name, **as_arguments(asked), **options)
        return requests.decode_response(self.codec, self.using, response, shift)

    async def query_batch_points(
        self, batch: Sequence[models.QueryRequest], **options: Any
    ) -> list[QueryResponse]:
        """Search with several requests at once, as `Collection.query_batch_points` does."""
        named = [one if one.using else one.model_copy(update={"using": self.using}) for one in batch]
        asked = [requests.encode_request(self.codec, self.using, one) for one in named]
        found = await self.client.query_batch_points(self.name, [one for one, _ in asked], **options)
        return [
            requests.decode_response(self.codec, self.using, response, shift)
            for response, (_, shift) in zip(found, asked, strict=True)
        ]

    async def search(
        self, Q: npt.ArrayLike, k: int = 10, **arguments: Any
    ) -> tuple[list[list[Any]], list[list[float]]]:
        """Return ids and scores of the k nearest points per query; requests run together."""
        queries = np.atleast_2d(np.asarray(Q, dtype=np.float32))
        found = await asyncio.gather(
            *(self.query_points(query, limit=k, with_payload=False, **arguments) for query in queries)
        )
        return (
            [[point.id for point in one.points] for one in found],
            [[point.score for point in one.points] for one in found],
        )

    async def upload(
        self, source: Any, *, batch_size: int = 256, zero_vectors: str = "error", **options: Any
    ) -> int:
        """Transform and write points, batch after batch; return how many."""
        n = 0
        for batch in open_source(source, batch_size=batch_size, **options).batches:
            points, _ = as_points(self, batch, zero_vectors)
            await self.client.upsert(self.name, points=points, wait=True)
            n += len(points)
        return n
