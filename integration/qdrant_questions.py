"""Points, queries and filters that the embedded client and others are asked, and requests that are wrong."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
from qdrant_client import models

A, B = "bqcore_test_a", "bqcore_test_b"
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
    """Return a client with collections A and B, made anew."""
    for name in (A, B):
        if client.collection_exists(name):
            client.delete_collection(name)
    cosine = models.VectorParams(size=16, distance=models.Distance.COSINE)
    several = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
    client.create_collection(
        A,
        vectors_config={
            "v": cosine,
            "dot": models.VectorParams(size=16, distance=models.Distance.DOT),
            "m": models.VectorParams(size=16, distance=models.Distance.DOT, multivector_config=several),
        },
        sparse_vectors_config={"s": models.SparseVectorParams(modifier=models.Modifier.IDF)},
    )
    client.create_collection(B, vectors_config={"w": cosine})
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
    client.upsert(A, rows)
    client.upsert(B, [models.PointStruct(id=i, vector={"w": V[199 - i]}, payload={}) for i in range(200)])
    for field, schema in (("rank", "integer"), ("when", "datetime"), ("name", "keyword"), ("loc", "geo")):
        client.create_payload_index(A, field_name=field, field_schema=schema)
    client.create_payload_index(
        A, "text", models.TextIndexParams(type=models.TextIndexType.TEXT, phrase_matching=True)
    )
    return client


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
        "lookup_from": models.LookupLocation(collection=B, vector="w"),
    },
    "lookup in a stage": {
        "query": models.FusionQuery(fusion="rrf"),
        "prefetch": [
            stage(0, lookup_from=models.LookupLocation(collection=B, vector="w"), limit=5),
            stage(7, limit=4),
        ],
    },
    "lookup of examples": {
        "query": recommend(positive=[3, 4]),
        "using": "v",
        "lookup_from": models.LookupLocation(collection=B, vector="w"),
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
