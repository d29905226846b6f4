"""Recall on the embedded engine: predictions, corrective factors, quantized-only collections, filters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models
from qdrant_support import clustered, shared

from bqcore import RaBitQ
from bqcore.evaluation import exact_search, recall
from bqcore_qdrant import Collection, Config, QdrantCodec, Transform, upload, verify
from bqcore_qdrant.edge import EdgeClient
from bqcore_qdrant.predict import Sample

pytestmark = pytest.mark.qdrant
ONE_SEGMENT = models.OptimizersConfigDiff(
    default_segment_number=1, max_segment_size=100_000_000, indexing_threshold=100
)


@pytest.fixture(scope="module")
def data() -> Any:
    """Real vectors where they are at hand, with a strong common mean."""
    found = shared("B_gnews300", rows=4000)
    return found.base, found.queries[:200], found.metric


def filled(folder: Path, codec: QdrantCodec, X: Any, **options: Any) -> Collection:
    client = EdgeClient(folder)
    collection = Collection.create(client, "points", codec, optimizers_config=ONE_SEGMENT)
    upload(collection, X, batch_size=1000, **options)
    collection.optimize()
    return collection


def measured(collection: Collection, X: Any, Q: Any, metric: str, over: float, rescore: bool = True) -> float:
    quantization = models.QuantizationSearchParams(rescore=rescore, oversampling=over)
    ids, _ = collection.search(Q, 10, search_params=models.SearchParams(quantization=quantization))
    found = np.asarray([row + [-1] * (10 - len(row)) for row in ids])
    truth, _ = exact_search(X, Q, 10, metric)
    return recall(found, truth, 10, X=X, Q=Q, metric=metric)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("rotate", "binary1/scalar4bits+float32"),
        ("rotate", "binary1.5/binary+float16"),
        ("rotate", "binary2/binary+float32"),
        ("centre", "turbo1+turbo8"),
        ("raw", "turbo1.5+turbo4"),
        ("raw", "turbo8+float16"),
        ("raw", "turbo1+turbo16"),
        ("centre", "none+turbo16"),
        ("rotate", "scalar8+float32"),
        ("rotate", "scalar8+uint8"),
    ],
)
def test_predictions_hold_in_the_engine(data: Any, tmp_path: Path, kind: Any, name: str) -> None:
    X, Q, metric = data
    config = Config.parse(name)
    transform = Transform.fit(X, metric, kind)
    if config.datatype == "uint8":
        transform = transform.for_uint8(X) or transform
    collection = filled(tmp_path, QdrantCodec(transform, config), X)
    predicted = Sample(X, Q, metric, 10, len(X), 0).predict(transform, [config], [1.0, 4.0])[0]
    for over, found in predicted.recall.items():
        assert measured(collection, X, Q, metric, over) == pytest.approx(found, abs=0.02)
    if config.quantizer != "none":
        alone = measured(collection, X, Q, metric, 1.0, rescore=False)
        assert alone == pytest.approx(predicted.recall_without_rescore, abs=0.02)
    files = collection.client.disk_bytes("points")
    assert files.get("quantized.data", 0) == len(X) * config.code_bytes(300, transform.distance)
    collection.client.close()


def test_our_transform_gains_where_the_mean_is_large(tmp_path: Path) -> None:
    X, Q = clustered(n=3000, dim=96, mean=1.0)
    config = Config.parse("binary1/scalar4bits+float32")
    found = {}
    for kind in ("raw", "rotate"):
        codec = QdrantCodec(Transform.fit(X, "cosine", kind), config)  # type: ignore[arg-type]
        collection = filled(tmp_path / kind, codec, X)
        found[kind] = measured(collection, X, Q, "cosine", 1.0, rescore=False)
        collection.client.close()
    assert found["rotate"] >= found["raw"] + 0.04


def test_factors_give_rabitqs_recall_before_any_float_is_read(tmp_path: Path) -> None:
    data = shared("B_tok384", rows=3000)
    X, Q = data.base, data.queries[:120]
    truth, _ = exact_search(X, Q, 10, data.metric)
    model = RaBitQ(bits=1, metric=data.metric).fit(X)
    estimates = model.estimate(model.encode(X), Q)
    offline = recall(np.argsort(estimates, axis=1)[:, :10], truth, 10, X=X, Q=Q, metric=data.metric)
    plain = QdrantCodec(Transform.fit(X, data.metric, "raw"), Config.parse("binary1/scalar8bits+float32"))
    collection = filled(tmp_path / "plain", plain, X)
    codes = measured(collection, X, Q, data.metric, 1.0, rescore=False)
    collection.client.close()
    collection = filled(
        tmp_path / "factors", QdrantCodec.with_factors(X, data.metric), X, payloads=[{"a": 1}] * len(X)
    )
    found = measured(collection, X, Q, data.metric, 32.0, rescore=False)
    assert found >= codes + 0.04
    assert found == pytest.approx(offline, abs=0.01)
    assert measured(collection, X, Q, data.metric, 16.0) > found + 0.1
    for over in (4.0, 16.0):
        promised = QdrantCodec.with_factors(X, data.metric, oversampling=over, queries=Q).option
        assert promised is not None
        assert measured(collection, X, Q, data.metric, over) == pytest.approx(promised.recall, abs=0.02)
    deep = QdrantCodec.with_factors(X, data.metric, oversampling=32, queries=Q).option
    assert deep is not None
    assert deep.recall_without_rescore == pytest.approx(offline, abs=0.01)
    assert found == pytest.approx(deep.recall_without_rescore, abs=0.01)
    point = collection.query_points(Q[0], limit=1).points[0]
    assert point.payload == {"a": 1}
    assert point.score == pytest.approx(float(X[point.id] @ Q[0]), rel=1e-3)
    schema = collection.client.get_collection("points").payload_schema
    assert set(schema) == {"bqcore_f_rescale", "bqcore_f_add"}
    # A point that came from elsewhere, without factors, ranks by its plain score and is counted.
    stray = models.PointStruct(id=9_999_999, vector={"dense": collection.codec.encode(X[:1])[0].tolist()})
    collection.client.upsert("points", [stray])
    assert 9_999_999 in [p.id for p in collection.query_points(X[0], limit=10).points]
    found_now = verify(collection, Q, n_queries=50)
    assert found_now.recall > 0.65
    assert found_now.n_without_factors == 1
    collection.client.close()


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_factors_search_in_the_metrics_order(tmp_path: Path, metric: str) -> None:
    X, Q = clustered(n=3000, dim=48)
    payloads = [{"odd": row % 2} for row in range(len(X))]
    collection = filled(tmp_path, QdrantCodec.with_factors(X, metric, oversampling=16), X, payloads=payloads)
    assert measured(collection, X, Q, metric, 16.0) >= 0.9
    only = models.Filter(must=[models.FieldCondition(key="odd", match=models.MatchValue(value=1))])
    points = collection.query_points(Q[0], query_filter=only, limit=20).points
    assert all(point.id % 2 for point in points)
    scores = [point.score for point in points]
    assert scores == sorted(scores, reverse=metric == "cosine")
    middle = (scores[4] + scores[5]) / 2
    kept = collection.query_points(Q[0], query_filter=only, limit=20, score_threshold=middle).points
    assert metric == "cosine" or len(kept) <= 20
    if metric == "cosine":
        assert [point.id for point in kept] == [point.id for point in points[:5]]
    collection.client.close()


def test_quantized_only_collections_keep_recall_in_a_quarter_of_the_bytes(data: Any, tmp_path: Path) -> None:
    X, Q, metric = data
    codec = QdrantCodec(Transform.fit(X, metric, "centre"), Config.parse("turbo2+turbo8 x4"))
    collection = filled(tmp_path, codec, X)
    assert measured(collection, X, Q, metric, 4.0) >= 0.97
    whole = Config.parse("scalar8+float32").bytes_disk(300, "Cosine")
    assert codec.config.bytes_disk(300, codec.transform.distance) <= 0.35 * whole
    assert "matrix.dat" not in collection.client.disk_bytes("points")
    collection.client.close()


def test_the_chosen_configuration_meets_its_target(tmp_path: Path) -> None:
    X, Q = clustered(n=3000, dim=48)
    codec = QdrantCodec.fit(X, "cosine", target_recall=0.95, queries=Q)
    collection = filled(tmp_path, codec, X)
    assert measured(collection, X, Q, "cosine", codec.config.oversampling) >= 0.94
    found = verify(collection, Q)
    assert found.is_as_predicted
    assert found.predicted_recall == codec.options[0].recall
    collection.client.close()


@pytest.mark.parametrize("name", ["turbo1+turbo8 x8", "binary1/scalar8bits+float32 x8", "scalar8+uint8 x2"])
def test_points_that_are_not_yet_optimized_are_found(tmp_path: Path, name: str) -> None:
    X, Q = clustered(n=2000, dim=48)
    config = Config.parse(name)
    transform = Transform.fit(X, "cosine", "centre")
    if config.datatype == "uint8":
        transform = transform.for_uint8(X) or transform
    with EdgeClient(tmp_path) as client:
        collection = Collection.create(client, "points", QdrantCodec(transform, config))
        upload(collection, X)
        assert client.get_collection("points").indexed_vectors_count == 0
        assert measured(collection, X, Q, "cosine", config.oversampling) >= 0.95
