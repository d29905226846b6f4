"""The wire between qdrant-client and an engine: REST and gRPC in front of `EdgeClient`. Not a Qdrant server.

What the client sends goes over real connections, is read back by the client's own models and conversions, and
is answered by the embedded engine. So every request that the adapter makes is one that can be sent, over both
protocols. What a server itself does (several segments under load, strict mode, cluster) is not tested here.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc as grpcio
from pydantic import TypeAdapter
from qdrant_client import grpc, models
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc, grpc_to_payload

_UPSERT: TypeAdapter[Any] = TypeAdapter(models.PointInsertOperations)
_SELECTOR: TypeAdapter[Any] = TypeAdapter(models.PointsSelector)
_DONE = models.UpdateResult(operation_id=0, status=models.UpdateStatus.COMPLETED)


class Wire:
    """An engine, and faults that the next writes meet.

    Parameters
    ----------
    engine : EdgeClient
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        #: What the next writes meet: a fault before (True) or after (False) they are carried out, or none.
        self.faults: list[bool | None] = []
        #: Names of the requests that came, by protocol.
        self.seen: set[tuple[str, str]] = set()
        self._lock = threading.Lock()
        self.url = self.rest_port = self.grpc_port = None  # type: Any

    def upsert(self, name: str, points: Any, update_mode: Any) -> None:
        """Write points, unless a fault is due."""
        with self._lock:
            fault = self.faults.pop(0) if self.faults else None
        if fault is True:
            raise OSError("refused before writing")
        self.engine.upsert(name, points, update_mode=update_mode)
        if fault is False:
            raise OSError("written, but not acknowledged")

    def query(self, name: str, requests: list[models.QueryRequest]) -> list[Any]:
        """Search."""
        return list(self.engine.query_batch_points(name, requests))


# ---- REST ----


def _create(wire: Wire, name: str, body: Any) -> Any:
    given = models.CreateCollection.model_validate(body)
    return wire.engine.create_collection(
        name,
        vectors_config=given.vectors,
        sparse_vectors_config=given.sparse_vectors,
        on_disk_payload=given.on_disk_payload,
        hnsw_config=given.hnsw_config,
        optimizers_config=given.optimizers_config,
        quantization_config=given.quantization_config,
        metadata=given.metadata,
    )


def _upsert(wire: Wire, name: str, body: Any) -> Any:
    given = _UPSERT.validate_python(body)
    wire.upsert(
        name, given.points if isinstance(given, models.PointsList) else given.batch, given.update_mode
    )
    return _DONE


def _retrieve(wire: Wire, name: str, body: Any) -> Any:
    given = models.PointRequest.model_validate(body)
    return wire.engine.retrieve(name, given.ids, given.with_payload, given.with_vector)


def _scroll(wire: Wire, name: str, body: Any) -> Any:
    given = models.ScrollRequest.model_validate(body)
    points, following = wire.engine.scroll(
        name, given.filter, given.limit or 10, given.offset, given.with_payload, given.with_vector
    )
    return models.ScrollResult(points=points, next_page_offset=following)


def _index(wire: Wire, name: str, body: Any) -> Any:
    given = models.CreateFieldIndex.model_validate(body)
    wire.engine.create_payload_index(name, given.field_name, given.field_schema)
    return _DONE


def _delete_points(wire: Wire, name: str, body: Any) -> Any:
    wire.engine.delete(name, _SELECTOR.validate_python(body))
    return _DONE


def _update(wire: Wire, name: str, body: Any) -> Any:
    return wire.engine.update_collection(name, models.UpdateCollection.model_validate(body).metadata)


_ROUTES: dict[tuple[str, str], Callable[[Wire, str, Any], Any]] = {
    ("GET", "/exists"): lambda wire, name, _: {"exists": wire.engine.collection_exists(name)},
    ("GET", ""): lambda wire, name, _: wire.engine.get_collection(name),
    ("PUT", ""): _create,
    ("PATCH", ""): _update,
    ("DELETE", ""): lambda wire, name, _: wire.engine.delete_collection(name),
    ("PUT", "/index"): _index,
    ("PUT", "/points"): _upsert,
    ("POST", "/points"): _retrieve,
    ("POST", "/points/delete"): _delete_points,
    ("POST", "/points/scroll"): _scroll,
    ("POST", "/points/count"): lambda wire, name, body: wire.engine.count(
        name, models.CountRequest.model_validate(body).filter
    ),
    ("POST", "/points/query"): lambda wire, name, body: wire.query(
        name, [models.QueryRequest.model_validate(body)]
    )[0],
    ("POST", "/points/query/batch"): lambda wire, name, body: wire.query(
        name, models.QueryRequestBatch.model_validate(body).searches
    ),
}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value.model_dump(mode="json", exclude_none=True) if hasattr(value, "model_dump") else value


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wire: Wire

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _answer(self, method: str) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        status, result = 200, self._result(method, body)
        if isinstance(result, tuple):
            status, result = result
        data = json.dumps(result).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _result(self, method: str, body: Any) -> Any:
        path = self.path.partition("?")[0]
        if path == "/":
            return _plain(self.wire.engine.info())
        found = re.fullmatch(r"/collections/([^/]+)(/.*)?", path)
        route = _ROUTES.get((method, found[2] or "")) if found else None
        if found is None or route is None:
            return 404, {"status": {"error": f"no {method} {path}"}}
        self.wire.seen.add(("rest", f"{method} {found[2] or '/'}"))
        try:
            return {"result": _plain(route(self.wire, found[1], body)), "status": "ok", "time": 0.0}
        except OSError as error:
            return 503, {"status": {"error": str(error)}}
        except Exception as error:
            return 400, {"status": {"error": f"{type(error).__name__}: {error}"}}

    def do_GET(self) -> None:
        """Answer."""
        self._answer("GET")

    def do_PUT(self) -> None:
        """Answer."""
        self._answer("PUT")

    def do_POST(self) -> None:
        """Answer."""
        self._answer("POST")

    def do_PATCH(self) -> None:
        """Answer."""
        self._answer("PATCH")

    def do_DELETE(self) -> None:
        """Answer."""
        self._answer("DELETE")


# ---- gRPC ----


def _given(message: Any, field: str, convert: Callable[[Any], Any]) -> Any:
    return convert(getattr(message, field)) if message.HasField(field) else None


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


class _Collections:
    def __init__(self, wire: Wire) -> None:
        self.wire, self.engine = wire, wire.engine

    def Create(self, message: Any) -> Any:
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
        self.engine.update_collection(message.collection_name, grpc_to_payload(message.metadata) or None)
        return grpc.CollectionOperationResponse(result=True)


class _Points:
    def __init__(self, wire: Wire) -> None:
        self.wire, self.engine = wire, wire.engine

    def Upsert(self, message: Any) -> Any:
        mode = _given(message, "update_mode", GrpcToRest.convert_update_mode)
        points = [GrpcToRest.convert_point_struct(one) for one in message.points]
        self.wire.upsert(message.collection_name, points, mode)
        return _update_result()

    def Get(self, message: Any) -> Any:
        ids = [GrpcToRest.convert_point_id(one) for one in message.ids]
        found = self.engine.retrieve(message.collection_name, ids, _selector(message), _vectors(message))
        return grpc.GetResponse(result=[_record(one) for one in found])

    def Scroll(self, message: Any) -> Any:
        found, following = self.engine.scroll(
            message.collection_name,
            _given(message, "filter", GrpcToRest.convert_filter),
            message.limit or 10,
            _given(message, "offset", GrpcToRest.convert_point_id),
            _selector(message),
            _vectors(message),
        )
        offset = None if following is None else RestToGrpc.convert_extended_point_id(following)
        return grpc.ScrollResponse(result=[_record(one) for one in found], next_page_offset=offset)

    def Count(self, message: Any) -> Any:
        found = self.engine.count(
            message.collection_name, _given(message, "filter", GrpcToRest.convert_filter)
        )
        return grpc.CountResponse(result=grpc.CountResult(count=found.count))

    def Delete(self, message: Any) -> Any:
        self.engine.delete(message.collection_name, GrpcToRest.convert_points_selector(message.points))
        return _update_result()

    def CreateFieldIndex(self, message: Any) -> Any:
        name = grpc.FieldType.Name(message.field_type).removeprefix("FieldType").lower()
        schema = models.PayloadSchemaType(name)
        self.engine.create_payload_index(message.collection_name, message.field_name, schema)
        return _update_result()

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
    def __init__(self, wire: Wire) -> None:
        self.wire, self.engine = wire, wire.engine

    def HealthCheck(self, message: Any) -> Any:
        info = self.engine.info()
        return grpc.HealthCheckReply(title=info.title, version=info.version)


def _guarded(wire: Wire, method: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    def answer(message: Any, context: Any) -> Any:
        wire.seen.add(("grpc", method.__name__))
        try:
            return method(message)
        except OSError as error:
            context.abort(grpcio.StatusCode.UNAVAILABLE, str(error))
        except Exception as error:
            context.abort(grpcio.StatusCode.INVALID_ARGUMENT, f"{type(error).__name__}: {error}")

    return answer


def _attached(wire: Wire, server: grpcio.Server) -> None:
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


@contextlib.contextmanager
def wire_of(engine: Any) -> Iterator[Wire]:
    """Yield an engine's wire, on free ports of this machine."""
    wire = Wire(engine)
    handler = type("Handler", (_Handler,), {"wire": wire})
    rest = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    rest.daemon_threads = True
    threading.Thread(target=rest.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    server = grpcio.server(ThreadPoolExecutor(4))
    _attached(wire, server)
    wire.rest_port, wire.grpc_port = rest.server_address[1], server.add_insecure_port("127.0.0.1:0")
    wire.url = f"http://127.0.0.1:{wire.rest_port}"
    server.start()
    try:
        yield wire
    finally:
        # clients ask for the version in a thread that nobody waits for, and that warns where nobody answers
        for thread in threading.enumerate():
            if "_check_compatibility" in thread.name:
                thread.join(timeout=10)
        server.stop(0).wait()
        rest.shutdown()
        rest.server_close()
