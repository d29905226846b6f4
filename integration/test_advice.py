"""`bqcore advise`: its printed SQL and commands, run as they are, reach the recall that it predicts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Server
from support import Connection, configure, create_index, create_table, execute, search_ids, value

from bqcore.datasets import clustered
from bqcore.evaluation import exact_search, recall

DATA = clustered(2000, 32, n_queries=450, metric="cosine", within=1.0, random_state=11)


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run lines in a shell that finds this environment's bqcore."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-ec", command],
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("advice")
    (folder / "my docs").mkdir()
    np.save(folder / "my docs" / "base.npy", DATA.base)
    np.save(folder / "my docs" / "query.npy", DATA.queries)
    (folder / "my docs" / "meta.json").write_text(json.dumps({"metric": "cosine"}))
    return folder


@pytest.fixture(scope="module")
def advised(place: Path) -> tuple[dict[str, Any], str]:
    """The document and what was printed."""
    # Codecs to train are a matter of minutes and not of this test.
    done = shell("bqcore advise 'my docs' --json a.json --seconds 0 --codec 'rabitq(bits=1)'", place)
    return json.loads((place / "a.json").read_text()), done.stdout


def printed(part: dict[str, Any], text: str) -> list[tuple[str, str]]:
    """The steps of a part, each of which the text shows line by line."""
    lines = [line.strip() for line in text.splitlines()]
    for step in part["steps"]:
        assert all(line.strip() in lines for line in step["text"].splitlines())
    return [(step["kind"], step["text"]) for step in part["steps"]]


@pytest.mark.long
@pytest.mark.postgres
def test_postgres_reaches_the_predicted_recall(
    server: Server, database: str, place: Path, advised: tuple[dict[str, Any], str]
) -> None:
    from pgvector.psycopg import register_vector

    document, text = advised
    part = document["postgres"]
    own = 0.0
    with server.connect(database) as conn:
        for kind, step in printed(part, text):
            if kind == "shell":
                shell(step, place, DSN=server.dsn(database))
                continue
            for statement in step.split(";"):
                if statement.strip():
                    found = execute(conn, statement)
                    own = found.fetchone()[0] if "bqcore_recall" in statement else own
        assert value(conn, f"SELECT count(*) FROM {part['table']}") == len(DATA.base)
        configure(conn, enable_seqscan="off", enable_sort="off")
        register_vector(conn)
        reached = _recall(conn, part["table"])
    assert abs(reached - part["predicted_recall"]) < 0.02
    assert abs(own - part["predicted_recall"]) < 0.02


def _recall(conn: Connection, table: str) -> float:
    found = np.array([search_ids(conn, q, 10, "cosine", table) for q in DATA.queries[:200]])
    truth, _ = exact_search(DATA.base, DATA.queries[:200], 10, "cosine")
    return recall(found, truth, 10, X=DATA.base, Q=DATA.queries[:200], metric="cosine")


@pytest.mark.long
@pytest.mark.qdrant
def test_qdrant_reaches_the_predicted_recall(place: Path, advised: tuple[dict[str, Any], str]) -> None:
    pytest.importorskip("qdrant_edge", reason="needs bqcore[qdrant]")
    document, text = advised
    part = document["qdrant"]
    ((kind, step),) = printed(part, text)
    assert kind == "shell"
    done = shell(step, place)
    verified = re.search(r"^recall +([\d.]+)$", done.stdout, re.MULTILINE)
    assert verified is not None
    assert abs(float(verified[1]) - part["predicted_recall"]) < 0.02

    from bqcore_qdrant import Collection, QdrantCodec
    from bqcore_qdrant.edge import EdgeClient

    (codec_file,) = place.glob("*-qdrant.npz")
    codec = QdrantCodec.load(codec_file)
    assert codec.config.name == part["chosen"]["config"]
    with EdgeClient(place / f"qdrant_{part['collection']}") as client:
        ids, _ = Collection(client, part["collection"], codec).search(DATA.queries[:200], 10)
    truth, _ = exact_search(DATA.base, DATA.queries[:200], 10, "cosine")
    reached = recall(np.array(ids), truth, 10, X=DATA.base, Q=DATA.queries[:200], metric="cosine")
    assert abs(reached - part["predicted_recall"]) < 0.02


@pytest.mark.postgres
def test_a_column_is_advised_on_and_indexed_in_place(
    server: Server, conn: Connection, database: str, place: Path
) -> None:
    execute(conn, 'CREATE TABLE "Docs" (id bigint PRIMARY KEY, embedding halfvec(32))')
    shell("bqcore postgres load 'my docs' '\"Docs\"' --dsn \"$DSN\"", place, DSN=server.dsn(database))
    execute(conn, 'UPDATE "Docs" SET embedding = NULL WHERE id < 7')
    done = shell(
        'bqcore advise \'"Docs".embedding\' --dsn "$DSN" --rows 1500 --metric cosine --json - '
        "--seconds 0 --bytes 12 --codec 'rabitq(bits=1)' --engine postgres",
        place,
        DSN=server.dsn(database),
    )
    document = json.loads(done.stdout)
    assert document["data"]["rows"] <= 1500
    assert document["data"]["rows_in_source"] == len(DATA.base)
    (step,) = document["postgres"]["steps"]
    assert "USING bqhnsw (embedding halfvec_cosine_ops)" in step["text"]
    for statement in step["text"].split(";"):
        if statement.strip():
            execute(conn, statement)
    assert value(conn, "SELECT bits FROM bqcore_index_info('\"Docs_embedding_bqhnsw1\"')") == 1


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "expected table.column"),
        ("none.embedding", "expected a table, not 'none'"),
        ("pg_class.embedding", "table pg_class: expected a column 'embedding'"),
        ("pg_class.relname", "expected a column of vector or halfvec, not name"),
    ],
)
def test_columns_that_are_not_there_are_named(
    server: Server, conn: Connection, database: str, name: str, message: str
) -> None:
    from bqcore_postgres.vectors import read_column

    with pytest.raises(ValueError, match=re.escape(message)):
        read_column(server.dsn(database), name, metric="l2", rows=10)


@pytest.mark.postgres
def test_a_live_index_is_tuned(server: Server, conn: Connection, database: str) -> None:
    from bqcore_postgres.tuning import tune_index

    create_table(conn, DATA.base)
    with pytest.raises(ValueError, match=r"items\.embedding: expected a bqhnsw index, not none"):
        tune_index(server.dsn(database), "items.embedding")
    create_index(conn, 1, "cosine")
    found = tune_index(server.dsn(database), "items.embedding", target_recall=0.95, n_queries=30)
    assert found["metric"] == "cosine"
    assert found["reaches_target"]
    chosen = found["chosen"]
    assert chosen["recall"] >= 0.95
    assert chosen["ms"] <= 1.2 * min(one["ms"] for one in found["settings"] if one["recall"] >= 0.95)
    assert found["sql"].startswith(f"SET hnsw.ef_search = {chosen['ef_search']};")
    by_ef = [one["recall"] for one in found["settings"] if one["rescore"] == -1]
    assert by_ef[-1] >= by_ef[0]
    execute(conn, found["sql"])
    hurried = tune_index(server.dsn(database), "items.embedding", target_recall=1.0, n_queries=5, seconds=0)
    assert len(hurried["settings"]) == 1
    assert hurried["not_measured"]
