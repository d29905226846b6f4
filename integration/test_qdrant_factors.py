"""Corrective factors in payloads: exact searches, payload writes of applications, stages of callers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models
from qdrant_support import client_of, clustered
from typer.testing import CliRunner

from bqcore.cli import app
from bqcore.evaluation import exact_search
from bqcore_qdrant import Collection, QdrantCodec, restore_factors, upload, verify
from bqcore_qdrant.edge import EdgeClient
from bqcore_qdrant.formula import F_ADD, F_RESCALE

pytestmark = pytest.mark.qdrant

X, Q = clustered(n=500, dim=32)
EXACT = models.SearchParams(exact=True)


@pytest.fixture(
    scope="module",
    params=[("edge", "cosine"), ("edge", "l2"), ("edge", "ip"), ("wire-rest", "l2"), ("wire-grpc", "cosine")],
    ids="-".join,
)
def collection(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Collection]:
    kind, metric = request.param
    codec = QdrantCodec.with_factors(X, metric, oversampling=16)
    with client_of(kind, tmp_path_factory.mktemp("factors")) as client:
        words = {"words": models.SparseVectorParams()}
        made = Collection.create(client, "points", codec, sparse_vectors=words)
        upload(made, X, payloads=[{"x": row} for row in range(len(X))])
        yield made


def test_exact_searches_are_exact_for_queries_of_every_length(collection: Collection) -> None:
    """What the first stage of codes would find plays no part, however short the query."""
    for scale in (1.0, 30.0, 1e-3):
        queries = (Q[:8] * np.float32(scale)).astype(np.float32)
        truth, distances = exact_search(X, queries, 10, collection.codec.metric)
        ids, scores = collection.search(queries, 10, search_params=EXACT)
        assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids, truth.tolist(), strict=True)]) > 0.99
        if collection.codec.metric == "ip":
            np.testing.assert_allclose(scores, -distances, rtol=1e-3, atol=1e-3 * scale)
        middle = (scores[0][4] + scores[0][5]) / 2
        kept = collection.query_points(queries[0], limit=10, search_params=EXACT, score_threshold=middle)
        assert [point.id for point in kept.points] == ids[0][:5]


def test_exact_searches_heed_filters_in_batches(collection: Collection) -> None:
    few = models.Filter(must=[models.FieldCondition(key="x", range=models.Range(lt=100))])
    request = models.QueryRequest(query=Q[0].tolist(), limit=5, params=EXACT, filter=few)
    found = [point.id for point in collection.query_batch_points([request])[0].points]
    truth, _ = exact_search(X[:100], Q[:1], 5, collection.codec.metric)
    assert found == truth[0].tolist()


WRITES: dict[str, Callable[[Any], Any]] = {
    "overwrite": lambda client: client.overwrite_payload("points", {"x": 5, "y": 1}, [5]),
    "clear": lambda client: client.clear_payload("points", [5]),
    "delete": lambda client: client.delete_payload("points", [F_ADD], [5]),
    "delete both": lambda client: client.delete_payload("points", [F_ADD, F_RESCALE], [5]),
    "batch": lambda client: client.batch_update_points(
        "points",
        [models.OverwritePayloadOperation(overwrite_payload=models.SetPayload(payload={"z": 1}, points=[5]))],
    ),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_point_whose_factors_are_gone_is_found_counted_and_mended(
    collection: Collection, write: str
) -> None:
    assert verify(collection, k=5, n_queries=20).n_without_factors == 0
    before = dict(collection.client.retrieve("points", ids=[5])[0].payload)
    WRITES[write](collection.client)
    assert 5 in [point.id for point in collection.query_points(X[5], limit=3).points]
    found = verify(collection, k=5, n_queries=20)
    assert found.n_without_factors == 1
    assert not found.is_as_predicted
    after = collection.retrieve([5])[0].payload
    assert restore_factors(collection) == 1
    assert restore_factors(collection) == 0
    mended = collection.client.retrieve("points", ids=[5])[0].payload
    for field in (F_ADD, F_RESCALE):
        assert mended[field] == pytest.approx(before[field], rel=1e-3, abs=1e-4)
    assert collection.retrieve([5])[0].payload == after
    assert verify(collection, k=5, n_queries=20).n_without_factors == 0


def test_writes_of_other_fields_leave_factors_alone(collection: Collection) -> None:
    collection.client.set_payload("points", {"new": 1}, [7])
    collection.client.delete_payload("points", ["x"], [6])
    assert verify(collection, k=5, n_queries=20).n_without_factors == 0
    assert collection.retrieve([7])[0].payload == {"x": 7, "new": 1}


def test_stages_of_a_caller_are_completed_by_factors(collection: Collection) -> None:
    right = [point.id for point in collection.query_points(Q[3], limit=6).points]
    words = models.Prefetch(query=models.SparseVector(indices=[1], values=[1.0]), using="words", limit=6)
    stages = [models.Prefetch(query=Q[3].tolist(), using="dense", limit=6), words]
    for query in (models.FusionQuery(fusion="rrf"), models.FusionQuery(fusion="dbsf")):
        fused = collection.query_points(query, prefetch=stages, limit=6).points
        assert [point.id for point in fused] == right
    exact = stages[0].model_copy(update={"params": EXACT})
    fused = collection.query_points(models.FusionQuery(fusion="rrf"), prefetch=[exact], limit=6).points
    truth, _ = exact_search(X, Q[3:4], 6, collection.codec.metric)
    assert [point.id for point in fused] == truth[0].tolist()
    formula = models.FormulaQuery(formula="$score")
    scored = collection.query_points(formula, prefetch=stages[:1], limit=6).points
    plain = collection.query_points(Q[3], limit=6).points
    np.testing.assert_allclose(
        sorted(point.score for point in scored), sorted(point.score for point in plain), rtol=1e-3, atol=1e-3
    )
    diverse = models.NearestQuery(nearest=Q[3].tolist(), mmr=models.Mmr(diversity=0.5))
    with pytest.raises(ValueError, match="mmr"):
        collection.query_points(diverse)


def test_the_command_line_counts_and_restores_factors(tmp_path: Path) -> None:
    codec = QdrantCodec.with_factors(X, "cosine", oversampling=16)
    codec.save(tmp_path / "codec.npz")
    assert QdrantCodec.load(tmp_path / "codec.npz").typical_factors == codec.typical_factors
    with EdgeClient(tmp_path / "edge") as client:
        upload(Collection.create(client, "points", codec), X)
        client.clear_payload("points", list(range(30)))

    def run(command: str) -> Any:
        place = [str(tmp_path / "codec.npz"), "points", "--edge", str(tmp_path / "edge"), "--json"]
        return CliRunner().invoke(app, ["qdrant", command, *place])

    told = run("verify")
    assert told.exit_code == 1
    assert '"n_without_factors": 30' in told.stdout
    assert '"restored": 30' in run("restore").stdout
    assert '"n_without_factors": 0' in run("verify").stdout
