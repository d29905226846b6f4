"""Uploads on the embedded engine: interruptions, wrong input, sources, files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models
from qdrant_support import clustered

from bqcore_qdrant import Collection, Config, QdrantCodec, Transform, upload
from bqcore_qdrant.edge import EdgeClient

pytestmark = pytest.mark.qdrant

X, Q = clustered(n=2000, dim=32)


def codec_of(metric: str = "cosine", config: str = "turbo2+float32 x4", kind: Any = "centre") -> QdrantCodec:
    return QdrantCodec(Transform.fit(X, metric, kind), Config.parse(config))  # type: ignore[arg-type]


@pytest.fixture
def client(tmp_path: Path) -> Iterator[EdgeClient]:
    with EdgeClient(tmp_path / "edge") as found:
        yield found


@pytest.fixture
def collection(client: EdgeClient) -> Collection:
    return Collection.create(client, "points", codec_of())


def test_an_upload_killed_three_times_is_completed(tmp_path: Path) -> None:
    n = 2_500
    rows = np.random.default_rng(0).standard_normal((n, 32)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    codec = QdrantCodec(
        Transform.fit(rows, "cosine", "rotate"), Config.parse("binary1/scalar4bits+float32 x4")
    )
    codec.save(tmp_path / "codec.npz")
    with EdgeClient(tmp_path / "edge") as client:
        Collection.create(client, "points", codec)
    # Every upload is a process of its own, forked before the engine is opened: imports are paid for once.
    script = tmp_path / "fill.py"
    script.write_text(
        textwrap.dedent("""
        import os
        import sys
        import numpy as np
        from bqcore_qdrant import Collection, QdrantCodec, upload
        from bqcore_qdrant.edge import EdgeClient

        folder = sys.argv[1]
        rows = np.load(folder + "/rows.npy")

        def fill():
            client = EdgeClient(folder + "/edge")
            collection = Collection(client, "points", QdrantCodec.load(folder + "/codec.npz"))
            payloads = [{"row": row, "text": f"text {row}"} for row in range(len(rows))]
            say = lambda done, total: print("done", done, flush=True)
            options = dict(batch_size=50, parallel=2, progress=say)
            done = upload(collection, rows, payloads=payloads, resume=True, **options)
            client.close()
            print("present", done.n_present, flush=True)

        for _ in range(4):
            child = os.fork()
            if child == 0:
                print("child", os.getpid(), flush=True)
                fill()
                os._exit(0)
            print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        """)
    )
    present, ends = 0, []
    stops = iter((250, 750, 1_500, n + 1))
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child, stop_after, is_stopped = 0, 0, True
        for line in parent.stdout:
            word, number = line.split()
            if word == "child":
                child, stop_after, is_stopped = int(number), next(stops), False
            elif word == "ended":
                ends.append(int(number))
            elif word == "present":
                present = int(number)
            elif int(number) >= stop_after and not is_stopped:
                os.kill(child, signal.SIGKILL)
                is_stopped = True
    assert parent.returncode == 0
    assert ends == [-signal.SIGKILL] * 3 + [0]
    assert present >= 1_400  # all but what was under way when it was killed
    with EdgeClient(tmp_path / "edge") as client:
        assert client.count("points").count == n
        seen: list[int] = []
        offset: Any = None
        while True:
            records, offset = client.scroll("points", limit=1000, offset=offset, with_vectors=False)
            seen += [record.id for record in records]
            assert all(
                record.payload == {"row": r, "text": f"text {r}"} for record in records for r in [record.id]
            )
            if offset is None:
                break
        assert seen == list(range(n))
        collection = Collection(client, "points", codec)
        found = collection.query_points(
            rows[77], limit=1, with_vectors=True, search_params=models.SearchParams(exact=True)
        )
        assert found.points[0].id == 77


def test_every_wrong_input_is_told(collection: Collection) -> None:
    bad = X[:300].copy()
    bad[260, 3] = np.inf
    with pytest.raises(
        ValueError, match="points 256 to 299: vectors: expected finite values, not inf at row 4"
    ):
        upload(collection, bad)
    with pytest.raises(ValueError, match="expected 32 dimensions, not 31"):
        upload(collection, X[:5, :31])
    zero = X[:5].copy()
    zero[2] = 0
    with pytest.raises(ValueError, match="that of id 2 is zero"):
        upload(collection, zero)
    with pytest.raises(ValueError, match="expected every id once, but 7 is that of points 0 and 2"):
        upload(collection, X[:3], ids=[7, 8, 7])
    with pytest.raises(ValueError, match="ids: expected 3, one per vector, not 2"):
        upload(collection, X[:3], ids=[7, 8])
    with pytest.raises(ValueError, match="expected a whole number >= 0 or a UUID, not 'x'"):
        upload(collection, [("x", X[0])])
    with pytest.raises(TypeError, match="not True"):
        upload(collection, [(True, X[0])])
    with pytest.raises(ValueError, match="expected rows of 32 numbers, but point 1 has 2"):
        upload(collection, [(1, X[0].tolist()), (2, [1.0, 2.0])])
    with pytest.raises(TypeError, match=r"expected \(id, vector, payload\) or a mapping"):
        upload(collection, [3])
    with pytest.raises(ValueError, match="zero_vectors: expected 'error' or 'keep'"):
        upload(collection, X, zero_vectors="drop")
    with pytest.raises(ValueError, match="parallel: expected at least 1, not 0"):
        upload(collection, X, parallel=0)


def test_zero_vectors_can_be_kept_as_points_without_a_vector(collection: Collection) -> None:
    rows = X[:50].copy()
    rows[3] = rows[9] = 0
    done = upload(collection, rows, payloads=[{"row": i} for i in range(50)], zero_vectors="keep")
    assert (done.n_written, done.n_without_vector) == (50, 2)
    assert collection.client.count("points").count == 50
    ids, _ = collection.search(X[0], 50)
    assert set(ids[0]) == set(range(50)) - {3, 9}
    assert collection.client.retrieve("points", ids=[9])[0].payload == {"row": 9}


def test_sources_of_every_kind(client: EdgeClient, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs pip install 'bqcore[datasets]'")
    import pyarrow.parquet as pq

    rows = X[:300]
    np.save(tmp_path / "rows.npy", rows.astype(np.float16))
    names = [str(uuid.UUID(int=i + 1)) for i in range(300)]
    table = pa.table(
        {"id": names, "embedding": [row.tolist() for row in rows], "title": [f"t{i}" for i in range(300)]}
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    points = ({"id": i, "vector": row, "payload": {"row": i}} for i, row in enumerate(rows))
    for name, source, id_, payload in (
        ("npy", tmp_path / "rows.npy", 5, {}),
        ("parquet", str(tmp_path / "rows.parquet"), names[5], {"title": "t5"}),
        ("iterator", points, 5, {"row": 5}),
        (
            "models",
            [models.PointStruct(id=i, vector=row.tolist(), payload=None) for i, row in enumerate(rows)],
            5,
            {},
        ),
    ):
        collection = Collection.create(client, name, codec_of())
        done = upload(collection, source, batch_size=64)
        assert done.n_written == 300
        point = collection.query_points(rows[5], limit=1).points[0]
        assert (point.id, point.payload) == (id_, payload)
    (tmp_path / "rows.csv").write_text("1,2")
    with pytest.raises(ValueError, match=r"expected a folder or a suffix of \.npy, .*, not '\.csv'"):
        upload(collection, tmp_path / "rows.csv")
    with pytest.raises(FileNotFoundError):
        upload(collection, tmp_path / "none.npy")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(ValueError, match="expected a whole Parquet file"):
        upload(collection, tmp_path / "bad.parquet")


def test_resume_leaves_points_alone_and_upsert_replaces_them(collection: Collection) -> None:
    upload(collection, X[:100], payloads=[{"v": 1}] * 100)
    done = upload(collection, X[:150], payloads=[{"v": 2}] * 150, resume=True)
    assert (done.n_written, done.n_present) == (50, 100)
    versions = [r.payload["v"] for r in collection.client.retrieve("points", ids=[5, 120])]
    assert versions == [1, 2]
    upload(collection, X[:10], payloads=[{"v": 3}] * 10)
    assert collection.client.retrieve("points", ids=[5])[0].payload == {"v": 3}
    assert collection.client.count("points").count == 150


def test_progress_and_parallel_uploads(collection: Collection) -> None:
    seen: list[tuple[int, int | None]] = []
    upload(collection, X, batch_size=100, parallel=3, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(X), len(X))
    assert len(seen) == 20
    assert collection.client.count("points").count == len(X)


def test_upload_with_the_transform_is_nearly_as_fast(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((4000, 256)).astype(np.float32)
    seconds: dict[str, list[float]] = {"raw": [], "rotate": []}
    for _ in range(3):
        for kind, taken in seconds.items():
            codec = QdrantCodec(Transform.fit(rows, "cosine", kind), Config("none"))  # type: ignore[arg-type]
            with EdgeClient(tmp_path / f"{kind}{len(taken)}") as client:
                collection = Collection.create(client, "points", codec)
                start = time.process_time()
                upload(collection, rows)
                taken.append(time.process_time() - start)
    assert min(seconds["raw"]) / min(seconds["rotate"]) >= 0.7


def test_a_shard_is_opened_again_with_its_metadata(tmp_path: Path) -> None:
    codec = codec_of()
    with EdgeClient(tmp_path) as client:
        upload(Collection.create(client, "points", codec), X[:100])
        client.update_collection("points", metadata={"owner": "me", "gone": 1})
        client.update_collection("points", metadata={"gone": None})
    with EdgeClient(tmp_path) as client:
        collection = Collection(client, "points", codec)
        assert client.get_collection("points").config.metadata["owner"] == "me"
        assert "gone" not in client.get_collection("points").config.metadata
        assert collection.search(X[3], 1)[0] == [[3]]
        assert (tmp_path / "points").is_dir()
        collection.drop()
        assert not client.collection_exists("points")
    with EdgeClient(tmp_path) as client, pytest.raises(ValueError, match=r"a folder's, not '\.\./x'"):
        client.collection_exists("../x")
