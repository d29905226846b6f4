"""bqhnsw that reads only the vectors that a code column cannot rule out (option rescore_column)."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from dumps import restored
from support import (
    OPERATORS,
    Connection,
    column,
    configure,
    create_index,
    create_table,
    execute,
    force_index,
    has_iterative_scan,
    hits,
    plan,
    search,
    search_ids,
    search_sql,
    table_recall,
    value,
)

from bqcore.datasets import clustered
from bqcore.evaluation import exact_search
from bqcore_postgres import EmbeddedServer

pytestmark = pytest.mark.postgres

DATA = clustered(600, 70, n_queries=10, random_state=47)
OPTION = ", rescore_column = 'code'"
MISSING = "cannot rescore from column"


def add_codes(
    conn: Connection,
    bits: int = 8,
    metric: str = "l2",
    *,
    source: str = "embedding",
    seed: int = 42,
    dim: int = 70,
) -> None:
    """Add the generated column `code` to items."""
    model = str(value(conn, f"SELECT bq_train({source}, {bits}, '{metric}', {seed})::text FROM items"))
    execute(
        conn,
        "ALTER TABLE items DROP COLUMN IF EXISTS code, "
        f"ADD code bqcode({dim}) GENERATED ALWAYS AS (bq_encode({source}, '{model}')) STORED",
    )


def ids(conn: Connection, q: object, metric: str = "l2", limit: int = 20) -> list[int]:
    return search_ids(conn, q, limit, metric)


@pytest.fixture
def items(conn: Connection) -> Connection:
    create_table(conn, DATA.base)
    force_index(conn)
    return conn


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("metric", OPERATORS)
def test_order_is_exact(items: Connection, metric: str, bits: int) -> None:
    """With every row a candidate, answers are the nearest rows, to the last one."""
    add_codes(items, bits, metric)
    create_index(items, 1, metric, options=OPTION)
    configure(items, hnsw_ef_search=1000, bqcore_rescore=1000)
    truth = exact_search(DATA.base, DATA.queries, 20, metric)[0]
    for q, nearest in zip(DATA.queries, truth, strict=True):
        assert "Index Scan using items_bq" in plan(items, search_sql(metric), {"q": q})
        rows = search(items, q, 600, metric)
        assert len({i for i, _ in rows}) == len(rows) >= 598
        assert [d for _, d in rows] == sorted(d for _, d in rows)
        assert [i for i, _ in rows[:20]] == nearest.tolist()


@pytest.mark.parametrize("bits", [1, 4])
@pytest.mark.parametrize("metric", OPERATORS)
def test_recall_is_that_of_vectors(items: Connection, metric: str, bits: int) -> None:
    add_codes(items, 8, metric)
    create_index(items, bits, metric, options=OPTION)
    by_codes = value(items, "SELECT bqcore_recall('items_bq', 10, 300)")
    items.execute("ALTER INDEX items_bq RESET (rescore_column)")
    assert abs(by_codes - value(items, "SELECT bqcore_recall('items_bq', 10, 300)")) <= 0.004


def test_few_vectors_are_read(conn: Connection) -> None:
    """Blocks that a query of 100 candidates reads where vectors lie out of line."""
    data = clustered(300, 600, n_queries=1, random_state=3)
    create_table(conn, data.base)
    force_index(conn)
    add_codes(conn, dim=600)
    create_index(conn, 1, options=OPTION)
    configure(conn, hnsw_ef_search=100)

    def blocks() -> int:
        text = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {search_sql()}"
        for _ in range(2):  # the second one meets what the first one has loaded
            (((found,),),) = execute(conn, text, {"q": data.queries[0]}).fetchall()
        top = found["Plan"]
        return int(top["Shared Hit Blocks"] + top["Shared Read Blocks"])

    by_codes = blocks()
    conn.execute("ALTER INDEX items_bq RESET (rescore_column)")
    # three blocks or more for each vector: the index of its chunks, and two chunks
    assert blocks() >= by_codes + 3 * 60


def test_halfvec_and_expression_indexes(items: Connection) -> None:
    add_codes(items, source="embedding::halfvec(70)")
    execute(
        items,
        "CREATE INDEX items_bq ON items USING bqhnsw ((embedding::halfvec(70)) halfvec_l2_ops) "
        "WITH (bits = 1, rescore_column = 'code')",
    )
    configure(items, hnsw_ef_search=1000)
    target = "(embedding::halfvec(70))"
    assert "items_bq" in plan(items, search_sql(target=target), {"q": DATA.queries[0]})
    text = f"SELECT id FROM items ORDER BY {target} <-> %s::halfvec LIMIT 1"
    assert column(items, text, [DATA.base[5].tolist()]) == [5]


def test_casts_that_keep_coordinates_make_no_difference(items: Connection) -> None:
    items.execute("ALTER TABLE items ADD half halfvec(70)")
    items.execute("UPDATE items SET half = embedding")
    add_codes(items, source="half::vector(70)")
    create_index(items, 1, options=OPTION, target="half", type_name="halfvec")
    add_codes(items, source="embedding::vector(70)::vector")
    create_index(items, 1, options=OPTION, name="plain")


def test_codes_of_a_cast_that_changes_coordinates_are_refused(items: Connection) -> None:
    """Codes of float32 vectors do not bound distances of rounded ones, and a user's cast may do anything."""
    items.execute("""
        CREATE TYPE pair AS (v vector(70));
        CREATE FUNCTION twice(pair) RETURNS vector LANGUAGE sql IMMUTABLE AS
        'SELECT $1.v OPERATOR(public.+) $1.v';
        CREATE CAST (pair AS vector) WITH FUNCTION twice(pair);
        CREATE FUNCTION doubled(vector) RETURNS halfvec LANGUAGE sql IMMUTABLE AS
        'SELECT ($1 OPERATOR(public.+) $1)::public.halfvec';
        ALTER TABLE items ADD p pair;
        UPDATE items SET p = ROW(embedding)""")
    for source, target, kind in (
        ("embedding", "(embedding::halfvec(70))", "halfvec"),
        ("embedding::halfvec::vector", "embedding", "vector"),
        ("embedding::halfvec", "embedding", "vector"),
        ("(p).v", "(p::vector(70))", "vector"),
        ("embedding", "(doubled(embedding)::halfvec(70))", "halfvec"),
    ):
        add_codes(items, source=source)
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="encodes something else"):
            create_index(items, 1, options=OPTION, target=target, type_name=kind)


def test_looking_for_the_model_runs_no_function_of_the_table(items: Connection) -> None:
    """It happens in every scan, as whoever scans."""
    add_codes(items)
    create_index(items, options=OPTION)
    model = str(value(items, "SELECT bq_train(embedding, 8, 'l2')::text FROM items"))
    items.execute("""
        CREATE TABLE ran (who text);
        CREATE FUNCTION note() RETURNS void LANGUAGE sql AS 'INSERT INTO public.ran VALUES (current_user)'""")
    execute(
        items,
        "CREATE FUNCTION a_model(text) RETURNS bqmodel LANGUAGE plpgsql IMMUTABLE AS "
        f"$$ BEGIN PERFORM public.note(); RETURN '{model}'::public.bqmodel; END $$",
    )
    items.execute(
        "ALTER TABLE items DROP code, "
        "ADD code bqcode(70) GENERATED ALWAYS AS (bq_encode(embedding, a_model('x'))) STORED"
    )
    items.execute("TRUNCATE ran")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="expected a literal as its model"):
        ids(items, DATA.queries[0])
    assert value(items, "SELECT count(*) FROM ran") == 0


def test_writes_and_rescans(items: Connection) -> None:
    """Generated columns follow their vectors; a nested loop scans again and again."""
    items.execute("DELETE FROM items WHERE id >= 400")
    add_codes(items)
    create_index(items, 4, options=OPTION)
    configure(items, hnsw_ef_search=100)
    items.execute("UPDATE items SET embedding = %s WHERE id = 3", [DATA.queries[0]])
    items.execute("INSERT INTO items VALUES (1000, NULL), (1001, %s)", [DATA.queries[1]])
    assert ids(items, DATA.queries[0], limit=1) == [3]
    assert ids(items, DATA.queries[1], limit=1) == [1001]
    create_table(items, DATA.queries, "queries")
    text = """SELECT q.id, n.id FROM queries q CROSS JOIN LATERAL
        (SELECT id FROM items ORDER BY items.embedding <-> q.embedding LIMIT 20) n"""
    assert "using items_bq" in plan(items, text)
    rows = execute(items, text).fetchall()
    for i, q in enumerate(DATA.queries):
        assert [n for outer, n in rows if outer == i] == ids(items, q)
    assert len(column(items, "SELECT id FROM items ORDER BY embedding <-> NULL LIMIT 5")) == 5
    if has_iterative_scan(items):
        for mode in ("strict_order", "relaxed_order"):
            configure(items, hnsw_iterative_scan=mode)
            found = ids(items, DATA.queries[2], limit=390)
            assert len(set(found)) == len(found) >= 380


def test_option_needs_a_column_of_codes_of_what_is_indexed(items: Connection) -> None:
    def refused(error: type[psycopg.Error], problem: str) -> None:
        with pytest.raises(error, match=problem) as failure:
            create_index(items, 1, "l2", options=OPTION)
        assert MISSING in str(failure.value)
        assert "RESET (rescore_column)" in (failure.value.diag.message_hint or "")

    state = psycopg.errors.ObjectNotInPrerequisiteState
    refused(psycopg.errors.UndefinedColumn, "has no such column")
    items.execute("ALTER TABLE items ADD code bqcode(70)")
    refused(state, "expected a column GENERATED ALWAYS")
    items.execute("ALTER TABLE items DROP code, ADD code int GENERATED ALWAYS AS (id + 1) STORED")
    refused(state, "expected one generated by bq_encode")
    add_codes(items, metric="cosine")
    refused(state, "expected codes of metric l2, not cosine")
    items.execute("ALTER TABLE items ADD other vector(70)")
    items.execute("UPDATE items SET other = embedding")
    add_codes(items, source="other")
    refused(state, "it encodes something else than what is indexed")
    model = value(items, "SELECT bq_train(embedding, 8, 'l2')::text FROM items")
    execute(
        items,
        "ALTER TABLE items DROP code, ADD model bqmodel, "
        "ADD code bqcode(70) GENERATED ALWAYS AS (bq_encode(embedding, model)) STORED",
    )
    refused(state, "expected a literal as its model")
    execute(
        items,
        "ALTER TABLE items DROP code, ADD code bqcode(70) GENERATED ALWAYS AS "
        f"(coalesce(bq_encode(embedding, '{model}'), bq_encode(embedding, '{model}'))) STORED",
    )
    refused(state, "expected one generated by bq_encode")


def test_columns_that_change_under_an_index(items: Connection) -> None:
    """A dropped or renamed column stops searches with an error until the option is put right."""
    add_codes(items)
    create_index(items, 1, options=OPTION)
    configure(items, hnsw_ef_search=1000)
    before = [ids(items, q) for q in DATA.queries]
    text = search_sql()

    def broken(problem: str) -> None:
        with pytest.raises(psycopg.Error, match=f"{MISSING}.*{problem}"):
            execute(items, text, {"q": DATA.queries[0]})

    items.execute("ALTER TABLE items RENAME code TO renamed")
    broken("has no such column")
    items.execute("ALTER INDEX items_bq SET (rescore_column = 'renamed')")
    assert [ids(items, q) for q in DATA.queries] == before
    items.execute("ALTER TABLE items ALTER renamed DROP EXPRESSION")
    broken("expected a column GENERATED ALWAYS")
    items.execute("ALTER TABLE items DROP renamed")
    items.execute("REINDEX INDEX items_bq")  # as TRUNCATE and VACUUM FULL do
    broken("has no such column")
    add_codes(items, seed=7)  # a column of that name again, with another model
    items.execute("ALTER INDEX items_bq SET (rescore_column = 'code')")
    now = [ids(items, q) for q in DATA.queries]
    assert sum(hits(a, b) for a, b in zip(now, before, strict=True)) >= 0.95 * 20 * len(DATA.queries)
    if items.info.server_version >= 170000:
        model = value(items, "SELECT bq_train(embedding, 4, 'l2')::text FROM items")
        execute(items, f"ALTER TABLE items ALTER code SET EXPRESSION AS (bq_encode(embedding, '{model}'))")
        assert len(ids(items, DATA.queries[0])) == 20
    items.execute("ALTER INDEX items_bq RESET (rescore_column)")
    assert table_recall(items, DATA.queries) == 1.0


def test_dropped_columns_partitions_and_dumps(
    embedded: EmbeddedServer, database: str, conn: Connection, tmp_path: Path
) -> None:
    """Column numbers differ between partitions and after a restore; the option holds a name."""
    create_table(conn, DATA.base, "source")
    model = value(conn, "SELECT bq_train(embedding, 8, 'l2')::text FROM source")
    code = f"code bqcode(70) GENERATED ALWAYS AS (bq_encode(embedding, '{model}')) STORED"
    execute(conn, f"CREATE TABLE items (id int, embedding vector(70), {code}) PARTITION BY RANGE (id)")
    execute(conn, f"CREATE TABLE part1 (gone int, id int, gone2 text, embedding vector(70), {code})")
    conn.execute("ALTER TABLE part1 DROP gone, DROP gone2")
    conn.execute("ALTER TABLE items ATTACH PARTITION part1 FOR VALUES FROM (0) TO (300)")
    conn.execute("CREATE TABLE part2 PARTITION OF items FOR VALUES FROM (300) TO (1000)")
    conn.execute("INSERT INTO items (id, embedding) SELECT id, embedding FROM source")
    create_index(conn, 1, options=OPTION)

    def answers(connection: Connection) -> list[list[int]]:
        force_index(connection)
        configure(connection, hnsw_ef_search=1000)
        return [ids(connection, q) for q in DATA.queries]

    before = answers(conn)
    with restored(embedded, database, "custom", tmp_path) as copy:
        assert answers(copy) == before
        options = column(copy, "SELECT reloptions::text FROM pg_class WHERE relname LIKE 'part%_idx'")
        assert len(options) == 2
        assert all("rescore_column=code" in text for text in options)
