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
from qdrant_client import models
from qdrant_wire_grpc import attached

from bqcore_qdrant.edge_fields import only

_UPSERT: TypeAdapter[Any] = TypeAdapter(models.PointInsertOperations)
_SELECTOR: TypeAdapter[Any] = TypeAdapter(models.PointsSelector)
_OPERATION: TypeAdapter[Any] = TypeAdapter(models.UpdateOperation)
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

    def upsert(self, name: str, points: Any, update_mode: Any, update_filter: Any = None) -> None:
        """Write points, unless a fault is due."""
        with self._lock:
            fault = self.faults.pop(0) if self.faults else None
        if fault is True:
            raise OSError("refused before writing")
        self.engine.upsert(name, points, update_mode=update_mode, update_filter=update_filter)
        if fault is False:
            raise OSError("written, but not acknowledged")

    def query(self, name: str, requests: list[models.QueryRequest]) -> list[Any]:
        """Search."""
        return list(self.engine.query_batch_points(name, requests))


# ---- REST ----


def _create(wire: Wire, name: str, body: Any) -> Any:
    given = models.CreateCollection.model_validate(body)
    fields = {field: getattr(given, field) for field in models.CreateCollection.model_fields}
    vectors, sparse = fields.pop("vectors"), fields.pop("sparse_vectors")
    # The engine refuses what it cannot do.
    return wire.engine.create_collection(name, vectors_config=vectors, sparse_vectors_config=sparse, **fields)


def _upsert(wire: Wire, name: str, body: Any) -> Any:
    given = _UPSERT.validate_python(body)
    only(given, "points", "batch", "update_mode", "update_filter")
    points = given.points if isinstance(given, models.PointsList) else given.batch
    wire.upsert(name, points, given.update_mode, given.update_filter)
    return _DONE


def _retrieve(wire: Wire, name: str, body: Any) -> Any:
    given = models.PointRequest.model_validate(body)
    only(given, "ids", "with_payload", "with_vector")
    return wire.engine.retrieve(name, given.ids, given.with_payload, given.with_vector)


def _scroll(wire: Wire, name: str, body: Any) -> Any:
    given = models.ScrollRequest.model_validate(body)
    only(given, "filter", "limit", "order_by", "offset", "with_payload", "with_vector")
    points, following = wire.engine.scroll(
        name,
        given.filter,
        10 if given.limit is None else given.limit,
        given.order_by,
        given.offset,
        given.with_payload,
        given.with_vector,
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
    given = models.UpdateCollection.model_validate(body)
    only(given, "metadata")
    return wire.engine.update_collection(name, given.metadata)


def _count(wire: Wire, name: str, body: Any) -> Any:
    given = models.CountRequest.model_validate(body)
    only(given, "filter", "exact")
    return wire.engine.count(name, given.filter, given.exact is not False)


def _payload(kind: str) -> Callable[[Wire, str, Any], Any]:
    """Return a write of payloads, or a batch of writes; ``kind`` is its name in a batch."""

    def write(wire: Wire, name: str, body: Any) -> Any:
        given = body["operations"] if kind == "batch" else [{kind: body}]
        operations = [_OPERATION.validate_python(one) for one in given]
        done = wire.engine.batch_update_points(name, operations)
        return done if kind == "batch" else done[0]

    return write


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
    ("POST", "/points/count"): _count,
    ("POST", "/points/payload"): _payload("set_payload"),
    ("PUT", "/points/payload"): _payload("overwrite_payload"),
    ("POST", "/points/payload/delete"): _payload("delete_payload"),
    ("POST", "/points/payload/clear"): _payload("clear_payload"),
    ("POST", "/points/batch"): _payload("batch"),
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


@contextlib.contextmanager
def wire_of(engine: Any) -> Iterator[Wire]:
    """Yield an engine's wire, on free ports of this machine."""
    wire = Wire(engine)
    handler = type("Handler", (_Handler,), {"wire": wire})
    rest = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    rest.daemon_threads = True
    threading.Thread(target=rest.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    server = grpcio.server(ThreadPoolExecutor(4))
    attached(wire, server)
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
