"""A collection that bqcore set up: made, filled, searched and checked through one codec."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, Self

import numpy.typing as npt
from qdrant_client import models
from qdrant_client.http.models import QueryResponse

from bqcore._validation import check_int
from bqcore_qdrant import requests
from bqcore_qdrant.arguments import as_arguments, make_request, vector_requests
from bqcore_qdrant.codec import QdrantCodec
from bqcore_qdrant.formula import create_indexes
from bqcore_qdrant.identity import KEY, IdentityFile, check_identity, identity
from bqcore_qdrant.inputs import as_id, several_vectors
from bqcore_qdrant.versions import Version, usable_version

#: Name of the vector, unless another one is given.
VECTOR = "dense"
# Requests that are sent together, and results that a search asks for if nothing else is said.
_BATCH, _RESULTS = 64, 10


def server_version(client: Any) -> Version:
    """Return the version of the server behind a client, or the client's own where that is older."""
    return usable_version(client.info())


class Collection:
    """A collection, its codec, and a client: `qdrant_client.QdrantClient` or `EdgeClient`.

    Parameters
    ----------
    client : QdrantClient or EdgeClient
    name : str
    codec : QdrantCodec
        The one that the collection was made with.
    using : str, optional
        The vector that the codec stores; by default the one that the collection was made with.

    Raises
    ------
    ValueError
        If the collection does not exist, or belongs to another codec; the text has both hashes.
    """

    def __init__(self, client: Any, name: str, codec: QdrantCodec, using: str | None = None) -> None:
        self.client, self.name, self.codec = client, name, codec
        self.version = server_version(client)
        if not client.collection_exists(name):
            raise ValueError(f"collection {name!r}: expected one that exists")
        config = client.get_collection(name).config
        self._strict = getattr(config, "strict_mode_config", None)
        self.identity = check_identity(name, self._stored_identity(config), codec, using)
        self.using = str(self.identity["vector"])
        self.check_strict_mode()

    def over(self, client: Any) -> Self:
        """Return this collection behind another client of the same server, without asking it again."""
        other = copy(self)
        other.client = client
        return other

    def strict_limit(self, name: str) -> Any:
        """Return a limit of the strict mode that the collection had when it was opened; None without one."""
        strict = self._strict
        return getattr(strict, name, None) if strict is not None and strict.enabled else None

    def check_strict_mode(self) -> None:
        """Check that the collection's strict mode lets the codec search.

        Raises
        ------
        ValueError
            If oversampling, ef or candidates are above its limits, the text then has both values; or if it
        forbids the exact stage of a search with factors.
        """
        config, factors = self.codec.config, self.codec.transform.factors
        if factors and self.strict_limit("search_allow_exact") is False:
            raise ValueError(
                f"collection {self.name!r}: its strict mode forbids exact search, which factors need"
            )
        for limit, wanted in (
            ("search_max_oversampling", config.oversampling if config.quantizer != "none" else 1.0),
            ("search_max_hnsw_ef", config.hnsw_ef),
            # The stages of a search with factors ask for all candidates.
            ("max_query_limit", _RESULTS * config.oversampling if factors else 1),
        ):
            most = self.strict_limit(limit)
            if most is not None and wanted > most:
                raise ValueError(
                    f"collection {self.name!r}: its strict mode allows {limit} = {most:g}, not {wanted:g}: "
                    "use codec.with_search"
                )

    def allowed(self, wanted: int, name: str) -> int:
        """Return a number, cut down to a limit of the collection's strict mode."""
        most = self.strict_limit(name)
        return wanted if most is None else max(1, min(wanted, int(most)))

    def _stored_identity(self, config: Any) -> Mapping[str, Any] | None:
        if self.version.has("collection metadata"):
            found = (config.metadata or {}).get(KEY)
            return found if isinstance(found, Mapping) else None
        return IdentityFile(self.codec.path).read(self.name)

    @classmethod
    def create(
        cls,
        client: Any,
        name: str,
        codec: QdrantCodec,
        *,
        using: str = VECTOR,
        other_vectors: Mapping[str, models.VectorParams] | None = None,
        sparse_vectors: Mapping[str, models.SparseVectorParams] | None = None,
        hnsw_config: models.HnswConfigDiff | None = None,
        **options: Any,
    ) -> Self:
        """Create a collection for a codec.

        Parameters
        ----------
        client : QdrantClient or EdgeClient
        name : str
        codec : QdrantCodec
        using : str, default "dense"
        other_vectors, sparse_vectors : mapping, optional
            Vectors beside the codec's, which it leaves alone.
        hnsw_config : models.HnswConfigDiff, optional
        **options
            Further arguments of `create_collection`.

        Raises
        ------
        ValueError
            If it exists, or the server is too old for the codec's configuration.
        """
        version = server_version(client)
        version.check(*codec.config.needs)
        if client.collection_exists(name):
            raise ValueError(f"collection {name!r}: expected a name that is free, but it exists")
        if using in (other_vectors or {}) or using in (sparse_vectors or {}):
            raise ValueError(f"vectors: expected other names than {using!r}, which is the codec's")
        mine = identity(codec, using)
        arguments: dict[str, Any] = dict(options)
        if version.has("collection metadata"):
            arguments["metadata"] = {**(options.get("metadata") or {}), KEY: mine}
        else:
            IdentityFile(codec.path).write(name, mine)
        vectors = {using: requests.vector_params(codec, version), **(other_vectors or {})}
        client.create_collection(
            name,
            vectors_config=vectors,
            sparse_vectors_config=dict(sparse_vectors) if sparse_vectors else None,
            hnsw_config=hnsw_config,
            **arguments,
        )
        if codec.transform.factors:
            create_indexes(client, name)
        return cls(client, name, codec, using)

    def drop(self) -> None:
        """Delete the collection."""
        self.client.delete_collection(self.name)
        if not self.version.has("collection metadata"):
            IdentityFile(self.codec.path).write(self.name, None)

    # ---- search ----

    def query_points(
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
        """Search as `QdrantClient.query_points` does, in the metric's own terms.

        Vectors are transformed in all stages, thresholds and scores are the metric's (cosine, inner product,
        Euclidean distance), vectors come back as they were given. A vector may be an array of any library,
        a list of numbers or a matrix of one row. `using` defaults to the codec's vector where a query names
        one, in all stages, and is left out where it names none (fusion, order, formula, sample).

        Raises
        ------
        TypeError, ValueError
            If a vector has other dimensions, is not finite, or is zero under cosine; if a query is of a type
            that is not known, or one that transformed vectors do not carry over.
        """
        request = make_request(
            query, using, prefetch, query_filter, search_params, limit, offset, with_payload, with_vectors,
            score_threshold, lookup_from,
        )  # fmt: skip
        asked, shift = requests.encode_request(self.codec, self.using, request, self._n_points([request]))
        response = self.client.query_points(self.name, **as_arguments(asked), **options)
        return requests.decode_response(self.codec, self.using, response, shift)

    def query_batch_points(self, batch: Sequence[models.QueryRequest], **options: Any) -> list[QueryResponse]:
        """Search with several requests at once; `using` defaults as in `query_points`."""
        n_points = self._n_points(batch)
        asked = [requests.encode_request(self.codec, self.using, one, n_points) for one in batch]
        found = self.client.query_batch_points(self.name, [one for one, _ in asked], **options)
        return [
            requests.decode_response(self.codec, self.using, response, shift)
            for response, (_, shift) in zip(found, asked, strict=True)
        ]

    def _n_points(self, batch: Sequence[models.QueryRequest]) -> int | None:
        """Return the number of points where a request needs it."""
        if not any(requests.wants_count(self.codec, self.using, one) for one in batch):
            return None
        return int(self.client.count(self.name, exact=True).count)

    def search(
        self,
        Q: npt.ArrayLike,
        k: int = 10,
        *,
        query_filter: models.Filter | None = None,
        search_params: models.SearchParams | None = None,
        score_threshold: float | None = None,
    ) -> tuple[list[list[Any]], list[list[float]]]:
        """Return ids and scores of the k nearest points per query, best first.

        Parameters
        ----------
        Q : ndarray of float32, shape (n_queries, dim) or (dim,)
        k : int, default 10
        """
        queries = several_vectors(Q, self.codec.dim)
        k = check_int(k, name="k", low=1)
        ids: list[list[Any]] = []
        scores: list[list[float]] = []
        step = self.allowed(_BATCH, "search_max_batchsize")
        for start in range(0, len(queries), step):
            batch = vector_requests(
                queries[start : start + step], self.using, k, query_filter, search_params, score_threshold
            )
            for response in self.query_batch_points(batch):
                ids.append([point.id for point in response.points])
                scores.append([point.score for point in response.points])
        return ids, scores

    # ---- points ----

    def retrieve(
        self, ids: Sequence[Any], with_payload: Any = True, with_vectors: Any = False, **options: Any
    ) -> list[models.Record]:
        """Return points by their ids, vectors as they were given; those that do not exist are left out."""
        found = self.client.retrieve(
            self.name,
            ids=[as_id(one) for one in ids],
            with_payload=with_payload,
            with_vectors=with_vectors,
            **options,
        )
        requests.decode_points(self.codec, self.using, found)
        return list(found)

    def scroll(self, **options: Any) -> tuple[list[models.Record], Any]:
        """Return a page of points, vectors as they were given, and where the next one begins.

        Arguments are those of `QdrantClient.scroll`.
        """
        found, following = self.client.scroll(self.name, **options)
        requests.decode_points(self.codec, self.using, found)
        return list(found), following

    # ---- state ----

    def optimize(self, timeout: float = 3600.0) -> None:
        """Wait until graphs and codes of all points are built; the embedded engine builds them now.

        Raises
        ------
        TimeoutError
            If a server has not finished after `timeout` seconds.
        """
        if hasattr(self.client, "optimize"):
            self.client.optimize(self.name)
            return
        end = time.monotonic() + timeout
        calm = 0
        while calm < 3:  # green for a moment between two runs of the optimizer does not count
            info = self.client.get_collection(self.name)
            calm = calm + 1 if info.status == models.CollectionStatus.GREEN else 0
            if time.monotonic() > end:
                raise TimeoutError(
                    f"collection {self.name!r}: expected green within {timeout:.0f} s, not {info.status}"
                )
            time.sleep(0.5)

    def describe(self) -> dict[str, Any]:
        """Return what the collection is: codec, configuration, bytes, counts."""
        info = self.client.get_collection(self.name)
        config, distance = self.codec.config, self.codec.transform.distance
        option = self.codec.option
        n = int(info.points_count or 0)
        ram, disk = config.bytes_ram(self.codec.dim, distance), config.bytes_disk(self.codec.dim, distance)
        return {
            "collection": self.name,
            "server_version": str(self.version),
            "codec": self.codec.hash,
            "metric": self.codec.metric,
            "dim": self.codec.dim,
            "transform": self.codec.transform.kind,
            "distance": distance,
            "config": config.name,
            "hnsw_ef": config.hnsw_ef,
            "factors": self.codec.transform.factors,
            "predicted_recall": option.recall if option else None,
            "points": n,
            "indexed": info.indexed_vectors_count,
            "segments": info.segments_count,
            "bytes_ram_per_vector": ram,
            "bytes_disk_per_vector": disk,
            "bytes_ram": ram * n,
            "bytes_disk": disk * n,
            "reason": self.codec.reason,
        }
