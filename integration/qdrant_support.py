"""Where the Qdrant tests run: the embedded engine, a server at QDRANT_URL, a container."""

from __future__ import annotations

import contextlib
import gc
import os
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_wire import wire_of

from bqcore.datasets import Dataset, read

#: The embedded engine; qdrant-client over REST and gRPC in front of it; servers, where there are any.
ENGINES = ("edge", "wire-rest", "wire-grpc", "server", "server-grpc", "container")
IMAGE = "qdrant/qdrant:v1.19.0"
DATA = Path(os.environ.get("BQCORE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def skip(reason: str) -> None:
    """Skip a test, unless REQUIRE_QDRANT=1 forbids it."""
    if os.environ.get("REQUIRE_QDRANT") == "1":
        pytest.fail(f"REQUIRE_QDRANT=1, but {reason}")
    pytest.skip(reason)


@contextlib.contextmanager
def client_of(kind: str, folder: Path) -> Iterator[Any]:
    """Yield a client of an engine, by one of `ENGINES`."""
    from qdrant_client import QdrantClient

    from bqcore_qdrant.edge import EdgeClient

    with contextlib.ExitStack() as stack:
        if kind in ("edge", "wire-rest", "wire-grpc"):
            engine = stack.enter_context(EdgeClient(folder))
            if kind == "edge":
                yield engine
                return
            wire = stack.enter_context(wire_of(engine))
            address: dict[str, Any] = {"url": wire.url, "grpc_port": wire.grpc_port}
        elif kind == "container":
            address = stack.enter_context(_container())
        elif os.environ.get("QDRANT_URL"):
            address = {
                "url": os.environ["QDRANT_URL"],
                "api_key": os.environ.get("QDRANT_API_KEY"),
                "grpc_port": int(os.environ.get("QDRANT_GRPC_PORT", "6334")),
            }
        else:
            skip("no server: set QDRANT_URL")
        client = QdrantClient(**address, prefer_grpc="grpc" in kind)
        stack.callback(client.close)
        yield client


@contextlib.contextmanager
def _container() -> Iterator[dict[str, Any]]:
    """Yield the addresses of a server in a container."""
    try:
        from testcontainers.community.qdrant import QdrantContainer
    except ImportError:
        skip("no container: pip install testcontainers")
    container, reason = None, None
    with warnings.catch_warnings():
        # Where no daemon answers, docker's client leaves its socket to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            container = QdrantContainer(IMAGE)
            container.start()
        except Exception as error:
            reason = f"no container of {IMAGE} ({type(error).__name__}: {str(error)[:80]})"
        if reason is not None:
            with contextlib.suppress(Exception):
                container.stop()
            container = None
            gc.collect()
    if reason is not None:
        skip(reason)
    try:
        host = container.get_container_host_ip()
        yield {
            "url": f"http://{host}:{container.get_exposed_port(6333)}",
            "grpc_port": int(container.get_exposed_port(6334)),
        }
    finally:
        container.stop()


def collection_name() -> str:
    """Return a name that no other run uses."""
    return f"bqcore_test_{uuid.uuid4().hex[:12]}"


def clustered(n: int = 3000, dim: int = 64, seed: int = 0, mean: float = 0.6) -> tuple[Any, Any]:
    """Return vectors about a common mean, and queries of the same kind."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((40, dim)) * 0.6
    common = mean * np.sign(rng.standard_normal(dim))
    rows = centres[rng.integers(40, size=n + 100)] + 0.5 * rng.standard_normal((n + 100, dim)) + common
    return rows[:n].astype(np.float32), rows[n:].astype(np.float32)


def shared(name: str, rows: int | None = None) -> Dataset:
    """Return a shared data set, or skip with the reason."""
    if not (DATA / name).is_dir():
        pytest.skip(f"no folder {DATA / name}")
    return read(DATA / name, rows=rows)
