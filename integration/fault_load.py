"""Load on one table from several clients, and what is known to be true of it afterwards.

Two indexes (1 bit, l2; 4 bits, cosine) live on the table through all runs on a server, so that damage would
add up. Each writer keeps a ledger of its own rows: those that the server has acknowledged, and the change
whose commit was under way. A row is lost when the table holds neither what the one nor what the other says.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import psycopg
from pgvector.psycopg import register_vector
from support import (
    Connection,
    FloatArray,
    column,
    configure,
    create_index,
    execute,
    force_index,
    go_on_until_the_limit,
    has_iterative_scan,
    plan,
    search_ids,
    search_sql,
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

#: Rows by id: which version of its vector each has.
Rows = dict[int, int]


@functools.lru_cache(maxsize=100_000)
def embedding(i: int, version: int) -> FloatArray:
    """Vector of a version of row i; no two are equal."""
    noise = np.random.default_rng((i, version)).normal(scale=0.1, size=DATA.base.shape[1])
    return np.asarray(DATA.base[i % len(DATA.base)] + noise, np.float32)


def copy_rows(conn: Connection, rows: Rows) -> None:
    """Insert rows by COPY."""
    with (
        conn.cursor() as cursor,
        cursor.copy("COPY items (id, version, embedding) FROM STDIN WITH (FORMAT BINARY)") as copy,
    ):
        copy.set_types(["int4", "int4", "vector"])
        for i, version in rows.items():
            copy.write_row((i, version, embedding(i, version)))


@dataclass
class Writer:
    """Transactions of one connection on the rows that are its own."""

    rows: Rows
    next_id: int
    step: int
    rng: np.random.Generator
    most: int = 12
    committing: Rows | None = None
    transactions: int = 0
    written: int = 0

    def transaction(self, conn: Connection) -> None:
        """Insert, update and delete some rows; one of ten such transactions is rolled back."""
        rng = self.rng
        self.committing = None
        rows = dict(self.rows)
        ids = rng.permutation(list(rows))[:18].tolist() if rows else []
        removed, changed, touched = (ids[i : i + int(rng.integers(0, 7))] for i in (0, 6, 12))
        count = int(rng.integers(1, self.most))
        added = dict.fromkeys(range(self.next_id, self.next_id + self.step * count, self.step), 0)
        self.next_id += self.step * count
        for i in removed:
            del rows[i]
        for i in changed:
            rows[i] += 1
        rows |= added
        with conn.transaction(force_rollback=bool(rng.random() < 0.1)) as transaction:
            execute(conn, "DELETE FROM items WHERE id = ANY(%s)", [removed])
            for i in changed:
                execute(
                    conn,
                    "UPDATE items SET version = %s, embedding = %s WHERE id = %s",
                    [rows[i], embedding(i, rows[i]), i],
                )
            # a version of the row that no index gets
            execute(conn, "UPDATE items SET touched = touched + 1 WHERE id = ANY(%s)", [touched])
            copy_rows(conn, added)
            if not transaction.force_rollback:
                self.committing = rows
        if self.committing is not None:
            self.rows, self.committing = rows, None
            self.transactions += 1
            self.written += len(removed) + len(changed) + len(added)

    def lost(self, found: Rows) -> int:
        """Number of own rows that are not in the table as they have to be, whichever way a commit went."""

        def differences(expected: Rows) -> int:
            return sum(found.get(i) != expected.get(i) for i in found.keys() | expected.keys())

        outcomes = [self.rows] if self.committing is None else [self.rows, self.committing]
        return min(map(differences, outcomes))


@dataclass
class Load:
    """Clients at work until `finish`."""

    writers: list[Writer]
    errors: list[BaseException] = field(default_factory=list)
    #: Failed statements of writers that the fault explains.
    failures: int = 0
    searches: int = 0
    done: threading.Event = field(default_factory=threading.Event)
    #: Broken connections are no errors from now on.
    stopping: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def start(
        self, connect: Callable[[], Connection], work: Callable[[Connection], None]
    ) -> threading.Thread:
        """Run work on a connection of its own."""
        connected = threading.Event()

        def run() -> None:
            try:
                with connect() as conn:
                    connected.set()
                    work(conn)
            except BaseException as error:
                if not (self.stopping.is_set() and isinstance(error, psycopg.OperationalError)):
                    self.errors.append(error)
            connected.set()

        thread = threading.Thread(target=run)
        thread.start()
        assert connected.wait(60)
        self.threads.append(thread)
        return thread

    def finish(self) -> None:
        """Wait for all clients; what went wrong with one is raised."""
        self.done.set()
        for thread in self.threads:
            thread.join(120)
            assert not thread.is_alive()
        if self.errors:
            raise self.errors[0]


@dataclass
class Findings:
    """What a check of the table has found."""

    lost: int = 0
    #: What bqcore_check had to say.
    damage: list[str] = field(default_factory=list)
    recall: float = 1.0
    reach: float = 1.0
    unreachable: int = 0

    def add(self, other: Findings) -> None:
        """Take what another check found as well."""
        self.lost += other.lost
        self.damage += other.damage
        self.recall = min(self.recall, other.recall)
        self.reach = min(self.reach, other.reach)
        self.unreachable = max(self.unreachable, other.unreachable)


@dataclass
class Site:
    """A server with the table."""

    server: EmbeddedServer
    rng: np.random.Generator
    rows: Rows = field(default_factory=dict)
    next_id: int = 0
    database: str = "postgres"

    def connect(self, server: EmbeddedServer | None = None) -> Connection:
        conn = (server or self.server).connect(self.database)
        register_vector(conn)
        return conn

    def prepare(self) -> None:
        """Create table and indexes."""
        with self.server.connect(self.database) as conn:
            conn.execute("CREATE EXTENSION IF NOT EXISTS bqcore CASCADE")
        with self.connect() as conn:
            conn.execute(
                "CREATE TABLE items (id integer PRIMARY KEY, version integer, touched integer DEFAULT 0, "
                "embedding vector(24)) WITH (fillfactor = 80)"
            )
            self.rows = dict.fromkeys(range(ROWS), 0)
            self.next_id = ROWS
            copy_rows(conn, self.rows)
            for metric in INDEXES:
                self.build(conn, metric)

    def build(self, conn: Connection, metric: str, concurrently: bool = False) -> None:
        create_index(conn, INDEXES[metric], metric, name=f"by_{metric}", concurrently=concurrently)

    @contextmanager
    def load(
        self,
        writers: int = 3,
        searchers: int = 1,
        tolerated: tuple[type[psycopg.Error], ...] = (),
        most: int = 12,
        checks: bool = False,
    ) -> Iterator[Load]:
        """Clients at work: writers, who go on after tolerated errors, and searchers, who may check."""
        ids = self.rng.permutation(list(self.rows)).tolist()
        load = Load(
            [
                Writer(
                    {i: self.rows[i] for i in ids[k::writers]},
                    self.next_id + k,
                    writers,
                    np.random.default_rng(self.rng.integers(2**32)),
                    most,
                )
                for k in range(writers)
            ]
        )

        def write(writer: Writer, conn: Connection) -> None:
            while not load.done.is_set():
                try:
                    writer.transaction(conn)
                except tolerated:
                    # the server has said that it did not happen
                    writer.committing = None
                    load.failures += 1

        def search(rng: np.random.Generator, conn: Connection) -> None:
            force_index(conn)
            while not load.done.is_set():
                metric = str(rng.choice(list(INDEXES)))
                try:
                    if checks and rng.random() < 0.1:
                        execute(conn, f"SELECT bqcore_check('by_{metric}', true)")
                    q = DATA.queries[rng.integers(len(DATA.queries))]
                    found = conn.execute(search_sql(metric).encode(), {"q": q}).fetchall()
                except (*tolerated, psycopg.errors.UndefinedTable, psycopg.errors.UndefinedObject):
                    continue
                distances = [d for _, d in found]
                assert distances == sorted(distances), distances
                assert len({i for i, _ in found}) == len(found), found
                load.searches += 1

        try:
            for writer in load.writers:
                load.start(self.connect, functools.partial(write, writer))
            for _ in range(searchers):
                rng = np.random.default_rng(self.rng.integers(2**32))
                load.start(self.connect, functools.partial(search, rng))
            yield load
        finally:
            load.done.set()

    def verify(self, load: Load, missing: bool = False, server: EmbeddedServer | None = None) -> Findings:
        """Compare table and indexes with what is known.

        An index may be missing, or be invalid, only where the fault allows it: it is built again then.
        """
        with self.connect(server) as conn:
            findings = Findings(lost=self._check_rows(conn, load.writers))
            self._complete(conn, missing)
            self._check_indexes(conn, findings)
            if len(self.rows) > MAX_ROWS:
                gone = self.rng.permutation(list(self.rows))[ROWS:].tolist()
                execute(conn, "DELETE FROM items WHERE id = ANY(%s)", [gone])
                conn.execute("VACUUM items")
                for i in gone:
                    del self.rows[i]
        return findings

    def _check_rows(self, conn: Connection, writers: list[Writer]) -> int:
        stored = conn.execute("SELECT id, version, embedding FROM items").fetchall()
        found = {i: version for i, version, _ in stored}
        lost = len(stored) - len(found)
        for i, version, x in stored:
            lost += not np.array_equal(x.to_numpy(), embedding(i, version))
        owner = {
            i: writer for writer in writers for i in writer.rows.keys() | (writer.committing or {}).keys()
        }
        own: dict[int, Rows] = {id(writer): {} for writer in writers}
        for i, version in found.items():
            if i in owner:
                own[id(owner[i])][i] = version
            else:
                lost += 1
        lost += sum(writer.lost(own[id(writer)]) for writer in writers)
        self.rows = found
        self.next_id = max([self.next_id, *(writer.next_id for writer in writers)])
        return lost

    def _complete(self, conn: Connection, missing: bool) -> None:
        indexes = (
            "SELECT relname FROM pg_class JOIN pg_index ON indexrelid = oid "
            "WHERE indrelid = 'items'::regclass AND relname <> 'items_pkey' AND indisvalid = {}"
        )
        invalid = column(conn, indexes.format("false"))
        assert missing or not invalid, invalid
        for name in invalid:
            execute(conn, f'DROP INDEX "{name}"')
        absent = {f"by_{metric}" for metric in INDEXES} - set(column(conn, indexes.format("true")))
        assert missing or not absent, absent
        for name in absent:
            self.build(conn, name.removeprefix("by_"))

    def _check_indexes(self, conn: Connection, findings: Findings) -> None:
        rows = list(self.rows)
        queries = [
            *DATA.queries,
            *(embedding(i, self.rows[i]) for i in self.rng.permutation(rows)[:20].tolist()),
        ]
        force_index(conn)
        for metric in INDEXES:
            name = f"by_{metric}"
            assert f"Index Scan using {name}" in plan(conn, search_sql(metric), {"q": queries[0]})
            try:
                checked = execute(
                    conn, f"SELECT rows, unreachable, heap_rows FROM bqcore_check('{name}', true)"
                )
                _, unreachable, heap_rows = checked.fetchone() or (0, 0, 0)
                findings.unreachable = max(findings.unreachable, unreachable)
                if heap_rows != len(rows):
                    findings.damage.append(f"{name}: {heap_rows} rows of the table, expected {len(rows)}")
                # dead rows that vacuum has not seen take places among the candidates of other scans
                go_on_until_the_limit(conn, 200)
                findings.recall = min(findings.recall, table_recall(conn, np.array(queries), metric))
                if has_iterative_scan(conn):
                    configure(conn, hnsw_iterative_scan="relaxed_order")
                    swept = search_ids(conn, queries[0], len(rows), metric)
                    assert len(swept) == len(set(swept))
                    assert set(swept) <= self.rows.keys()
                    findings.reach = min(findings.reach, len(swept) / len(rows))
            except (psycopg.errors.InternalError, psycopg.errors.DataError) as error:
                findings.damage.append(f"{name}: {error}".strip())
