"""Statements cancelled at random moments: the index stays right, and nothing of them stays behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import psycopg
import pytest
from conftest import Server
from support import (
    Connection,
    column,
    configure,
    create_index,
    create_table,
    execute,
    force_index,
    insert,
    orphaned_files,
    search,
    stored_rows,
    table_recall,
    trained_rows,
    value,
)

from bqcore.datasets import clustered

pytestmark = [pytest.mark.postgres, pytest.mark.usefixtures("quiet")]

DATA = clustered(1200, 24, n_queries=20, random_state=53)
ROUNDS = 6


class Interrupter:
    """Runs statements and cancels them, in turn by pg_cancel_backend and by statement_timeout.

    The first one comes to its end. What it takes is the limit of the random time that the others have; the
    limit then follows the load, so that about half of them end too.
    """

    def __init__(self, server: Server, conn: Connection, seed: int) -> None:
        self._server = server
        self._conn = conn
        self._rng = np.random.default_rng(seed)
        self._seconds = 0.0
        self.ended: list[bool] = []

    def run(self, text: str) -> bool:
        """Return whether the statement came to its end."""
        if not self.ended:
            start = time.monotonic()
            execute(self._conn, text)
            self._seconds = time.monotonic() - start
            self.ended.append(True)
            return True
        delay = self._rng.uniform(0, self._seconds)
        timer = None
        with self._server.connect() as other:
            if len(self.ended) % 2:
                configure(self._conn, statement_timeout=int(1000 * delay) + 1)
            else:
                arguments = (other, "SELECT pg_cancel_backend(%s)", [self._conn.info.backend_pid])
                timer = threading.Timer(delay, execute, arguments)
                timer.start()
            try:
                execute(self._conn, text)
                self.ended.append(True)
            except psycopg.errors.QueryCanceled:
                self.ended.append(False)
            if timer:
                timer.join()
        self._conn.execute("RESET statement_timeout")
        self._seconds *= 0.8 if self.ended[-1] else 1.2
        return self.ended[-1]


def contexts(conn: Connection) -> list[str]:
    """Memory contexts of ours, all of which belong to running statements."""
    return column(conn, "SELECT name FROM pg_backend_memory_contexts WHERE name LIKE 'bq%'")


def check(conn: Connection, ids: set[int], recall: float = 0.9) -> None:
    """The one index of the table is valid and answers with these rows."""
    indexes = execute(
        conn,
        "SELECT indisvalid, indisready FROM pg_index WHERE indrelid = 'items'::regclass",
    )
    assert indexes.fetchall() == [(True, True)]
    assert set(stored_rows(conn)[0].tolist()) == ids
    configure(conn, hnsw_ef_search=200)
    force_index(conn)
    assert table_recall(conn, DATA.queries) >= recall


def rounds(
    server: Server, conn: Connection, text: Callable[[int], str], after: Callable[[bool], None], seed: int
) -> None:
    interrupter = Interrupter(server, conn, seed)
    orphans = orphaned_files(conn)
    for i in range(ROUNDS):
        after(interrupter.run(text(i)))
        assert contexts(conn) == []
    assert interrupter.ended.count(False) >= 2, interrupter.ended
    assert orphaned_files(conn) <= orphans


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cancelled_create_index_leaves_nothing(server: Server, conn: Connection, workers: int) -> None:
    create_table(conn, DATA.base)
    execute(conn, f"ALTER TABLE items SET (parallel_workers = {workers})")
    configure(conn, max_parallel_maintenance_workers=workers)

    def after(ended: bool) -> None:
        count = value(conn, "SELECT count(*) FROM pg_class WHERE relname LIKE 'items%%bq%%'")
        assert count == ended
        assert value(conn, "SHOW bqcore.build_segment") == ""
        if ended:
            check(conn, set(range(1200)))
            conn.execute("DROP INDEX items_bq")

    create = "CREATE INDEX items_bq ON items USING bqhnsw (embedding vector_l2_ops) WITH (bits = 4)"
    rounds(server, conn, lambda i: create, after, workers)
    create_index(conn, 4)
    check(conn, set(range(1200)))


def test_a_cancelled_concurrent_build_is_invalid_until_it_is_reindexed(
    server: Server, conn: Connection
) -> None:
    create_table(conn, DATA.base[:1100])
    state = "SELECT indisvalid FROM pg_index WHERE indrelid = 'items'::regclass"
    added = iter(range(1100, 1200, 10))

    def after(ended: bool) -> None:
        valid = column(conn, state)
        assert valid in ([[True]] if ended else [[], [False]])
        first = next(added)
        insert(conn, "items", range(first, first + 10), DATA.base[first : first + 10])
        if valid == [False]:
            assert "items_bq" not in str(
                column(conn, "EXPLAIN SELECT id FROM items ORDER BY embedding <-> %s", [DATA.base[0]])
            )
            conn.execute("REINDEX INDEX items_bq")
        if valid:
            check(conn, set(range(first + 10)))
            conn.execute("DROP INDEX items_bq")

    create = (
        "CREATE INDEX CONCURRENTLY items_bq ON items USING bqhnsw (embedding vector_l2_ops) WITH (bits = 4)"
    )
    rounds(server, conn, lambda i: create, after, 10)


@pytest.mark.parametrize("concurrently", ["", "CONCURRENTLY"])
def test_a_cancelled_reindex_leaves_the_old_index(
    server: Server, conn: Connection, concurrently: str
) -> None:
    create_table(conn, DATA.base[:800])
    create_index(conn, 1)
    insert(conn, "items", range(800, 1200), DATA.base[800:])

    def after(ended: bool) -> None:
        left = column(
            conn,
            "SELECT relname FROM pg_class JOIN pg_index ON indexrelid = oid "
            "WHERE indrelid = 'items'::regclass AND NOT indisvalid",
        )
        assert not left or (concurrently and not ended)
        for name in left:
            execute(conn, f"DROP INDEX {name}")
        # CONCURRENTLY may be cancelled after the swap, while it drops the old one
        assert trained_rows(conn) in ((1200,) if ended else (800, 1200) if concurrently else trained)
        trained[:] = [trained_rows(conn)]
        check(conn, set(range(1200)))

    trained = [800]
    rounds(server, conn, lambda i: f"REINDEX INDEX {concurrently} items_bq", after, 20 + len(concurrently))


def test_rows_of_cancelled_inserts_are_never_returned(server: Server, conn: Connection) -> None:
    create_table(conn, DATA.base[:800])
    create_index(conn)
    create_table(conn, DATA.base[800:], "more")
    ids = set(range(800))

    def after(ended: bool) -> None:
        if ended:
            ids.update(range(last[0] * 1000, last[0] * 1000 + 400))
        check(conn, ids)

    last = [0]

    def text(i: int) -> str:
        last[0] = i + 1
        scale = 1 + i / 10
        vector = f"embedding * array_fill({scale}::real, ARRAY[24])::vector"
        return f"INSERT INTO items SELECT id + {(i + 1) * 1000}, {vector} FROM more"

    rounds(server, conn, text, after, 30)
    conn.execute("VACUUM items")
    check(conn, ids)


def test_a_cancelled_vacuum_can_be_repeated(server: Server, conn: Connection) -> None:
    create_table(conn, DATA.base)
    create_index(conn)
    ids = set(range(1200))
    next_id = 1200

    def text(i: int) -> str:
        nonlocal next_id
        gone = sorted(ids)[i::3]
        execute(conn, "DELETE FROM items WHERE id = ANY(%s)", [gone])
        ids.difference_update(gone)
        fresh = range(next_id, next_id + len(gone))
        insert(conn, "items", fresh, DATA.base[[j % 1200 for j in fresh]])
        ids.update(fresh)
        next_id += len(gone)
        return "VACUUM items"

    rounds(server, conn, text, lambda ended: check(conn, ids), 40)
    conn.execute("VACUUM items")
    check(conn, ids)


@pytest.mark.parametrize("mode", ["off", "relaxed_order", "strict_order"])
def test_cancelled_scans_leave_the_next_ones_right(server: Server, conn: Connection, mode: str) -> None:
    create_table(conn, DATA.base)
    create_index(conn, 1)
    force_index(conn)
    configure(conn, hnsw_iterative_scan=mode)
    before = [search(conn, q) for q in DATA.queries]
    texts = [
        "SELECT count(n.id) FROM (SELECT * FROM items LIMIT 200) i "
        "CROSS JOIN LATERAL (SELECT id FROM items o ORDER BY o.embedding <-> i.embedding LIMIT 200) n",
        "SELECT bqcore_recall('items_bq', 10, 1000)",
    ]

    def after(ended: bool) -> None:
        assert value(conn, "SHOW hnsw.iterative_scan") == mode
        assert [search(conn, q) for q in DATA.queries] == before

    rounds(server, conn, lambda i: texts[i // 2 % 2], after, 50)
