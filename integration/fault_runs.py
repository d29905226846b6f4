"""Every fault by name, and seeded runs of them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from fault_kinds import (
    BUILD,
    COPY,
    REINDEX,
    SCAN,
    VACUUM,
    Pace,
    Run,
    kill,
    stop,
    under_cancel,
    under_stop,
    without_memory,
)
from fault_load import LOWEST_REACH, LOWEST_RECALL, Findings, Site
from fault_moves import SETTINGS, Trees, promote, refuse_pgvector, upgrade_pgvector, upgrade_postgres
from fault_space import (
    ROOMY,
    Unavailable,
    full_during_build,
    full_during_insert,
    full_of_wal,
    small_tablespace,
    tmpfs,
)
from support import pg_config, server_options

from bqcore_postgres import EmbeddedServer, build
from bqcore_postgres.server_files import ServerFiles

#: A run, given its random numbers and the pace of its fault.
Runner = Callable[[np.random.Generator, Pace], Run]


class Places:
    """Where runs happen: servers and disks that are made on first use and stay until the end."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.stack = stack

    def _started(self, data: Path | None = None, **settings: str) -> Site:
        server = EmbeddedServer(
            data, settings={**SETTINGS, **settings}, extension_dirs=[build(pg_config())], **server_options()
        )
        site = Site(self.stack.enter_context(server), np.random.default_rng(0))
        site.prepare()
        return site

    @functools.cached_property
    def site(self) -> Site:
        """Server of most faults."""
        return self._started()

    @functools.cached_property
    def primary(self) -> Site:
        """Server of a standby, whose base backup must find no tablespace in its way."""
        return self._started()

    @functools.cached_property
    def tablespace(self) -> tuple[Site, object]:
        """The same server with a tablespace on a small disk."""
        return self.site, self.stack.enter_context(small_tablespace(self.site))

    @functools.cached_property
    def wal_disk(self) -> tuple[Site, object]:
        """Server whose data lie on a small disk; files of WAL are not used again, so that each needs room."""
        disk = self.stack.enter_context(tmpfs(10 * ROOMY))
        site = self._started(disk.path / "data", wal_recycle="off", max_wal_size="64MB", min_wal_size="32MB")
        return site, disk

    @functools.cached_property
    def trees(self) -> Trees:
        """Trees and data for upgrades."""
        files = ServerFiles()
        self.stack.callback(files.remove)
        return Trees(files)


def _on_site(places: Places, work: Callable[[Site, Pace], Run], name: str = "site") -> Runner:
    def run(rng: np.random.Generator, pace: Pace) -> Run:
        site = getattr(places, name)
        site.rng = rng
        return work(site, pace)

    return run


def _on_disk(places: Places, name: str, work: Callable[..., Run]) -> Runner:
    def run(rng: np.random.Generator, pace: Pace) -> Run:
        site, disk = getattr(places, name)
        site.rng = rng
        return work(site, disk, pace)

    return run


def _on_trees(places: Places, work: Callable[..., Run], *arguments: str) -> Runner:
    return lambda rng, pace: work(places.trees, rng, pace, *arguments)


def runners(places: Places) -> dict[str, Runner]:
    """All faults by name."""
    any_statement = BUILD + REINDEX + VACUUM + COPY + SCAN

    def stopped(kinds: tuple[str, ...]) -> Runner:
        return _on_site(places, lambda site, pace: under_stop(site, kinds, pace, stop))

    return {
        "kill": _on_site(places, lambda site, pace: under_stop(site, any_statement, pace, kill)),
        "stop-build": stopped(BUILD),
        "stop-copy": stopped(COPY),
        "stop-vacuum": stopped(VACUUM),
        "stop-reindex": stopped(REINDEX),
        "cancel-build": _on_site(places, lambda site, pace: under_cancel(site, BUILD + REINDEX, pace)),
        "cancel-scan": _on_site(places, lambda site, pace: under_cancel(site, SCAN, pace)),
        "cancel-write": _on_site(places, lambda site, pace: under_cancel(site, VACUUM + COPY, pace)),
        "memory": _on_site(
            places, lambda site, pace: without_memory(site, BUILD + VACUUM + COPY + SCAN, pace)
        ),
        "disk-build": _on_disk(places, "tablespace", full_during_build),
        "disk-insert": _on_disk(places, "tablespace", full_during_insert),
        "disk-wal": _on_disk(places, "wal_disk", full_of_wal),
        "promote": _on_site(places, promote, "primary"),
        "pgvector-refused": _on_site(places, refuse_pgvector),
        "pgvector-upgrade": _on_trees(places, upgrade_pgvector),
        "pg_upgrade-copy": _on_trees(places, upgrade_postgres, "copy"),
        "pg_upgrade-link": _on_trees(places, upgrade_postgres, "link"),
    }


FAULTS = {
    "kill": "SIGKILL of a client's, parallel worker's or autovacuum's process",
    "stop-build": "immediate stop in CREATE INDEX, CONCURRENTLY or not, and REINDEX",
    "stop-copy": "immediate stop in a COPY of 3,000 rows",
    "stop-vacuum": "immediate stop in VACUUM",
    "stop-reindex": "immediate stop in REINDEX CONCURRENTLY",
    "cancel-build": "statement_timeout or pg_cancel_backend in a build",
    "cancel-scan": "statement_timeout or pg_cancel_backend in scans",
    "cancel-write": "statement_timeout or pg_cancel_backend in VACUUM and COPY",
    "memory": "a backend gets 64 kB to 4 MB and no more",
    "disk-build": "disk full during a build",
    "disk-insert": "disk full during inserts",
    "disk-wal": "no room for WAL: the server panics",
    "promote": "stop of the primary, promotion of its standby",
    "pgvector-refused": "CREATE INDEX under a pgvector too old",
    "pgvector-upgrade": "pgvector 0.7.4 or 0.8.0 to the newest, indexes kept",
    "pg_upgrade-copy": "pg_upgrade from Postgres 16 to 18, --copy",
    "pg_upgrade-link": "pg_upgrade from Postgres 16 to 18, --link",
}


@dataclass
class Summary:
    """What the runs of one fault have shown."""

    fault: str
    runs: int = 0
    interrupted: int = 0
    written: int = 0
    transactions: int = 0
    searches: int = 0
    findings: Findings = field(default_factory=Findings)
    recovery: list[float] = field(default_factory=list)
    seconds: float = 0.0
    errors: list[str] = field(default_factory=list)
    #: Why this machine cannot run it.
    skipped: str = ""

    def add(self, run: Run) -> None:
        """Count a run."""
        self.interrupted += run.interrupted
        self.written += run.written
        self.transactions += run.transactions
        self.searches += run.searches
        self.findings.add(run.findings)
        if run.recovery_seconds is not None:
            self.recovery.append(run.recovery_seconds)

    @property
    def passed(self) -> bool:
        """Whether nothing was lost, damaged or unexpected."""
        found = self.findings
        sound = found.recall >= LOWEST_RECALL and found.reach >= LOWEST_REACH
        return sound and not (found.lost or found.damage or self.errors)

    def as_dict(self) -> dict[str, object]:
        """Return values that JSON can hold."""
        return {
            "fault": self.fault,
            "what": FAULTS[self.fault],
            "runs": self.runs,
            "interrupted": self.interrupted,
            "rows_written": self.written,
            "rows_lost": self.findings.lost,
            "damage": self.findings.damage,
            "transactions": self.transactions,
            "searches": self.searches,
            "recall_at_10_lowest": self.findings.recall,
            "rows_reached_lowest": self.findings.reach,
            "unreachable_most": self.findings.unreachable,
            "recovery_seconds_median": statistics.median(self.recovery) if self.recovery else None,
            "recovery_seconds_max": max(self.recovery, default=None),
            "seconds": self.seconds,
            "errors": self.errors,
            "skipped": self.skipped,
        }


def runs(names: list[str], count: int, seed: int) -> Iterator[tuple[Summary, int]]:
    """Run each fault so many times; yields after every run the fault's summary and the number of the run.

    The random numbers of a run follow from the seed, the fault and the number of the run. A run that raises
    is an error of the fault, and ends its runs: the server may be in any state.
    """
    with contextlib.ExitStack() as stack:
        places = Places(stack)
        functions = runners(places)
        for name in names:
            summary = Summary(name)
            pace = Pace(0.4)
            for i in range(count):
                rng = np.random.default_rng([seed, list(FAULTS).index(name), i])
                start = time.monotonic()
                try:
                    run = functions[name](rng, pace)
                    summary.runs += 1
                    summary.add(dataclasses.replace(run))
                except (Unavailable, pytest.skip.Exception) as reason:
                    summary.skipped = str(reason)
                except Exception as error:
                    summary.errors.append(f"run {i}: {type(error).__name__}: {error}")
                summary.seconds += time.monotonic() - start
                yield summary, i
                if summary.skipped:
                    break
                if summary.errors:
                    places = Places(stack)
                    functions = runners(places)
                    break
