"""Collections of the engine in this process: folders, each with a shard.

What a shard does not keep, its parameters and the collection's metadata, lies beside it in
``collection.json``.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import qdrant_edge as edge
from qdrant_client import models

from bqcore_qdrant import edge_config as to
from bqcore_qdrant.edge_fields import check_options, only, refused
from bqcore_qdrant.edge_rules import check_collection
from bqcore_qdrant.versions import EDGE

_SHARD, _RECORD = "shard", "collection.json"
#: What every write answers: it has been done when the call returns.
DONE = models.UpdateResult(operation_id=0, status=models.UpdateStatus.COMPLETED)


class EdgeCollections:
    """Collections under a folder: made, opened, described, indexed and deleted.

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

    def collection_exists(self, collection_name: str, **options: Any) -> bool:
        """Tell whether a collection exists."""
        check_options("collection_exists", options)
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
        payload: models.PayloadStorageParams | None = None,
        id_tracker: models.IdTrackerParams | None = None,
        **options: Any,
    ) -> bool:
        """Create a collection.

        Raises
        ------
        TypeError, ValueError
            If it exists, or the engine in one process cannot do what is asked for (shards, replicas, a log's
            size, strict mode); the text names it.
        """
        # One shard, once, is what there is.
        for name in ("shard_number", "replication_factor", "write_consistency_factor"):
            if options.pop(name, None) not in (None, 1):
                raise refused("create_collection", name, "another number than 1")
        check_options("create_collection", options)
        folder = self._folder(collection_name)
        if self.collection_exists(collection_name):
            raise ValueError(f"collection {collection_name!r} exists already in {self.path}")
        given = vectors_config if isinstance(vectors_config, dict) else {"": vectors_config}
        named = {name: params for name, params in given.items() if params is not None}
        check_collection(collection_name, named)
        for place in (payload, id_tracker):
            if place is not None:
                only(place, "memory")
        sparse = {name: to.sparse_params(params) for name, params in (sparse_vectors_config or {}).items()}
        config = edge.EdgeConfig(
            vectors={
                name: to.vector_params(params, quantization_config, hnsw_config)
                for name, params in named.items()
            }
            or None,
            sparse_vectors=sparse or None,
            on_disk_payload=on_disk_payload,
            hnsw_config=to.hnsw_config(hnsw_config),
            optimizers=to.optimizers_config(optimizers_config),
            payload_memory=None if payload is None else to.memory_of(payload.memory),
            id_tracker_memory=None if id_tracker is None else to.memory_of(id_tracker.memory),
        )
        shutil.rmtree(folder, ignore_errors=True)  # of a creation that did not come to its end
        folder.mkdir()
        shard = edge.EdgeShard.create(str(folder / _SHARD), config)
        params = models.CollectionParams(
            vectors=vectors_config,
            sparse_vectors=sparse_vectors_config,
            on_disk_payload=on_disk_payload,
            payload=payload,
            id_tracker=id_tracker,
        )
        record = {
            "params": params.model_dump(mode="json", exclude_none=True),
            "hnsw": hnsw_config.model_dump(mode="json", exclude_none=True) if hnsw_config else {},
            "quantization": None
            if quantization_config is None
            else quantization_config.model_dump(mode="json", exclude_none=True),
            "metadata": metadata,
        }
        with self._lock:
            self._shards[collection_name] = shard
        self._write_record(collection_name, record)
        return True

    def delete_collection(self, collection_name: str, **options: Any) -> bool:
        """Delete a collection; False where there is none."""
        check_options("delete_collection", options)
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

    def get_collection(self, collection_name: str, **options: Any) -> models.CollectionInfo:
        """Return parameters, metadata and counts of a collection."""
        check_options("get_collection", options)
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
                quantization_config=record.get("quantization"),
                metadata=record["metadata"],
            ),
            payload_schema={
                name: models.PayloadIndexInfo(
                    data_type=models.PayloadSchemaType(_schema_name(one)),
                    params=record.get("indexes", {}).get(name),
                    points=one.points,
                )
                for name, one in info.payload_schema.items()
            },
        )

    def update_collection(
        self, collection_name: str, metadata: dict[str, Any] | None = None, **options: Any
    ) -> bool:
        """Merge metadata into the collection's; a value of None removes its key. Nothing else is changed."""
        check_options("update_collection", options)
        record = self._record(collection_name)
        merged = {**(record["metadata"] or {}), **(metadata or {})}
        record["metadata"] = {name: value for name, value in merged.items() if value is not None}
        self._write_record(collection_name, record)
        return True

    def create_payload_index(
        self, collection_name: str, field_name: str, field_schema: Any = None, **options: Any
    ) -> models.UpdateResult:
        """Index a payload field, by a type or by parameters."""
        given = options.pop("field_type", None)
        check_options("create_payload_index", options)
        schema = field_schema if field_schema is not None else given
        operation = edge.UpdateOperation.create_field_index(field_name, to.payload_schema(schema))
        self._shard(collection_name).update(operation)
        record = self._record(collection_name)
        indexes = record.setdefault("indexes", {})
        indexes.pop(field_name, None)
        if hasattr(schema, "model_dump"):
            indexes[field_name] = schema.model_dump(mode="json", exclude_none=True)
        self._write_record(collection_name, record)
        return DONE

    def delete_payload_index(
        self, collection_name: str, field_name: str, **options: Any
    ) -> models.UpdateResult:
        """Drop the index of a payload field."""
        check_options("delete_payload_index", options)
        self._shard(collection_name).update(edge.UpdateOperation.delete_field_index(field_name))
        record = self._record(collection_name)
        record.get("indexes", {}).pop(field_name, None)
        self._write_record(collection_name, record)
        return DONE

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


def _schema_name(one: edge.PayloadIndexInfo) -> str:
    return str(one.data_type).rpartition(".")[2].lower()
