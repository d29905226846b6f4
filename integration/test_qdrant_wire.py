"""qdrant-client over REST and gRPC, asynchronous or with faults on the way, before the embedded engine."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_support import clustered, collection_name
from qdrant_wire import Wire, wire_of
from typer.testing import CliRunner

from bqcore.cli import app
from bqcore_qdrant import AsyncCollection, Collection, Config, QdrantCodec, Transform, upload
from bqcore_qdrant.edge import EdgeClient

pytestmark = pytest.mark.qdrant

X, Q = clustered(n=600, dim=32)
ROWS = [{"row": row, "parity": "odd" if row % 2 else "even"} for row in range(len(X))]
ODD = models.Filter(must=[models.FieldCondition(key="parity", match=models.MatchValue(value="odd"))])


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with EdgeClient(tmp_path_factory.mktemp("wire")) as engine, wire_of(engine) as found:
        yield found


@pytest.fixture(params=[False, True], ids=["rest", "grpc"])
def client(wire: Wire, request: pytest.FixtureRequest) -> Iterator[QdrantClient]:
    found = QdrantClient(url=wire.url, grpc_port=wire.grpc_port, prefer_grpc=request.param)
    yield found
    found.close()
    wire.faults.clear()


def codec_of(config: str = "turbo2+float32 x4", kind: Any = "centre") -> QdrantCodec:
    return QdrantCodec(Transform.fit(X, "cosine", kind), Config.parse(config))


def stored_ids(client: Any, name: str) -> list[Any]:
    found, offset = [], None
    while True:
        points, offset = client.scroll(name, limit=250, offset=offset, with_payload=True)
        found += points
        if offset is None:
            assert all(point.payload["row"] == point.id for point in found)
            return [point.id for point in found]


@pytest.mark.parametrize("fault", [True, False], ids=["refused", "not-acknowledged"])
def test_faults_on_the_way_are_tried_again(client: QdrantClient, wire: Wire, fault: bool) -> None:
    collection = Collection.create(client, collection_name(), codec_of())
    wire.faults[:] = [fault, fault, fault]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        done = upload(collection, X, payloads=ROWS, batch_size=100, max_retries=3)
    assert sum("Retrying" in str(one.message) for one in said) == 3
    assert done.n_written == len(X)
    assert stored_ids(client, collection.name) == list(range(len(X)))
    collection.drop()


def test_an_upload_that_gave_up_is_taken_up_again(client: QdrantClient, wire: Wire) -> None:
    collection = Collection.create(client, collection_name(), codec_of())
    for before_the_fault in (0, 1, 1):
        wire.faults[:] = [None] * before_the_fault + [False]
        with pytest.raises(Exception, match="not acknowledged"):
            upload(collection, X, payloads=ROWS, batch_size=100, max_retries=0, resume=True)
    assert client.count(collection.name).count == 500
    done = upload(collection, X, payloads=ROWS, batch_size=100, resume=True)
    assert (done.n_points, done.n_written + done.n_present) == (len(X), len(X))
    assert done.n_present == 500
    assert stored_ids(client, collection.name) == list(range(len(X)))
    collection.drop()


def test_factors_are_applied_over_the_wire(client: QdrantClient, wire: Wire) -> None:
    codec = QdrantCodec.with_factors(X, "cosine", oversampling=16)
    collection = Collection.create(client, collection_name(), codec)
    upload(collection, X, payloads=ROWS)
    assert set(client.get_collection(collection.name).payload_schema) == {
        "bqcore_f_add",
        "bqcore_f_rescale",
    }
    points = collection.query_points(X[7], query_filter=ODD, limit=5).points
    assert points[0].id == 7
    assert points[0].score == pytest.approx(1, abs=1e-3)
    assert all(point.payload == ROWS[point.id] for point in points)
    ids, _ = collection.search(X[:20], 1)
    assert [row[0] for row in ids] == list(range(20))
    collection.drop()


@pytest.mark.parametrize("grpc", [False, True], ids=["rest", "grpc"])
def test_an_asynchronous_collection_does_all_that_others_do(wire: Wire, grpc: bool, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", X)
    seen: list[int] = []

    async def run() -> None:
        client = AsyncQdrantClient(url=wire.url, grpc_port=wire.grpc_port, prefer_grpc=grpc)
        name, copied = collection_name(), collection_name()
        made = await AsyncCollection.create(client, name, codec_of())
        with pytest.raises(ValueError, match="but it exists"):
            await AsyncCollection.create(client, name, codec_of())
        done = await made.upload(
            tmp_path / "rows.npy",
            payloads=ROWS,
            parallel=2,
            batch_size=100,
            progress=lambda n, _: seen.append(n),
        )
        assert done.n_written == seen[-1] == len(X)
        again = await made.upload(tmp_path / "rows.npy", payloads=ROWS, resume=True)
        assert (again.n_written, again.n_present) == (0, len(X))
        await made.optimize(10)
        ids, scores = await made.search(X[:40], 3, query_filter=ODD, score_threshold=0.5)
        assert [row[0] for row in ids[1::2]] == list(range(1, 40, 2))
        assert all(score >= 0.5 for row in scores for score in row)
        response = await made.query_points(
            X[3],
            limit=2,
            with_vectors=True,
            prefetch=models.Prefetch(query=X[3].tolist(), using="dense", limit=9),
        )
        unit = X[3] / np.linalg.norm(X[3])
        np.testing.assert_allclose(response.points[0].vector["dense"], unit, atol=1e-4)
        (record,) = await made.retrieve([3], with_vectors=True)
        np.testing.assert_allclose(record.vector["dense"], unit, atol=1e-4)
        page, following = await made.scroll(limit=2, with_vectors=True)
        np.testing.assert_allclose(page[1].vector["dense"], X[1] / np.linalg.norm(X[1]), atol=1e-4)
        assert following == 2
        found = await made.verify(Q[:20])
        assert found.n_queries == 20
        assert found.recall >= 0.95
        assert (await made.describe())["points"] == len(X)
        # Into a collection of another codec, from one that a codec was used for already.
        target = await AsyncCollection.create(
            client, copied, codec_of("binary1/scalar8bits+float32 x4", "rotate")
        )
        with pytest.raises(ValueError, match=f"expected its codec {made.codec.hash}"):
            await target.migrate(client, name, using="dense")
        moved = await target.migrate(client, name, using="dense", source_codec=made.codec)
        assert (moved.source_points, moved.target_points, moved.payloads_equal) == (len(X), len(X), True)
        assert moved.largest_score_error < 1e-3
        assert moved.same_results > 0.99
        with pytest.raises(ValueError, match=f"{made.codec.hash}, not {target.codec.hash}"):
            await AsyncCollection.open(client, copied, made.codec)
        await target.drop()
        await made.drop()
        await client.close()

    asyncio.run(run())


def test_the_command_line_talks_to_servers_over_both_protocols(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QDRANT_URL", wire.url)
    codec, rows = str(tmp_path / "codec.npz"), tmp_path / "rows.npy"
    codec_of().save(codec)
    np.save(rows, X)
    wire.seen.clear()
    for protocol, flags in (("rest", []), ("grpc", ["--grpc", "--grpc-port", str(wire.grpc_port)])):
        name = collection_name()

        def run(*arguments: str, _flags: Any = flags) -> Any:
            done = CliRunner().invoke(app, ["qdrant", *arguments, *_flags, "--json"])
            assert done.exit_code == 0, done.output
            return json.loads(done.stdout)

        assert run("create", codec, name)["points"] == 0
        assert run("upload", codec, name, str(rows), "--parallel", "2")["n_written"] == len(X)
        assert run("verify", codec, name, "--n-queries", "20")["recall"] >= 0.95
        assert {kind for kind, _ in wire.seen} == {protocol}
        wire.seen.clear()


def test_a_cancelled_upload_stops_and_is_taken_up_again(wire: Wire) -> None:
    async def run() -> None:
        client = AsyncQdrantClient(url=wire.url)
        collection = await AsyncCollection.create(client, collection_name(), codec_of())
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()

        def tell(*_: Any) -> None:
            loop.call_soon_threadsafe(begun.set)

        task = asyncio.create_task(
            collection.upload(X, payloads=ROWS, batch_size=5, resume=True, progress=tell)
        )
        await begun.wait()  # the loop runs while the upload does
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        done = await collection.upload(X, payloads=ROWS, batch_size=200, resume=True)
        assert 0 < done.n_present < len(X)
        assert (await client.count(collection.name)).count == len(X)
        await client.close()

    asyncio.run(run())
