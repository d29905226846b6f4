"""A hot standby answers as its primary does, whatever happens to the index there, and can take its place."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import psycopg
import pytest
from conftest import DSN_VARIABLE, Server
from pgvector.psycopg import register_vector
from standby import catch_up, streaming_standby
from support import (
    Connection,
    configure,
    create_index,
    create_table,
    execute,
    force_index,
    insert,
    model,
    plan,
    search,
    search_ids,
    search_sql,
    table_recall,
    trained_rows,
    value,
)

from bqcore.datasets import clustered
from bqcore_postgres import EmbeddedServer

pytestmark = pytest.mark.postgres

DATA = clustered(2000, 100, n_queries=20, random_state=31)


@pytest.fixture(scope="module")
def standby(server: Server) -> Iterator[EmbeddedServer]:
    """Standby of the shared server."""
    if not isinstance(server, EmbeddedServer):
        pytest.skip(f"takes a base backup of the server, which {DSN_VARIABLE} names and is not ours")
    with streaming_standby(server) as running:
        yield running


def reader(server: EmbeddedServer, database: str) -> Connection:
    conn = server.connect(database)
    register_vector(conn)
    conn.execute("LOAD 'bqcore'")
    configure(conn, hnsw_ef_search=100)
    force_index(conn)
    return conn


def answers(conn: Connection, metric: str) -> list[list[tuple[int, float]]]:
    assert "Index Scan using items_bq" in plan(conn, search_sql(metric), {"q": DATA.queries[0]})
    return [search(conn, q, 40, metric) for q in DATA.queries]


@pytest.mark.parametrize(("metric", "bits"), [("l2", 1), ("cosine", 4)])
def test_a_standby_gives_the_same_rows_and_distances(
    embedded: EmbeddedServer, standby: EmbeddedServer, database: str, conn: Connection, metric: str, bits: int
) -> None:
    """One session of the standby sees it all, so that what it has cached has to follow."""
    create_table(conn, DATA.base[:0])
    insert(conn, "items", range(1000), DATA.base[:1000])
    create_index(conn, bits, metric)
    catch_up(embedded, standby)
    with reader(embedded, database) as primary, reader(standby, database) as replica:
        assert value(replica, "SELECT pg_is_in_recovery()")

        def check(event: str, rows: int) -> None:
            catch_up(embedded, standby)
            assert model(replica) == model(primary), event
            assert trained_rows(replica) == trained_rows(primary), event
            assert value(replica, "SELECT count(*) FROM items") == rows, event
            expected = answers(primary, metric)
            assert answers(replica, metric) == expected, event
            assert all(len(found) == min(rows, 40) for found in expected), event
            encode = "SELECT bqcore_index_encode('items_bq', %s)"
            assert value(replica, encode, [DATA.queries[0]]) == value(primary, encode, [DATA.queries[0]])

        check("create index", 1000)
        insert(conn, "items", range(1000, 1500), DATA.base[1000:1500])
        check("insert", 1500)
        conn.execute("DELETE FROM items WHERE id % 3 = 0")
        check("delete", 1000)
        conn.execute("VACUUM items")
        check("vacuum", 1000)
        insert(conn, "items", range(1500, 2000), DATA.base[1500:])
        check("insert into vacuumed space", 1500)
        conn.execute("UPDATE items SET embedding = embedding * embedding WHERE id % 10 = 1")
        check("update", 1500)
        assert table_recall(replica, DATA.queries, metric) >= 0.9
        models = {model(conn)}
        for how in ("INDEX", "INDEX CONCURRENTLY", "TABLE"):
            # 50 rows fewer, so that the centroid is another one
            conn.execute("DELETE FROM items WHERE id IN (SELECT id FROM items ORDER BY id LIMIT 50)")
            execute(conn, f"REINDEX {how} items{'_bq' if 'INDEX' in how else ''}")
            models.add(model(conn))
            check(f"reindex {how}", 1450 - 50 * (len(models) - 2))
        assert len(models) == 4
        conn.execute("VACUUM FULL items")
        check("vacuum full", 1350)
        standby.restart("immediate")
        replica = reader(standby, database)
        check("crash of the standby", 1350)
        conn.execute("TRUNCATE items")
        check("truncate", 0)
        insert(conn, "items", range(300), DATA.base[:300])
        check("insert after truncate", 300)
        conn.execute("DROP INDEX items_bq")
        create_index(conn, bits, metric, concurrently=True)
        check("create index concurrently", 300)
        assert table_recall(replica, DATA.queries, metric) >= 0.9
        assert trained_rows(replica) == 300
        replica.close()


def test_a_standby_is_read_while_its_primary_writes_and_vacuums(
    embedded: EmbeddedServer, standby: EmbeddedServer, database: str, conn: Connection
) -> None:
    create_table(conn, DATA.base[:1000])
    create_index(conn, 4)
    catch_up(embedded, standby)
    errors: list[BaseException] = []
    scans = 0
    done = threading.Event()

    def read() -> None:
        nonlocal scans
        try:
            with reader(standby, database) as replica:
                while not done.is_set():
                    for q in DATA.queries:
                        rows = search(replica, q)
                        assert len(rows) == 10
                        assert len({i for i, _ in rows}) == 10
                        assert [d for _, d in rows] == sorted(d for _, d in rows)
                        scans += 1
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    until = time.monotonic() + 2
    first = 0
    while time.monotonic() < until:
        execute(conn, "DELETE FROM items WHERE id BETWEEN %s AND %s", [first, first + 99])
        conn.execute("VACUUM items")
        insert(conn, "items", range(first, first + 100), DATA.base[first + 1000 : first + 1100])
        first = (first + 100) % 1000
    conn.execute("REINDEX INDEX CONCURRENTLY items_bq")
    done.set()
    thread.join(60)
    assert errors == []
    assert scans > 100
    catch_up(embedded, standby)
    with reader(embedded, database) as primary, reader(standby, database) as replica:
        assert answers(replica, "l2") == answers(primary, "l2")
        assert table_recall(replica, DATA.queries, "l2") >= 0.9


def test_an_index_is_checked_on_a_standby_whose_replay_is_paused(
    embedded: EmbeddedServer, standby: EmbeddedServer, database: str, conn: Connection
) -> None:
    create_table(conn, DATA.base[:300])
    create_index(conn, 4)
    catch_up(embedded, standby)
    check = "SELECT heap_rows FROM bqcore_check('items_bq', true)"
    with standby.connect(database) as replica:
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="needs a paused replay"):
            replica.execute(check)
        replica.execute("SELECT pg_wal_replay_pause()")
        try:
            insert(conn, "items", range(300, 400), DATA.base[300:400])
            deadline = time.monotonic() + 30
            while value(replica, "SELECT pg_get_wal_replay_pause_state()") != "paused":
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert value(replica, check) in range(300, 401)
        finally:
            replica.execute("SELECT pg_wal_replay_resume()")
    assert value(conn, check) == 400


def test_a_check_on_a_standby_ends_when_replay_goes_on(
    embedded: EmbeddedServer, standby: EmbeddedServer, database: str, conn: Connection
) -> None:
    """Pages that were checked may have changed since, and nothing found in them is damage."""
    create_table(conn, DATA.base[:300])
    # called by the check of the table's rows, when the pages of the index have been read
    conn.execute("""
        CREATE FUNCTION go_on() RETURNS void LANGUAGE plpgsql VOLATILE AS $$
        DECLARE before pg_lsn := pg_last_wal_replay_lsn();
        BEGIN
            PERFORM pg_wal_replay_resume();
            FOR i IN 1 .. 3000 LOOP
                EXIT WHEN pg_last_wal_replay_lsn() > before;
                PERFORM pg_sleep(0.01);
            END LOOP;
            PERFORM pg_wal_replay_pause();
        END $$;
        CREATE FUNCTION same(v vector) RETURNS vector LANGUAGE plpgsql IMMUTABLE AS $$
        BEGIN
            IF pg_is_in_recovery() AND pg_get_wal_replay_pause_state() = 'paused' THEN
                PERFORM public.go_on();
            END IF;
            RETURN v;
        END $$""")
    create_index(conn, 4, target="(same(embedding)::vector(100))")
    catch_up(embedded, standby)
    with standby.connect(database) as replica:
        replica.execute("SELECT pg_wal_replay_pause()")
        try:
            deadline = time.monotonic() + 30
            while value(replica, "SELECT pg_get_wal_replay_pause_state()") != "paused":
                assert time.monotonic() < deadline
                time.sleep(0.01)
            insert(conn, "items", range(300, 400), DATA.base[300:400])
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="replay went on"):
                replica.execute("SELECT bqcore_check('items_bq', true)")
        finally:
            replica.execute("SELECT pg_wal_replay_resume()")


def test_a_promoted_standby_goes_on(embedded: EmbeddedServer, database: str, conn: Connection) -> None:
    create_table(conn, DATA.base[:1000])
    create_index(conn, 4)
    insert(conn, "items", range(1000, 1200), DATA.base[1000:1200])
    conn.execute("DELETE FROM items WHERE id < 100")
    stored = model(conn)
    with reader(embedded, database) as primary:
        before = answers(primary, "l2")
    with streaming_standby(embedded) as standby:
        create_table(conn, DATA.base[:200], "forgotten", kind="UNLOGGED")
        create_index(conn, 4, table="forgotten")
        catch_up(embedded, standby)
        with reader(standby, database) as promoted:
            assert answers(promoted, "l2") == before
            assert value(promoted, "SELECT pg_promote()")
            assert model(promoted) == stored
            assert answers(promoted, "l2") == before
            insert(promoted, "items", range(1200, 2000), DATA.base[1200:])
            assert model(promoted) == stored
            assert table_recall(promoted, DATA.queries, "l2") >= 0.9
            promoted.execute("VACUUM items")
            assert table_recall(promoted, DATA.queries, "l2") >= 0.9
            # of an unlogged table only the init fork arrives
            assert trained_rows(promoted, "forgotten_bq") == 0
            insert(promoted, "forgotten", range(200), DATA.base[:200])
            assert search_ids(promoted, DATA.base[7], 1, table="forgotten") == [7]
            after = answers(promoted, "l2")
            standby.restart("immediate")
            with reader(standby, database) as again:
                assert answers(again, "l2") == after
                again.execute("REINDEX INDEX items_bq")
                assert trained_rows(again) == 1900
                assert table_recall(again, DATA.queries, "l2") >= 0.9
