"""Faults of space: a small tmpfs that holds an index, or the whole data directory with its WAL."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from fault_kinds import BUILD, COPY, REINDEX, VACUUM, Pace, Run, Statement, answer, finish
from fault_load import INDEXES, Load, Site
from standby import as_server_user
from support import execute

KB, MB = 1 << 10, 1 << 20
ROOMY = 64 * MB


class Unavailable(RuntimeError):
    """This machine does not offer what the fault needs."""


class Tmpfs:
    """A file system of a size that can be changed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def used(self) -> int:
        """Bytes in files."""
        state = os.statvfs(self.path)
        return (state.f_blocks - state.f_bfree) * state.f_frsize

    def resize(self, nbytes: int) -> None:
        """Let it hold so many bytes."""
        subprocess.run(["mount", "-o", f"remount,size={nbytes}", str(self.path)], check=True)


@contextmanager
def tmpfs(nbytes: int) -> Iterator[Tmpfs]:
    """Mount one for the server's user."""
    if os.geteuid() != 0:
        raise Unavailable("mounting a tmpfs needs root")
    path = Path(tempfile.mkdtemp(dir="/tmp", prefix="bq-tmpfs-"))
    user = as_server_user()
    options = f"size={nbytes},mode=0700,uid={user['user']},gid={user['group']}"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], capture_output=True, text=True
    )
    if done.returncode != 0:
        path.rmdir()
        raise Unavailable(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield Tmpfs(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
        path.rmdir()


@contextmanager
def small_tablespace(site: Site) -> Iterator[Tmpfs]:
    """Tablespace `small` on a tmpfs."""
    with tmpfs(ROOMY) as disk:
        folder = disk.path / "space"
        folder.mkdir()
        shutil.chown(folder, as_server_user()["user"], as_server_user()["group"])
        with site.connect() as conn:
            execute(conn, f"CREATE TABLESPACE small LOCATION '{folder}'")
        try:
            yield disk
        finally:
            # after a failed run the indexes may be in it still
            with contextlib.suppress(psycopg.Error), site.connect() as conn:
                conn.execute("CHECKPOINT")
                conn.execute("DROP TABLESPACE small")


def files(disk: Tmpfs) -> list[str]:
    """Files with content."""
    found = [path for path in disk.path.rglob("*") if path.is_file() and path.name != "PG_VERSION"]
    return [path.name for path in found if path.stat().st_size > 0]


def move(site: Site, tablespace: str, metrics: tuple[str, ...]) -> None:
    """Move indexes to a tablespace."""
    with site.connect() as conn:
        for metric in metrics:
            execute(conn, f"ALTER INDEX by_{metric} SET TABLESPACE {tablespace}")


def full_during_build(site: Site, disk: Tmpfs, pace: Pace) -> Run:
    """Build an index where there is no room for it, then where there is."""
    run = Run()
    metric = str(site.rng.choice(list(INDEXES)))
    how = str(site.rng.choice(["INDEX", "INDEX CONCURRENTLY", "REINDEX"]))
    # an index of 1,500 rows takes some 700 kB
    room = disk.used() + int(site.rng.integers(16, 900)) * KB
    # inserts go into an index that CONCURRENTLY has left invalid, too
    with site.load(tolerated=(psycopg.errors.DiskFull,)) as load:
        with site.connect() as conn:
            execute(conn, f"SET max_parallel_maintenance_workers = {site.rng.choice([0, 2])}")
            execute(conn, f"SET maintenance_work_mem = '{site.rng.choice(['1MB', '64MB'])}'")
            if how != "REINDEX":
                execute(conn, f"DROP INDEX by_{metric}")
            make = f"REINDEX (TABLESPACE small) INDEX by_{metric}"
            if how != "REINDEX":
                options = f"WITH (bits = {INDEXES[metric]}) TABLESPACE small"
                target = f"items USING bqhnsw (embedding vector_{metric}_ops)"
                make = f"CREATE {how} by_{metric} ON {target} {options}"
            disk.resize(room)
            try:
                execute(conn, make)
                run.interrupted = False
            except psycopg.errors.DiskFull:
                since = time.monotonic()
                disk.resize(ROOMY)
                load.finish()
                if "CONCURRENTLY" in how:
                    execute(conn, f"DROP INDEX by_{metric}")
                execute(conn, make)
                run.recovery_seconds = time.monotonic() - since
            disk.resize(ROOMY)
        load.finish()
    run.count(load)
    run.findings = site.verify(load)
    move(site, "pg_default", (metric,))
    with site.connect() as conn:
        conn.execute("CHECKPOINT")
    left = files(disk)
    if left:
        run.findings.damage.append(f"files of no index: {left}")
    return run


def full_during_insert(site: Site, disk: Tmpfs, pace: Pace) -> Run:
    """Insert where the indexes cannot grow, until there is room again."""
    run = Run()
    metrics = tuple(INDEXES)
    move(site, "small", metrics)
    disk.resize(disk.used() + int(site.rng.integers(0, 120)) * KB)
    with site.load(tolerated=(psycopg.errors.DiskFull,), most=60, checks=True) as load:
        until = time.monotonic() + 4
        wanted = int(site.rng.integers(1, 6))
        while load.failures < wanted and time.monotonic() < until and not load.errors:
            time.sleep(0.01)
        run.interrupted = load.failures > 0
        since = time.monotonic()
        disk.resize(ROOMY)
        run.recovery_seconds = next_commit(load) - since
        load.finish()
    run.count(load)
    run.findings = site.verify(load)
    move(site, "pg_default", metrics)
    return run


def next_commit(load: Load) -> float:
    """When one of the writers has committed another transaction."""
    before = sum(writer.transactions for writer in load.writers)
    while sum(writer.transactions for writer in load.writers) == before and not load.errors:
        time.sleep(0.005)
    return time.monotonic()


def full_of_wal(site: Site, disk: Tmpfs, pace: Pace) -> Run:
    """Leave no room for the next file of WAL: the server panics, and recovers when there is room."""
    run = Run()
    statement = Statement(site, BUILD + REINDEX + VACUUM + COPY)
    with site.load(tolerated=(psycopg.errors.DiskFull,), checks=statement.checks) as load:
        load.start(site.connect, statement.run)
        assert statement.started.wait(60), statement.error
        pace.wait(site)
        run.interrupted = not statement.ended
        load.stopping.set()
        # a file of WAL has 16 MB
        disk.resize(disk.used() + int(site.rng.integers(0, 15 * KB)) * KB)
        until = time.monotonic() + 30
        try:
            with site.connect() as conn:
                while time.monotonic() < until:
                    conn.execute("SELECT pg_switch_wal()")
                    time.sleep(0.01)
        except psycopg.OperationalError:
            pass
        assert time.monotonic() < until, "the server went on without room for WAL"
        load.finish()
    site.server.stop("immediate")
    disk.resize(10 * ROOMY)
    since = time.monotonic()
    site.server.start()
    run.recovery_seconds = answer(site, since)
    pace.learn(run.interrupted)
    run.count(load)
    finish(site, load, run, statement)
    return run
