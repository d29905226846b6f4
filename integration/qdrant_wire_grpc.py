"""gRPC in front of `EdgeClient`: the second half of `qdrant_wire.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc as grpcio
from qdrant_client import grpc, models
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc, grpc_to_payload

from bqcore_qdrant.edge_fields import MEANINGLESS, refused


def _given(message: Any, field: str, convert: Callable[[Any], Any]) -> Any:
    return convert(getattr(message, field)) if message.HasField(field) else None


def _only(message: Any, *names: str) -> None:
    """Check that no field of a message but those named, and those without a meaning here, is set."""
    for field, value in message.ListFields():
        if field.name not in {*names, "collection_name", *MEANINGLESS, "read_consistency"}:
            raise refused(type(message).__name__, field.name, value)


def _selector(message: Any) -> Any:
    """Return with_payload of a request; servers take a missing one for none."""
    return _given(message, "with_payload", GrpcToRest.convert_with_payload_selector) or False


def _vectors(message: Any) -> Any:
    return _given(message, "with_vectors", GrpcToRest.convert_with_vectors_selector) or False


def _with_payload(point: Any) -> Any:
    """Return a point whose payload is what gRPC sends for none."""
    return point if point.payload is not None else point.model_copy(update={"payload": {}})


def _record(point: Any) -> Any:
    return RestToGrpc.convert_record(_with_payload(point))


def _scored(point: Any) -> Any:
    return RestToGrpc.convert_scored_point(_with_payload(point))


def _update_result() -> Any:
    return grpc.PointsOperationResponse(
        result=grpc.UpdateResult(operation_id=0, status=grpc.UpdateStatus.Completed)
    )


def _points_or_filter(selector: Any) -> dict[str, Any]:
    chosen = GrpcToRest.convert_points_selector(selector)
    return (
        {"filter": chosen.filter} if isinstance(chosen, models.FilterSelector) else {"points": chosen.points}
    )


def _set_payload(message: Any) -> Any:
    _only(message, "payload", "points_selector", "key")
    key = message.key if message.HasField("key") else None
    return models.SetPayload(
        payload=grpc_to_payload(message.payload), key=key, **_points_or_filter(message.points_selector)
    )


class _Collections:
    def __init__(self, wire: Any) -> None:
        self.wire, self.engine = wire, wire.engine

    def Create(self, message: Any) -> Any:
        _only(
            message, "vectors_config", "sparse_vectors_config", "hnsw_config", "optimizers_config",
            "quantization_config", "on_disk_payload", "metadata",
        )  # fmt: skip
        self.engine.create_collection(
            message.collection_name,
            vectors_config=_given(message, "vectors_config", GrpcToRest.convert_vectors_config),
            sparse_vectors_config=_given(
                message, "sparse_vectors_config", GrpcToRest.convert_sparse_vector_config
            ),
            hnsw_config=_given(message, "hnsw_config", GrpcToRest.convert_hnsw_config_diff),
            optimizers_config=_given(message, "optimizers_config", GrpcToRest.convert_optimizers_config_diff),
            quantization_config=_given(
                message, "quantization_config", GrpcToRest.convert_quantization_config
            ),
            on_disk_payload=_given(message, "on_disk_payload", bool),
            metadata=grpc_to_payload(message.metadata) or None,
        )
        return grpc.CollectionOperationResponse(result=True)

    def Get(self, message: Any) -> Any:
        info = self.engine.get_collection(message.collection_name)
        # What a server always says of its log, and an engine without one leaves out.
        info.config.wal_config = models.WalConfig(wal_capacity_mb=32, wal_segments_ahead=0)
        return grpc.GetCollectionInfoResponse(result=RestToGrpc.convert_collection_info(info))

    def CollectionExists(self, message: Any) -> Any:
        exists = self.engine.collection_exists(message.collection_name)
        return grpc.CollectionExistsResponse(result=grpc.CollectionExists(exists=exists))

    def Delete(self, message: Any) -> Any:
        done = self.engine.delete_collection(message.collection_name)
        return grpc.CollectionOperationResponse(result=done)

    def Update(self, message: Any) -> Any:
        _only(
            message, "metadata",
        )  # fmt: skip
        self.engine.update_collection(message.collection_name, grpc_to_payload(message.metadata) or None)
        return grpc.CollectionOperationResponse(result=True)


class _Points:
    def __init__(self, wire: Any) -> None:
        self.wire, self.engine = wire, wire.engine

    def Upsert(self, message: Any) -> Any:
        _only(
            message, "points", "update_mode", "update_filter",
        )  # fmt: skip
        mode = _given(message, "update_mode", GrpcToRest.convert_update_mode)
        points = [GrpcToRest.convert_point_struct(one) for one in message.points]
        chosen = _given(message, "update_filter", GrpcToRest.convert_filter)
        self.wire.upsert(message.collection_name, points, mode, chosen)
        return _update_result()

    def Get(self, message: Any) -> Any:
        ids = [GrpcToRest.convert_point_id(one) for one in message.ids]
        found = self.engine.retrieve(message.collection_name, ids, _selector(message), _vectors(message))
        return grpc.GetResponse(result=[_record(one) for one in found])

    def Scroll(self, message: Any) -> Any:
        _only(
            message, "filter", "offset", "limit", "with_payload", "with_vectors", "order_by",
        )  # fmt: skip
        found, following = self.engine.scroll(
            message.collection_name,
            _given(message, "filter", GrpcToRest.convert_filter),
            message.limit if message.HasField("limit") else 10,
            _given(message, "order_by", GrpcToRest.convert_order_by),
            _given(message, "offset", GrpcToRest.convert_point_id),
            _selector(message),
            _vectors(message),
        )
        offset = None if following is None else RestToGrpc.convert_extended_point_id(following)
        return grpc.ScrollResponse(result=[_record(one) for one in found], next_page_offset=offset)

    def Count(self, message: Any) -> Any:
        _only(
            message, "filter", "exact",
        )  # fmt: skip
        found = self.engine.count(
            message.collection_name,
            _given(message, "filter", GrpcToRest.convert_filter),
            message.exact if message.HasField("exact") else True,
        )
        return grpc.CountResponse(result=grpc.CountResult(count=found.count))

    def Delete(self, message: Any) -> Any:
        self.engine.delete(message.collection_name, GrpcToRest.convert_points_selector(message.points))
        return _update_result()

    def CreateFieldIndex(self, message: Any) -> Any:
        _only(
            message, "field_name", "field_type", "field_index_params",
        )  # fmt: skip
        name = grpc.FieldType.Name(message.field_type).removeprefix("FieldType").lower()
        schema: Any = models.PayloadSchemaType(name)
        if message.HasField("field_index_params"):
            schema = GrpcToRest.convert_payload_schema_params(message.field_index_params)
        self.engine.create_payload_index(message.collection_name, message.field_name, schema)
        return _update_result()

    def _payload(self, message: Any, operation: Any) -> Any:
        self.engine.batch_update_points(message.collection_name, [operation])
        return _update_result()

    def SetPayload(self, message: Any) -> Any:
        return self._payload(message, models.SetPayloadOperation(set_payload=_set_payload(message)))

    def OverwritePayload(self, message: Any) -> Any:
        return self._payload(
            message, models.OverwritePayloadOperation(overwrite_payload=_set_payload(message))
        )

    def DeletePayload(self, message: Any) -> Any:
        _only(
            message, "keys", "points_selector",
        )  # fmt: skip
        gone = models.DeletePayload(keys=list(message.keys), **_points_or_filter(message.points_selector))
        return self._payload(message, models.DeletePayloadOperation(delete_payload=gone))

    def ClearPayload(self, message: Any) -> Any:
        chosen = GrpcToRest.convert_points_selector(message.points)
        return self._payload(message, models.ClearPayloadOperation(clear_payload=chosen))

    def UpdateBatch(self, message: Any) -> Any:
        operations = [GrpcToRest.convert_points_update_operation(one) for one in message.operations]
        self.engine.batch_update_points(message.collection_name, operations)
        return grpc.UpdateBatchResponse(
            result=[grpc.UpdateResult(operation_id=0, status=grpc.UpdateStatus.Completed) for _ in operations]
        )

    def Query(self, message: Any) -> Any:
        found = self.wire.query(message.collection_name, [GrpcToRest.convert_query_points(message)])[0]
        return grpc.QueryResponse(result=[_scored(one) for one in found.points])

    def QueryBatch(self, message: Any) -> Any:
        requests = [GrpcToRest.convert_query_points(one) for one in message.query_points]
        return grpc.QueryBatchResponse(
            result=[
                grpc.BatchResult(result=[_scored(one) for one in found.points])
                for found in self.wire.query(message.collection_name, requests)
            ]
        )


class _Root:
    def __init__(self, wire: Any) -> None:
        self.wire, self.engine = wire, wire.engine

    def HealthCheck(self, message: Any) -> Any:
        info = self.engine.info()
        return grpc.HealthCheckReply(title=info.title, version=info.version)


def _guarded(wire: Any, method: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    def answer(message: Any, context: Any) -> Any:
        wire.seen.add(("grpc", method.__name__))
        try:
            return method(message)
        except OSError as error:
            context.abort(grpcio.StatusCode.UNAVAILABLE, str(error))
        except Exception as error:
            context.abort(grpcio.StatusCode.INVALID_ARGUMENT, f"{type(error).__name__}: {error}")

    return answer


def attached(wire: Any, server: grpcio.Server) -> None:
    """Let a server answer for an engine's wire."""
    for handlers, base, attach in (
        (_Collections(wire), grpc.CollectionsServicer, grpc.add_CollectionsServicer_to_server),
        (_Points(wire), grpc.PointsServicer, grpc.add_PointsServicer_to_server),
        (_Root(wire), grpc.QdrantServicer, grpc.add_QdrantServicer_to_server),
    ):
        servicer = base()
        for name in vars(type(handlers)):
            if name[0].isupper():
                setattr(servicer, name, _guarded(wire, getattr(handlers, name)))
        attach(servicer, server)
