"""`Collection` for `qdrant_client.AsyncQdrantClient`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

import numpy.typing as npt
from qdrant_client import models
from qdrant_client.http.models import QueryResponse

from bqcore._validation import check_int
from bqcore_qdrant import requests
from bqcore_qdrant.arguments import as_arguments, make_request, vector_requests
from bqcore_qdrant.blocking import BlockingClient, in_thread
from bqcore_qdrant.codec import QdrantCodec
from bqcore_qdrant.collection import Collection
from bqcore_qdrant.inputs import as_id, several_vectors
from bqcore_qdrant.migrate import Migration, migrate
from bqcore_qdrant.payloads import restore_factors
from bqcore_qdrant.upload import Uploaded, upload
from bqcore_qdrant.verify import Verification, verify

T = TypeVar("T")
# Requests that are sent together, and such batches under way at once.
_BATCH, _AT_ONCE = 16, 4


class AsyncCollection:
    """A collection that bqcore set up, without blocking the event loop.

    Made by `create` and `open`. Searches are awaited in the loop. Long work (`upload`, `verify`, `migrate`)
    runs in a thread, where its vectors are transformed, and its requests in the loop; progress callbacks are
    called in that thread. Where a task is cancelled, the work ends at its next request: take an upload up
    again with ``resume=True``.

    Parameters
    ----------
    client : AsyncQdrantClient
    known : Collection
        What was checked when it was opened.
    """

    def __init__(self, client: Any, known: Collection) -> None:
        self.client, self._known = client, known
        self.name, self.codec, self.using = known.name, known.codec, known.using
        self.version, self.identity = known.version, known.identity

    @classmethod
    async def open(cls, client: Any, name: str, codec: QdrantCodec, using: str | None = None) -> Self:
        """Return a collection after checking that it belongs to the codec.

        Raises
        ------
        ValueError
            If it does not exist, or belongs to another codec, the text then has both hashes; or if its strict
            mode does not let the codec search.
        """
        return cls(client, await in_thread(client, lambda blocking: Collection(blocking, name, codec, using)))

    @classmethod
    async def create(cls, client: Any, name: str, codec: QdrantCodec, **options: Any) -> Self:
        """Create a collection for a codec; options are those of `Collection.create`."""
        return cls(
            client,
            await in_thread(client, lambda blocking: Collection.create(blocking, name, codec, **options)),
        )

    async def _run(self, work: Callable[[Collection], T]) -> T:
        return await in_thread(self.client, lambda blocking: work(self._known.over(blocking)))

    async def drop(self) -> None:
        """Delete the collection."""
        await self._run(Collection.drop)

    # ---- search ----

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
        lookup_from: models.LookupLocation | None = None,
        **options: Any,
    ) -> QueryResponse:
        """Search, as `Collection.query_points` does."""
        request = make_request(
            query, using, prefetch, query_filter, search_params, limit, offset, with_payload, with_vectors,
            score_threshold, lookup_from,
        )  # fmt: skip
        n_points = await self._n_points([request])
        asked, shift = requests.encode_request(self.codec, self.using, request, n_points)
        response = await self.client.query_points(self.name, **as_arguments(asked), **options)
        return requests.decode_response(self.codec, self.using, response, shift)

    async def query_batch_points(
        self, batch: Sequence[models.QueryRequest], **options: Any
    ) -> list[QueryResponse]:
        """Search with several requests at once, as `Collection.query_batch_points` does."""
        n_points = await self._n_points(batch)
        asked = [requests.encode_request(self.codec, self.using, one, n_points) for one in batch]
        found = await self.client.query_batch_points(self.name, [one for one, _ in asked], **options)
        return [
            requests.decode_response(self.codec, self.using, response, shift)
            for response, (_, shift) in zip(found, asked, strict=True)
        ]

    async def _n_points(self, batch: Sequence[models.QueryRequest]) -> int | None:
        if not any(requests.wants_count(self.codec, self.using, one) for one in batch):
            return None
        return int((await self.client.count(self.name, exact=True)).count)

    async def search(
        self,
        Q: npt.ArrayLike,
        k: int = 10,
        *,
        query_filter: models.Filter | None = None,
        search_params: models.SearchParams | None = None,
        score_threshold: float | None = None,
    ) -> tuple[list[list[Any]], list[list[float]]]:
        """Return ids and scores of the k nearest points per query; a few batches are under way at once."""
        queries = several_vectors(Q, self.codec.dim)
        k = check_int(k, name="k", low=1)
        step, free = self._known.allowed(_BATCH, "search_max_batchsize"), asyncio.Semaphore(_AT_ONCE)

        async def ask(start: int) -> list[QueryResponse]:
            part = queries[start : start + step]
            batch = vector_requests(part, self.using, k, query_filter, search_params, score_threshold)
            async with free:
                return await self.query_batch_points(batch)

        answers = await asyncio.gather(*(ask(start) for start in range(0, len(queries), step)))
        points = [response.points for batch in answers for response in batch]
        return [[one.id for one in row] for row in points], [[one.score for one in row] for row in points]

    # ---- points ----

    async def retrieve(
        self, ids: Sequence[Any], with_payload: Any = True, with_vectors: Any = False, **options: Any
    ) -> list[models.Record]:
        """Return points by their ids, vectors as they were given."""
        found = await self.client.retrieve(
            self.name,
            ids=[as_id(one) for one in ids],
            with_payload=with_payload,
            with_vectors=with_vectors,
            **options,
        )
        requests.decode_points(self.codec, self.using, found)
        return list(found)

    async def scroll(self, **options: Any) -> tuple[list[models.Record], Any]:
        """Return a page of points, vectors as they were given, and where the next one begins."""
        found, following = await self.client.scroll(self.name, **options)
        requests.decode_points(self.codec, self.using, found)
        return list(found), following

    async def upload(self, source: Any, **options: Any) -> Uploaded:
        """Transform and write points; source and options are those of `bqcore_qdrant.upload`."""
        return await self._run(lambda collection: upload(collection, source, **options))

    async def migrate(self, source: Any, name: str, **options: Any) -> Migration:
        """Copy another collection into this one, through the codec.

        Parameters
        ----------
        source : AsyncQdrantClient
            Of the collection to copy; it may be this one's.
        name : str
        **options
            Those of `bqcore_qdrant.migrate`.
        """
        other = BlockingClient(source, asyncio.get_running_loop())
        try:
            return await self._run(lambda collection: migrate(other, name, collection, **options))
        except asyncio.CancelledError:
            other.stop()
            raise

    # ---- state ----

    async def optimize(self, timeout: float = 3600.0) -> None:
        """Wait until graphs and codes of all points are built."""
        await self._run(lambda collection: collection.optimize(timeout))

    async def restore_factors(self) -> int:
        """Write factors that payload writes removed, as `bqcore_qdrant.restore_factors` does."""
        return await self._run(restore_factors)

    async def describe(self) -> dict[str, Any]:
        """Return what the collection is, as `Collection.describe` does."""
        return await self._run(Collection.describe)

    async def verify(self, queries: npt.ArrayLike | None = None, k: int = 10, **options: Any) -> Verification:
        """Measure recall@k of the collection as it is now, as `bqcore_qdrant.verify` does."""
        return await self._run(lambda collection: verify(collection, queries, k, **options))
