"""Scans inside larger plans: choice of the index, rescans, interleaved scans, cursors, prepared plans."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import psycopg
import pytest
from conftest import Corpus, Server
from pgvector import Vector
from support import (
    BITS,
    METRICS,
    OPERATORS,
    Connection,
    FloatArray,
    column,
    configure,
    create_index,
    create_table,
    execute,
    force_index,
    go_on_until_the_limit,
    hits,
    insert,
    plan,
    search,
    search_ids,
    search_sql,
    value,
)

from bqcore.datasets import clustered
from bqcore.evaluation import exact_search

pytestmark = pytest.mark.postgres

both_bits = pytest.mark.parametrize("bits", BITS)
both_metrics = pytest.mark.parametrize("metric", METRICS)


def fetch(conn: Connection, cursor: str, count: int) -> list[Any]:
    return execute(conn, f"FETCH {count} FROM {cursor}").fetchall()


@both_bits
@both_metrics
def test_planner_picks_the_index_at_default_costs(session: Connection, metric: str, bits: int) -> None:
    table = f"{metric}_{bits}"
    for limit in (1, 10):
        text = search_sql(metric, table, limit=limit)
        assert f"Index Scan using {table}_bq" in plan(session, text, {"q": np.ones(100)})


@pytest.mark.parametrize("dim", [24, 384])
def test_planner_picks_the_index_for_short_and_long_vectors(conn: Connection, dim: int) -> None:
    data = clustered(5000, dim, n_queries=1, random_state=2)
    create_table(conn, data.base)
    create_index(conn)
    assert "Index Scan using items_bq" in plan(conn, search_sql(), {"q": data.queries[0]})


@both_bits
def test_planner_leaves_the_index_alone_without_an_order(session: Connection, bits: int) -> None:
    configure(session, enable_seqscan="off", enable_bitmapscan="off")
    for text in (
        "SELECT id FROM l2_{0} LIMIT 10",
        "SELECT count(*) FROM l2_{0}",
        "SELECT id FROM l2_{0} WHERE embedding = (SELECT embedding FROM l2_{0} LIMIT 1)",
        "SELECT id FROM l2_{0} WHERE embedding IS NOT NULL",
        "SELECT id FROM l2_{0} WHERE embedding <-> '[1]' < 1",
        "SELECT id FROM l2_{0} ORDER BY id LIMIT 10",
        "SELECT id FROM l2_{0} ORDER BY embedding LIMIT 10",
        "SELECT id FROM l2_{0} ORDER BY embedding <-> array_fill(1, ARRAY[100])::vector DESC LIMIT 10",
    ):
        assert f"l2_{bits}_bq" not in plan(session, text.format(bits))


def test_explain_analyze_and_statistics_count_each_scan_once(session: Connection, corpus: Corpus) -> None:
    def scans() -> int:
        session.execute("SELECT pg_stat_force_next_flush()")
        return int(value(session, "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'l2_1_bq'"))

    before = scans()
    text = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {search_sql('l2', 'l2_1')}"
    report = session.execute(text.encode(), {"q": corpus.queries[0]}).fetchone()
    assert report is not None
    node = report[0][0]["Plan"]["Plans"][0]
    assert (node["Node Type"], node["Index Name"], node["Actual Rows"]) == ("Index Scan", "l2_1_bq", 10)
    assert node["Shared Hit Blocks"] + node["Shared Read Blocks"] > 40
    if session.info.server_version >= 180000:
        assert node["Index Searches"] == 1
    assert "Order By" in node, json.dumps(node)
    assert scans() == before + 1


@both_metrics
def test_generic_and_custom_plans_agree(session: Connection, corpus: Corpus, metric: str) -> None:
    table, operator = f"{metric}_1", OPERATORS[metric]
    execute(
        session,
        f"PREPARE nearest(vector) AS SELECT id FROM {table} ORDER BY embedding {operator} $1 LIMIT 10",
    )

    def call(q: FloatArray) -> str:
        return f"EXECUTE nearest('{Vector(q).to_text()}')"

    answers = []
    for mode in ("force_custom_plan", "force_generic_plan"):
        configure(session, plan_cache_mode=mode)
        report = plan(session, call(corpus.queries[0]))
        assert f"Index Scan using {table}_bq" in report
        assert (f"{operator} $1" in report) == (mode == "force_generic_plan")
        answers.append([column(session, call(q)) for q in corpus.queries[:10]])
    assert answers[0] == answers[1]
    assert answers[0] == [search_ids(session, q, 10, metric, table) for q in corpus.queries[:10]]


@both_bits
@both_metrics
@pytest.mark.parametrize("mode", ["off", "strict_order"])
def test_rescans_in_a_nested_loop_equal_separate_queries(
    session: Connection, corpus: Corpus, metric: str, bits: int, mode: str
) -> None:
    configure(session, hnsw_iterative_scan=mode)
    force_index(session)
    create_table(session, corpus.queries, "queries", kind="TEMP")
    table = f"{metric}_{bits}"
    text = (
        "SELECT q.id, n.id FROM (SELECT * FROM queries ORDER BY id) q "
        f"CROSS JOIN LATERAL (SELECT id FROM {table} "
        f"ORDER BY {table}.embedding {OPERATORS[metric]} q.embedding LIMIT 60) n"
    )
    report = plan(session, text)
    assert "Nested Loop" in report
    assert f"Index Scan using {table}_bq" in report
    rows = execute(session, text).fetchall()
    for i, q in enumerate(corpus.queries):
        assert [n for outer, n in rows if outer == i] == search_ids(session, q, 60, metric, table)


def test_scans_of_indexes_with_different_bits_interleave(session: Connection, corpus: Corpus) -> None:
    """The outer scan (1 bit) is in the middle of its work whenever an inner one (4 bits) runs."""
    configure(session, enable_sort="off", enable_material="off")
    go_on_until_the_limit(session)
    text = """
        SELECT a.id, b.id FROM (SELECT * FROM l2_1 ORDER BY embedding <-> %(q)s LIMIT 60) a
        CROSS JOIN LATERAL (SELECT id FROM cosine_4 ORDER BY cosine_4.embedding <=> a.embedding LIMIT 3) b"""
    report = plan(session, text, {"q": corpus.queries[0]})
    assert "Index Scan using l2_1_bq" in report
    assert "Index Scan using cosine_4_bq" in report
    rows = session.execute(text.encode(), {"q": corpus.queries[0]}).fetchall()
    outer = search_ids(session, corpus.queries[0], 60, "l2", "l2_1")
    assert list(dict.fromkeys(row[0] for row in rows)) == outer
    for i in outer[::10]:
        expected = search_ids(session, corpus.base[i], 3, "cosine", "cosine_4")
        assert [b for a, b in rows if a == i] == expected


def test_a_union_merges_two_indexes_in_exact_order(session: Connection, corpus: Corpus) -> None:
    text = """
        (SELECT 1 AS bits, id, embedding <-> %(q)s AS d FROM l2_1 ORDER BY embedding <-> %(q)s LIMIT 40)
        UNION ALL
        (SELECT 4, id, embedding <-> %(q)s FROM l2_4 ORDER BY embedding <-> %(q)s LIMIT 40) ORDER BY d"""
    for q in corpus.queries[:5]:
        rows = session.execute(text.encode(), {"q": q}).fetchall()
        assert [d for *_, d in rows] == sorted(d for *_, d in rows)
        for bits in BITS:
            expected = search(session, q, 40, "l2", f"l2_{bits}")
            assert sorted((d, i) for b, i, d in rows if b == bits) == sorted((d, i) for i, d in expected)


def test_partitions_with_different_bits_merge_in_exact_order(conn: Connection) -> None:
    data = clustered(3000, 24, n_queries=10, k=10, random_state=3)
    conn.execute("CREATE TABLE items (id integer, embedding vector(24)) PARTITION BY HASH (id)")
    for part, bits in enumerate(BITS):
        execute(
            conn,
            f"CREATE TABLE part{part} PARTITION OF items FOR VALUES WITH (MODULUS 2, REMAINDER {part})",
        )
        create_index(conn, bits, table=f"part{part}")
    insert(conn, "items", range(3000), data.base)
    conn.execute("ANALYZE")
    force_index(conn)
    configure(conn, hnsw_ef_search=200)
    report = plan(conn, search_sql(), {"q": data.queries[0]})
    assert "Merge Append" in report
    assert "part0_bq" in report
    assert "part1_bq" in report
    assert data.ground_truth is not None
    found = 0
    for q, truth in zip(data.queries, data.ground_truth, strict=True):
        rows = search(conn, q)
        assert [d for _, d in rows] == sorted(d for _, d in rows)
        found += hits([i for i, _ in rows], truth)
    assert found >= 95


def test_two_cursors_fetched_in_turn_equal_two_queries(session: Connection, corpus: Corpus) -> None:
    go_on_until_the_limit(session)
    force_index(session)
    q = corpus.queries[1]
    cursors = {"a": ("l2", "l2_1"), "b": ("l2", "l2_4"), "c": ("cosine", "cosine_4")}
    got: dict[str, list[Any]] = {name: [] for name in cursors}
    with session.transaction():
        for name, (metric, table) in cursors.items():
            text = f"DECLARE {name} CURSOR FOR {search_sql(metric, table, limit=None)}"
            session.execute(text.encode(), {"q": q})
        for step in (1, 3, 10, 50, 7):
            for name in cursors:
                got[name] += fetch(session, name, step)
    for name, (metric, table) in cursors.items():
        assert got[name] == search(session, q, None, metric, table)[:71]


@both_bits
@pytest.mark.parametrize("mode", ["off", "relaxed_order", "strict_order"])
def test_fetching_in_steps_equals_one_query(
    session: Connection, corpus: Corpus, bits: int, mode: str
) -> None:
    configure(session, hnsw_iterative_scan=mode)
    force_index(session)
    text = search_sql("l2", f"l2_{bits}", limit=None)
    with session.transaction():
        session.execute(f"DECLARE c CURSOR FOR {text}".encode(), {"q": corpus.queries[2]})
        stepwise = [row for step in (1, 2, 5, 30, 2, 100) for row in fetch(session, "c", step)]
    assert len(stepwise) == 140
    assert stepwise == search(session, corpus.queries[2], None, "l2", f"l2_{bits}")[:140]


def test_a_held_cursor_outlives_its_transaction(session: Connection, corpus: Corpus) -> None:
    text = search_sql("l2", "l2_1", limit=40)
    with session.transaction():
        session.execute(f"DECLARE kept CURSOR WITH HOLD FOR {text}".encode(), {"q": corpus.queries[2]})
        first = fetch(session, "kept", 5)
    assert first + fetch(session, "kept", 100) == search(session, corpus.queries[2], 40, "l2", "l2_1")


def test_a_scan_survives_errors_in_subtransactions_around_it(session: Connection, corpus: Corpus) -> None:
    session.execute(
        """
        CREATE FUNCTION pg_temp.walk(q vector) RETURNS SETOF integer LANGUAGE plpgsql AS $$
        DECLARE r record; n integer;
        BEGIN
            FOR r IN SELECT id, embedding FROM l2_1 ORDER BY embedding <-> q LIMIT 40 LOOP
                BEGIN
                    PERFORM id FROM l2_4 ORDER BY embedding <-> r.embedding LIMIT 2;
                    IF r.id % 2 = 0 THEN
                        PERFORM id FROM l2_4 ORDER BY embedding <-> '[1,2,3]' LIMIT 1;
                    END IF;
                EXCEPTION WHEN data_exception THEN
                    n := 1;
                END;
                RETURN NEXT r.id;
            END LOOP;
        END $$"""
    )
    found = column(session, "SELECT * FROM pg_temp.walk(%s)", [corpus.queries[3]])
    assert found == search_ids(session, corpus.queries[3], 40, "l2", "l2_1")


def test_rows_can_be_locked_in_order(session: Connection, corpus: Corpus) -> None:
    text = f"{search_sql('l2', 'l2_1')} FOR UPDATE"
    with session.transaction():
        rows = session.execute(text.encode(), {"q": corpus.queries[3]}).fetchall()
    assert rows == search(session, corpus.queries[3], 10, "l2", "l2_1")


@both_bits
def test_a_scan_sees_its_snapshot_only(server: Server, conn: Connection, database: str, bits: int) -> None:
    data = clustered(1000, 24, n_queries=1, random_state=3)
    create_table(conn, data.base)
    create_index(conn, bits)
    force_index(conn)
    go_on_until_the_limit(conn)
    q = data.queries[0]
    before = search(conn, q)
    gone = [i for i, _ in before[:5]]
    with server.connect(database) as other, conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert search(conn, q) == before
        other.execute("DELETE FROM items WHERE id = ANY(%s)", [gone])
        insert(other, "items", range(5000, 5100), np.tile(q, (100, 1)))
        assert search(conn, q) == before
    after = search_ids(conn, q, 110)
    assert sorted(after[:100]) == list(range(5000, 5100))
    assert not set(gone) & set(after)


def expression_truth(X: FloatArray, Q: FloatArray, metric: str) -> Any:
    return exact_search(np.ascontiguousarray(X), np.ascontiguousarray(Q), 10, metric)[0]


@pytest.mark.parametrize(
    ("declared", "expression", "width"),
    [("vector", "embedding::vector(24)", 24), ("vector(24)", "subvector(embedding, 1, 12)::vector(12)", 12)],
)
@both_metrics
def test_an_expression_index_orders_by_the_expression(
    conn: Connection, declared: str, expression: str, width: int, metric: str
) -> None:
    data = clustered(2000, 24, n_queries=10, random_state=4)
    execute(conn, f"CREATE TABLE items (id integer, embedding {declared})")
    insert(conn, "items", range(1500), data.base[:1500])
    create_index(conn, 4, metric, target=f"({expression})")
    insert(conn, "items", range(1500, 2000), data.base[1500:])
    conn.execute("ANALYZE items")
    assert value(conn, "SELECT dim FROM bqcore_index_info('items_bq')") == width
    distance = f"({expression}) {OPERATORS[metric]} %(q)s"
    text = f"SELECT id, {distance} FROM items ORDER BY {distance} LIMIT 10"
    force_index(conn)
    found = 0
    queries = data.queries[:, :width]
    truths = expression_truth(data.base[:, :width], queries, metric)
    for q, truth in zip(queries, truths, strict=True):
        assert "Index Scan using items_bq" in plan(conn, text, {"q": q})
        rows = conn.execute(text.encode(), {"q": q}).fetchall()
        assert len(rows) == 10
        assert [d for _, d in rows] == sorted(d for _, d in rows)
        found += hits([i for i, _ in rows], truth)
    assert found >= 90


@both_bits
def test_a_partial_index_returns_its_rows_only(conn: Connection, bits: int) -> None:
    data = clustered(2000, 24, n_queries=10, random_state=4)
    create_table(conn, data.base[:1000])
    create_index(conn, bits, where="WHERE id % 2 = 0")
    insert(conn, "items", range(1000, 2000), data.base[1000:])
    conn.execute("ANALYZE items")
    configure(conn, hnsw_ef_search=200)
    force_index(conn)
    truths = expression_truth(data.base[::2], data.queries, "l2") * 2
    assert "items_bq" not in plan(conn, search_sql(), {"q": data.queries[0]})
    found = 0
    for q, truth in zip(data.queries, truths, strict=True):
        assert "items_bq" in plan(conn, search_sql(where="WHERE id %% 2 = 0"), {"q": q})
        ids = search_ids(conn, q, 10, where="WHERE id %% 2 = 0")
        assert len(ids) == 10
        assert all(i % 2 == 0 for i in ids)
        found += hits(ids, truth)
    assert found >= 95


def test_indexes_that_hnsw_cannot_have_are_refused(conn: Connection) -> None:
    conn.execute("CREATE TABLE items (id integer, embedding vector(24))")
    for statement, reason in (
        (
            "CREATE UNIQUE INDEX ON items USING bqhnsw (embedding vector_l2_ops)",
            "does not support unique indexes",
        ),
        (
            "CREATE INDEX ON items USING bqhnsw (embedding vector_l2_ops, embedding vector_l2_ops)",
            "does not support multicolumn",
        ),
        (
            "CREATE INDEX ON items USING bqhnsw (embedding vector_l2_ops) INCLUDE (id)",
            "does not support included columns",
        ),
        ("CREATE INDEX ON items USING bqhnsw (embedding vector_l2_ops DESC)", "does not support ASC/DESC"),
        ("CREATE INDEX ON items USING bqhnsw (id)", "no default operator class"),
    ):
        with pytest.raises(psycopg.Error, match=reason):
            execute(conn, statement)
