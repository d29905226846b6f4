"""What the embedded client answers and refuses, beside qdrant-client's local mode."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from qdrant_questions import FILTERS, QUERIES, WRONG, A, F, V, filled
from qdrant_support import ENGINES, client_of

from bqcore_qdrant.edge import EdgeClient

pytestmark = [pytest.mark.qdrant, pytest.mark.filterwarnings("ignore::UserWarning")]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with EdgeClient(tmp_path_factory.mktemp("edge")) as edge:
            yield filled(edge), filled(QdrantClient(":memory:"))


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
    mine, theirs = (client.query_points(A, **given).points for client in pair)
    if "order" in name or "mmr" in name:
        assert [point.id for point in mine] == [point.id for point in theirs]
        return
    np.testing.assert_allclose([p.score for p in mine], [p.score for p in theirs], rtol=1e-3, atol=1e-4)
    assert ties(mine) == ties(theirs)
    assert ties(mine) or name in ("context", "sparse")


@pytest.mark.parametrize("name", FILTERS)
def test_filters_choose_what_local_mode_chooses(pair: tuple[Any, Any], name: str) -> None:
    mine, theirs = ([p.id for p in client.scroll(A, FILTERS[name], limit=200)[0]] for client in pair)
    assert mine == theirs
    assert 0 < len(mine) < 200 or name in ("number of values",)
    assert pair[0].count(A, FILTERS[name]).count == len(theirs)


def test_scrolls_are_ordered(pair: tuple[Any, Any]) -> None:
    order = models.OrderBy(key="rank", direction=models.Direction.DESC)
    mine, theirs = (client.scroll(A, order_by=order, limit=7) for client in pair)
    assert [one.id for one in mine[0]] == [one.id for one in theirs[0]]
    assert mine[1] is None


@pytest.mark.parametrize("kind", ENGINES)
def test_what_servers_refuse_is_refused(kind: str, tmp_path: Path, pair: tuple[Any, Any]) -> None:
    taken, laxer = [], []
    with client_of(kind, tmp_path) as client:
        filled(client)
        for name, given in WRONG.items():
            if name == "negative offset" and "grpc" in kind:
                continue  # no number of the protocol
            if not _refuses(lambda given=given: client.query_points(A, **given)):  # type: ignore[misc]
                taken.append(name)
            if not _refuses(lambda given=given: pair[1].query_points(A, **given)):  # type: ignore[misc]
                laxer.append(name)
    assert not taken
    # Local mode lets by what a server's own validation, or its engine, refuses.
    assert set(laxer) <= {"order without an index", "a formula over nothing", "another size"}


WRONG_WRITES: dict[str, Callable[[Any], Any]] = {
    "no points": lambda c: c.upsert(A, []),
    "an unnamed vector": lambda c: c.upsert(A, [models.PointStruct(id=1, vector=V[0])]),
    "another name": lambda c: c.upsert(A, [models.PointStruct(id=1, vector={"x": V[0]})]),
    "another size": lambda c: c.upsert(A, [models.PointStruct(id=1, vector={"v": V[0][:3]})]),
    "sparse for dense": lambda c: c.upsert(
        A, [models.PointStruct(id=1, vector={"v": models.SparseVector(indices=[1], values=[1.0])})]
    ),
    "indices twice": lambda c: c.upsert(
        A, [models.PointStruct(id=1, vector={"s": models.SparseVector(indices=[1, 1], values=[1.0, 2.0])})]
    ),
    "a collection that is there": lambda c: c.create_collection(
        A, vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT)
    ),
    "ordered and offset": lambda c: c.scroll(A, order_by="rank", offset=3),
}


@pytest.mark.parametrize("kind", ENGINES)
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


@pytest.mark.parametrize("kind", ENGINES)
def test_payloads_are_written_as_local_mode_writes_them(kind: str, tmp_path: Path) -> None:
    def written(client: Any) -> list[Any]:
        filled(client)
        client.set_payload(A, {"new": 1}, [1])
        client.set_payload(A, {"deep": 2}, F(must=[models.HasIdCondition(has_id=[1, 2])]), key="inner")
        client.overwrite_payload(A, {"only": 3}, [3])
        client.delete_payload(A, ["rank", "loc"], [4])
        client.clear_payload(A, [5])
        client.batch_update_points(
            A,
            [
                models.SetPayloadOperation(set_payload=models.SetPayload(payload={"six": 6}, points=[6])),
                models.DeletePayloadOperation(delete_payload=models.DeletePayload(keys=["name"], points=[6])),
            ],
        )
        return [one.payload for one in client.retrieve(A, ids=list(range(1, 7)))]

    with client_of(kind, tmp_path) as client:
        assert written(client) == written(QdrantClient(":memory:"))
