"""Immediate stops at random moments of what happens to an index, and what has to hold after recovery.

Two indexes (1 bit, l2; 4 bits, cosine) live on one table through all rounds, so that damage would add up.
Writers keep a ledger of what the server has acknowledged.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import psycopg
from pgvector.psycopg import register_vector
from support import (
    Connection,
    FloatArray,
    column,
    configure,
    create_index,
    create_table,
    execute,
    force_index,
    insert,
    plan,
    search_ids,
    search_sql,
    stored_rows,
    table_recall,
)

from bqcore.datasets import clustered
from bqcore_postgres import EmbeddedServer

DATA = clustered(4000, 24, n_queries=20, random_state=41)
INDEXES = {"l2": 1, "cosine": 4}
ROWS, MAX_ROWS = 1500, 2500
LOWEST_RECALL = 0.9
#: Share of the rows that a scan without end returns; pgvector's graph promises none.
LOWEST_REACH = 0.98

#: Statement under the fault, and number of writers beside it.
EVENTS: dict[str, tuple[str, int]] = {
    "insert": ("", 2),
    "vacuum": ("VACUUM items", 1),
    "create index": ("", 0),
    "create index concurrently": ("CONCURRENTLY", 1),
    "reindex": ("REINDEX TABLE items", 0),
    "reindex concurrently": ("REINDEX TABLE CONCURRENTLY items", 1),
}


def embedding(i: int) -> FloatArray:
    """Vector of row i; no two are equal."""
    noise = np.random.default_rng(i).normal(scale=0.1, size=DATA.base.shape[1])
    return np.asarray(DATA.base[i % len(DATA.base)] + noise, np.float32)


@dataclass
class Writer:
    """Transactions of one connection: rows acknowledged, and the change that was under way at the fault."""

    rows: set[int]
    next_id: int
    step: int
    pending: tuple[set[int], set[int]] = (set(), set())
    transactions: int = 0

    def run(self, conn: Connection, rng: np.random.Generator) -> None:
        """Insert and delete rows until the connection breaks."""
        while True:
            added = set(range(self.next_id, self.next_id + self.step * int(rng.integers(1, 12)), self.step))
            self.next_id = max(added) + self.step
            removed = set(rng.choice(sorted(self.rows), rng.integers(0, 8)).tolist()) if self.rows else set()
            self.pending = (removed, added)
            with conn.transaction():
                execute(conn, "DELETE FROM items WHERE id = ANY(%s)", [list(removed)])
                insert(conn, "items", added, np.array([embedding(i) for i in added]))
            self.rows = self.rows - removed | added
            self.pending = (set(), set())
            self.transactions += 1


@dataclass
class Figures:
    """What the rounds of one event have shown."""

    rounds: int = 0
    interrupted: int = 0
    #: The stop comes within this time. It follows what the statement takes: half of the stops interrupt it.
    seconds: float = 0.5
    transactions: int = 0
    recall: float = 1.0
    reach: float = 1.0

    def __str__(self) -> str:
        return (
            f"{self.rounds} rounds, {self.interrupted} statements interrupted, "
            f"{self.transactions} transactions committed, "
            f"lowest recall@10 {self.recall:.3f}, fewest rows reached {self.reach:.4f}"
        )


@dataclass
class Faults:
    """Rounds of one event each, on one table."""

    server: EmbeddedServer
    database: str
    rng: np.random.Generator
    rows: set[int] = field(default_factory=set)
    next_id: int = 0
    figures: dict[str, Figures] = field(default_factory=lambda: {name: Figures() for name in EVENTS})

    def connect(self) -> Connection:
        conn = self.server.connect(self.database)
        register_vector(conn)
        return conn

    def prepare(self) -> None:
        """Create table and indexes."""
        with self.connect() as conn:
            create_table(conn, DATA.base[:0])
            self.next_id = ROWS
            self.rows = set(range(ROWS))
            insert(conn, "items", range(ROWS), np.array([embedding(i) for i in range(ROWS)]))
            for metric in INDEXES:
                self.build(conn, metric)

    def build(self, conn: Connection, metric: str, concurrently: bool = False) -> None:
        create_index(conn, INDEXES[metric], metric, name=f"by_{metric}", concurrently=concurrently)

    def statement(self, event: str) -> Callable[[Connection], None] | None:
        """What runs while the server is stopped, after what has to happen before."""
        text = EVENTS[event][0]
        if event == "insert":
            return None
        if "create" in event:
            metric = str(self.rng.choice(list(INDEXES)))
            with self.connect() as conn:
                execute(conn, f"DROP INDEX by_{metric}")
            return lambda conn: self.build(conn, metric, bool(text))
        if event == "vacuum":
            with self.connect() as conn:
                gone = self.rng.choice(sorted(self.rows), len(self.rows) // 4, replace=False).tolist()
                execute(conn, "DELETE FROM items WHERE id = ANY(%s)", [gone])
                self.rows -= set(gone)
        return lambda conn: execute(conn, text) and None

    def round(self, event: str) -> None:
        """Stop the server somewhere in an event, start it, and check everything."""
        figures = self.figures[event]
        errors: list[BaseException] = []
        finished: list[str] = []
        stopping = threading.Event()
        connected = threading.Barrier(EVENTS[event][1] + (event != "insert") + 1)

        def guarded(name: str, work: Callable[[Connection], None]) -> threading.Thread:
            def run() -> None:
                try:
                    with self.connect() as conn:
                        connected.wait(30)
                        work(conn)
                    finished.append(name)
                except BaseException as error:
                    if not (stopping.is_set() and isinstance(error, psycopg.OperationalError)):
                        errors.append(error)

            thread = threading.Thread(target=run)
            thread.start()
            return thread

        statement = self.statement(event)
        threads = [guarded("statement", statement)] if statement else []
        n = EVENTS[event][1]
        order = self.rng.permutation(sorted(self.rows)).tolist()
        writers = [Writer(set(order[i::n]), self.next_id + i, n) for i in range(n)]
        for writer in writers:
            own = np.random.default_rng(self.rng.integers(2**32))
            threads.append(guarded("writer", partial(writer.run, rng=own)))
        connected.wait(30)
        time.sleep(self.rng.uniform(0, figures.seconds))
        stopping.set()
        self.server.stop("immediate")
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert errors == []
        self.server.start()
        figures.rounds += 1
        if statement:
            interrupted = "statement" not in finished
            figures.interrupted += interrupted
            figures.seconds *= 1.2 if interrupted else 0.8
        figures.transactions += sum(writer.transactions for writer in writers)
        with self.connect() as conn:
            self.check_rows(conn, writers)
            self.check_indexes(conn, event, figures)

    def check_rows(self, conn: Connection, writers: list[Writer]) -> None:
        """The table holds what was acknowledged, and of each transaction under way all or nothing."""
        ids, X = stored_rows(conn)
        np.testing.assert_array_equal(X, [embedding(i) for i in ids])
        found = set(ids.tolist())
        expected = set() if writers else self.rows
        for writer in writers:
            removed, added = writer.pending
            expected |= writer.rows - removed | added if found & added else writer.rows
            self.next_id = max(self.next_id, writer.next_id)
        assert found == expected
        self.rows = found

    def check_indexes(self, conn: Connection, event: str, figures: Figures) -> None:
        """Every index is valid or what Postgres promises to leave of it, and its answers are right."""
        indexes = (
            "SELECT relname FROM pg_class JOIN pg_index ON indexrelid = oid "
            "WHERE indrelid = 'items'::regclass AND indisvalid = {}"
        )
        invalid = column(conn, indexes.format("false"))
        assert not invalid or "concurrently" in event
        for name in invalid:
            execute(conn, f"DROP INDEX {name}")
        missing = {f"by_{metric}" for metric in INDEXES} - set(column(conn, indexes.format("true")))
        assert not missing or "create" in event
        for name in missing:
            self.build(conn, name.removeprefix("by_"))
        configure(conn, hnsw_ef_search=200)
        force_index(conn)
        rows = sorted(self.rows)
        queries = [*DATA.queries, *(embedding(int(i)) for i in self.rng.choice(rows, 20))]
        for metric in INDEXES:
            assert f"Index Scan using by_{metric}" in plan(conn, search_sql(metric), {"q": queries[0]})
            configure(conn, hnsw_iterative_scan="off")
            recall = table_recall(conn, np.array(queries), metric)
            configure(conn, hnsw_iterative_scan="relaxed_order")
            swept = search_ids(conn, queries[0], len(rows), metric)
            assert len(swept) == len(set(swept))
            reach = len(self.rows & set(swept)) / len(rows)
            assert set(swept) <= self.rows
            assert recall >= LOWEST_RECALL, (event, metric, recall)
            assert reach >= LOWEST_REACH, (event, metric, reach)
            figures.recall = min(figures.recall, recall)
            figures.reach = min(figures.reach, reach)
        if len(rows) > MAX_ROWS:
            gone = self.rng.choice(rows, len(rows) - ROWS, replace=False).tolist()
            execute(conn, "DELETE FROM items WHERE id = ANY(%s)", [gone])
            conn.execute("VACUUM items")
            self.rows -= set(gone)
