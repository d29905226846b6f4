"""What the embedded client answers and refuses, beside qdrant-client's local mode."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from qdrant_support import client_of

from bqcore_qdrant.edge import EdgeClient

pytestmark = [pytest.mark.qdrant, pytest.mark.filterwarnings("ignore::UserWarning")]

RNG = np.random.default_rng(0)
X = RNG.standard_normal((8, 16))[RNG.integers(8, size=200)] + 0.4 * RNG.standard_normal((200, 16))
V = X.astype(np.float32).tolist()
RANKS = RNG.permutation(200).tolist()
DAY = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
F, C = models.Filter, models.FieldCondition


def payload(i: int) -> dict[str, Any]:
    return {
        "rank": RANKS[i],
        "loc": {"lon": float(i) / 10, "lat": 0.5},
        "text": "red apple pie" if i % 3 else "green pie",
        "name": f"item-{i:03d}",
        "when": (DAY + datetime.timedelta(days=i)).isoformat(),
        "parts": [{"a": i % 5, "b": i % 7}, {"a": 9, "b": 1}],
    }


def filled(client: Any) -> Any:
    cosine = models.VectorParams(size=16, distance=models.Distance.COSINE)
    several = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
    client.create_collection(
        "a",
        vectors_config={
            "v": cosine,
            "dot": models.VectorParams(size=16, distance=models.Distance.DOT),
            "m": models.VectorParams(size=16, distance=models.Distance.DOT, multivector_config=several),
        },
        sparse_vectors_config={"s": models.SparseVectorParams(modifier=models.Modifier.IDF)},
    )
    client.create_collection("b", vectors_config={"w": cosine})
    rows = [
        models.PointStruct(
            id=i,
            vector={
                "v": V[i],
                "dot": V[i],
                "m": [V[i], V[(i + 1) % 200]],
                "s": models.SparseVector(indices=[1, 5 + i % 3], values=[1.0, 2.0]),
            },
            payload=payload(i),
        )
        for i in range(200)
    ]
    client.upsert("a", rows)
    client.upsert("b", [models.PointStruct(id=i, vector={"w": V[199 - i]}, payload={}) for i in range(200)])
    for field, schema in (("rank", "integer"), ("when", "datetime"), ("name", "keyword"), ("loc", "geo")):
        client.create_payload_index("a", field_name=field, field_schema=schema)
    client.create_payload_index(
        "a", "text", models.TextIndexParams(type=models.TextIndexType.TEXT, phrase_matching=True)
    )
    return client


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with EdgeClient(tmp_path_factory.mktemp("edge")) as edge:
            yield filled(edge), filled(QdrantClient(":memory:"))


def ring(low: float, high: float) -> models.GeoLineString:
    corners = ((low, -1), (high, -1), (high, 1), (low, 1), (low, -1))
    return models.GeoLineString(points=[models.GeoPoint(lon=x, lat=y) for x, y in corners])


def stage(query: Any, using: str = "v", limit: int = 20, **more: Any) -> models.Prefetch:
    return models.Prefetch(query=query, using=using, limit=limit, **more)


def nearest(i: int, **mmr: Any) -> models.NearestQuery:
    return models.NearestQuery(nearest=V[i], mmr=models.Mmr(**mmr) if mmr else None)


def recommend(**given: Any) -> models.RecommendQuery:
    return models.RecommendQuery(recommend=models.RecommendInput(**given))


def formula(expression: Any, **defaults: Any) -> dict[str, Any]:
    return {"query": models.FormulaQuery(formula=expression, defaults=defaults), "prefetch": stage(V[3])}


PAIR = models.ContextPair(positive=3, negative=V[50])
SUM, MULT = models.SumExpression, models.MultExpression
DECAY = models.DecayParamsExpression
QUERIES: dict[str, dict[str, Any]] = {
    "order, descending": {
        "query": models.OrderByQuery(order_by=models.OrderBy(key="rank", direction="desc"))
    },
    "order, start": {"query": models.OrderByQuery(order_by=models.OrderBy(key="rank", start_from=150))},
    "order, start of a date": {
        "query": models.OrderByQuery(
            order_by=models.OrderBy(key="when", start_from=DAY + datetime.timedelta(days=30))
        )
    },
    "mmr": {"query": nearest(3, diversity=0.9, candidates_limit=100), "using": "v"},
    "mmr by an id, offset": {
        "query": models.NearestQuery(nearest=3, mmr=models.Mmr(diversity=0.3)),
        "using": "v",
        "offset": 2,
    },
    "lookup from": {
        "query": 0,
        "using": "v",
        "lookup_from": models.LookupLocation(collection="b", vector="w"),
    },
    "lookup in a stage": {
        "query": models.FusionQuery(fusion="rrf"),
        "prefetch": [
            stage(0, lookup_from=models.LookupLocation(collection="b", vector="w"), limit=5),
            stage(7, limit=4),
        ],
    },
    "lookup of examples": {
        "query": recommend(positive=[3, 4]),
        "using": "v",
        "lookup_from": models.LookupLocation(collection="b", vector="w"),
    },
    "an id in a stage": {"query": V[3], "using": "v", "prefetch": stage(12, limit=7)},
    "recommend": {"query": recommend(positive=[3, V[7]], negative=[50]), "using": "v"},
    "recommend, best score": {
        "query": recommend(positive=[3], negative=[50], strategy="best_score"),
        "using": "v",
    },
    "recommend, sum of scores": {
        "query": recommend(positive=[3, 4], negative=[V[50]], strategy="sum_scores"),
        "using": "v",
    },
    "discover": {
        "query": models.DiscoverQuery(discover=models.DiscoverInput(target=9, context=[PAIR])),
        "using": "v",
    },
    "context": {"query": models.ContextQuery(context=PAIR), "using": "v", "limit": 1},
    "feedback": {
        "query": models.RelevanceFeedbackQuery(
            relevance_feedback=models.RelevanceFeedbackInput(
                target=V[3],
                feedback=[
                    models.FeedbackItem(example=7, score=0.9),
                    models.FeedbackItem(example=60, score=0.1),
                ],
                strategy=models.NaiveFeedbackStrategy(
                    naive=models.NaiveFeedbackStrategyParams(a=1.0, b=1.0, c=1.0)
                ),
            )
        ),
        "using": "v",
    },
    "rrf": {"query": models.RrfQuery(rrf=models.Rrf(k=60)), "prefetch": [stage(V[3]), stage(V[90])]},
    "rrf, weights": {
        "query": models.RrfQuery(rrf=models.Rrf(k=1, weights=[3.0, 1.0])),
        "prefetch": [stage(V[3]), stage(V[90])],
    },
    "dbsf": {"query": models.FusionQuery(fusion="dbsf"), "prefetch": [stage(V[3]), stage(V[3], "dot")]},
    "formula, max and min": formula(
        models.MaxExpression(max=[models.MinExpression(min=["$score", 0.8]), MULT(mult=[0.01, "rank"])])
    ),
    "formula, division and powers": formula(
        models.DivExpression(
            div=models.DivParams(
                left=models.PowExpression(pow=models.PowParams(base="$score", exponent=2.0)),
                right=SUM(sum=[1.0, models.SqrtExpression(sqrt="rank")]),
            )
        )
    ),
    "formula, logarithms": formula(
        SUM(sum=[models.LnExpression(ln=SUM(sum=["rank", 1.0])), models.NegExpression(neg="$score")])
    ),
    "formula, decay": formula(
        models.GaussDecayExpression(gauss_decay=DECAY(x="rank", target=100.0, scale=30.0, midpoint=0.4))
    ),
    "formula, decay of a date": formula(
        models.LinDecayExpression(
            lin_decay=DECAY(
                x=models.DatetimeKeyExpression(datetime_key="when"),
                target=models.DatetimeExpression(datetime="2024-03-01T00:00:00Z"),
                scale=8_640_000.0,
            )
        )
    ),
    "formula, distance on earth": formula(
        models.NegExpression(
            neg=models.GeoDistance(
                geo_distance=models.GeoDistanceParams(origin=models.GeoPoint(lon=7.0, lat=0.5), to="loc")
            )
        )
    ),
    "formula, condition and default": formula(
        SUM(sum=["$score", C(key="text", match=models.MatchText(text="green")), "none"]), none=0.25
    ),
    "several vectors": {"query": [V[3], V[9]], "using": "m"},
    "sparse": {"query": models.SparseVector(indices=[1, 6], values=[1.0, 1.0]), "using": "s", "limit": 1},
    "filter above stages": {
        "query": V[3],
        "using": "v",
        "prefetch": stage(V[3], limit=9),
        "query_filter": F(must=[C(key="rank", range=models.Range(lt=60))]),
    },
    "threshold": {"query": V[3], "using": "v", "score_threshold": 0.8, "limit": 50},
}
FILTERS: dict[str, models.Filter] = {
    "polygon": F(must=[C(key="loc", geo_polygon=models.GeoPolygon(exterior=ring(-0.05, 0.45)))]),
    "polygon with a hole": F(
        must=[
            C(key="loc", geo_polygon=models.GeoPolygon(exterior=ring(0.0, 9.0), interiors=[ring(1.0, 2.0)]))
        ]
    ),
    "radius": F(
        must=[
            C(key="loc", geo_radius=models.GeoRadius(center=models.GeoPoint(lon=1, lat=0.5), radius=30_000))
        ]
    ),
    "box": F(
        must_not=[
            C(
                key="loc",
                geo_bounding_box=models.GeoBoundingBox(
                    top_left=models.GeoPoint(lon=1, lat=1), bottom_right=models.GeoPoint(lon=3, lat=0)
                ),
            )
        ]
    ),
    "slice": F(must=[models.SliceCondition(slice=models.Slice(total=4, index=1))]),
    "text": F(must=[C(key="text", match=models.MatchText(text="apple pie"))]),
    "any text": F(must=[C(key="text", match=models.MatchTextAny(text_any="green cheese"))]),
    "phrase": F(must=[C(key="text", match=models.MatchPhrase(phrase="apple pie"))]),
    "except": F(must=[C(key="rank", match=models.MatchExcept(**{"except": [1, 2, 3]}))]),
    "dates": F(must=[C(key="when", range=models.DatetimeRange(gte=datetime.datetime(2024, 3, 1)))]),
    "a day": F(must=[C(key="when", range=models.DatetimeRange(lt=datetime.date(2024, 3, 1)))]),
    "nested": F(
        must=[
            models.NestedCondition(
                nested=models.Nested(
                    key="parts",
                    filter=F(
                        must=[
                            C(key="a", match=models.MatchValue(value=2)),
                            C(key="b", match=models.MatchValue(value=1)),
                        ]
                    ),
                )
            )
        ]
    ),
    "least of several": F(
        min_should=models.MinShould(
            conditions=[C(key="rank", range=models.Range(lt=n)) for n in (50, 100, 150)], min_count=2
        )
    ),
    "number of values": F(must=[C(key="parts", values_count=models.ValuesCount(gte=2))]),
}


def ties(points: list[Any]) -> list[set[Any]]:
    """Return ids by falling score, those of equal scores together; the last score's may be cut anywhere."""
    found: list[set[Any]] = []
    last = None
    for point in points:
        if last is None or abs(point.score - last) > 1e-4 * max(1.0, abs(last)):
            found.append(set())
            last = point.score
        found[-1].add(point.id)
    return found[:-1]


@pytest.mark.parametrize("name", QUERIES)
def test_queries_are_answered_as_by_local_mode(pair: tuple[Any, Any], name: str) -> None:
    given = {"limit": 8, **QUERIES[name]}
    mine, theirs = (client.query_points("a", **given).points for client in pair)
    if "order" in name or "mmr" in name:
        assert [point.id for point in mine] == [point.id for point in theirs]
        return
    np.testing.assert_allclose([p.score for p in mine], [p.score for p in theirs], rtol=1e-3, atol=1e-4)
    assert ties(mine) == ties(theirs)
    assert ties(mine) or name in ("context", "sparse")


@pytest.mark.parametrize("name", FILTERS)
def test_filters_choose_what_local_mode_chooses(pair: tuple[Any, Any], name: str) -> None:
    mine, theirs = ([p.id for p in client.scroll("a", FILTERS[name], limit=200)[0]] for client in pair)
    assert mine == theirs
    assert 0 < len(mine) < 200 or name in ("number of values",)
    assert pair[0].count("a", FILTERS[name]).count == len(theirs)


def test_scrolls_are_ordered(pair: tuple[Any, Any]) -> None:
    order = models.OrderBy(key="rank", direction=models.Direction.DESC)
    mine, theirs = (client.scroll("a", order_by=order, limit=7) for client in pair)
    assert [one.id for one in mine[0]] == [one.id for one in theirs[0]]
    assert mine[1] is None


WRONG: dict[str, dict[str, Any]] = {
    "limit 0": {"query": V[3], "using": "v", "limit": 0},
    "negative offset": {"query": V[3], "using": "v", "offset": -1},
    "fusion beside using": {"query": models.FusionQuery(fusion="rrf"), "using": "v", "prefetch": stage(V[3])},
    "rrf beside using": {"query": models.RrfQuery(rrf=models.Rrf()), "using": "v", "prefetch": stage(V[3])},
    "fusion beside using, inside": {
        "query": V[3],
        "using": "v",
        "prefetch": models.Prefetch(
            query=models.FusionQuery(fusion="rrf"), using="v", prefetch=[stage(V[3])], limit=3
        ),
    },
    "fusion without stages": {"query": models.FusionQuery(fusion="rrf")},
    "formula without stages": {"query": models.FormulaQuery(formula="$score")},
    "stages without a query": {"prefetch": stage(V[3])},
    "threshold without a query": {"score_threshold": 0.5},
    "threshold of an order": {"query": models.OrderByQuery(order_by="rank"), "score_threshold": 0.5},
    "limit of a stage": {"query": V[3], "using": "v", "prefetch": stage(V[3], limit=0)},
    "rrf k 0": {"query": models.RrfQuery(rrf=models.Rrf(k=0)), "prefetch": stage(V[3])},
    "mmr candidates": {"query": nearest(3, candidates_limit=20_000), "using": "v"},
    "mmr diversity": {"query": nearest(3, diversity=1.5), "using": "v"},
    "feedback b": {
        "query": models.RelevanceFeedbackQuery(
            relevance_feedback=models.RelevanceFeedbackInput(
                target=V[3],
                feedback=[models.FeedbackItem(example=7, score=0.9)],
                strategy=models.NaiveFeedbackStrategy(
                    naive=models.NaiveFeedbackStrategyParams(a=1.0, b=-1.0, c=1.0)
                ),
            )
        ),
        "using": "v",
    },
    "no examples": {"query": recommend(), "using": "v"},
    "negative examples alone": {"query": recommend(negative=[3]), "using": "v"},
    "a vector of no name": {"query": V[3]},
    "a vector of another name": {"query": V[3], "using": "x"},
    "another size": {"query": V[3][:5], "using": "v"},
    "sparse for dense": {"query": models.SparseVector(indices=[1], values=[1.0]), "using": "v"},
    "dense for sparse": {"query": V[3], "using": "s"},
    "an id that is not there": {"query": 9_999, "using": "v"},
    "a formula over nothing": formula(SUM(sum=["$score", "no such field"])),
    "order without an index": {"query": models.OrderByQuery(order_by="parts[].a")},
}


@pytest.mark.parametrize("kind", ["edge", "wire-rest", "wire-grpc"])
def test_what_servers_refuse_is_refused(kind: str, tmp_path: Path, pair: tuple[Any, Any]) -> None:
    taken, laxer = [], []
    with client_of(kind, tmp_path) as client:
        filled(client)
        for name, given in WRONG.items():
            if name == "negative offset" and kind == "wire-grpc":
                continue  # no number of the protocol
            if not _refuses(lambda given=given: client.query_points("a", **given)):  # type: ignore[misc]
                taken.append(name)
            if not _refuses(lambda given=given: pair[1].query_points("a", **given)):  # type: ignore[misc]
                laxer.append(name)
    assert not taken
    # Local mode lets by what a server's own validation, or its engine, refuses.
    assert set(laxer) <= {"order without an index", "a formula over nothing", "another size"}


WRONG_WRITES: dict[str, Callable[[Any], Any]] = {
    "no points": lambda c: c.upsert("a", []),
    "an unnamed vector": lambda c: c.upsert("a", [models.PointStruct(id=1, vector=V[0])]),
    "another name": lambda c: c.upsert("a", [models.PointStruct(id=1, vector={"x": V[0]})]),
    "another size": lambda c: c.upsert("a", [models.PointStruct(id=1, vector={"v": V[0][:3]})]),
    "sparse for dense": lambda c: c.upsert(
        "a", [models.PointStruct(id=1, vector={"v": models.SparseVector(indices=[1], values=[1.0])})]
    ),
    "indices twice": lambda c: c.upsert(
        "a", [models.PointStruct(id=1, vector={"s": models.SparseVector(indices=[1, 1], values=[1.0, 2.0])})]
    ),
    "a collection that is there": lambda c: c.create_collection(
        "a", vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT)
    ),
    "ordered and offset": lambda c: c.scroll("a", order_by="rank", offset=3),
}


@pytest.mark.parametrize("kind", ["edge", "wire-rest", "wire-grpc"])
def test_writes_that_servers_refuse_are_refused(kind: str, tmp_path: Path) -> None:
    with client_of(kind, tmp_path) as client:
        filled(client)
        taken = [
            name
            for name, write in WRONG_WRITES.items()
            if not _refuses(lambda write=write: write(client))  # type: ignore[misc]
        ]
    assert not taken


def _refuses(call: Callable[[], Any]) -> bool:
    try:
        call()
    except Exception:
        return True
    return False


@pytest.mark.parametrize("kind", ["edge", "wire-rest", "wire-grpc"])
def test_payloads_are_written_as_local_mode_writes_them(kind: str, tmp_path: Path) -> None:
    def written(client: Any) -> list[Any]:
        filled(client)
        client.set_payload("a", {"new": 1}, [1])
        client.set_payload("a", {"deep": 2}, F(must=[models.HasIdCondition(has_id=[1, 2])]), key="inner")
        client.overwrite_payload("a", {"only": 3}, [3])
        client.delete_payload("a", ["rank", "loc"], [4])
        client.clear_payload("a", [5])
        client.batch_update_points(
            "a",
            [
                models.SetPayloadOperation(set_payload=models.SetPayload(payload={"six": 6}, points=[6])),
                models.DeletePayloadOperation(delete_payload=models.DeletePayload(keys=["name"], points=[6])),
            ],
        )
        return [one.payload for one in client.retrieve("a", ids=list(range(1, 7)))]

    with client_of(kind, tmp_path) as client:
        assert written(client) == written(QdrantClient(":memory:"))
