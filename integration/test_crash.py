"""Crashes: answers and model are the same afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pgvector.psycopg import register_vector
from support import (
    BITS,
    Connection,
    configure,
    create_index,
    create_table,
    force_index,
    hits,
    insert,
    model,
    search,
    search_ids,
    server_options,
    trained_rows,
    value,
)

from bqcore.datasets import clustered
from bqcore.evaluation import exact_search
from bqcore_postgres import EmbeddedServer

pytestmark = pytest.mark.postgres

DATA = clustered(1500, 100, n_queries=20, random_state=13)


@pytest.fixture(scope="module")
def minimal(extension_dir: Path) -> Iterator[EmbeddedServer]:
    """Server that writes no WAL for what a transaction has created itself."""
    settings = {"wal_level": "minimal", "max_wal_senders": "0", "wal_skip_threshold": "0"}
    with EmbeddedServer(settings=settings, extension_dirs=[extension_dir], **server_options()) as running:
        yield running


def answers(conn: Connection, metric: str) -> list[list[tuple[int, float]]]:
    configure(conn, hnsw_ef_search=100)
    force_index(conn)
    return [search(conn, q, 40, metric) for q in DATA.queries]


def recall(conn: Connection, metric: str, ids: Any, floor: float) -> None:
    """recall@10 over the rows numbered by ids is at least floor, and no other row is returned."""
    configure(conn, hnsw_ef_search=100)
    force_index(conn)
    numbers = np.asarray(ids)
    truths = numbers[exact_search(DATA.base[numbers], DATA.queries, 10, metric)[0]]
    found = [search_ids(conn, q, 10, metric) for q in DATA.queries]
    assert {i for row in found for i in row} <= set(numbers.tolist())
    assert sum(map(hits, found, truths)) >= floor * truths.size


def reconnect(server: EmbeddedServer, database: str) -> Connection:
    conn = server.connect(database)
    register_vector(conn)
    return conn


@pytest.mark.parametrize(("metric", "bits"), [("l2", 1), ("cosine", 4)])
def test_recovery_replays_build_and_changes(
    embedded: EmbeddedServer, database: str, conn: Connection, metric: str, bits: int
) -> None:
    create_table(conn, DATA.base[:1000])
    conn.execute("CHECKPOINT")
    create_index(conn, bits, metric)
    insert(conn, "items", range(1000, 1200), DATA.base[1000:1200])
    conn.execute("CHECKPOINT")
    # the first change of the metapage after a checkpoint logs the page, later ones log differences
    insert(conn, "items", range(1200, 1500), DATA.base[1200:])
    conn.execute("DELETE FROM items WHERE id < 100")
    conn.execute("VACUUM items")
    conn.execute("DELETE FROM items WHERE id < 200")
    conn.execute("UPDATE items SET embedding = (SELECT embedding FROM items WHERE id = 300) WHERE id = 301")
    before, stored = answers(conn, metric), model(conn)
    assert all(len(rows) > 20 for rows in before)
    embedded.restart("immediate")
    assert "redo done" in embedded.log_tail()
    with reconnect(embedded, database) as again:
        assert model(again) == stored
        assert trained_rows(again) == 1000
        assert answers(again, metric) == before
        insert(again, "items", [5000], DATA.queries[:1])
        assert search_ids(again, DATA.queries[0], 1, metric) == [5000]
        again.execute("DELETE FROM items WHERE id IN (301, 5000)")
        recall(again, metric, [i for i in range(200, 1500) if i != 301], 0.9)


@pytest.mark.parametrize("bits", BITS)
def test_recovery_right_after_create_index_commits(
    embedded: EmbeddedServer, database: str, conn: Connection, bits: int
) -> None:
    create_table(conn, DATA.base)
    conn.execute("CHECKPOINT")
    create_index(conn, bits)
    stored, before = model(conn), answers(conn, "l2")
    embedded.restart("immediate")
    assert "redo done" in embedded.log_tail()
    with reconnect(embedded, database) as again:
        assert model(again) == stored
        assert answers(again, "l2") == before


def test_a_crash_during_create_index_leaves_no_index(
    embedded: EmbeddedServer, database: str, conn: Connection
) -> None:
    create_table(conn, DATA.base)
    builder = reconnect(embedded, database)
    builder.execute("BEGIN")
    create_index(builder)
    embedded.restart("immediate")
    builder.close()
    with reconnect(embedded, database) as again:
        assert value(again, "SELECT count(*) FROM pg_class WHERE relname = 'items_bq'") == 0
        create_index(again, 4)
        recall(again, "l2", range(1500), 0.95)


@pytest.mark.parametrize("bits", BITS)
def test_an_unlogged_table_is_empty_and_usable_after_a_crash(
    embedded: EmbeddedServer, database: str, conn: Connection, bits: int
) -> None:
    create_table(conn, DATA.base[:500], kind="UNLOGGED")
    create_index(conn, bits, "cosine")
    insert(conn, "items", range(500, 600), DATA.base[500:600])
    assert trained_rows(conn) == 500
    embedded.restart("immediate")
    with reconnect(embedded, database) as again:
        force_index(again)
        assert value(again, "SELECT count(*) FROM items") == 0
        assert search(again, DATA.queries[0], 10, "cosine") == []
        assert trained_rows(again) == 0
        insert(again, "items", range(800), DATA.base[:800])
        recall(again, "cosine", range(800), 0.9)
        again.execute("REINDEX TABLE items")
        assert trained_rows(again) == 800
        again.execute("ALTER TABLE items SET LOGGED")
        before = answers(again, "cosine")
    embedded.restart("immediate")
    with reconnect(embedded, database) as logged:
        assert answers(logged, "cosine") == before


def test_an_unlogged_table_keeps_its_rows_over_a_clean_restart(
    embedded: EmbeddedServer, database: str, conn: Connection
) -> None:
    create_table(conn, DATA.base, kind="UNLOGGED")
    create_index(conn)
    before = answers(conn, "l2")
    embedded.restart("fast")
    with reconnect(embedded, database) as again:
        assert answers(again, "l2") == before


@pytest.mark.parametrize("bits", BITS)
def test_recovery_without_wal_of_the_build(minimal: EmbeddedServer, bits: int) -> None:
    minimal.create_database(f"bits{bits}")
    with minimal.connect(f"bits{bits}") as conn:
        conn.execute("CREATE EXTENSION bqcore CASCADE")
        with conn.transaction():
            create_table(conn, DATA.base[:1000])
            create_index(conn, bits)
            insert(conn, "items", range(1000, 1500), DATA.base[1000:])
        stored, before = model(conn), answers(conn, "l2")
        minimal.restart("immediate")
    with reconnect(minimal, f"bits{bits}") as again:
        assert model(again) == stored
        assert answers(again, "l2") == before
