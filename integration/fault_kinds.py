"""Faults of one server: processes killed, stops, cancelled statements, no memory."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from fault_load import INDEXES, Findings, Load, Site, copy_rows, embedding
from standby import as_server_user
from support import Connection, column, configure, execute, value

#: Statements that run into the fault. They leave the indexes as they were, or make them anew.
BUILD = ("CREATE INDEX", "CREATE INDEX CONCURRENTLY", "REINDEX TABLE items")
REINDEX = ("REINDEX TABLE CONCURRENTLY items", "REINDEX INDEX CONCURRENTLY by_l2")
VACUUM = ("VACUUM items",)
COPY = ("COPY",)
SCAN = ("SCAN",)
#: Rows of one COPY.
COPIED = 3000


@dataclass
class Run:
    """What one run has shown."""

    written: int = 0
    findings: Findings = field(default_factory=Findings)
    #: Whether the fault came before the statement under it had ended.
    interrupted: bool = True
    #: From the end of the fault to the first answer; None where the server never stopped answering.
    recovery_seconds: float | None = None
    transactions: int = 0
    searches: int = 0

    def count(self, load: Load) -> None:
        """Add what the clients have done."""
        self.written += sum(writer.written for writer in load.writers)
        self.transactions += sum(writer.transactions for writer in load.writers)
        self.searches += load.searches


class Pace:
    """When a fault comes: within a time that follows what the statement takes; half of them interrupt it."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def wait(self, site: Site) -> None:
        """Sleep for a random part of it."""
        time.sleep(site.rng.uniform(0, self.seconds))

    def learn(self, interrupted: bool) -> None:
        """Move the limit."""
        self.seconds = min(self.seconds * (1.25 if interrupted else 0.75), 2.0)


class Statement:
    """A statement on a connection of its own, with what has to happen before it."""

    def __init__(self, site: Site, kinds: tuple[str, ...]) -> None:
        self.site = site
        self.text = str(site.rng.choice(kinds))
        #: Indexes may be missing or invalid afterwards.
        self.loses_indexes = "INDEX" in self.text and ("CREATE" in self.text or "CONCURRENTLY" in self.text)
        #: A check waits for CREATE INDEX CONCURRENTLY, which waits for the check's snapshot.
        self.checks = "CONCURRENTLY" not in self.text
        self.workers = int(site.rng.choice([0, 2]))
        self.memory = str(site.rng.choice(["1MB", "64MB"]))
        self.metric = str(site.rng.choice(list(INDEXES)))
        self.pid = 0
        self.ended = False
        self.error: BaseException | None = None
        self.copied: dict[int, int] = {}
        self.started = threading.Event()
        if "CREATE" in self.text:
            with site.connect() as conn:
                execute(conn, f"DROP INDEX by_{self.metric}")
        elif self.text == "VACUUM items":
            # rows that only this can remove; autovacuum might come first
            with site.connect() as conn:
                gone = site.rng.permutation(list(site.rows))[: len(site.rows) // 4].tolist()
                execute(conn, "ALTER TABLE items SET (autovacuum_enabled = off)")
                execute(conn, "DELETE FROM items WHERE id = ANY(%s)", [gone])
                for i in gone:
                    del site.rows[i]
        elif self.text == "COPY":
            self.copied = dict.fromkeys(range(site.next_id, site.next_id + COPIED), 0)
            site.next_id += COPIED
            for i in self.copied:
                embedding(i, 0)

    def run(self, conn: Connection) -> None:
        """Execute it."""
        configure(conn, max_parallel_maintenance_workers=self.workers, maintenance_work_mem=self.memory)
        execute(conn, f"SET min_parallel_table_scan_size = {0 if self.workers else 1024}")
        self.pid = value(conn, "SELECT pg_backend_pid()")
        self.started.set()
        try:
            if "CREATE" in self.text:
                self.site.build(conn, self.metric, "CONCURRENTLY" in self.text)
            elif self.text == "COPY":
                self._copy(conn)
            elif self.text == "SCAN":
                self._scan(conn)
            else:
                execute(conn, self.text)
            self.ended = True
        except psycopg.Error as error:
            self.error = error
            raise

    def _copy(self, conn: Connection) -> None:
        copy_rows(conn, self.copied)

    def _scan(self, conn: Connection) -> None:
        configure(
            conn, enable_seqscan="off", hnsw_iterative_scan=self.site.rng.choice(["off", "relaxed_order"])
        )
        execute(
            conn,
            "SELECT count(n.id) FROM (SELECT * FROM items LIMIT 200) i CROSS JOIN LATERAL "
            "(SELECT id FROM items o ORDER BY o.embedding <-> i.embedding LIMIT 200) n",
        )

    def settle(self, conn: Connection, findings: Findings) -> None:
        """Rows of a COPY are all there or none; then they are removed, so that the table keeps its size."""
        if self.text == "VACUUM items":
            execute(conn, "ALTER TABLE items RESET (autovacuum_enabled)")
        if not self.copied:
            return
        first, last = min(self.copied), max(self.copied)
        here = value(conn, "SELECT count(*) FROM items WHERE id BETWEEN %s AND %s", [first, last])
        # the answer to the last message may have been lost with the connection
        allowed = {COPIED} if self.ended else {0, COPIED} if self.error else {0}
        findings.lost += min(abs(here - n) for n in allowed)
        for metric in INDEXES:
            execute(conn, f"SELECT bqcore_check('by_{metric}', true)")
        execute(conn, "DELETE FROM items WHERE id BETWEEN %s AND %s", [first, last])
        # a crash makes Postgres forget how many rows are dead, so autovacuum would not come for them
        execute(conn, "VACUUM items")


def answer(site: Site, since: float, seconds: float = 60) -> float:
    """Seconds from `since` until the server answers a search."""
    while True:
        try:
            with site.connect() as conn:
                execute(conn, "SELECT id FROM items ORDER BY embedding <-> %s LIMIT 1", [embedding(0, 0)])
                return time.monotonic() - since
        except psycopg.OperationalError:
            if time.monotonic() > since + seconds:
                raise
            time.sleep(0.02)


def stop(site: Site, load: Load, statement: Statement) -> float:
    """Immediate stop of the server, as in a crash."""
    load.stopping.set()
    site.server.stop("immediate")
    load.finish()
    since = time.monotonic()
    site.server.start()
    return answer(site, since)


def kill(site: Site, load: Load, statement: Statement) -> float:
    """SIGKILL of one process: a client's, the statement's, a parallel worker's, autovacuum's."""
    with site.connect() as conn:
        pids = column(
            conn,
            "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            "AND backend_type IN ('client backend', 'parallel worker', 'autovacuum worker') ORDER BY pid",
        )
    load.stopping.set()
    order = site.rng.permutation(pids).tolist()
    # half of the time the statement's own, if it is still there
    if site.rng.random() < 0.5:
        order.insert(0, statement.pid)
    for pid in order:
        since = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            break
    load.finish()
    return answer(site, since)


def under_stop(
    site: Site, kinds: tuple[str, ...], pace: Pace, fault: Callable[[Site, Load, Statement], float]
) -> Run:
    """One run: clients at work, a statement, the fault in the middle of it, and the checks."""
    run = Run()
    statement = Statement(site, kinds)
    with site.load(checks=statement.checks) as load:
        load.start(site.connect, statement.run)
        assert statement.started.wait(60), statement.error
        pace.wait(site)
        run.interrupted = not statement.ended
        run.recovery_seconds = fault(site, load, statement)
    pace.learn(run.interrupted)
    run.count(load)
    finish(site, load, run, statement)
    return run


def finish(site: Site, load: Load, run: Run, statement: Statement) -> None:
    """Check everything after a run."""
    with site.connect() as conn:
        statement.settle(conn, run.findings)
    if statement.ended and statement.copied:
        run.written += COPIED
    run.findings.add(site.verify(load, missing=statement.loses_indexes))


def under_cancel(site: Site, kinds: tuple[str, ...], pace: Pace) -> Run:
    """Cancel a statement by statement_timeout or pg_cancel_backend while clients go on, then repeat it."""
    run = Run()
    statement = Statement(site, kinds)
    with site.load(checks=statement.checks) as load:
        with site.connect() as conn:
            timeout = bool(site.rng.random() < 0.5)
            if timeout:
                milliseconds = max(1, int(1000 * site.rng.uniform(0, pace.seconds)))
                conn.execute("SELECT set_config('statement_timeout', %s, false)", [str(milliseconds)])

            def guarded(conn: Connection) -> None:
                try:
                    statement.run(conn)
                except psycopg.errors.QueryCanceled:
                    statement.ended = False

            thread = threading.Thread(target=guarded, args=(conn,))
            thread.start()
            assert statement.started.wait(60)
            if not timeout:
                pace.wait(site)
                with site.connect() as other:
                    while thread.is_alive() and not statement.ended:
                        other.execute("SELECT pg_cancel_backend(%s)", [statement.pid])
                        thread.join(0.05)
            thread.join(60)
            assert not thread.is_alive()
            run.interrupted = not statement.ended
            conn.execute("SET statement_timeout = 0")
            left = column(conn, "SELECT name FROM pg_backend_memory_contexts WHERE name LIKE 'bq%'")
            assert left == [], left
        load.finish()
    pace.learn(run.interrupted)
    run.count(load)
    finish(site, load, run, statement)
    return run


def limit_memory(pid: int, limit: str) -> None:
    """Set the address space that a process of the server may have; its own user may."""
    command = ["prlimit", f"--pid={pid}", f"--as={limit}:unlimited"]
    subprocess.run(command, check=True, capture_output=True, cwd="/", **as_server_user())


def without_memory(site: Site, kinds: tuple[str, ...], pace: Pace) -> Run:
    """Let a backend have no more than some megabytes beyond what it has, and run a statement in it."""
    run = Run()
    statement = Statement(site, kinds)
    statement.workers = 0  # they would not inherit the limit
    room = int(2 ** site.rng.uniform(16, 22))
    with site.load(checks=statement.checks) as load:
        with site.connect() as conn:
            # memory for what every session does first is not what is to be missed
            execute(conn, "SELECT id FROM items ORDER BY embedding <-> %s LIMIT 1", [embedding(0, 0)])
            pid = value(conn, "SELECT pg_backend_pid()")
            size = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
            limit_memory(pid, str(size + room))
            try:
                statement.run(conn)
            except psycopg.errors.OutOfMemory:
                pass
            finally:
                limit_memory(pid, "unlimited")
            run.interrupted = not statement.ended
            assert value(conn, "SELECT pg_backend_pid()") == pid
        load.finish()
    run.count(load)
    finish(site, load, run, statement)
    return run
