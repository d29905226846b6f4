"""The planner's choice: the index where it is cheaper, never where its scan may end before the LIMIT is met.

Filters here are independent of the vectors: they leave of the nearest rows what they leave of all.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from conftest import Server, _fresh_database
from pgvector import Vector
from pgvector.psycopg import register_vector
from support import (
    WIDTHS,
    Connection,
    configure,
    create_index,
    execute,
    has_iterative_scan,
    plan,
    value,
)

pytestmark = pytest.mark.postgres

RNG = np.random.default_rng(61)
#: Rows and dimensions; vectors of 1,536 dimensions lie out of line.
SHAPES = ((200, 96), (5000, 96), (6000, 384), (3000, 1536))
LIMITS = (1, 10, 25, 40, 41, 100, 500, 10_000)
SHARES = (1.0, 0.9, 0.5, 0.3, 0.1, 0.02, 0.002)


def name(rows: int, dim: int) -> str:
    return f"t{rows}_{dim}"


def vector(dim: int) -> str:
    """Return a literal of a query: the tests compare plans, which parameters would make generic."""
    return f"'{Vector(RNG.normal(size=dim).astype(np.float32)).to_text()}'"


def fill(conn: Connection, table: str, rows: int, dim: int) -> None:
    """Rows with a number u in [0, 1), one of 500 documents, and a vector without structure."""
    X = RNG.normal(size=(rows, dim)).astype(np.float32)
    u, doc = RNG.random(rows), RNG.integers(0, 500, rows)
    statement = f"COPY {table} (id, u, doc, embedding) FROM STDIN WITH (FORMAT BINARY)"
    with conn.cursor() as cursor, cursor.copy(statement.encode()) as copy:
        copy.set_types(["int4", "float8", "int4", "vector"])
        for i in range(rows):
            copy.write_row((i, float(u[i]), int(doc[i]), X[i]))


def create(conn: Connection, table: str, rows: int, dim: int) -> None:
    columns = f"id integer, u float8, doc integer, embedding vector({dim})"
    execute(conn, f"CREATE TABLE {table} ({columns}) WITH (autovacuum_enabled = off)")
    fill(conn, table, rows, dim)
    create_index(conn, table=table)


@pytest.fixture(scope="module")
def tables(server: Server) -> Iterator[str]:
    """Database with a table of each shape, analysed, a table of their documents, and one of tags."""
    with _fresh_database(server) as database:
        with server.connect(database) as conn:
            conn.execute("CREATE EXTENSION bqcore CASCADE")
            register_vector(conn)
            for rows, dim in SHAPES:
                create(conn, name(rows, dim), rows, dim)
            conn.execute(
                "CREATE TABLE docs (id integer PRIMARY KEY, lang integer);"
                "INSERT INTO docs SELECT i, i % 10 FROM generate_series(0, 499) i;"
                "CREATE TABLE tags (item integer, tag integer);"
                "INSERT INTO tags SELECT i, i % 50 FROM generate_series(0, 9999) i;"
                "CREATE INDEX ON tags (item); ANALYZE docs, tags"
            )
        yield database


@pytest.fixture
def planner(server: Server, tables: str) -> Iterator[Connection]:
    with server.connect(tables) as conn:
        conn.execute("LOAD 'vector'; LOAD 'bqcore'")
        register_vector(conn)
        yield conn


def uses_index(conn: Connection, text: str) -> bool:
    return "_bq on" in plan(conn, text)


def rows_of(conn: Connection, text: str) -> int:
    return len(execute(conn, text).fetchall())


@pytest.mark.parametrize("mode", ["off", "strict_order", "relaxed_order"])
@pytest.mark.parametrize(("rows", "dim"), SHAPES)
def test_every_limit_is_met(planner: Connection, rows: int, dim: int, mode: str) -> None:
    """Over a grid of LIMIT and filter."""
    configure(planner, hnsw_iterative_scan=mode)
    table, by_index, short = name(rows, dim), 0, []
    for share in SHARES:
        matching = value(planner, f"SELECT count(*) FROM {table} WHERE u < {share}")
        for limit in LIMITS:
            text = (
                f"SELECT id FROM {table} WHERE u < {share} ORDER BY embedding <-> {vector(dim)} LIMIT {limit}"
            )
            found = rows_of(planner, text)
            by_index += uses_index(planner, text)
            if found < min(limit, matching):
                short.append((share, limit, found))
    assert short == []
    assert by_index > 0 or rows == 200


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize(("rows", "dim"), [(6000, 384), (3000, 1536)])
def test_ordinary_searches_use_the_index(planner: Connection, rows: int, dim: int, bits: int) -> None:
    with planner.transaction(force_rollback=True):
        table = name(rows, dim)
        execute(planner, f"DROP INDEX {table}_bq")
        create_index(planner, bits, table=table)
        for limit in (1, 10, 40):
            text = f"SELECT id FROM {table} ORDER BY embedding <-> {vector(dim)} LIMIT {limit}"
            assert uses_index(planner, text), plan(planner, text)
            assert rows_of(planner, text) == limit
        configure(planner, hnsw_ef_search=200)
        assert uses_index(planner, f"SELECT id FROM {table} ORDER BY embedding <-> {vector(dim)} LIMIT 100")
        if has_iterative_scan(planner):
            configure(planner, hnsw_ef_search=40, hnsw_iterative_scan="strict_order")
            for share, limit in ((0.3, 10), (1.0, 60)):
                text = f"SELECT id FROM {table} WHERE u < {share} ORDER BY embedding <-> {vector(dim)}"
                assert uses_index(planner, f"{text} LIMIT {limit}"), (share, plan(planner, text))
                # pgvector's own limits of an iterative scan
                for setting in ("hnsw.max_scan_tuples = 50", "work_mem = '64kB'"):
                    with planner.transaction(force_rollback=True):
                        execute(planner, f"SET LOCAL {setting}")
                        assert not uses_index(planner, f"{text} LIMIT 300")


def test_a_small_table_is_read_whole(planner: Connection) -> None:
    planner.execute("SET hnsw.ef_search = 200")
    text = f"SELECT id FROM t200_96 ORDER BY embedding <-> {vector(96)} LIMIT 10"
    assert not uses_index(planner, text)


#: With which a scan has 40 rows.
FEW = 4

T = "t6000_384"
#: Whether the scan, of 40 rows, is expected to have what the query asks for.
QUERIES = {
    "SELECT id FROM {t} ORDER BY {d} LIMIT 20 OFFSET 20": True,
    "SELECT id FROM {t} ORDER BY {d} LIMIT 20 OFFSET 30": False,
    "SELECT id FROM {t} ORDER BY {d} FETCH FIRST 39 ROWS WITH TIES": True,
    "SELECT id FROM {t} ORDER BY {d} FETCH FIRST 40 ROWS WITH TIES": False,
    "SELECT id FROM {t} ORDER BY {d}": False,
    "SELECT id FROM {t} ORDER BY {d} LIMIT ALL": False,
    "SELECT id FROM {t} ORDER BY {d} OFFSET 10": False,
    "SELECT min({d}) FROM {t}": True,
    "SELECT count(*) FROM (SELECT id FROM {t} ORDER BY {d} LIMIT 30) s": True,
    "SELECT count(*) FROM (SELECT id FROM {t} ORDER BY {d} LIMIT 60) s": False,
    "SELECT array_agg(id) FROM (SELECT id FROM {t} ORDER BY {d}) s": False,
    "SELECT DISTINCT id, {d} FROM {t} ORDER BY {d} LIMIT 10": False,
    # a level above that leaves out nothing hands its LIMIT down, others do not
    "SELECT * FROM (SELECT id FROM {t} ORDER BY {d}) s LIMIT 10": True,
    "SELECT * FROM (SELECT id FROM {t} ORDER BY {d}) s LIMIT 100": False,
    "SELECT * FROM (SELECT id FROM {t} ORDER BY {d} OFFSET 0) s WHERE id < 100 LIMIT 10": False,
    "WITH s AS MATERIALIZED (SELECT id FROM {t} ORDER BY {d} LIMIT 20) SELECT * FROM s": True,
    "SELECT id, rank() OVER (ORDER BY {d}) FROM {t} ORDER BY {d} LIMIT 10": True,
    "SELECT id, row_number() OVER (ORDER BY {d}) FROM {t} ORDER BY {d} LIMIT 100": False,
    "SELECT id, ntile(4) OVER (ORDER BY {d}) FROM {t} ORDER BY {d} LIMIT 10": False,
    "SELECT id, count(*) OVER () FROM {t} ORDER BY {d} LIMIT 10": False,
    "(SELECT id FROM {t} ORDER BY {d} LIMIT 10) UNION ALL (SELECT 1)": True,
    "(SELECT id FROM {t} ORDER BY {d} LIMIT 90) UNION ALL (SELECT 1)": False,
    "SELECT id FROM (SELECT * FROM {t} UNION ALL SELECT * FROM {t}) s ORDER BY {d} LIMIT 10": True,
    "SELECT id FROM (SELECT * FROM {t} UNION ALL SELECT * FROM {t}) s ORDER BY {d} LIMIT 60": False,
    # joins leave a share of the rows
    "SELECT {t}.id, lang FROM {t} JOIN docs ON docs.id = doc ORDER BY {d} LIMIT 10": True,
    "SELECT {t}.id, lang FROM {t} LEFT JOIN docs ON docs.id = doc AND lang = 3 ORDER BY {d} LIMIT 10": True,
    "SELECT {t}.id FROM {t} JOIN docs ON docs.id = doc WHERE lang = 3 ORDER BY {d} LIMIT 10": False,
    "SELECT {t}.id FROM {t} WHERE doc IN (SELECT id FROM docs WHERE lang = 3) ORDER BY {d} LIMIT 10": False,
    "SELECT id FROM {t} WHERE EXISTS (SELECT FROM tags WHERE item = {t}.id) ORDER BY {d} LIMIT 10": True,
    "SELECT id FROM {t} WHERE EXISTS (SELECT FROM tags JOIN docs ON docs.id = tag "
    "WHERE item = {t}.id AND lang = 3) ORDER BY {d} LIMIT 10": False,
    "SELECT id FROM {t} WHERE NOT EXISTS (SELECT FROM tags WHERE item = {t}.id AND tag > 9) "
    "ORDER BY {d} LIMIT 10": False,
    "SELECT {t}.id FROM {t} JOIN docs ON docs.id = doc JOIN tags ON item = {t}.id "
    "WHERE tag < 5 ORDER BY {d} LIMIT 10": False,
}


@pytest.mark.parametrize("query", QUERIES)
def test_what_a_query_asks_for_decides(planner: Connection, query: str) -> None:
    configure(planner, hnsw_ef_search=FEW)
    text = query.format(t=T, d=f"embedding <-> {vector(384)}")
    assert uses_index(planner, text) == QUERIES[query], plan(planner, text)
    by_plan = rows_of(planner, text)
    configure(planner, enable_indexscan="off")
    assert by_plan == rows_of(planner, text)


def test_a_forced_index_stays_forced(planner: Connection) -> None:
    configure(planner, enable_seqscan="off", enable_sort="off", hnsw_ef_search=FEW)
    for limit, where in ((100, ""), (10, "WHERE u < .01")):
        text = f"SELECT id FROM {T} {where} ORDER BY embedding <-> {vector(384)} LIMIT {limit}"
        assert uses_index(planner, text)
        assert rows_of(planner, text) < limit
        cost = value(planner, f"EXPLAIN (FORMAT JSON) {text}")[0]["Plan"]["Total Cost"]
        assert cost < float(value(planner, "SHOW jit_above_cost"))


@pytest.mark.parametrize("mode", ["off", "strict_order"])
def test_an_index_on_the_filter_wins_where_it_is_cheaper(planner: Connection, mode: str) -> None:
    configure(planner, hnsw_iterative_scan=mode)
    with planner.transaction(force_rollback=True):
        execute(planner, f"CREATE INDEX by_u ON {T} (u)")
        text = f"SELECT id FROM {T} WHERE u < .01 ORDER BY embedding <-> {vector(384)} LIMIT 10"
        for scan in ("on", "off"):
            configure(planner, enable_bitmapscan=scan)
            assert "by_u" in plan(planner, text), plan(planner, text)
            assert rows_of(planner, text) == 10


def test_a_parameter_as_limit(planner: Connection) -> None:
    """A generic plan does not know it; plans of its values do, and stay in use because they are cheaper."""
    configure(planner, hnsw_ef_search=FEW)
    text = f"SELECT id FROM {T} ORDER BY embedding <-> {vector(384)} LIMIT $1"
    execute(planner, f"PREPARE nearest(integer) AS {text}")
    for limit in (10, 10, 100, 10, 10, 10, 10, 100):
        assert rows_of(planner, f"EXECUTE nearest({limit})") == limit
    assert uses_index(planner, "EXECUTE nearest(10)")
    configure(planner, plan_cache_mode="force_generic_plan")
    assert rows_of(planner, "EXECUTE nearest(100)") == 100


def test_a_cursor_without_limit_reads_all(planner: Connection) -> None:
    with planner.transaction():
        text = f"SELECT id FROM {T} ORDER BY embedding <-> {vector(384)}"
        execute(planner, f"DECLARE c CURSOR FOR {text}")
        assert rows_of(planner, "FETCH ALL FROM c") == 6000


def test_one_partition_that_cannot_deliver_is_sorted(conn: Connection) -> None:
    """The others keep their indexes: a Merge Append takes both."""
    conn.execute(
        "CREATE TABLE items (id integer, u float8, doc integer, embedding vector(384)) "
        "PARTITION BY LIST (doc)"
    )
    for part in range(2):
        execute(conn, f"CREATE TABLE p{part} PARTITION OF items FOR VALUES IN ({part})")
    X = RNG.normal(size=(4000, 384)).astype(np.float32)
    with conn.cursor() as cursor, cursor.copy("COPY items FROM STDIN WITH (FORMAT BINARY)") as copy:
        copy.set_types(["int4", "float8", "int4", "vector"])
        for i, x in enumerate(X):
            # of the second partition u < .5 leaves one in a hundred
            copy.write_row(
                (
                    i,
                    float(RNG.random()) * 0.5 if i % 4 else 0.495 + float(RNG.random()) * 0.5,
                    int(i % 4 == 0),
                    x,
                )
            )
    for part in range(2):
        create_index(conn, table=f"p{part}")
    conn.execute("ANALYZE items")
    configure(conn, hnsw_ef_search=FEW)
    text = f"SELECT id FROM items WHERE u < .5 ORDER BY embedding <-> {vector(384)} LIMIT 10"
    report = plan(conn, text)
    assert "Merge Append" in report
    assert "p0_bq on" in report
    assert "p1_bq" not in report
    assert rows_of(conn, text) == 10


def test_partial_indexes_are_judged_by_their_own_rows(planner: Connection) -> None:
    configure(planner, hnsw_ef_search=FEW)
    with planner.transaction(force_rollback=True):
        execute(planner, f"DROP INDEX {T}_bq")
        create_index(planner, table=T, where="WHERE id % 2 = 0")
        distance = f"embedding <-> {vector(384)}"
        text = f"SELECT id FROM {T} WHERE id % 2 = 0 {{}} ORDER BY {distance} LIMIT {{}}"
        assert uses_index(planner, text.format("", 10))
        assert not uses_index(planner, text.format("", 100))
        assert not uses_index(planner, text.format("AND u < .1", 10))
        for more, limit in (("", 10), ("", 100), ("AND u < .1", 10)):
            assert rows_of(planner, text.format(more, limit)) == limit


@pytest.mark.parametrize("analysed", [True, False])
@pytest.mark.parametrize("reltuples", [None, 0, 1, 100, 10_000_000])
def test_old_statistics_do_not_make_answers_short(
    conn: Connection, reltuples: int | None, analysed: bool
) -> None:
    """None: rows came after the index, and nothing has counted them."""
    columns = "id integer, u float8, doc integer, embedding vector(384)"
    execute(conn, f"CREATE TABLE items ({columns}) WITH (autovacuum_enabled = off)")
    if reltuples is None:
        conn.execute("CREATE INDEX items_bq ON items USING bqhnsw (embedding vector_l2_ops)")
    fill(conn, "items", 2000, 384)
    if reltuples is not None:
        conn.execute("CREATE INDEX items_bq ON items USING bqhnsw (embedding vector_l2_ops)")
        if analysed:
            conn.execute("ANALYZE items")
        execute(conn, f"UPDATE pg_class SET reltuples = {reltuples} WHERE relname = 'items'")
    for limit in (10, 60, 300):
        text = f"SELECT id FROM items ORDER BY embedding <-> {vector(384)} LIMIT {limit}"
        assert rows_of(conn, text) == limit, plan(conn, text)
    if reltuples is None or reltuples > 1000:
        assert uses_index(conn, f"SELECT id FROM items ORDER BY embedding <-> {vector(384)} LIMIT 10")


def test_rows_that_were_deleted_and_not_vacuumed_count(conn: Connection) -> None:
    create(conn, "items", 4000, 384)
    conn.execute("DELETE FROM items WHERE id % 2 = 0")
    configure(conn, hnsw_ef_search=FEW)
    conn.execute("SELECT pg_stat_force_next_flush()")
    conn.execute("ANALYZE items")
    for limit, expected in ((5, True), (30, False)):
        text = f"SELECT id FROM items ORDER BY embedding <-> {vector(384)} LIMIT {limit}"
        assert uses_index(conn, text) == expected
        assert rows_of(conn, text) == limit


def test_rows_without_a_vector_are_part_of_a_long_answer(conn: Connection) -> None:
    create(conn, "items", 2000, 384)
    conn.execute("UPDATE items SET embedding = NULL WHERE id > 30")
    conn.execute("VACUUM (FULL, ANALYZE) items")
    for limit in (10, 35, 100):
        text = f"SELECT id FROM items ORDER BY embedding <-> {vector(384)} LIMIT {limit}"
        assert rows_of(conn, text) == limit, plan(conn, text)


def test_an_empty_table_has_a_plan(conn: Connection) -> None:
    create(conn, "items", 0, 384)
    assert rows_of(conn, f"SELECT id FROM items ORDER BY embedding <-> {vector(384)} LIMIT 10") == 0
