"""What holds on every engine: the embedded one, a server over REST and gRPC, a container."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models
from qdrant_support import ENGINES, client_of, clustered, collection_name

from bqcore.evaluation import exact_distances, exact_search, recall
from bqcore_qdrant import Collection, Config, QdrantCodec, Transform, migrate, upload, verify
from bqcore_qdrant.versions import Version

pytestmark = pytest.mark.qdrant

METRICS = ("cosine", "l2", "ip")
X, Q = clustered(n=800)
Q = Q[:40]
PAYLOADS = [{"row": row, "parity": "odd" if row % 2 else "even"} for row in range(len(X))]
NATIVE = {"cosine": "Cosine", "l2": "Euclid", "ip": "Dot"}


@pytest.fixture(scope="module", params=ENGINES)
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with client_of(request.param, tmp_path_factory.mktemp("qdrant")) as found:
        yield found


def codec_of(metric: str, kind: str = "centre", config: str = "turbo2+float32 x4") -> QdrantCodec:
    return QdrantCodec(Transform.fit(X, metric, kind), Config.parse(config))  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=METRICS)
def collection(client: Any, request: pytest.FixtureRequest) -> Iterator[Collection]:
    codec = codec_of(request.param, "rotate" if request.param == "l2" else "centre")
    made = Collection.create(client, collection_name(), codec)
    upload(made, X, payloads=PAYLOADS)
    made.optimize()
    yield made
    made.drop()


def native_scores(metric: str, rows: Any, query: Any) -> Any:
    found = exact_distances(rows, query[np.newaxis], np.arange(len(rows))[np.newaxis], metric)[0]
    return np.sqrt(found) if metric == "l2" else (1 - found if metric == "cosine" else -found)


def test_scores_are_those_of_the_metric_and_recall_is_high(collection: Collection) -> None:
    metric = collection.codec.metric
    ids, scores = collection.search(Q, 10)
    truth, _ = exact_search(X, Q, 10, metric)
    assert recall(np.asarray(ids), truth, 10, X=X, Q=Q, metric=metric) >= 0.95
    for query, row, found in zip(Q[:20], ids, scores, strict=False):
        np.testing.assert_allclose(found, native_scores(metric, X[row], query), rtol=2e-3, atol=2e-3)
        assert found == sorted(found, reverse=metric != "l2")


def test_vectors_come_back_as_given(collection: Collection) -> None:
    point = collection.query_points(X[7], limit=1, with_vectors=True).points[0]
    given = X[point.id]
    if collection.codec.metric == "cosine":
        given = given / np.linalg.norm(given)
    np.testing.assert_allclose(point.vector["dense"], given, atol=1e-4)
    assert point.payload == PAYLOADS[point.id]


def test_filters_selectors_and_offsets_pass_through(collection: Collection) -> None:
    odd = models.Filter(must=[models.FieldCondition(key="parity", match=models.MatchValue(value="odd"))])
    response = collection.query_points(
        Q[0], query_filter=odd, limit=20, with_payload=models.PayloadSelectorInclude(include=["row"])
    )
    assert len(response.points) == 20
    assert all(point.id % 2 == 1 and point.payload == {"row": point.id} for point in response.points)
    later = collection.query_points(Q[0], query_filter=odd, limit=10, offset=10, with_payload=False)
    assert [point.id for point in later.points] == [point.id for point in response.points][10:]
    few = models.Filter(must=[models.FieldCondition(key="row", range=models.Range(gte=5, lt=8))])
    assert sorted(p.id for p in collection.query_points(Q[0], query_filter=few).points) == [5, 6, 7]


def test_score_thresholds_are_of_the_metric(collection: Collection) -> None:
    every = collection.query_points(Q[1], limit=20).points
    middle = (every[9].score + every[10].score) / 2
    kept = collection.query_points(Q[1], limit=20, score_threshold=middle).points
    assert [point.id for point in kept] == [point.id for point in every[:10]]


def test_batches_and_stages_are_translated(collection: Collection) -> None:
    single = collection.query_points(Q[2], limit=5, with_payload=False)
    batch = collection.query_batch_points(
        [
            models.QueryRequest(query=Q[2].tolist(), limit=5),
            models.QueryRequest(
                query=Q[2].tolist(),
                limit=5,
                prefetch=models.Prefetch(query=Q[2].tolist(), using="dense", limit=50),
            ),
        ]
    )
    for response in batch:
        assert [point.id for point in response.points] == [point.id for point in single.points]
    fused = collection.query_points(
        models.FusionQuery(fusion=models.Fusion.RRF),
        prefetch=[models.Prefetch(query=Q[2].tolist(), using="dense", limit=5)] * 2,
        limit=5,
    )
    assert {point.id for point in fused.points} == {point.id for point in single.points}


def test_a_points_neighbours_are_asked_for_by_its_id(collection: Collection) -> None:
    if collection.codec.metric == "ip":
        with pytest.raises(ValueError, match="not a point's id: stored and asked vectors differ under ip"):
            collection.query_points(3)
        return
    by_vector = collection.query_points(X[3], limit=6).points[1:]
    odd = models.Filter(must=[models.FieldCondition(key="parity", match=models.MatchValue(value="odd"))])
    for query in (3, models.NearestQuery(nearest=3)):
        by_id = collection.query_points(query, limit=5).points
        assert [point.id for point in by_id] == [point.id for point in by_vector]
        np.testing.assert_allclose(
            [point.score for point in by_id], [point.score for point in by_vector], rtol=1e-3, atol=1e-3
        )
        filtered = collection.query_points(query, limit=5, query_filter=odd).points
        assert all(point.id % 2 for point in filtered)
        assert 3 not in {point.id for point in filtered}
    with pytest.raises(Exception, match=r"expected the id of a point|[Nn]ot [Ff]ound|No point"):
        collection.query_points(999_999)


def test_points_are_read_back_as_given(collection: Collection) -> None:
    wanted = (
        X[5:8] / np.linalg.norm(X[5:8], axis=1)[:, None] if collection.codec.metric == "cosine" else X[5:8]
    )
    records = collection.retrieve([5, 6, 7, 99_999], with_vectors=True)
    assert [record.id for record in sorted(records, key=lambda one: one.id)] == [5, 6, 7]
    for record in records:
        np.testing.assert_allclose(record.vector["dense"], wanted[record.id - 5], atol=1e-4)
        assert record.payload == PAYLOADS[record.id]
    few = models.Filter(must=[models.FieldCondition(key="row", range=models.Range(gte=5, lt=8))])
    page, following = collection.scroll(
        scroll_filter=few, limit=2, with_vectors=["dense"], with_payload=["row"]
    )
    assert [(record.id, record.payload) for record in page] == [(5, {"row": 5}), (6, {"row": 6})]
    np.testing.assert_allclose(page[1].vector["dense"], wanted[1], atol=1e-4)
    assert following == 7


def test_wrong_queries_are_errors_in_every_stage(collection: Collection) -> None:
    broken = Q[0].copy()
    broken[3] = np.nan
    asked: list[tuple[Any, str]] = [
        (broken, "expected finite values, not nan"), (Q[0][:-1], "expected 64 dimensions, not 63")
    ]  # fmt: skip
    if collection.codec.metric == "cosine":
        asked.append((np.zeros(64), "expected a direction under cosine, not a zero vector"))
    for query, message in asked:
        stage = models.Prefetch.model_construct(query=query.tolist(), using="dense", limit=5)
        with pytest.raises(ValueError, match=message):
            collection.query_points(query)
        with pytest.raises(ValueError, match=message):
            collection.search(query)
        with pytest.raises(ValueError, match=message):
            collection.query_points(Q[0], prefetch=stage)
        with pytest.raises(ValueError, match=message):
            collection.query_batch_points(
                [models.QueryRequest.model_construct(query=query.tolist(), limit=5)]
            )


def test_wrong_points_are_errors_and_duplicates_are_named(collection: Collection) -> None:
    broken = X[:4].copy()
    broken[2, 1] = np.inf
    with pytest.raises(ValueError, match="points 0 to 3: vectors: expected finite values, not inf at row 2"):
        upload(collection, broken, ids=[9_000, 9_001, 9_002, 9_003])
    with pytest.raises(ValueError, match="points 0 to 3: vectors: expected 64 dimensions, not 60"):
        upload(collection, X[:4, :60], ids=[9_000, 9_001, 9_002, 9_003])
    with pytest.raises(ValueError, match="expected every id once, but 9000 is that of points 0 and 3"):
        upload(collection, X[:4], ids=[9_000, 9_001, 9_002, 9_000])
    if collection.codec.metric == "cosine":
        with pytest.raises(ValueError, match="that of id 9001 is zero"):
            upload(collection, X[:2] * [[1.0], [0.0]], ids=[9_000, 9_001])
    assert collection.client.count(collection.name).count == len(X)


def test_verify_measures_against_exact_search(collection: Collection) -> None:
    seen: list[tuple[int, int]] = []
    found = verify(collection, Q, 10, progress=lambda done, total: seen.append((done, total)))
    assert found.n_queries == len(Q) == len(seen)
    assert seen[-1] == (len(Q), len(Q))
    assert found.points == len(X)
    assert 0.95 <= found.recall <= 1
    own = verify(collection, k=5, n_queries=30)
    assert own.recall >= 0.9


def test_describe_says_what_the_collection_is(collection: Collection) -> None:
    found = collection.describe()
    assert found["points"] == len(X)
    assert found["codec"] == collection.codec.hash
    assert found["bytes_ram_per_vector"] in (24, 28)  # 64 dimensions of 2 bits, two or three factors


def test_a_foreign_codec_is_refused_with_both_hashes(collection: Collection) -> None:
    other = codec_of(
        collection.codec.metric, "rotate" if collection.codec.transform.kind == "centre" else "centre"
    )
    with pytest.raises(ValueError, match=f"{other.hash}.*{collection.codec.hash}"):
        Collection(collection.client, collection.name, other)
    Collection(collection.client, collection.name, collection.codec.with_search(oversampling=8))


def test_a_collection_of_nobody_is_refused(client: Any) -> None:
    name = collection_name()
    client.create_collection(
        name, vectors_config={"dense": models.VectorParams(size=64, distance=models.Distance.COSINE)}
    )
    with pytest.raises(ValueError, match="not one without metadata of bqcore"):
        Collection(client, name, codec_of("cosine"))
    client.delete_collection(name)


def test_names_that_are_taken_and_missing_are_errors(collection: Collection) -> None:
    with pytest.raises(ValueError, match="but it exists"):
        Collection.create(collection.client, collection.name, collection.codec)
    with pytest.raises(ValueError, match="expected one that exists"):
        Collection(collection.client, "bqcore_never_made", collection.codec)


@pytest.mark.parametrize("metric", METRICS)
def test_migration_keeps_ids_payloads_and_other_vectors(client: Any, metric: str) -> None:
    source, name = collection_name(), collection_name()
    distance = models.Distance(NATIVE[metric])
    client.create_collection(
        source,
        vectors_config={
            "text": models.VectorParams(size=64, distance=distance),
            "small": models.VectorParams(size=2, distance=models.Distance.DOT),
        },
        sparse_vectors_config={"words": models.SparseVectorParams()},
    )
    uuids = [f"00000000-0000-0000-0000-{row:012d}" for row in range(20)]
    ids: list[Any] = [*range(70), *uuids]
    points = [
        models.PointStruct(
            id=id_,
            vector={
                "text": X[row].tolist(),
                "small": [float(row), 1.0],
                "words": models.SparseVector(indices=[row], values=[1.0]),
            },
            payload={"row": row},
        )
        for row, id_ in enumerate(ids)
    ]
    points.append(models.PointStruct(id=7_000, vector={"small": [0.0, 1.0]}, payload={"row": -1}))
    client.upsert(source, points=points)
    client.create_payload_index(source, field_name="row", field_schema=models.PayloadSchemaType.INTEGER)
    made = Collection.create(
        client,
        name,
        codec_of(metric),
        other_vectors={"small": models.VectorParams(size=2, distance=models.Distance.DOT)},
        sparse_vectors={"words": models.SparseVectorParams()},
    )
    done = migrate(client, source, made, using="text", batch_size=64)
    assert (done.source_points, done.target_points) == (91, 91)
    assert done.uploaded.n_without_vector == 1
    assert "dense" not in (client.retrieve(name, ids=[7_000], with_vectors=True)[0].vector or {})
    assert done.payloads_equal
    assert done.indexes == ("row",)
    assert client.get_collection(name).payload_schema["row"].data_type == models.PayloadSchemaType.INTEGER
    assert done.largest_score_error < 1e-3
    assert done.same_results > 0.99
    record = client.retrieve(name, ids=[uuids[3]], with_vectors=True)[0]
    assert record.payload == {"row": 73}
    np.testing.assert_allclose(record.vector["small"], [73.0, 1.0])
    assert list(record.vector["words"].indices) == [73]
    again = migrate(client, source, made, using="text")
    assert (again.uploaded.n_written, again.uploaded.n_present) == (0, 91)
    client.delete_collection(source)
    made.drop()


def test_old_servers_are_refused(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bqcore_qdrant.collection.server_version", lambda client: Version(1, 17))
    with pytest.raises(
        ValueError, match=r"turbo quantization: expected a server of version 1\.18 or later, not 1\.17"
    ):
        Collection.create(client, collection_name(), codec_of("cosine"))


def test_before_metadata_a_file_beside_the_codec_says_whose_a_collection_is(
    client: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("bqcore_qdrant.collection.server_version", lambda client: Version(1, 15))
    codec = codec_of("cosine", "rotate", "binary1/scalar4bits+float32 x4")
    with pytest.raises(ValueError, match="save the codec to a file first"):
        Collection.create(client, collection_name(), codec)
    codec.save(tmp_path / "codec.npz")
    made = Collection.create(client, collection_name(), codec)
    assert client.get_collection(made.name).config.metadata is None
    loaded = QdrantCodec.load(tmp_path / "codec.npz")
    assert Collection(client, made.name, loaded).identity["codec"] == codec.hash
    other = codec_of("cosine", "centre", "binary1/scalar4bits+float32 x4")
    other.save(tmp_path / "other.npz")
    with pytest.raises(ValueError, match="not one without metadata"):
        Collection(client, made.name, other)
    made.drop()
