"""CREATE INDEX: options, the model it takes, limits of size and memory, and builds that fail."""

from __future__ import annotations

import numpy as np
import psycopg
import pytest
from support import (
    BITS,
    METRICS,
    Connection,
    configure,
    create_index,
    create_table,
    execute,
    force_index,
    go_on_until_the_limit,
    hits,
    insert,
    model,
    search,
    search_ids,
    trained_rows,
    value,
)

from bqcore import RaBitQ
from bqcore.datasets import clustered, gaussian
from bqcore.evaluation import exact_search

pytestmark = pytest.mark.postgres

both_bits = pytest.mark.parametrize("bits", BITS)
both_metrics = pytest.mark.parametrize("metric", METRICS)

DATA = clustered(3000, 24, n_queries=20, random_state=17)


def recall(conn: Connection, n: int, metric: str = "l2") -> float:
    configure(conn, hnsw_ef_search=200)
    force_index(conn)
    truths = exact_search(DATA.base[:n], DATA.queries, 10, metric)[0]
    return (
        sum(hits(search_ids(conn, q, 10, metric), t) for q, t in zip(DATA.queries, truths, strict=True)) / 200
    )


def index_count(conn: Connection) -> int:
    count = "SELECT count(*) FROM pg_class JOIN pg_am a ON a.oid = relam WHERE amname = 'bqhnsw'"
    return int(value(conn, count))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("bits = 3", "bits must be 1, 2, 4 or 8, not 3"),
        ("bits = 7", "bits must be 1, 2, 4 or 8, not 7"),
        ("bits = 0", 'value 0 out of bounds for option "bits"'),
        ("bits = 9", 'value 9 out of bounds for option "bits"'),
        ("bits = one", "invalid value for integer option"),
        ("m = 1", 'value 1 out of bounds for option "m"'),
        ("m = 101", 'value 101 out of bounds for option "m"'),
        ("ef_construction = 3", 'value 3 out of bounds for option "ef_construction"'),
        ("m = 40", r"ef_construction must be greater than or equal to 2 \* m"),
        ("lists = 10", 'unrecognized parameter "lists"'),
    ],
)
def test_a_wrong_option_is_refused(session: Connection, options: str, message: str) -> None:
    before = index_count(session)
    with pytest.raises(psycopg.Error, match=message):
        execute(session, f"CREATE INDEX ON l2_1 USING bqhnsw (embedding vector_l2_ops) WITH ({options})")
    assert index_count(session) == before
    if "ef_construction must" not in message:  # pgvector compares the two when it builds
        with pytest.raises(psycopg.Error, match=message):
            execute(session, f"ALTER INDEX l2_1_bq SET ({options})")


@both_bits
def test_graph_options_reach_pgvector(conn: Connection, bits: int) -> None:
    create_table(conn, DATA.base[:1000])
    sizes = []
    for m, ef_construction in ((2, 4), (16, 64), (48, 100)):
        options = f", m = {m}, ef_construction = {ef_construction}"
        create_index(conn, bits, name=f"with{m}", options=options)
        info = f"SELECT bits, m, ef_construction FROM bqcore_index_info('with{m}')"
        assert execute(conn, info).fetchone() == (bits, m, ef_construction)
        sizes.append(value(conn, f"SELECT pg_relation_size('with{m}')"))
    assert sizes == sorted(sizes)
    # 2 m neighbours of 6 bytes per row more
    assert sizes[2] - sizes[1] >= 1000 * 2 * 32 * 6


def test_default_ef_construction_follows_the_bits(conn: Connection) -> None:
    create_table(conn, DATA.base[:100])
    for bits, expected in ((1, 64), (2, 100), (4, 100), (8, 100)):
        index = create_index(conn, bits, name=f"bits{bits}")
        built = value(conn, "SELECT ef_construction FROM bqcore_index_info(%s)", [index])
        assert built == expected
        conn.execute("INSERT INTO items SELECT id + 100, embedding FROM items LIMIT 1")
        options = value(conn, "SELECT reloptions FROM pg_class WHERE relname = %s", [index])
        assert options == [f"bits={bits}"]  # what pg_dump writes


def test_altered_options_hold_from_the_next_reindex_on(conn: Connection) -> None:
    create_table(conn, DATA.base[:500])
    create_index(conn)
    info = "SELECT bits, m, ef_construction FROM bqcore_index_info('items_bq')"
    conn.execute("ALTER INDEX items_bq SET (bits = 4, m = 8, ef_construction = 32)")
    insert(conn, "items", range(500, 600), DATA.base[500:600])
    assert recall(conn, 600) >= 0.8
    assert execute(conn, info).fetchone() == (1, 16, 64)
    conn.execute("REINDEX INDEX items_bq")
    assert execute(conn, info).fetchone() == (4, 8, 32)
    assert recall(conn, 600) >= 0.95


def test_a_column_without_dimensions_is_refused(conn: Connection) -> None:
    conn.execute("CREATE TABLE items (id integer, embedding vector)")
    with pytest.raises(psycopg.Error, match="column does not have dimensions") as failure:
        create_index(conn)
    assert failure.value.diag.message_hint == "Declare it as vector(n)."


@both_metrics
def test_the_model_is_the_mean_of_the_rows(conn: Connection, metric: str) -> None:
    create_table(conn, DATA.base[:1000] * 3)
    create_index(conn, 4, metric)
    stored = RaBitQ.from_bytes(model(conn))
    fitted = RaBitQ(bits=4, metric=metric, random_state=stored.random_state).fit(DATA.base[:1000] * 3)
    assert stored.get_params() == fitted.get_params()
    assert stored.n_trained_ == 1000
    np.testing.assert_allclose(stored.centroid_, fitted.centroid_, atol=1e-6)
    create_index(conn, 4, metric, name="again")
    assert model(conn, "again") == model(conn)


def test_the_centroid_of_a_large_table_comes_from_a_sample(conn: Connection) -> None:
    """Rows are sorted, so a sample of the table's beginning would have another mean."""
    X = np.sort(gaussian(20_000, 2, n_queries=1, random_state=3).base, axis=0)
    create_table(conn, X)
    create_index(conn, options=", m = 2, ef_construction = 4")
    per_block = 20_000 / value(conn, "SELECT pg_relation_size('items') / 8192")
    assert 10_000 <= trained_rows(conn) <= 10_000 + 2 * per_block
    centroid = RaBitQ.from_bytes(model(conn)).centroid_
    # the mean of the first half is -.8
    np.testing.assert_allclose(centroid, X.mean(axis=0), atol=0.1)


def test_only_rows_of_a_partial_index_are_trained_on(conn: Connection) -> None:
    create_table(conn, DATA.base[:900])
    create_index(conn, where="WHERE id % 3 = 0")
    assert trained_rows(conn) == 300
    np.testing.assert_allclose(
        RaBitQ.from_bytes(model(conn)).centroid_, DATA.base[:900:3].mean(axis=0), atol=1e-6
    )


def blocks_read(conn: Connection) -> int:
    """Blocks of items that were asked for so far, by all sessions."""
    conn.execute("SELECT pg_stat_force_next_flush()")
    return int(
        value(
            conn, "SELECT heap_blks_read + heap_blks_hit FROM pg_statio_user_tables WHERE relname = 'items'"
        )
    )


def test_a_sample_of_few_indexed_rows_ends(conn: Connection) -> None:
    """Where the index holds few rows, looking for 10,000 of them must not read the whole table first."""
    conn.execute("CREATE UNLOGGED TABLE items (id int, embedding vector(2)) WITH (fillfactor = 10)")
    conn.execute("INSERT INTO items SELECT i, ARRAY[i, -i]::vector FROM generate_series(1, 400000) i")
    conn.execute("VACUUM ANALYZE items")
    blocks = value(conn, "SELECT pg_relation_size('items') / 8192")
    assert blocks > 20_000
    before = blocks_read(conn)
    execute(
        conn,
        "CREATE INDEX items_bq ON items USING bqhnsw (embedding vector_l2_ops) WHERE id % 1000 = 0",
    )
    # one scan is the build's own
    sampled = blocks_read(conn) - before - blocks
    per_block = 400_000 / blocks
    assert sampled <= max(10_000, 30 * 10_000 / per_block) * 1.05 + 100
    rows = trained_rows(conn)
    assert 400 * sampled / blocks * 0.8 <= rows <= 400
    # from all of the table, whose mean is at 200,000
    centroid = RaBitQ.from_bytes(model(conn)).centroid_
    np.testing.assert_allclose(centroid, [200_000, -200_000], atol=40_000)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("kind", ["vector", "halfvec"])
def test_a_damaged_vector_is_not_read_beyond_its_end(conn: Connection, kind: str, metric: str) -> None:
    """Of the 24 coordinates that it claims to have the datum holds two."""
    zeros = 2 * (4 if kind == "vector" else 2)
    execute(conn, f"CREATE CAST (bytea AS {kind}) WITHOUT FUNCTION")
    damaged = f"'\\x18000000{'00' * zeros}'::bytea::{kind}"
    execute(conn, f"CREATE TABLE items (id int, embedding {kind}(24))")
    message = f"invalid {kind} datum of {8 + zeros} bytes"
    create_index(conn, 4, metric, type_name=kind)
    with pytest.raises(psycopg.errors.DataCorrupted, match=message):
        execute(conn, f"INSERT INTO items VALUES (1, {damaged})")
    conn.execute("DROP INDEX items_bq")
    execute(conn, f"INSERT INTO items VALUES (1, {damaged})")
    with pytest.raises(psycopg.errors.DataCorrupted, match=message):
        create_index(conn, 4, metric, type_name=kind)
    conn.execute("TRUNCATE items")
    create_index(conn, 4, metric, type_name=kind)
    for call in ("recall('items_bq')", "check('items_bq', true)"):
        conn.execute("BEGIN")
        # as damage does, past the index
        conn.execute("UPDATE pg_index SET indisready = false WHERE indexrelid = 'items_bq'::regclass")
        execute(conn, f"INSERT INTO items VALUES (1, {damaged})")
        conn.execute("UPDATE pg_index SET indisready = true WHERE indexrelid = 'items_bq'::regclass")
        with pytest.raises(psycopg.errors.DataCorrupted, match=message):
            execute(conn, f"SELECT bqcore_{call}")
        conn.execute("ROLLBACK")


@both_bits
def test_a_graph_larger_than_maintenance_work_mem(conn: Connection, bits: int) -> None:
    create_table(conn, DATA.base[:2000])
    configure(conn, maintenance_work_mem="1MB")
    notices: list[str] = []
    conn.add_notice_handler(lambda diagnostic: notices.append(diagnostic.message_primary or ""))
    create_index(conn, bits)
    assert any("no longer fits into maintenance_work_mem" in notice for notice in notices)
    assert trained_rows(conn) == 2000
    assert recall(conn, 2000) >= (0.9 if bits == 1 else 0.97)


def ask_for_workers(conn: Connection, table: str = "items") -> list[str]:
    """Let the next build of this session use two workers; the list receives what the server says about it."""
    execute(conn, f"ALTER TABLE {table} SET (parallel_workers = 2)")
    configure(conn, max_parallel_maintenance_workers=2, client_min_messages="debug1")
    notices: list[str] = []
    conn.add_notice_handler(lambda diagnostic: notices.append(diagnostic.message_primary or ""))
    return notices


@pytest.mark.parametrize(("metric", "bits"), [("l2", 1), ("l2", 4), ("cosine", 4)])
def test_a_parallel_build_encodes_with_one_model(conn: Connection, metric: str, bits: int) -> None:
    """A worker with another model would scatter its rows: codes of two models have nothing in common."""
    create_table(conn, DATA.base[:0])
    insert(conn, "items", range(10_000, 10_100), np.zeros((100, 24), np.float32))
    insert(conn, "items", range(3000), DATA.base)
    if metric == "l2":
        conn.execute("DELETE FROM items WHERE id >= 10000")
    notices = ask_for_workers(conn)
    with conn.transaction():
        create_index(conn, bits, metric)
        assert value(conn, "SHOW max_parallel_maintenance_workers") == "2"
        assert value(conn, "SHOW bqcore.build_segment") == ""
    assert any("using 2 parallel workers" in notice for notice in notices), notices
    assert trained_rows(conn) == 3000
    assert recall(conn, 3000, metric) >= (0.9 if bits == 1 else 0.97)
    insert(conn, "items", [5000], DATA.queries[:1])
    assert search_ids(conn, DATA.queries[0], 1, metric) == [5000]


def test_a_parallel_build_of_an_expression(conn: Connection) -> None:
    create_table(conn, DATA.base)
    notices = ask_for_workers(conn)
    create_index(conn, 4, target="(subvector(embedding, 1, 12)::vector(12))")
    assert any("using 2 parallel workers" in notice for notice in notices), notices
    configure(conn, hnsw_ef_search=100)
    assert value(conn, "SELECT bqcore_recall('items_bq', 10, 50)") >= 0.97


def test_an_error_in_a_worker_fails_the_build_only(conn: Connection) -> None:
    create_table(conn, DATA.base)
    execute(conn, "INSERT INTO items VALUES (9000, %s)", [np.full(24, 3e38, np.float32)])
    ask_for_workers(conn)
    with pytest.raises(psycopg.errors.NumericValueOutOfRange, match="cannot quantize vector"):
        create_index(conn)
    with pytest.raises(psycopg.Error, match="ef_construction"):
        create_index(conn, options=", m = 40")
    assert value(conn, "SHOW max_parallel_maintenance_workers") == "2"
    assert value(conn, "SHOW bqcore.build_segment") == ""
    configure(conn, client_min_messages="notice")
    check_next_build(conn)


def check_next_build(conn: Connection) -> None:
    """The session's next indexes are right, and none is left of the failed build."""
    configure(conn, statement_timeout=0)
    assert index_count(conn) == 0
    conn.execute("DROP TABLE items")
    create_table(conn, DATA.base[:1000])
    create_index(conn, 4, "cosine")
    # outside a build a zero vector is left out by the insert itself
    insert(conn, "items", [7000], np.zeros((1, 24), np.float32))
    assert recall(conn, 1000, "cosine") >= 0.97
    assert trained_rows(conn) == 1000


def test_a_cancelled_build_leaves_a_usable_session(conn: Connection) -> None:
    create_table(conn, DATA.base)
    configure(conn, statement_timeout=100)
    with pytest.raises(psycopg.errors.QueryCanceled):
        create_index(conn, options=", m = 64, ef_construction = 1000")
    check_next_build(conn)


@both_bits
def test_a_vector_too_large_to_quantize_fails_the_build_only(conn: Connection, bits: int) -> None:
    create_table(conn, DATA.base)
    execute(conn, "INSERT INTO items VALUES (9000, %s)", [np.full(24, 3e38, np.float32)])
    with pytest.raises(psycopg.errors.NumericValueOutOfRange, match=r"cannot quantize vector: .*too large"):
        create_index(conn, bits)
    check_next_build(conn)


@pytest.mark.parametrize("call", [300, 700], ids=["in the sample", "in the graph"])
def test_a_failing_expression_fails_the_build_only(conn: Connection, call: int) -> None:
    """Every row is read twice, once for the centroid and once for the graph."""
    create_table(conn, DATA.base[:500])
    conn.execute("SET test.calls = 0")
    execute(
        conn,
        f"""
        CREATE FUNCTION fussy(v vector) RETURNS vector LANGUAGE plpgsql IMMUTABLE AS $$
        BEGIN
            PERFORM set_config('test.calls', (current_setting('test.calls')::int + 1)::text, false);
            IF current_setting('test.calls')::int = {call} THEN RAISE 'call {call}'; END IF;
            RETURN v;
        END $$""",
    )
    with pytest.raises(psycopg.errors.RaiseException, match=f"call {call}"):
        create_index(conn, target="(fussy(embedding)::vector(24))")
    check_next_build(conn)


def test_a_vector_too_large_to_quantize_is_refused_by_inserts(conn: Connection) -> None:
    create_table(conn, DATA.base[:100])
    create_index(conn)
    huge = np.full(24, 3e38, np.float32)
    with pytest.raises(psycopg.errors.NumericValueOutOfRange, match="cannot quantize vector"):
        execute(conn, "INSERT INTO items VALUES (9000, %s)", [huge])
    force_index(conn)
    with pytest.raises(psycopg.errors.NumericValueOutOfRange, match="cannot quantize vector"):
        search(conn, huge)
    assert value(conn, "SELECT count(*) FROM items") == 100
    assert search_ids(conn, DATA.base[5], 1) == [5]


@pytest.mark.parametrize("scale", [1e-45, 1e-39, 1e-30, 1e37])
def test_lengths_that_pgvector_takes_under_cosine_are_no_error(conn: Connection, scale: float) -> None:
    """pgvector's own distance is NaN for most of these rows; one of them must not spoil a build or a scan."""
    X = np.tile(DATA.base[:50], (2, 1))
    X[50] *= np.float32(scale) / np.abs(X[50]).max()
    assert X[50].any()
    create_table(conn, X)
    create_index(conn, 4, "cosine")
    insert(conn, "items", [100], X[50:51])
    force_index(conn)
    assert len(search(conn, X[50], 5, "cosine")) == 5
    assert sorted(search_ids(conn, X[7], 2, "cosine")) == [7, 57]


def test_a_build_may_search_and_fill_another_index(conn: Connection) -> None:
    """The expression of the outer index scans an inner one and inserts into it."""
    create_table(conn, DATA.base[:200], "inner_items")
    create_index(conn, 4, "cosine", "inner_items")
    inner = model(conn, "inner_items_bq")
    conn.execute("""
        CREATE FUNCTION busy(v vector) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
        BEGIN
            PERFORM id FROM public.inner_items ORDER BY embedding OPERATOR(public.<=>) v LIMIT 1;
            INSERT INTO public.inner_items VALUES (1000, v);
        END $$""")
    # a lie to the planner, but nothing stops a user from telling it
    conn.execute("""
        CREATE FUNCTION quiet(v vector) RETURNS vector LANGUAGE plpgsql IMMUTABLE AS
        $$ BEGIN PERFORM public.busy(v); RETURN v; END $$""")
    create_table(conn, DATA.base[:300])
    create_index(conn, 1, target="(quiet(embedding)::vector(24))")
    assert value(conn, "SELECT count(*) FROM inner_items WHERE id = 1000") >= 300
    assert model(conn, "inner_items_bq") == inner
    go_on_until_the_limit(conn, 200)
    force_index(conn)
    assert search(conn, DATA.base[250], 1, "cosine", "inner_items")[0][1] == pytest.approx(0, abs=1e-6)
    expression = "quiet(embedding)::vector(24) <-> %(q)s"
    text = f"SELECT id FROM items ORDER BY {expression} LIMIT 1"
    assert conn.execute(text.encode(), {"q": DATA.base[250]}).fetchone() == (250,)


def test_a_code_that_exceeds_a_page_is_refused(conn: Connection) -> None:
    conn.execute("CREATE TABLE items (id integer, embedding vector(16000))")
    with pytest.raises(psycopg.errors.ProgramLimitExceeded, match=r"16000 dimensions .* bits = 8"):
        create_index(conn, 8)


@both_bits
def test_16000_dimensions(conn: Connection, bits: int) -> None:
    X = gaussian(8, 16_000, n_queries=1, random_state=8).base
    create_table(conn, X[:5])
    create_index(conn, bits, "cosine")
    insert(conn, "items", range(5, 8), X[5:])
    force_index(conn)
    for i in range(8):
        assert search_ids(conn, X[i], 8, "cosine")[0] == i
    assert sorted(search_ids(conn, X[0], 8, "cosine")) == list(range(8))
    stored = RaBitQ.from_bytes(model(conn))
    assert (stored.dim_, stored.bits, stored.n_trained_) == (16_000, bits, 5)
    conn.execute("DELETE FROM items WHERE id < 4")
    conn.execute("VACUUM items")
    assert sorted(search_ids(conn, X[0], 8, "cosine")) == [4, 5, 6, 7]


@pytest.mark.parametrize("storage", ["EXTERNAL", "EXTENDED", "MAIN"])
@both_metrics
def test_toasted_and_compressed_vectors(conn: Connection, metric: str, storage: str) -> None:
    X, queries = np.zeros((400, 1024), np.float32), np.zeros((20, 1024), np.float32)
    X[:, :24], queries[:, :24] = DATA.base[:400], DATA.queries
    create_table(conn, X[:0])
    execute(conn, f"ALTER TABLE items ALTER embedding SET STORAGE {storage}")
    insert(conn, "items", range(300), X[:300])
    create_index(conn, 4, metric)
    insert(conn, "items", range(300, 400), X[300:])
    compressed = value(conn, "SELECT avg(pg_column_size(embedding)) FROM items") < 4096
    assert compressed == (storage != "EXTERNAL")
    force_index(conn)
    truths = exact_search(X, queries, 10, metric)[0]
    found = [search(conn, q, 10, metric) for q in queries]
    assert all([d for _, d in rows] == sorted(d for _, d in rows) for rows in found)
    assert sum(hits([i for i, _ in rows], t) for rows, t in zip(found, truths, strict=True)) >= 180
