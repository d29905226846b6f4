"""Calls have the shape that qdrant-client takes. Its local mode searches floats exactly: no recall here."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("qdrant_client", reason="needs pip install 'bqcore[qdrant]'")

from qdrant_client import AsyncQdrantClient, QdrantClient, models
from typer.testing import CliRunner

from bqcore.cli import app
from bqcore_qdrant import AsyncCollection, Collection, Config, QdrantCodec, Transform, upload, verify

pytestmark = [
    pytest.mark.filterwarnings("ignore:Local mode performs exact"),
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
]

X = (np.random.default_rng(0).standard_normal((300, 16)) + 1).astype(np.float32)
VERSION = models.VersionInfo(title="qdrant", version="1.20.0")


def codec_of(config: str = "turbo2+turbo8 x4") -> QdrantCodec:
    return QdrantCodec(Transform.fit(X, "cosine", "centre"), Config.parse(config))


def test_a_client_takes_what_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    client = QdrantClient(":memory:")
    monkeypatch.setattr(client, "info", lambda: VERSION)
    collection = Collection.create(client, "points", codec_of())
    upload(collection, X, payloads=[{"row": row} for row in range(len(X))])
    assert client.count("points").count == len(X)
    points = collection.query_points(X[3], limit=3, with_vectors=True, score_threshold=0.1).points
    assert points[0].id == 3
    assert points[0].score == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(points[0].vector["dense"], X[3] / np.linalg.norm(X[3]), atol=1e-4)
    batch = collection.query_batch_points(
        [models.QueryRequest(query=X[5].tolist(), limit=1, with_payload=True)]
    )
    assert batch[0].points[0].payload == {"row": 5}
    ids, _ = collection.search(X[:7], 2)
    assert [row[0] for row in ids] == list(range(7))
    assert collection.describe()["points"] == len(X)
    client.close()


def test_the_async_client_takes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        client = AsyncQdrantClient(":memory:")

        async def info() -> models.VersionInfo:
            return VERSION

        monkeypatch.setattr(client, "info", info)
        collection = await AsyncCollection.create(client, "points", codec_of())
        assert (await collection.upload(X, batch_size=64)).n_written == len(X)
        ids, scores = await collection.search(X[:40], 2)
        assert [row[0] for row in ids] == list(range(40))
        assert scores[0][0] == pytest.approx(1, abs=1e-4)
        batch = await collection.query_batch_points([models.QueryRequest(query=X[9].tolist(), limit=1)])
        assert batch[0].points[0].id == 9
        with pytest.raises(ValueError, match="expected codec"):
            await AsyncCollection.open(client, "points", codec_of("turbo1+turbo8"))
        with pytest.raises(ValueError, match="expected one that exists"):
            await AsyncCollection.open(client, "none", codec_of())
        await collection.drop()
        assert not await client.collection_exists("points")
        await client.close()

    asyncio.run(run())


def test_strict_mode_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    client = QdrantClient(":memory:")
    monkeypatch.setattr(client, "info", lambda: VERSION)
    collection = Collection.create(client, "points", codec_of())
    limits = {"search_max_oversampling": 2.0, "upsert_max_batchsize": 100}
    monkeypatch.setattr(Collection, "strict_limit", lambda self, name: limits.get(name))
    with pytest.raises(ValueError, match="allows search_max_oversampling = 2, not 4"):
        Collection(client, "points", codec_of())
    sizes: list[int] = []
    send: Any = client.upload_points

    def watched(name: str, points: Any, **options: Any) -> None:
        sizes.append(len(points))
        send(name, points, **options)

    monkeypatch.setattr(client, "upload_points", watched)
    upload(collection, X)
    assert sizes == [100, 100, 100]
    ask: Any = client.query_batch_points

    def asked(name: str, batch: Any, **options: Any) -> Any:
        sizes.append(len(batch))
        return ask(name, batch, **options)

    monkeypatch.setattr(client, "query_batch_points", asked)
    limits["search_max_batchsize"] = 3
    collection.search(X[:7], 1)
    assert sizes[3:] == [3, 3, 1]
    limits["max_query_limit"] = 20
    drawn: list[int] = []
    search: Any = client.query_points

    def searched(name: str, **options: Any) -> Any:
        drawn.append(options["limit"])
        return search(name, **options)

    monkeypatch.setattr(client, "query_points", searched)
    # Several draws, none of them above the limit.
    assert 20 < verify(collection, k=5).n_queries <= 200
    assert drawn.count(20) > 1
    assert max(drawn) == 20
    limits["search_allow_exact"] = False
    with pytest.raises(ValueError, match="its strict mode forbids exact search, which verify needs"):
        verify(collection)
    client.close()


def test_strict_mode_is_checked_for_the_stages_of_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    client = QdrantClient(":memory:")
    monkeypatch.setattr(client, "info", lambda: VERSION)
    codec = QdrantCodec.with_factors(X, "cosine", oversampling=6)
    Collection.create(client, "points", codec)
    limits: dict[str, Any] = {"max_query_limit": 50}
    monkeypatch.setattr(Collection, "strict_limit", lambda self, name: limits.get(name))
    with pytest.raises(ValueError, match="allows max_query_limit = 50, not 60"):
        Collection(client, "points", codec)
    limits["search_allow_exact"] = False
    with pytest.raises(ValueError, match="forbids exact search, which factors need"):
        Collection(client, "points", codec)
    client.close()


def test_points_are_asked_for_by_their_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    client = QdrantClient(":memory:")
    monkeypatch.setattr(client, "info", lambda: VERSION)
    collection = Collection.create(client, "points", codec_of())
    upload(collection, X)
    units = X / np.linalg.norm(X, axis=1, keepdims=True)
    cosines = units @ units[3]
    nearest = [int(row) for row in np.argsort(-cosines)[1:4]]
    for query in (3, models.NearestQuery(nearest=3)):
        points = collection.query_points(query, limit=3).points
        assert [point.id for point in points] == nearest
        np.testing.assert_allclose([one.score for one in points], cosines[nearest], atol=1e-4)
    document = models.Document(text="a text", model="some/model")
    with pytest.raises(ValueError, match="not Document"):
        collection.query_points(document)
    client.close()


def test_a_client_older_than_the_server_decides_what_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    client = QdrantClient(":memory:")
    monkeypatch.setattr(client, "info", lambda: VERSION)
    monkeypatch.setattr("bqcore_qdrant.versions.version", lambda name: "1.17.3")
    message = r"turbo quantization: expected qdrant-client of version 1\.18 or later, not 1\.17"
    with pytest.raises(ValueError, match=message):
        Collection.create(client, "points", codec_of("turbo1+float32"))
    monkeypatch.setattr("bqcore_qdrant.versions.version", lambda name: "1.14.0")
    with pytest.raises(ValueError, match=r"expected 1\.15 or later, not 1\.14\.0"):
        Collection.create(client, "points", codec_of("scalar8+float32"))
    client.close()


def test_the_command_line_goes_from_vectors_to_a_verified_collection(tmp_path: Path) -> None:
    data, codec, edge = tmp_path / "rows.npy", str(tmp_path / "codec.npz"), str(tmp_path / "edge")
    np.save(data, X)
    run = CliRunner().invoke
    advised = run(
        app,
        ["qdrant", "advise", str(data), "--metric", "cosine", "--target-recall", "0.9", "--server-version",
         "1.16", "-o", codec, "--json"],
    )  # fmt: skip
    assert advised.exit_code == 0, advised.output
    found = json.loads(advised.stdout)
    assert found["options"]
    assert QdrantCodec.load(codec).hash == found["hash"]
    made = run(app, ["qdrant", "create", codec, "points", "--edge", edge, "--json"])
    assert json.loads(made.stdout)["points"] == 0
    filled = run(app, ["qdrant", "upload", codec, "points", str(data), "--edge", edge, "--resume", "--json"])
    assert json.loads(filled.stdout)["n_written"] == len(X)
    checked = run(app, ["qdrant", "verify", codec, "points", "--edge", edge, "--json"])
    assert json.loads(checked.stdout)["recall"] > 0.8
    both = run(app, ["qdrant", "create", codec, "points", "--edge", edge, "--url", "http://localhost:1"])
    assert isinstance(both.exception, ValueError)
    assert "expected one of --url and --edge" in str(both.exception)


def test_the_command_line_migrates_a_collection_and_fits_its_codec(tmp_path: Path) -> None:
    from bqcore_qdrant.edge import EdgeClient

    with EdgeClient(tmp_path / "edge") as client:
        params = models.VectorParams(size=16, distance=models.Distance.COSINE)
        client.create_collection("old", vectors_config=params)
        client.upsert(
            "old",
            [models.PointStruct(id=i, vector=row.tolist(), payload={"row": i}) for i, row in enumerate(X)],
        )
    arguments = ["--edge", str(tmp_path / "edge"), "--codec", str(tmp_path / "codec.npz"), "--json"]
    copied = CliRunner().invoke(app, ["qdrant", "migrate", "old", "new", *arguments])
    assert copied.exit_code == 0, copied.output
    found = json.loads(copied.stdout)
    assert (found["source_points"], found["target_points"], found["payloads_equal"]) == (300, 300, True)
    assert found["codec"] == QdrantCodec.load(tmp_path / "codec.npz").hash
    again = json.loads(CliRunner().invoke(app, ["qdrant", "migrate", "old", "new", *arguments]).stdout)
    assert again["uploaded"]["n_written"] == 0
