"""Where the Qdrant tests run: the embedded engine, a server at QDRANT_URL, a container."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bqcore.datasets import Dataset, read

IMAGE = "qdrant/qdrant:v1.19.0"
DATA = Path(os.environ.get("BQCORE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def skip(reason: str) -> None:
    """Skip a test, unless REQUIRE_QDRANT=1 forbids it."""
    if os.environ.get("REQUIRE_QDRANT") == "1":
        pytest.fail(f"REQUIRE_QDRANT=1, but {reason}")
    pytest.skip(reason)


@contextlib.contextmanager
def client_of(kind: str, folder: Path) -> Iterator[Any]:
    """Yield a client of an engine: "edge", "server", "grpc" or "container"."""
    if kind == "edge":
        from bqcore_qdrant.edge import EdgeClient

        with EdgeClient(folder) as client:
            yield client
        return
    from qdrant_client import QdrantClient

    url = os.environ.get("QDRANT_URL")
    with contextlib.ExitStack() as stack:
        if kind == "container":
            url = stack.enter_context(_container())
        if not url:
            skip("no server: set QDRANT_URL")
        client = QdrantClient(url=url, api_key=os.environ.get("QDRANT_API_KEY"), prefer_grpc=kind == "grpc")
        stack.callback(client.close)
        yield client


@contextlib.contextmanager
def _container() -> Iterator[str]:
    try:
        from testcontainers.community.qdrant import QdrantContainer
    except ImportError:
        skip("testcontainers is not installed")
    try:
        container = QdrantContainer(IMAGE).start()
    except Exception as error:
        skip(f"no container of {IMAGE} ({type(error).__name__}: {str(error)[:80]})")
    try:
        yield f"http://{container.rest_host_address}"
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
