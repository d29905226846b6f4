"""Commands about Qdrant: named vectors in all of them, again after an interruption, timeouts, pages."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models
from qdrant_support import clustered
from qdrant_wire import Wire, wire_of
from typer.testing import CliRunner

from bqcore.cli import app
from bqcore_qdrant import Collection, Config, QdrantCodec, Transform, sampling
from bqcore_qdrant.advice import migrate_commands
from bqcore_qdrant.edge import EdgeClient
from bqcore_qdrant.migrate import sample_vectors
from bqcore_qdrant.vectors import read_collection

pytestmark = pytest.mark.qdrant

X, Q = clustered(n=600, dim=32)


def run(*arguments: Any) -> Any:
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    # `verify` says 1 where recall is below the prediction, as of points that are not indexed.
    allowed = (0, 1) if "verify" in arguments else (0,)
    assert done.exit_code in allowed, (arguments, done.output, done.exception)
    return json.loads(done.stdout) if "--json" in arguments else done.stdout


def fill(client: Any) -> None:
    cosine = models.VectorParams(size=32, distance=models.Distance.COSINE)
    client.create_collection(
        "old",
        vectors_config={"text": cosine, "img": models.VectorParams(size=4, distance=models.Distance.DOT)},
    )
    client.upsert(
        "old",
        [
            models.PointStruct(id=i, vector={"text": X[i].tolist(), "img": [1.0, 2.0, 3.0, i]}, payload={})
            for i in range(len(X))
        ],
    )


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    with EdgeClient(tmp_path / "wire") as engine, wire_of(engine) as found:
        fill(engine)
        yield found


@pytest.mark.parametrize(("place", "name"), [("edge", "text"), ("server", "img")])
def test_every_command_knows_named_vectors(tmp_path: Path, wire: Wire, place: str, name: str) -> None:
    folder, codec, rows = tmp_path / "edge", tmp_path / "c.npz", tmp_path / "x.npy"
    with EdgeClient(folder) as client:
        fill(client)
    where = ["--edge", folder] if place == "edge" else ["--url", wire.url, "--timeout", 30]
    np.save(rows, X if name == "text" else X[:, :4])
    first = run(
        "qdrant", "migrate", "old", "new", "--using", name, "--codec", codec, "--target-recall", 0.8, *where,
        "--json",
    )  # fmt: skip
    assert first["uploaded"]["n_written"] == len(X)
    again = run("qdrant", "migrate", "old", "new", "--using", name, "--codec", codec, *where, "--json")
    assert (again["uploaded"]["n_written"], again["uploaded"]["n_present"]) == (0, len(X))
    for using in ([], ["--using", name]):
        assert (
            run("qdrant", "verify", codec, "new", "--n-queries", 20, *using, *where, "--json")["n_queries"]
            == 20
        )
        done = run("qdrant", "upload", codec, "new", rows, "--resume", *using, *where, "--json")
        assert done["n_present"] == len(X)
        tuned = run("tune", "new", "--live", "--codec-file", codec, *using, *where, "--seconds", 0)
        assert "codec.with_search" in tuned
    made = run("qdrant", "create", codec, "other", "--using", "vec", *where, "--json")
    assert made["points"] == 0
    assert run("qdrant", "upload", codec, "other", rows, *where, "--json")["n_written"] == len(X)
    wrong = CliRunner().invoke(
        app, ["qdrant", "verify", str(codec), "other", "--using", "x", *map(str, where)]
    )
    assert wrong.exit_code != 0


def test_printed_lines_of_a_migration_run_as_printed(tmp_path: Path, wire: Wire) -> None:
    lines = migrate_commands(
        "old", str(tmp_path / "new").replace("/", "_"), url=wire.url, using="text", target_recall=0.8
    )
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "bqcore"
        at = [str(tmp_path / word) if word.endswith(".npz") else word for word in words[1:]]
        run(*at)


def test_a_collection_is_opened_with_the_vector_it_was_made_with(tmp_path: Path) -> None:
    codec = QdrantCodec(Transform.fit(X, "cosine", "centre"), Config.parse("turbo2+float32 x4"))
    with EdgeClient(tmp_path) as client:
        Collection.create(client, "c", codec, using="body")
        assert Collection(client, "c", codec).using == "body"
        with pytest.raises(ValueError, match="expected vector 'dense', not 'body'"):
            Collection(client, "c", codec, "dense")


def test_samples_are_read_in_pages_within_the_timeout(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes a while for every vector answers pages in time, and not all vectors at once."""
    monkeypatch.setattr(sampling, "_PAGE_COORDINATES", 100 * 32)
    sizes: list[int] = []
    real, search = wire.engine.retrieve, wire.query

    def slow(name: str, ids: Any, *more: Any) -> Any:
        sizes.append(len(ids))
        time.sleep(len(ids) * 0.004)
        return real(name, ids, *more)

    def with_vectors(name: str, requests: Any) -> Any:
        assert not any(one.with_vector for one in requests), "vectors come in pages"
        return search(name, requests)

    monkeypatch.setattr(wire.engine, "retrieve", slow)
    monkeypatch.setattr(wire, "query", with_vectors)
    found = read_collection(wire.url, "old", using="text", timeout=1)
    assert found.base.shape == (600, 32)
    assert len(np.unique(found.base, axis=0)) == 600
    assert sizes == [100] * 6
    monkeypatch.setattr(sampling, "_PAGE_COORDINATES", 1 << 20)
    with pytest.raises(Exception, match="timed out"):
        read_collection(wire.url, "old", using="text", timeout=1)


@pytest.mark.parametrize(
    "command",
    ["qdrant create", "qdrant upload", "qdrant verify", "qdrant restore", "qdrant migrate", "advise", "tune"],
)
def test_every_command_about_a_server_has_a_timeout(command: str) -> None:
    told = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert "--timeout" in told.stdout


def test_samples_of_a_strict_collection_take_several_draws(tmp_path: Path) -> None:
    with EdgeClient(tmp_path) as client:
        fill(client)
        ids = sampling.random_ids(client, "old", 100, 30)
        assert len(set(ids)) == len(ids) == 100
        assert len(sampling.random_ids(client, "old", 9_000, None)) == 600
        assert sample_vectors(client, "old", "img", 50).shape == (50, 4)
