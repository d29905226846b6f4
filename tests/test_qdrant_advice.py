"""What is predicted of a collection, a configuration that is given, and the tuning of a live one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("qdrant_client", reason="needs bqcore[qdrant]")
pytest.importorskip("qdrant_edge", reason="needs bqcore[qdrant]")

from bqcore.cli import app
from bqcore.datasets import clustered
from bqcore_qdrant import Collection, Config, QdrantCodec, upload
from bqcore_qdrant import advice as advised
from bqcore_qdrant.edge import EdgeClient
from bqcore_qdrant.tuning import tune_collection
from bqcore_qdrant.vectors import read_collection

DATA = clustered(1200, 32, n_queries=80, metric="cosine", within=1.0, random_state=5)
GIVEN = Config.parse("binary1/scalar4bits+float32 x4")


def test_a_given_configuration_is_taken_whatever_its_recall() -> None:
    codec = QdrantCodec.fit(DATA.base, "cosine", queries=DATA.queries, only=("rotate", GIVEN))
    assert codec.config == GIVEN
    assert codec.transform.kind == "rotate"
    assert codec.option is not None
    free = QdrantCodec.fit(
        DATA.base, "cosine", queries=DATA.queries, target_recall=codec.option.recall, among=[GIVEN.storage]
    )
    assert {option.config.storage for option in free.options} == {GIVEN.storage}
    if free.transform.kind == "rotate":
        assert free.option.recall == codec.option.recall  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("rotate", "turbo1+turbo8 x4", "expected one that the server offers for this data, not 'turbo1"),
        ("raw", "turbo1+turbo8 x5", "oversampling: expected one of 1, 2, 3, 4, 6, 8, 12, 16, not 5"),
    ],
)
def test_what_cannot_be_had_is_named(kind: str, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QdrantCodec.fit(DATA.base, "cosine", only=(kind, Config.parse(name)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected one of bytes_per_vector and target_recall"):
        QdrantCodec.fit(DATA.base, "cosine", target_recall=0.9, only=("raw", GIVEN))


def test_the_command_line_takes_a_configuration(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", DATA.base)
    run, codec = CliRunner().invoke, str(tmp_path / "c.npz")
    given = [
        "qdrant",
        "advise",
        str(tmp_path / "x.npy"),
        "--metric",
        "cosine",
        "--config",
        GIVEN.name,
        "-o",
        codec,
    ]
    done = run(app, [*given, "--transform", "centre", "--json"])
    assert done.exit_code == 0, done.output
    assert QdrantCodec.load(codec).config == GIVEN
    assert json.loads(done.stdout)["transform"]["kind"] == "centre"
    for more, message in (
        (["--target-recall", "0.9"], "expected neither --target-recall nor --bytes-per-vector"),
        (["--transform", "fourier"], "--transform: expected one of raw, centre, rotate, not 'fourier'"),
    ):
        assert message in str(run(app, [*given, *more]).exception)


def test_commands_name_everything() -> None:
    codec = QdrantCodec.fit(DATA.base, "cosine", only=("raw", GIVEN))
    assert codec.option is not None
    lines = advised.commands(
        "my docs.npy", codec.option, "cosine", name="docs", upload="my docs.npy", rows=500
    )
    assert lines[0].startswith("bqcore qdrant advise 'my docs.npy' --metric cosine --config")
    assert "--rows 500" in lines[0]
    assert lines[2] == "bqcore qdrant upload docs-qdrant.npz docs 'my docs.npy' --edge qdrant_docs"
    assert len(advised.commands("x", codec.option, "cosine", name="docs", upload=None, url="http://h:1")) == 3
    assert lines[1] == "bqcore qdrant create docs-qdrant.npz docs --edge qdrant_docs"
    small = advised.commands("x", codec.option, "cosine", name="docs", upload="x", float_nbytes=1_000_000)
    assert small[1] == f"{lines[1]} --indexing-threshold 1"
    copied = advised.migrate_commands("a", "a_bq", url="http://h:1", using="dense", target_recall=0.9)
    assert copied[0] == (
        "bqcore qdrant migrate a a_bq --url http://h:1 --using dense --target-recall 0.9 "
        "--codec a_bq-qdrant.npz"
    )


def test_a_live_collection_is_tuned(tmp_path: Path) -> None:
    codec = QdrantCodec.fit(DATA.base, "cosine", queries=DATA.queries, only=("raw", GIVEN))
    with EdgeClient(tmp_path) as client:
        collection = Collection.create(client, "docs", codec)
        upload(collection, DATA.base)
        collection.optimize()
        found = tune_collection(collection, DATA.queries, target_recall=0.9, n_queries=40)
        assert found["reaches_target"]
        assert found["chosen"]["recall"] >= 0.9
        reaching = [one["ms"] for one in found["settings"] if one["recall"] >= 0.9]
        assert found["chosen"]["ms"] <= 1.2 * min(reaching)
        by_candidates = {
            one["oversampling"]: one["recall"] for one in found["settings"] if one["hnsw_ef"] == 256
        }
        assert by_candidates[16.0] >= by_candidates[1.0]
        assert f"oversampling={found['chosen']['oversampling']:g}" in found["python"]
        hurried = tune_collection(collection, target_recall=1.0, n_queries=10, seconds=0)
        assert len(hurried["settings"]) == 1
        assert len(hurried["not_measured"]) == 19

        source = read_collection(client, "docs", using=collection.using, rows=300, source_codec=codec)
        assert source.base.shape == (300, 32)
        assert source.n_source == 1200
        with pytest.raises(ValueError, match=r"expected its codec \w+ \(source_codec\), not None"):
            read_collection(client, "docs", using=collection.using)
        with pytest.raises(ValueError, match="expected one that exists"):
            read_collection(client, "none")
