"""An index over its life: inserts, updates, deletes, vacuum, rollback, rebuilds, drops."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import psycopg
import pytest
from conftest import Server
from pgvector.psycopg import register_vector
from support import (
    BITS,
    METRICS,
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
    model,
    orphaned_files,
    search,
    search_ids,
    size,
    trained_rows,
    value,
)

from bqcore import RaBitQ
from bqcore.datasets import clustered
from bqcore.evaluation import exact_search

pytestmark = pytest.mark.postgres

both_bits = pytest.mark.parametrize("bits", BITS)
both_metrics = pytest.mark.parametrize("metric", METRICS)

DATA = clustered(2000, 24, n_queries=10, random_state=11)


def check_answers(conn: Connection, X: FloatArray, ids: Any, metric: str = "l2", floor: float = 0.9) -> None:
    """Searches return only rows of X, numbered by ids, in exact order, with a recall@10 of at least floor."""
    go_on_until_the_limit(conn, 100)
    force_index(conn)
    numbers = np.asarray(ids)
    truths = numbers[exact_search(X, DATA.queries, 10, metric)[0]]
    found = 0
    for q, truth in zip(DATA.queries, truths, strict=True):
        rows = search(conn, q, 10, metric)
        assert len(rows) == 10
        assert {i for i, _ in rows} <= set(numbers.tolist())
        assert [d for _, d in rows] == sorted(d for _, d in rows)
        found += hits([i for i, _ in rows], truth)
    assert found >= floor * 10 * len(truths)


def leftovers(conn: Connection, name: str, path: str) -> tuple[int, Any]:
    """Count what is left of an index: entries of the catalog, and its file after a checkpoint."""
    conn.execute("CHECKPOINT")
    entries = value(conn, "SELECT count(*) FROM pg_class WHERE relname = %s", [name])
    return int(entries), value(conn, "SELECT (pg_stat_file(%s, true)).size", [path])


def file_path(conn: Connection, name: str = "items_bq") -> str:
    return str(value(conn, "SELECT pg_relation_filepath(%s)", [name]))


def catalog_rows(conn: Connection) -> dict[str, int]:
    """Rows of every system catalog but those of statistics."""
    catalogs = column(
        conn,
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname !~ 'statistic' "
        "AND relnamespace = 'pg_catalog'::regnamespace",
    )
    return {name: value(conn, f"SELECT count(*) FROM {name}") for name in catalogs}


@both_bits
@both_metrics
def test_rows_inserted_into_an_empty_index_are_all_found(conn: Connection, metric: str, bits: int) -> None:
    create_table(conn, DATA.base[:0])
    create_index(conn, bits, metric)
    force_index(conn)
    assert search(conn, DATA.queries[0], 10, metric) == []
    insert(conn, "items", range(500), DATA.base[:500])
    assert trained_rows(conn) == 0
    configure(conn, hnsw_ef_search=100)
    assert [search_ids(conn, x, 1, metric)[0] for x in DATA.base[:500]] == list(range(500))


@both_bits
@both_metrics
def test_updates_deletes_and_vacuum(conn: Connection, metric: str, bits: int) -> None:
    create_table(conn, DATA.base[:1000])
    create_index(conn, bits, metric)
    conn.execute("DELETE FROM items WHERE id % 3 = 0")
    conn.cursor().executemany(
        "UPDATE items SET embedding = %s WHERE id = %s",
        [(DATA.base[1000 + i], i) for i in range(1, 1000, 3)],
    )
    ids = [i for i in range(1000) if i % 3]
    X = np.array([DATA.base[1000 + i] if i % 3 == 1 else DATA.base[i] for i in ids])
    check_answers(conn, X, ids, metric)
    for _ in range(2):
        conn.execute("VACUUM items")
        check_answers(conn, X, ids, metric)
    conn.execute("DELETE FROM items")
    conn.execute("VACUUM items")
    assert search(conn, DATA.queries[0], 10, metric) == []
    insert(conn, "items", range(1000), DATA.base[1000:])
    check_answers(conn, DATA.base[1000:], range(1000), metric)


@both_bits
def test_deleted_rows_do_not_use_up_the_window(conn: Connection, bits: int) -> None:
    create_table(conn, DATA.base)
    create_index(conn, bits)
    nearest = exact_search(DATA.base, DATA.queries, 60, "l2")[0].ravel()
    execute(conn, "DELETE FROM items WHERE id = ANY(%s)", [nearest.tolist()])
    kept = np.setdiff1d(np.arange(2000), nearest)
    check_answers(conn, DATA.base[kept], kept, floor=0.7)


def test_updates_of_other_columns_keep_rows_in_the_index(conn: Connection) -> None:
    """Heap-only tuples: the index points at the head of a chain, rescoring reads its visible end."""
    create_table(conn, DATA.base[:500], columns=", note integer DEFAULT 0")
    conn.execute("ALTER TABLE items SET (fillfactor = 50)")
    conn.execute("VACUUM FULL items")
    create_index(conn)
    before = size(conn, "items_bq")
    for _ in range(3):
        conn.execute("UPDATE items SET note = note + 1")
        check_answers(conn, DATA.base[:500], range(500))
        conn.execute("VACUUM items")
    hot = "SELECT pg_stat_get_xact_tuples_hot_updated('items'::regclass)"
    with conn.transaction():
        conn.execute("UPDATE items SET note = note + 1 WHERE id < 50")
        assert value(conn, hot) > 0
    check_answers(conn, DATA.base[:500], range(500))
    assert size(conn, "items_bq") < 3 * before


def test_vacuumed_space_is_used_again(conn: Connection) -> None:
    create_table(conn, DATA.base[:400])
    create_index(conn)
    sizes = [size(conn, "items_bq")]
    for _ in range(5):
        conn.execute("DELETE FROM items")
        conn.execute("VACUUM items")
        insert(conn, "items", range(400), DATA.base[:400])
        sizes.append(size(conn, "items_bq"))
    assert max(sizes) <= 1.3 * sizes[0]
    check_answers(conn, DATA.base[:400], range(400))


def test_parallel_vacuum(conn: Connection) -> None:
    create_table(conn, DATA.base)
    create_index(conn)
    create_index(conn, 4, "cosine", name="items_bq4")
    conn.execute("DELETE FROM items WHERE id % 2 = 0")
    configure(conn, min_parallel_index_scan_size="0", max_parallel_maintenance_workers=2)
    notices: list[str] = []
    conn.add_notice_handler(lambda diagnostic: notices.append(diagnostic.message_primary or ""))
    conn.execute("VACUUM (PARALLEL 2, VERBOSE) items")
    assert any("parallel vacuum worker" in notice for notice in notices)
    for metric in METRICS:
        check_answers(conn, DATA.base[1::2], range(1, 2000, 2), metric)


def test_rows_of_aborted_transactions_are_never_returned(conn: Connection) -> None:
    create_table(conn, DATA.base[:500])
    create_index(conn)
    with conn.transaction(force_rollback=True):
        insert(conn, "items", range(5000, 5300), np.tile(DATA.queries, (30, 1)))
        assert min(search_ids(conn, DATA.queries[0], 10)) >= 5000
    check_answers(conn, DATA.base[:500], range(500))
    with conn.transaction():
        with conn.transaction(force_rollback=True):
            insert(conn, "items", range(5000, 5100), np.tile(DATA.queries, (10, 1)))
        insert(conn, "items", range(500, 600), DATA.base[500:600])
    check_answers(conn, DATA.base[:600], range(600))


def test_a_rolled_back_create_index_leaves_nothing(conn: Connection) -> None:
    create_table(conn, DATA.base[:500])
    with conn.transaction(force_rollback=True):
        create_index(conn)
        path = file_path(conn)
        assert value(conn, "SELECT (pg_stat_file(%s)).size", [path]) > 0
    assert leftovers(conn, "items_bq", path) == (0, None)
    with conn.transaction():
        with conn.transaction(force_rollback=True):
            create_index(conn, 4)
            path = file_path(conn)
        insert(conn, "items", range(500, 600), DATA.base[500:600])
        create_index(conn, 1)
    assert leftovers(conn, "items_bq", path) == (1, None)
    check_answers(conn, DATA.base[:600], range(600))


@both_metrics
def test_truncate_empties_index_and_model(conn: Connection, metric: str) -> None:
    create_table(conn, DATA.base[:500])
    create_index(conn, 1, metric)
    conn.execute("TRUNCATE items")
    force_index(conn)
    assert search(conn, DATA.queries[0], 10, metric) == []
    assert trained_rows(conn) == 0
    insert(conn, "items", range(1000), DATA.base[:1000])
    check_answers(conn, DATA.base[:1000], range(1000), metric)


def check_model_in_use(conn: Connection) -> None:
    """The model that this session encodes with is the one on the index's pages."""
    stored = RaBitQ.from_bytes(model(conn))
    expected = stored.encode(DATA.base[:1])
    code = value(conn, "SELECT bqcore_index_encode('items_bq', %s)", [DATA.base[0]])
    assert code == expected.packed.tobytes() + expected.factors.tobytes()


def test_truncate_in_the_creating_transaction_replaces_the_cached_model(conn: Connection) -> None:
    """Such a TRUNCATE rebuilds the index in place, in the same file."""
    with conn.transaction():
        create_table(conn, DATA.base[:500])
        create_index(conn)
        path = file_path(conn)
        insert(conn, "items", range(500, 600), DATA.base[500:600])
        assert trained_rows(conn) == 500
        conn.execute("TRUNCATE items")
        assert file_path(conn) == path
        assert trained_rows(conn) == 0
        insert(conn, "items", range(1000), DATA.base[:1000])
        check_model_in_use(conn)
        check_answers(conn, DATA.base[:1000], range(1000))


def test_temporary_tables(conn: Connection) -> None:
    create_table(conn, DATA.base[:1000], kind="TEMP")
    create_index(conn, 4)
    insert(conn, "items", range(1000, 1200), DATA.base[1000:1200])
    conn.execute("DELETE FROM items WHERE id < 100")
    conn.execute("VACUUM items")
    check_answers(conn, DATA.base[100:1200], range(100, 1200))
    check_model_in_use(conn)


def test_temporary_tables_emptied_on_commit(conn: Connection) -> None:
    execute(conn, "CREATE TEMP TABLE items (id integer, embedding vector(24)) ON COMMIT DELETE ROWS")
    create_index(conn)
    for reindex in (False, True, False):
        with conn.transaction():
            insert(conn, "items", range(300), DATA.base[:300])
            if reindex:
                conn.execute("REINDEX INDEX items_bq")
            assert trained_rows(conn) == (300 if reindex else 0)
            insert(conn, "items", range(300, 400), DATA.base[300:400])
            check_model_in_use(conn)
            check_answers(conn, DATA.base[:400], range(400))


@both_metrics
@pytest.mark.parametrize("concurrently", ["", "CONCURRENTLY"])
def test_reindex_takes_the_centroid_anew(conn: Connection, metric: str, concurrently: str) -> None:
    create_table(conn, DATA.base[:0])
    create_index(conn, 1, metric)
    insert(conn, "items", range(500), DATA.base[:500])
    check_answers(conn, DATA.base[:500], range(500), metric)
    before = model(conn)
    execute(conn, f"REINDEX INDEX {concurrently} items_bq")
    assert trained_rows(conn) == 500
    assert model(conn) != before
    check_model_in_use(conn)
    insert(conn, "items", range(500, 600), DATA.base[500:600])
    check_answers(conn, DATA.base[:600], range(600), metric)
    assert value(conn, "SELECT count(*) FROM pg_class WHERE relname LIKE 'items_bq%'") == 1


def test_create_index_concurrently_misses_no_row_of_an_older_transaction(
    server: Server, conn: Connection, database: str
) -> None:
    create_table(conn, DATA.base[:1000])
    with server.connect(database) as other:
        with other.transaction():
            insert(other, "items", range(1000, 1100), DATA.base[1000:1100])
            builder = threading.Thread(target=create_index, args=(conn, 4), kwargs={"concurrently": True})
            builder.start()
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = %s"
            for _ in range(200):
                if value(other, waiting, [conn.info.backend_pid]):
                    break
                other.execute("SELECT pg_sleep(.01)")
            assert builder.is_alive()
        builder.join(20)
    assert value(conn, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'items_bq'::regclass")
    check_answers(conn, DATA.base[:1100], range(1100))


@pytest.mark.parametrize("how", ["DROP INDEX items_bq", "DROP EXTENSION bqcore CASCADE", "DROP TABLE items"])
def test_a_dropped_index_leaves_nothing(conn: Connection, how: str) -> None:
    if "EXTENSION" in how:
        conn.execute("DROP EXTENSION bqcore")
    create_table(conn, DATA.base[:500])
    # an immediate stop in an earlier test may have left files, as Postgres does
    before, orphans = catalog_rows(conn), orphaned_files(conn)
    conn.execute("CREATE EXTENSION IF NOT EXISTS bqcore")
    create_index(conn)
    path = file_path(conn)
    execute(conn, how)
    assert leftovers(conn, "items_bq", path) == (0, None)
    assert orphaned_files(conn) <= orphans
    if "TABLE" not in how:
        assert catalog_rows(conn) == before
    if "TABLE" not in how:
        assert len(search(conn, DATA.queries[0])) == 10
    conn.execute("CREATE EXTENSION IF NOT EXISTS bqcore")
    conn.execute("DROP TABLE IF EXISTS items")
    create_table(conn, DATA.base[:500])
    create_index(conn, 4)
    check_answers(conn, DATA.base[:500], range(500))


def test_an_index_in_use_keeps_its_extension(conn: Connection) -> None:
    create_table(conn, DATA.base[:10])
    create_index(conn)
    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        conn.execute("DROP EXTENSION bqcore")


@pytest.mark.parametrize(
    "how",
    [
        "VACUUM FULL items",
        "ALTER TABLE items ALTER embedding TYPE vector(24) USING embedding::halfvec(24)::vector",
    ],
)
def test_a_rewritten_table_gets_a_new_index(conn: Connection, how: str) -> None:
    create_table(conn, DATA.base)
    create_index(conn, 4)
    conn.execute("DELETE FROM items WHERE id < 1000")
    execute(conn, how)
    assert trained_rows(conn) == 1000
    check_answers(conn, DATA.base[1000:], range(1000, 2000))


def test_extensions_in_schemas_of_their_own(server: Server, database: str) -> None:
    with server.connect(database) as conn:
        conn.execute("CREATE SCHEMA v; CREATE SCHEMA b; CREATE EXTENSION vector SCHEMA v")
        conn.execute("CREATE EXTENSION bqcore SCHEMA b")
        conn.execute("SET search_path = public, v, b")
        create_table(conn, DATA.base[:500])
        create_index(conn)
        conn.execute("SET search_path = public, v")
        check_answers(conn, DATA.base[:500], range(500))
        assert value(conn, "SELECT b.bqcore_recall('items_bq')") > 0.9


@both_bits
def test_concurrent_inserts_deletes_scans_and_vacuum(
    server: Server, conn: Connection, database: str, bits: int
) -> None:
    create_table(conn, DATA.base[:500])
    create_index(conn, bits)
    errors: list[BaseException] = []
    done = threading.Event()

    def guarded(work: Any) -> threading.Thread:
        def run() -> None:
            try:
                with server.connect(database) as own:
                    register_vector(own)
                    work(own)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def write(first: int) -> Any:
        def work(own: Connection) -> None:
            for i in range(first, first + 120):
                execute(own, "INSERT INTO items VALUES (%s, %s)", [i, DATA.base[i]])
                own.execute("DELETE FROM items WHERE id = %s", [i - 500])

        return work

    def read(own: Connection) -> None:
        force_index(own)
        while not done.is_set():
            for q in DATA.queries:
                rows = search(own, q)
                assert [d for _, d in rows] == sorted(d for _, d in rows)

    def vacuum(own: Connection) -> None:
        while not done.is_set():
            own.execute("VACUUM items")

    writers = [guarded(write(500)), guarded(write(620))]
    others = [guarded(read), guarded(vacuum)]
    for thread in writers:
        thread.join(30)
    done.set()
    for thread in others:
        thread.join(30)
    assert errors == []
    ids = value(conn, "SELECT array_agg(id ORDER BY id) FROM items")
    check_answers(conn, DATA.base[ids], ids)
