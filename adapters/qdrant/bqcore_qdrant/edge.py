"""The engine in this process (qdrant-edge-py) behind the methods of `qdrant_client.QdrantClient`.

Collections are folders. What a shard does not keep, its parameters and the collection's metadata, lies
beside it in ``collection.json``.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import qdrant_edge as edge
from qdrant_client import models
from qdrant_client.http.models import QueryResponse

from bqcore_qdrant import edge_models as to
from bqcore_qdrant.versions import EDGE, client_version

if client_version() < EDGE:
    raise ImportError(f"the embedded engine needs qdrant-client {EDGE} or later, not {client_version()}")

_SHARD, _RECORD = "shard", "collection.json"


class EdgeClient:
    """Collections under a folder, each a shard of the embedded engine.

    Methods and arguments are those of `qdrant_client.QdrantClient`, as far as they go. Points are searched at
    once; `optimize` builds graphs and codes, which a server does in the background.

    Parameters
    ----------
    path : path-like
        Created where it does not exist. One process at a time.
    """

    #: Release of the server whose engine this is.
    version = EDGE

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._shards: dict[str, edge.EdgeShard] = {}
        # The engine lets go of the interpreter while it works; a shard is opened once.
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write everything to disk and let go of it."""
        with self._lock:
            for shard in self._shards.values():
                shard.flush()
                shard.close()
            self._shards.clear()

    def info(self) -> models.VersionInfo:
        """Return the version of the engine."""
        return models.VersionInfo(title="qdrant - edge", version=f"{self.version}.0")

    # ---- collections ----

    def _folder(self, name: str) -> Path:
        if not name or name in (".", "..") or "/" in name or "\0" in name:
            raise ValueError(f"collection: expected a name that can be a folder's, not {name!r}")
        return self.path / name

    def _record(self, name: str) -> dict[str, Any]:
        file = self._folder(name) / _RECORD
        if not file.is_file():
            raise ValueError(f"collection {name!r} does not exist in {self.path}")
        return dict(json.loads(file.read_text(encoding="utf-8")))

    def _write_record(self, name: str, record: dict[str, Any]) -> None:
        file = self._folder(name) / _RECORD
        new = file.with_suffix(".new")
        new.write_text(json.dumps(record), encoding="utf-8")
        new.replace(file)

    def _shard(self, name: str) -> edge.EdgeShard:
        with self._lock:
            if name not in self._shards:
                self._record(name)
                self._shards[name] = edge.EdgeShard.load(str(self._folder(name) / _SHARD))
            return self._shards[name]

    def collection_exists(self, collection_name: str, **_: Any) -> bool:
        """Tell whether a collection exists."""
        return (self._folder(collection_name) / _RECORD).is_file()

    def create_collection(
        self,
        collection_name: str,
        vectors_config: models.VectorParams | dict[str, models.VectorParams] | None = None,
        sparse_vectors_config: dict[str, models.SparseVectorParams] | None = None,
        on_disk_payload: bool | None = None,
        hnsw_config: models.HnswConfigDiff | None = None,
        optimizers_config: models.OptimizersConfigDiff | None = None,
        quantization_config: Any = None,
        metadata: dict[str, Any] | None = None,
        **_: Any,
    ) -> bool:
        """Create a collection; raises ValueError where it exists."""
        folder = self._folder(collection_name)
        if self.collection_exists(collection_name):
            raise ValueError(f"collection {collection_name!r} exists already in {self.path}")
        shutil.rmtree(folder, ignore_errors=True)  # of a creation that did not come to its end
        folder.mkdir()
        named = vectors_config if isinstance(vectors_config, dict) else {"": vectors_config}
        vectors = {
            name: to.vector_params(params, quantization_config, hnsw_config)
            for name, params in named.items()
            if params is not None
        }
        optimizers = optimizers_config or models.OptimizersConfigDiff()
        config = edge.EdgeConfig(
            vectors=vectors or None,
            sparse_vectors={name: edge.EdgeSparseVectorParams() for name in sparse_vectors_config or {}}
            or None,
            on_disk_payload=on_disk_payload,
            hnsw_config=to.hnsw_config(hnsw_config),
            optimizers=edge.EdgeOptimizersConfig(
                default_segment_number=optimizers.default_segment_number,
                max_segment_size=optimizers.max_segment_size,
                indexing_threshold=optimizers.indexing_threshold,
            ),
        )
        shard = edge.EdgeShard.create(str(folder / _SHARD), config)
        params = models.CollectionParams(vectors=vectors_config, sparse_vectors=sparse_vectors_config)
        record = {
            "params": params.model_dump(mode="json", exclude_none=True),
            "hnsw": hnsw_config.model_dump(mode="json", exclude_none=True) if hnsw_config else {},
            "metadata": metadata,
        }
        with self._lock:
            self._shards[collection_name] = shard
        self._write_record(collection_name, record)
        return True

    def delete_collection(self, collection_name: str, **_: Any) -> bool:
        """Delete a collection; False where there is none."""
        if not self.collection_exists(collection_name):
            return False
        with self._lock:
            shard = self._shards.pop(collection_name, None)
        if shard is not None:
            shard.close()
        folder = self._folder(collection_name)
        (folder / _RECORD).unlink()
        shutil.rmtree(folder)
        return True

    def get_collection(self, collection_name: str, **_: Any) -> models.CollectionInfo:
        """Return parameters, metadata and counts of a collection."""
        record, info = self._record(collection_name), self._shard(collection_name).info()
        hnsw = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000, **record["hnsw"]}
        return models.CollectionInfo(
            status=models.CollectionStatus.GREEN,
            optimizer_status=models.OptimizersStatusOneOf.OK,
            points_count=info.points_count,
            indexed_vectors_count=info.indexed_vectors_count,
            segments_count=info.segments_count,
            config=models.CollectionConfig(
                params=models.CollectionParams(**record["params"]),
                hnsw_config=models.HnswConfig(**hnsw),
                optimizer_config=models.OptimizersConfig(
                    deleted_threshold=0.2,
                    vacuum_min_vector_number=1000,
                    default_segment_number=0,
                    flush_interval_sec=5,
                ),
                metadata=record["metadata"],
            ),
            payload_schema={
                name: models.PayloadIndexInfo(
                    data_type=models.PayloadSchemaType(_schema_name(one)), points=one.points
                )
                for name, one in info.payload_schema.items()
            },
        )

    def update_collection(
        self, collection_name: str, metadata: dict[str, Any] | None = None, **_: Any
    ) -> bool:
        """Merge metadata into the collection's; a value of None removes its key."""
        record = self._record(collection_name)
        merged = {**(record["metadata"] or {}), **(metadata or {})}
        record["metadata"] = {name: value for name, value in merged.items() if value is not None}
        self._write_record(collection_name, record)
        return True

    def create_payload_index(
        self, collection_name: str, field_name: str, field_schema: Any = None, **_: Any
    ) -> None:
        """Index a payload field."""
        operation = edge.UpdateOperation.create_field_index(field_name, to.payload_schema(field_schema))
        self._shard(collection_name).update(operation)

    def optimize(self, collection_name: str) -> None:
        """Build graphs and codes of everything uploaded so far."""
        shard = self._shard(collection_name)
        while shard.optimize():
            pass
        shard.flush()

    def disk_bytes(self, collection_name: str) -> dict[str, int]:
        """Return bytes of files by their name within a segment, summed over segments."""
        found: dict[str, int] = {}
        for file in (self._folder(collection_name) / _SHARD / "segments").rglob("*"):
            if file.is_file():
                found[file.name] = found.get(file.name, 0) + file.stat().st_size
        return found

    # ---- points ----

    def upsert(
        self,
        collection_name: str,
        points: Sequence[models.PointStruct] | models.Batch,
        update_mode: models.UpdateMode | None = None,
        **_: Any,
    ) -> None:
        """Write points; one whose id is there is replaced."""
        mode = None
        if update_mode is not None:
            name = "".join(part.capitalize() for part in str(update_mode).split("_"))
            mode = getattr(edge.UpdateMode, name)
        if isinstance(points, models.Batch):
            payloads: Sequence[Any] = points.payloads or [None] * len(points.ids)
            vectors: Any = points.vectors
            if isinstance(vectors, dict):
                names = list(vectors)
                columns = zip(*vectors.values(), strict=True)
                vectors = [dict(zip(names, row, strict=True)) for row in columns]
            rows: Any = zip(points.ids, vectors, payloads, strict=True)
        else:
            rows = iter([(point.id, point.vector, point.payload) for point in points])
        made = [
            edge.Point(id=id_, vector=to.vector(vector), payload=payload or {})
            for id_, vector, payload in rows
        ]
        self._shard(collection_name).update(edge.UpdateOperation.upsert_points(made, update_mode=mode))

    def upload_points(self, collection_name: str, points: Sequence[models.PointStruct], **_: Any) -> None:
        """Write points, as `upsert` does: there is no network to try again over."""
        self.upsert(collection_name, points)

    def delete(self, collection_name: str, points_selector: Any, **_: Any) -> None:
        """Delete points by their ids."""
        ids = points_selector.points if isinstance(points_selector, models.PointIdsList) else points_selector
        self._shard(collection_name).update(edge.UpdateOperation.delete_points(list(ids)))

    def count(
        self, collection_name: str, count_filter: models.Filter | None = None, exact: bool = True, **_: Any
    ) -> models.CountResult:
        """Count points."""
        request = edge.CountRequest(exact=exact, filter=to.filter_(count_filter))
        return models.CountResult(count=self._shard(collection_name).count(request))

    def retrieve(
        self,
        collection_name: str,
        ids: Sequence[Any],
        with_payload: Any = True,
        with_vectors: Any = False,
        **_: Any,
    ) -> list[models.Record]:
        """Return points by their ids; those that do not exist are left out."""
        found = self._shard(collection_name).retrieve(
            list(ids), to.payload_selector(with_payload), with_vectors
        )
        return [_as_record(one) for one in found]

    def scroll(
        self,
        collection_name: str,
        scroll_filter: models.Filter | None = None,
        limit: int = 10,
        offset: Any = None,
        with_payload: Any = True,
        with_vectors: Any = False,
        **_: Any,
    ) -> tuple[list[models.Record], Any]:
        """Return points in the order of their ids, and the id that the next page begins with."""
        request = edge.ScrollRequest(
            offset=offset,
            limit=limit,
            filter=to.filter_(scroll_filter),
            with_payload=to.payload_selector(with_payload),
            with_vector=with_vectors,
        )
        found, following = self._shard(collection_name).scroll(request)
        return [_as_record(one) for one in found], None if following is None else to.point_id(following)

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
        **_: Any,
    ) -> QueryResponse:
        """Search."""
        request = models.QueryRequest.model_construct(
            query=query,
            using=using,
            prefetch=prefetch,
            filter=query_filter,
            params=search_params,
            limit=limit,
            offset=offset,
            with_payload=with_payload,
            with_vector=with_vectors,
            score_threshold=score_threshold,
        )
        return self.query_batch_points(collection_name, [request])[0]

    def query_batch_points(
        self, collection_name: str, requests: Sequence[models.QueryRequest], **_: Any
    ) -> list[QueryResponse]:
        """Search with several requests at once."""
        shard = self._shard(collection_name)
        requests = [self._with_vector(collection_name, one) for one in requests]
        made = [
            edge.QueryRequest(
                limit=one.limit or 10,
                offset=one.offset,
                query=to.query(one.query, one.using),
                prefetches=to.prefetches(one.prefetch),
                with_vector=one.with_vector,
                with_payload=to.payload_selector(one.with_payload),
                filter=to.filter_(one.filter),
                score_threshold=one.score_threshold,
                params=to.search_params(one.params),
            )
            for one in requests
        ]
        return [QueryResponse(points=[_as_scored(p) for p in shard.query(one)]) for one in made]

    def _with_vector(self, name: str, request: models.QueryRequest) -> models.QueryRequest:
        """Return a request for a point's neighbours as one for its vector's, the point itself left out."""
        id_ = request.query
        if isinstance(id_, models.NearestQuery) and id_.mmr is None:
            id_ = id_.nearest
        if isinstance(id_, bool) or not isinstance(id_, int | str):
            return request
        using = request.using or ""
        found = self.retrieve(name, [id_], with_payload=False, with_vectors=[using] if using else True)
        vector: Any = found[0].vector if found else None
        vector = vector.get(using) if isinstance(vector, dict) else vector
        if vector is None:
            raise ValueError(f"query: expected the id of a point with a vector {using!r}, not {id_!r}")
        others = models.Filter(
            must=None if request.filter is None else [request.filter],
            must_not=[models.HasIdCondition(has_id=[id_])],
        )
        return request.model_copy(update={"query": vector, "filter": others})


def _as_record(one: edge.Record) -> models.Record:
    return models.Record(id=to.point_id(one.id), payload=one.payload, vector=to.from_vector(one.vector))


def _as_scored(one: edge.ScoredPoint) -> models.ScoredPoint:
    return models.ScoredPoint.model_construct(
        id=to.point_id(one.id),
        version=one.version,
        score=one.score,
        payload=one.payload,
        vector=to.from_vector(one.vector),
    )


def _schema_name(one: edge.PayloadIndexInfo) -> str:
    return str(one.data_type).rpartition(".")[2].lower()
