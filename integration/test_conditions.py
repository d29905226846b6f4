"""Conditions that a scan tests before distances: on which rows, with the answers of a sequential scan."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import pytest
from support import (
    Connection,
    column,
    configure,
    create_index,
    create_table,
    execute,
    force_index,
    go_on_until_the_limit,
    value,
)

from bqcore.datasets import clustered

pytestmark = pytest.mark.postgres

DATA = clustered(1500, 24, n_queries=4, random_state=51)
Q = DATA.queries[0]


@pytest.fixture
def items(conn: Connection) -> Connection:
    """1,500 rows in 30 kinds, indexed at 4 bits, scanned iteratively."""
    create_table(conn, DATA.base, columns=", kind integer, note text")
    execute(conn, "UPDATE items SET kind = id % 30, note = 'note ' || id")
    execute(conn, "VACUUM FULL items")
    create_index(conn, 4)
    force_index(conn)
    go_on_until_the_limit(conn)
    return conn


def by_index_and_by_table(conn: Connection, text: str, parameters: Any = None) -> tuple[list[Any], list[Any]]:
    """Return a query's first column by the index and by a sequential scan."""
    force_index(conn)
    lines = [row[0] for row in conn.execute(f"EXPLAIN {text}".encode(), parameters).fetchall()]
    assert "items_bq" in "\n".join(lines)
    found = column(conn, text, parameters)
    configure(conn, enable_indexscan="off", enable_seqscan="on", enable_sort="on")
    expected = column(conn, text, parameters)
    configure(conn, enable_indexscan="on")
    return found, expected


@pytest.mark.parametrize(
    "where",
    [
        "kind = 7",
        "kind = %(k)s AND note LIKE 'note %%'",
        "kind = ANY (ARRAY[3, 4, 5]) AND id <> 400",
        "kind IS NULL",
        "note ~ '7$' OR kind < 2",
        "kind = (SELECT max(kind) FROM items) - 1",
        "EXISTS (SELECT FROM kinds WHERE kinds.kind = items.kind)",
        "embedding <-> %(q)s < 1.6",
    ],
)
def test_answers_are_those_of_a_sequential_scan(items: Connection, where: str) -> None:
    execute(items, "CREATE TABLE kinds AS SELECT 11 AS kind")
    configure(items, enable_hashjoin="off", enable_mergejoin="off", enable_material="off")
    text = f"SELECT id FROM items WHERE {where} ORDER BY embedding <-> %(q)s LIMIT 12"
    found, expected = by_index_and_by_table(items, text, {"q": Q, "k": 9})
    assert found == expected


def test_conditions_with_the_outer_row_of_a_join(items: Connection) -> None:
    text = """SELECT array_agg(n.id ORDER BY n.d) FROM generate_series(0, 29) AS k, LATERAL (
            SELECT id, embedding <-> %(q)s AS d FROM items WHERE items.kind = k
            ORDER BY embedding <-> %(q)s LIMIT 3) AS n GROUP BY k ORDER BY k"""
    found, expected = by_index_and_by_table(items, text, {"q": Q})
    assert len(found) == 30
    assert found == expected


def test_prepared_statements_take_their_own_parameters(items: Connection) -> None:
    configure(items, plan_cache_mode="force_generic_plan")
    execute(
        items,
        "PREPARE nearest (vector, integer, integer) AS "
        "SELECT id FROM items WHERE kind = $2 ORDER BY embedding <-> $1 LIMIT $3",
    )
    for kind, limit in ((1, 5), (2, 3), (29, 11), (3, 0)):
        literal = "[" + ",".join(map(str, Q)) + "]"
        found = column(items, f"EXECUTE nearest ('{literal}', {kind}, {limit})")
        distances = np.linalg.norm(DATA.base - Q, axis=1)
        distances[np.arange(1500) % 30 != kind] = np.inf
        assert found == np.argsort(distances, kind="stable")[:limit].tolist()


def test_what_the_filter_removed_is_counted(items: Connection) -> None:
    text = "SELECT id FROM items WHERE kind = 7 ORDER BY embedding <-> %s LIMIT 5"
    report = items.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {text}", [Q]).fetchone()
    assert report is not None
    node = report[0][0]["Plan"]["Plans"][0]
    assert node["Actual Rows"] == 5
    # one row in 30 matches
    assert node["Rows Removed by Filter"] > 50


def test_a_volatile_function_runs_for_rows_that_the_scan_returns_only(items: Connection) -> None:
    """As beside any other index: once for each row, in the order of rows."""
    execute(items, "CREATE SEQUENCE calls")
    rows = column(
        items,
        "SELECT id FROM items WHERE nextval('calls') > 0 ORDER BY embedding <-> %s LIMIT 7",
        [Q],
    )
    assert len(rows) == 7
    assert value(items, "SELECT last_value FROM calls") == 7


def test_an_immutable_condition_may_fail_on_rows_that_the_scan_looks_at(items: Connection) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        execute(items, "SELECT id FROM items WHERE 1 / (id - id) > 0 ORDER BY embedding <-> %s LIMIT 1", [Q])
    # the scan and its context are gone; the session goes on
    assert (
        len(column(items, "SELECT id FROM items WHERE kind = 1 ORDER BY embedding <-> %s LIMIT 4", [Q])) == 4
    )


def test_policies_hide_rows_before_a_leaky_condition_sees_them(items: Connection, database: str) -> None:
    execute(items, "CREATE ROLE bq_reader")
    try:
        execute(
            items,
            """CREATE FUNCTION peek(integer) RETURNS boolean LANGUAGE plpgsql IMMUTABLE COST 0.0001 AS
            $$ BEGIN IF $1 % 30 <> 5 THEN RAISE EXCEPTION 'saw row %', $1; END IF; RETURN true; END $$""",
        )
        execute(items, "ALTER TABLE items ENABLE ROW LEVEL SECURITY")
        execute(items, "CREATE POLICY own ON items TO bq_reader USING (kind = 5)")
        execute(items, "GRANT SELECT ON items TO bq_reader; SET ROLE bq_reader")
        found = column(items, "SELECT id FROM items WHERE peek(id) ORDER BY embedding <-> %s LIMIT 10", [Q])
        assert len(found) == 10
        assert {i % 30 for i in found} == {5}
    finally:
        execute(items, "RESET ROLE; DROP OWNED BY bq_reader; DROP ROLE bq_reader")


def test_row_locks_recheck_rows_that_changed(items: Connection, server: Any, database: str) -> None:
    with server.connect(database) as other, items.transaction():
        text = "SELECT id FROM items WHERE kind = 7 ORDER BY embedding <-> %s LIMIT 3 FOR UPDATE"
        first = column(items, text, [Q])
        other.execute("SET lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute("UPDATE items SET kind = 8 WHERE id = %s", [first[0]])
        assert column(items, text, [Q]) == first


@pytest.mark.parametrize("tail", ["LIMIT 6 OFFSET 5", "FETCH FIRST 6 ROWS WITH TIES", "LIMIT (SELECT 6)"])
def test_any_way_to_say_limit(items: Connection, tail: str) -> None:
    text = f"SELECT id FROM items ORDER BY embedding <-> %(q)s {tail}"
    found, expected = by_index_and_by_table(items, text, {"q": Q})
    assert found == expected
    assert len(found) == 6


def test_a_cursor_and_an_aborted_query_leave_nothing_behind(items: Connection) -> None:
    """A scan finds its own node among those of queries that run, or were ended by an error."""
    with items.transaction():
        for kind in (1, 2):
            text = f"SELECT kind FROM items WHERE kind = {kind} ORDER BY embedding <-> %s"
            items.execute(f"DECLARE c{kind} CURSOR FOR {text}".encode(), [Q])
        got = {kind: [items.execute(f"FETCH c{kind}").fetchone() for _ in range(5)] for kind in (1, 2)}
    assert got == {1: [(1,)] * 5, 2: [(2,)] * 5}
    for _ in range(3):
        with pytest.raises(psycopg.errors.DivisionByZero):
            execute(
                items, "SELECT 1 / (id - id) FROM items WHERE kind = 1 ORDER BY embedding <-> %s LIMIT 1", [Q]
            )
    assert column(items, "SELECT kind FROM items WHERE kind = 3 ORDER BY embedding <-> %s LIMIT 2", [Q]) == [
        3,
        3,
    ]
