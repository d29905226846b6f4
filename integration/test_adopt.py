"""`bqcore postgres adopt`: a bqhnsw index beside what a table has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

import pytest
from conftest import Server
from support import Connection, column, create_table, execute, value
from typer.testing import CliRunner

from bqcore.cli import app
from bqcore.datasets import clustered
from bqcore.study import Places, study
from bqcore.study.engines import postgres
from bqcore_postgres.adopt import adopt
from bqcore_postgres.advice import advise_rows
from bqcore_postgres.inspection import inspect
from bqcore_postgres.tuning import tune_index
from bqcore_postgres.vectors import read_column

pytestmark = pytest.mark.postgres

DATA = clustered(3000, 64, random_state=4)


@pytest.fixture
def items(conn: Connection) -> Connection:
    create_table(conn, DATA.base)
    execute(conn, "CREATE INDEX mine ON items USING hnsw (embedding vector_l2_ops)")
    execute(conn, "ANALYZE items")
    return conn


@pytest.fixture
def watcher(server: Server, database: str) -> Iterator[Connection]:
    with server.connect(database) as connection:
        yield connection


def indexes(conn: Connection) -> set[str]:
    return set(
        column(conn, "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'items'::regclass")
    )


def test_it_builds_beside_the_index_that_is_there(items: Connection, watcher: Connection) -> None:
    execute(items, "SET enable_seqscan = off")
    phases: list[str] = []
    report = adopt(
        items,
        watcher,
        "items",
        "embedding",
        n_queries=20,
        progress=lambda phase, done, total: phases.append(phase),
    )
    assert report.inspection.metric == "l2"
    name = f"items_embedding_bqhnsw{report.advice.chosen.bits}"
    assert indexes(items) == {"mine", name}
    assert report.before is not None
    assert report.after is not None
    assert report.before.index == "mine"
    assert (report.after.index, report.after.recall > 0.95, report.before.recall > 0.95) == (name, True, True)
    assert report.after.size_bytes == value(items, f"SELECT pg_relation_size('{name}')")
    assert any("mine is kept" in note for note in report.notes)
    assert "exact search" in phases
    with pytest.raises(ValueError, match=f"index {name} is there already"):
        adopt(items, watcher, "items", "embedding", n_queries=5)


def test_dry_run_changes_nothing_and_needs_no_extension(server: Server, database: str) -> None:
    with server.connect(database) as conn:
        execute(conn, "CREATE EXTENSION vector")
        create_table(conn, DATA.base)
        report = adopt(conn, conn, "items", "embedding", bits=4, dry_run=True)
        assert indexes(conn) == set()
        assert report.ddl == (
            'CREATE INDEX CONCURRENTLY items_embedding_bqhnsw4 ON "public"."items" '
            'USING bqhnsw ("embedding" vector_cosine_ops) WITH (bits = 4)'
        )
        assert report.notes == ("this database has no extension bqcore yet: CREATE EXTENSION bqcore CASCADE",)
        assert report.before is report.after is None
        with pytest.raises(ValueError, match="no extension bqcore yet"):
            adopt(conn, conn, "items", "embedding")


def test_odd_names_and_toasted_columns(conn: Connection, watcher: Connection) -> None:
    wide = clustered(150, 600, random_state=1).base
    create_table(conn, wide)
    execute(conn, 'CREATE SCHEMA "od d"; ALTER TABLE items SET SCHEMA "od d"')
    execute(conn, """ALTER TABLE "od d".items RENAME TO "it'e""m 50%s" """)
    execute(conn, """ALTER TABLE "od d"."it'e""m 50%%s" RENAME embedding TO "v'e%%c" """, [])
    table = """"od d"."it'e""m 50%s\""""
    found = inspect(conn, table, "v'e%c")
    assert found.is_toasted
    assert found.toast_bytes > 150 * 600 * 4
    report = adopt(conn, watcher, table, "v'e%c", bits=1, metric="ip", n_queries=3)
    assert report.before is None
    assert report.after is not None
    assert any("TOAST" in note for note in report.notes)


def test_more_bits_where_few_dimensions_say_little() -> None:
    assert advise_rows(clustered(2000, 768, random_state=3).base, "cosine", 2000).chosen.bits == 1
    low = clustered(4000, 16, random_state=3, n_clusters=4).base
    chosen = advise_rows(low, "l2", 4000, target_recall=0.98).chosen
    assert chosen.bits > 1
    # 1 bit takes many more candidates there
    options = advise_rows(low, "l2", 4000).options
    assert min(one.candidates for one in options if one.bits == 1) > 2 * chosen.candidates
    assert {one.bits for one in options} >= {1, 2}
    with pytest.raises(ValueError, match=r"rows: expected at least 100 rows .* not 50"):
        advise_rows(DATA.base[:50], "l2", 50)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"table": "items", "column": "nothing"}, "has no column 'nothing'"),
        ({"table": "items", "column": "id"}, "expected a column of type vector or halfvec, not int4"),
        ({"table": "parted", "column": "embedding"}, "expected an ordinary table, not parted"),
        ({"table": "loose", "column": "embedding"}, "has no declared dimensions"),
        ({"table": "items", "column": "embedding", "bits": 3}, r"expected bits in \[1, 2, 4, 8\], not 3"),
        ({"table": "items", "column": "embedding", "metric": "l1"}, "not 'l1'"),
        ({"table": "items", "column": "embedding", "n_queries": 0}, "not 0"),
    ],
)
def test_bad_input_is_named(conn: Connection, arguments: dict[str, object], text: str) -> None:
    create_table(conn, DATA.base[:10])
    execute(conn, "CREATE TABLE parted (id int, embedding vector(3)) PARTITION BY HASH (id)")
    execute(conn, "CREATE TABLE loose (embedding vector)")
    with pytest.raises(ValueError, match=text):
        adopt(conn, conn, **arguments)  # type: ignore[arg-type]


def test_command_line_prints_a_table_or_json(items: Connection, server: Server, database: str) -> None:
    run = CliRunner().invoke
    arguments = ["postgres", "adopt", "items", "embedding", "--dsn", server.dsn(database), "--queries", "3"]
    looked = run(app, [*arguments, "--dry-run"])
    assert looked.exit_code == 0, looked.output
    assert "3,000 rows, vector(64)" in looked.output
    assert "mine: hnsw vector_l2_ops" in looked.output
    done = run(app, [*arguments, "--bits", "4", "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["after"]["index"] == "items_embedding_bqhnsw4"
    table = run(app, [*arguments, "--bits", "8"])
    assert "before" in table.output
    assert "items_embedding_bqhnsw8" in table.output
    assert "DROP INDEX CONCURRENTLY mine" in table.output


@pytest.mark.parametrize(
    ("dim", "metric", "target", "k", "options"),
    [
        (128, "cosine", None, 10, {}),
        (64, "l2", 0.99, 10, {"n_clusters": 1, "spectrum_exponent": 0.0}),
        (24, "ip", 0.9, 20, {"within": 1.0}),
    ],
)
def test_all_commands_choose_the_same_bits(
    conn: Connection,
    watcher: Connection,
    server: Server,
    database: str,
    dim: int,
    metric: str,
    target: float | None,
    k: int,
    options: dict[str, float],
) -> None:
    data = clustered(1500, dim, random_state=4, metric=metric, **options)  # type: ignore[arg-type]
    create_table(conn, data.base)
    found = adopt(conn, watcher, "items", "embedding", metric=metric, k=k, target_recall=target, n_queries=3)
    dsn = server.dsn(database)
    source, *_ = read_column(dsn, "items.embedding", metric=None, rows=200_000)
    assert source.metric == metric  # that of the index which is there now
    places = Places(dsn=dsn, table="items", column="embedding")
    part = study(
        source,
        k=k,
        target_recall=target,
        places=places,
        engines={"postgres": postgres},
        codecs=["rabitq(bits=1)"],
        seconds=0,
    ).document["postgres"]
    tuned = tune_index(dsn, "items.embedding", k=k, target_recall=target, n_queries=3, seconds=0)
    chosen = found.advice.chosen
    assert part["chosen"] == chosen.as_dict()
    assert tuned["advice"]["chosen"] == asdict(chosen)
    assert tuned["bits"] == chosen.bits
    assert set(chosen.at_k) == {10, 20, 40}
    assert found.after is not None
    assert found.after.ef_search == chosen.ef_search
    # one statement, under one name
    name = f"items_embedding_bqhnsw{chosen.bits}"
    assert name in found.ddl
    assert f"CREATE INDEX CONCURRENTLY {name} ON items" in part["steps"][0]["text"]
    for own in (10, 20, 40):
        assert found.after.at_k[own] > chosen.at_k[own] - 0.1
