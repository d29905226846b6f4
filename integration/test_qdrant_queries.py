"""What may be asked of a collection of ours: vectors of any library, ids, fusions; the rest is refused."""

from __future__ import annotations

import array
import asyncio
import uuid
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from qdrant_client import AsyncQdrantClient, models
from qdrant_support import ENGINES, client_of, clustered, collection_name
from qdrant_wire import wire_of

from bqcore_qdrant import AsyncCollection, Collection, Config, QdrantCodec, Transform, upload
from bqcore_qdrant.edge import EdgeClient
from bqcore_qdrant.inputs import names_vector

pytestmark = pytest.mark.qdrant

X, Q = clustered(n=600, dim=32)
IDS = [uuid.uuid5(uuid.NAMESPACE_URL, str(row)) for row in range(len(X))]
METRICS = ("cosine", "l2", "ip")


def codec_of(metric: str, kind: str = "centre") -> QdrantCodec:
    return QdrantCodec(Transform.fit(X, metric, kind), Config.parse("turbo4+float32 x4"))  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=ENGINES)
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with client_of(request.param, tmp_path_factory.mktemp("queries")) as found:
        yield found


@pytest.fixture(scope="module", params=METRICS)
def collection(client: Any, request: pytest.FixtureRequest) -> Iterator[Collection]:
    made = Collection.create(
        client,
        f"q_{request.param}",
        codec_of(request.param),
        sparse_vectors={"words": models.SparseVectorParams()},
    )
    upload(made, X, ids=IDS, payloads=[{"row": row} for row in range(len(X))])
    client.create_payload_index(made.name, field_name="row", field_schema="integer")
    yield made
    made.drop()


class Tensor:
    """A vector of another library: known by the interchange of numpy's array API alone."""

    def __init__(self, rows: Any) -> None:
        self._rows = np.array(rows)

    def __dlpack__(self, **options: Any) -> Any:
        return self._rows.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._rows.__dlpack_device__()


class Boxed:
    """A vector that tells numpy what it holds."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.asarray(self._rows, dtype=dtype)


FORMS: dict[str, Any] = {
    "list of float32": lambda q: list(q),
    "list of float64": lambda q: list(q.astype(np.float64)),
    "list of arrays of no dimension": lambda q: [np.array(one) for one in q],
    "list of tensors of no dimension": lambda q: [Tensor(one) for one in q],
    "tuple": lambda q: tuple(q.tolist()),
    "fractions": lambda q: [Fraction(float(one)) for one in q],
    "array.array": lambda q: array.array("f", q.tolist()),
    "memoryview": lambda q: memoryview(q),
    "pandas Series": lambda q: pd.Series(q),
    "pandas Series of objects": lambda q: pd.Series(list(q), dtype=object),
    "pandas Float32": lambda q: pd.Series(q, dtype="Float32"),
    "pandas row": lambda q: pd.DataFrame([q]).iloc[0],
    "pandas frame of a row": lambda q: pd.DataFrame([q]),
    "pandas column of a vector": lambda q: pd.DataFrame({"v": [q]})["v"],
    "polars Series": lambda q: pl.Series(q),
    "polars column of a vector": lambda q: pl.DataFrame({"v": [q.tolist()]})["v"],
    "tensor": lambda q: Tensor(q),
    "tensor of a row": lambda q: Tensor(q[np.newaxis]),
    "array inside": lambda q: Boxed(q),
    "matrix of a row": lambda q: q[np.newaxis],
    "list of a row": lambda q: [q.tolist()],
    "nearest": lambda q: models.NearestQuery.model_construct(nearest=pd.Series(q), mmr=None),
}
REFUSED: dict[str, Any] = {
    "generator": lambda q: (one for one in q.tolist()),
    "set": lambda q: set(q.tolist()),
    "mapping": lambda q: {"dense": q.tolist()},
    "bytes": lambda q: q.tobytes(),
    "texts": lambda q: [str(one) for one in q],
    "booleans": lambda q: [bool(one > 0) for one in q],
    "a boolean among numbers": lambda q: [True, *q.tolist()[1:]],
    "none among numbers": lambda q: [None, *q.tolist()[1:]],
    "complex": lambda q: q.astype(np.complex64),
    "two rows": lambda q: np.stack([q, q]),
    "a number": lambda q: float(q[0]),
    "a numpy number": lambda q: q[0],
    "an object": lambda q: object(),
    "a class": lambda q: np.ndarray,
    "a sparse vector": lambda q: models.SparseVector(indices=[1], values=[1.0]),
    "a model of something else": lambda q: models.Range(gte=1),
}


def found(response: Any) -> list[tuple[str, float]]:
    return [(str(point.id), round(float(point.score), 3)) for point in response.points]


@pytest.mark.parametrize("form", FORMS)
def test_vectors_of_every_form_are_the_same_query(collection: Collection, form: str) -> None:
    query = FORMS[form](Q[3])
    right = found(collection.query_points(Q[3], limit=4))
    assert found(collection.query_points(query, limit=4)) == right
    request = models.QueryRequest.model_construct(query=query, limit=4, with_payload=False)
    assert found(collection.query_batch_points([request])[0]) == right
    stage = models.Prefetch.model_construct(query=query, limit=4)
    fused = collection.query_points(models.FusionQuery(fusion="rrf"), prefetch=[stage], limit=4)
    assert [id_ for id_, _ in found(fused)] == [id_ for id_, _ in right]


@pytest.mark.parametrize("form", REFUSED)
def test_other_queries_are_refused_by_name(collection: Collection, form: str) -> None:
    with pytest.raises((TypeError, ValueError), match="query: expected"):
        collection.query_points(REFUSED[form](Q[3]), using="dense")
    stage = models.Prefetch.model_construct(query=REFUSED[form](Q[3]), using="dense", limit=4)
    with pytest.raises((TypeError, ValueError), match="query: expected"):
        collection.query_points(models.FusionQuery(fusion="rrf"), prefetch=stage)


def test_several_queries_may_be_a_column(collection: Collection) -> None:
    right = collection.search(Q[:5], 3)
    for form in (
        pd.DataFrame({"v": list(Q[:5])})["v"],
        pl.DataFrame({"v": Q[:5].tolist()})["v"],
        Tensor(Q[:5]),
        [row.tolist() for row in Q[:5]],
    ):
        ids, scores = collection.search(form, 3)
        assert ids == right[0]
        np.testing.assert_allclose(scores, right[1], rtol=1e-5)


@pytest.mark.parametrize("form", ["column", "tensor", "polars"])
def test_an_upload_takes_columns_and_tensors(client: Any, form: str) -> None:
    rows = {
        "column": lambda: pd.DataFrame({"v": list(X[:50])})["v"],
        "tensor": lambda: Tensor(X[:50]),
        "polars": lambda: pl.DataFrame({"v": X[:50].tolist()})["v"],
    }[form]()
    made = Collection.create(client, collection_name(), codec_of("l2"))
    assert upload(made, rows).n_written == 50
    (record,) = made.retrieve([np.int64(7)], with_vectors=True)
    np.testing.assert_allclose(record.vector["dense"], X[7], atol=1e-4)
    made.drop()


def test_ids_are_uuids_texts_and_numbers_of_numpy(collection: Collection, client: Any) -> None:
    if collection.codec.metric == "ip":
        with pytest.raises(ValueError, match="not a point's id"):
            collection.query_points(IDS[5])
        return
    right = found(collection.query_points(str(IDS[5]), limit=3))
    assert found(collection.query_points(IDS[5], limit=3)) == right
    assert found(collection.query_points(models.NearestQuery(nearest=IDS[5]), limit=3)) == right
    batch = [models.QueryRequest(query=IDS[5], limit=3)]
    assert found(collection.query_batch_points(batch)[0]) == right
    numbered = Collection.create(client, collection_name(), codec_of(collection.codec.metric))
    upload(numbered, X[:50])
    assert found(numbered.query_points(np.int64(5), limit=3)) == found(numbered.query_points(5, limit=3))
    for wrong in (True, np.bool_(True), "no uuid", -1):
        with pytest.raises((TypeError, ValueError), match=r"expected"):
            numbered.query_points(wrong)
    numbered.drop()


def test_queries_without_a_vector_go_without_using(collection: Collection) -> None:
    stages = [
        models.Prefetch(query=Q[3].tolist(), limit=5),
        models.Prefetch(query=models.SparseVector(indices=[1], values=[1.0]), using="words", limit=5),
    ]
    nearest = {str(point.id) for point in collection.query_points(Q[3], limit=5).points}
    asked: list[tuple[Any, Any]] = [
        (models.FusionQuery(fusion="rrf"), stages),
        (models.FusionQuery(fusion="dbsf"), stages),
        (models.RrfQuery(rrf=models.Rrf(k=60)), stages),
        (models.FormulaQuery(formula="$score"), stages),
        (models.OrderByQuery(order_by="row"), None),
        (models.SampleQuery(sample=models.Sample.RANDOM), None),
        (None, None),
    ]
    for query, prefetch in asked:
        assert not names_vector(query)
        for using in ({}, {"using": ""}, {"using": "dense"}):
            points = collection.query_points(query, prefetch=prefetch, limit=5, **using).points
            assert len(points) == 5
            if prefetch:
                assert {str(point.id) for point in points} == nearest
        request = models.QueryRequest(query=query, prefetch=prefetch, limit=5, using=None)
        assert len(collection.query_batch_points([request])[0].points) == 5
    inner = models.Prefetch(query=models.FusionQuery(fusion="rrf"), prefetch=stages, limit=5)
    rescored = collection.query_points(Q[3], prefetch=inner, limit=5)
    assert found(rescored) == found(collection.query_points(Q[3], limit=5))


@pytest.mark.parametrize("query", ["dbsf", "formula"])
def test_stages_have_the_metrics_scores(collection: Collection, query: str) -> None:
    """A fusion by scores and a formula see what a collection of raw vectors would show them."""
    raw = Collection.create(collection.client, collection_name(), codec_of(collection.codec.metric, "raw"))
    upload(raw, X, ids=IDS, payloads=[{"row": row} for row in range(len(X))])
    stages = [models.Prefetch(query=q.tolist(), limit=12) for q in Q[3:5]]
    asked: Any = models.FusionQuery(fusion="dbsf")
    if query == "formula":
        row = models.MultExpression(mult=[0.001, "row"])
        asked, stages = models.FormulaQuery(formula=models.SumExpression(sum=["$score", row])), stages[:1]
    mine, theirs = (one.query_points(asked, prefetch=stages, limit=8).points for one in (collection, raw))
    assert [point.id for point in mine] == [point.id for point in theirs]
    np.testing.assert_allclose([p.score for p in mine], [p.score for p in theirs], rtol=2e-3, atol=2e-3)
    if query == "dbsf":  # the nearest first, under distances as well
        alone = collection.query_points(asked, prefetch=stages[:1], limit=8).points
        assert [p.id for p in alone] == [p.id for p in collection.query_points(Q[3], limit=8).points]
    raw.drop()


def test_examples_that_a_transform_does_not_carry_over_are_refused(collection: Collection) -> None:
    ids = [str(one) for one in IDS[:2]]
    pair = models.ContextPair(positive=ids[0], negative=ids[1])
    examples: list[Any] = [
        models.RecommendQuery(recommend=models.RecommendInput(positive=ids)),
        models.DiscoverQuery(discover=models.DiscoverInput(target=ids[0], context=[pair])),
        models.ContextQuery(context=[pair]),
        models.Document(text="a", model="b"),
    ]
    for query in examples:
        with pytest.raises(ValueError, match=type(query).__name__):
            collection.query_points(query)
        with pytest.raises(ValueError, match=type(query).__name__):
            collection.query_batch_points([models.QueryRequest(query=query, limit=3)])
        with pytest.raises(ValueError, match=type(query).__name__):
            collection.query_points(Q[0], prefetch=models.Prefetch(query=query, limit=3))
    with pytest.raises(ValueError, match="lookup_from"):
        collection.query_points(Q[0], lookup_from=models.LookupLocation(collection="other"))
    diverse = models.NearestQuery(nearest=Q[0].tolist(), mmr=models.Mmr(diversity=0.5))
    if collection.codec.metric == "l2":
        assert len(collection.query_points(diverse, limit=3).points) == 3
    else:
        with pytest.raises(ValueError, match="mmr"):
            collection.query_points(diverse)


def test_raw_vectors_take_examples_of_every_form(client: Any) -> None:
    made = Collection.create(client, collection_name(), codec_of("cosine", "raw"))
    upload(made, X)
    lists = [row.tolist() for row in X[:4]]

    def ask(vectors: Any) -> list[Any]:
        a, b, c, d = vectors
        sides = models.RecommendInput.model_construct(positive=[a, c], negative=[b], strategy=None)
        pair = models.ContextPair.model_construct(positive=a, negative=b)
        return [
            found(made.query_points(query, limit=4))
            for query in (
                models.RecommendQuery.model_construct(recommend=sides),
                models.DiscoverQuery.model_construct(
                    discover=models.DiscoverInput.model_construct(target=d, context=[pair])
                ),
                models.ContextQuery.model_construct(context=pair),
            )
        ]

    assert ask(X[:4]) == ask(lists)
    assert ask([pd.Series(row) for row in X[:4]]) == ask(lists)
    with pytest.raises((TypeError, ValueError), match="expected"):
        ask([set(row) for row in lists])
    made.drop()


def test_asynchronous_collections_ask_in_the_same_way(tmp_path: Path) -> None:
    async def run(wire: Any) -> None:
        client = AsyncQdrantClient(url=wire.url)
        made = await AsyncCollection.create(client, "async", codec_of("cosine"), using="text")
        await made.upload(X)
        opened = await AsyncCollection.open(client, "async", made.codec)
        assert opened.using == "text"
        right = found(await opened.query_points(Q[3], limit=4))
        for form in ("list of float32", "polars Series", "tensor of a row"):
            assert found(await opened.query_points(FORMS[form](Q[3]), limit=4)) == right
        stage = models.Prefetch.model_construct(query=list(Q[3]), limit=4)
        fused = await opened.query_points(models.FusionQuery(fusion="dbsf"), prefetch=[stage], limit=4)
        assert [id_ for id_, _ in found(fused)] == [id_ for id_, _ in right]
        for form in ("mapping", "a boolean among numbers"):
            with pytest.raises(TypeError, match="query: expected"):
                await opened.query_points(REFUSED[form](Q[3]))
        await client.close()

    with EdgeClient(tmp_path) as engine, wire_of(engine) as wire:
        asyncio.run(run(wire))
