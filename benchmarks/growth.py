"""How indexes grow with the table: build time, size, recall, CPU, blocks read, from 10,000 rows to a million.

    python benchmarks/growth.py /path/to/vectors --rows 10000,100000,1000000 --json growth.json

Rows are jittered copies of the data's rows, as in benchmarks/scan.py, searched with its own queries; with
``--draw gaussian`` rows and queries are Gaussian with its spectrum, which is harder than text. Every
finished cell (one index at one number of rows) is written at once and skipped by the next start, so a run of
hours may be stopped at any time. One build process, graph and table in memory for build time and CPU; then
the server restarts with shared buffers of 1.5 times the size of bqhnsw's 1-bit index, too few for an index of
floats, and blocks are counted cold and warm.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from growth_report import render
from pgvector.psycopg import register_vector
from rich.console import Console
from rich.status import Status
from synthetic import Spectrum, jittered

from bqcore.cli.tables import write_json
from bqcore.datasets import read
from bqcore.evaluation import exact_search
from bqcore_postgres import EmbeddedServer, build, embedded_pg_config
from bqcore_postgres.candidates import (
    FloatArray,
    IndexSpec,
    index_name,
    load_table,
    query_sql,
    raw_sql,
    server_settings,
    set_setting,
    tuned_settings,
)
from bqcore_postgres.measure import BackendClock, measure_index

K = 10
#: bqhnsw's 1-bit index first: its size is what shared buffers are counted in.
SPECS = ("bqhnsw:1", "halfvec", "bit", "bqhnsw:4", "vector")
BUFFERS_PER_SIZE = 1.5
# Searched before blocks are counted warm: other queries than those counted.
WARM_UP = 300
ERRORS = Console(stderr=True)


@dataclass(frozen=True)
class Rows:
    """The table at one number of rows."""

    base: FloatArray
    queries: FloatArray
    others: FloatArray
    truth: np.ndarray
    metric: str


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path, metavar="DATA_DIR", help="data set whose spectrum is taken")
    parser.add_argument("--rows", type=numbers, default=[10_000, 100_000, 1_000_000], metavar="10000,...")
    parser.add_argument(
        "--json", type=Path, required=True, metavar="OUT", help="results, also where to go on"
    )
    parser.add_argument("--draw", choices=("jittered", "gaussian"), default="jittered")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--ef", type=numbers, default=[20, 40, 100, 200, 400, 800], metavar="20,40,...")
    parser.add_argument("--count-ef", type=int, default=100, help="ef_search whose blocks are counted")
    parser.add_argument(
        "--indexes", type=lambda text: text.split(","), default=list(SPECS), metavar=",".join(SPECS)
    )
    return parser.parse_args()


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


class Results:
    """Finished cells, in a file that is whole at any moment."""

    def __init__(self, path: Path, setup: dict[str, Any]) -> None:
        self._path = path
        self.setup = setup
        self.cells: list[dict[str, Any]] = []
        if path.exists():
            stored = json.loads(path.read_text())
            if stored["setup"] != setup:
                raise ValueError(f"{path}: expected a run of {setup}, not of {stored['setup']}")
            self.cells = stored["cells"]

    def find(self, rows: int, spec: IndexSpec) -> dict[str, Any] | None:
        """Return a finished cell."""
        for cell in self.cells:
            if (cell["rows"], cell["index"], cell["bits"]) == (rows, spec.index, spec.bits):
                return cell
        return None

    def add(self, cell: dict[str, Any]) -> None:
        """Write a finished cell."""
        self.cells.append(cell)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_name(self._path.name + ".new")
        write_json({"setup": self.setup, "cells": self.cells}, str(fresh))
        fresh.replace(self._path)


def draw(options: argparse.Namespace, n: int) -> Rows:
    """Make n rows: the same first rows and the same queries at every n."""
    data = read(options.data)
    if options.draw == "jittered":
        base, asked = jittered(data.base, n), data.queries
    else:
        spectrum = Spectrum(data, data.base.shape[1], np.random.default_rng(0))
        centre = spectrum.centre(np.random.default_rng(1))
        base = spectrum.draw(n, np.random.default_rng(2))
        base += centre
        asked = spectrum.draw(options.queries + WARM_UP, np.random.default_rng(3)) + centre
    asked = np.ascontiguousarray(asked[: options.queries + WARM_UP], np.float32)
    queries, others = asked[: options.queries], asked[options.queries :]
    truth, _ = exact_search(base, queries, K, data.metric)
    return Rows(base, queries, others, truth, data.metric)


def blocks(conn: psycopg.Connection[Any], statement: str, queries: FloatArray) -> dict[str, float]:
    """Blocks per query, found in shared buffers or read, of table and index together."""
    hit, from_outside = [], []
    text = raw_sql(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {statement}")
    for q in queries:
        row = conn.execute(text, {"q": q}, prepare=False).fetchone()
        assert row is not None
        plan = row[0][0]["Plan"]
        hit.append(plan["Shared Hit Blocks"])
        from_outside.append(plan["Shared Read Blocks"])
    return {"hit": float(np.mean(hit)), "read": float(np.mean(from_outside))}


def count_blocks(
    server: EmbeddedServer, spec: IndexSpec, table: Rows, ef: int, shared_buffers: int
) -> dict[str, Any]:
    """Blocks per query after a restart, and after other queries; the system's cache is warm in both."""
    usual = dict(server.settings)
    server.settings["shared_buffers"] = f"{shared_buffers // 1024}kB"
    server.restart()
    statement = query_sql(spec, table.metric, table.base.shape[1], k=K, ef_search=ef)
    name = index_name(spec)
    try:
        with server.connect() as conn:
            register_vector(conn)
            set_setting(conn, "enable_seqscan", "off")
            conn.execute("LOAD 'vector'")
            set_setting(conn, "hnsw.ef_search", str(ef))
            before = _io(conn, name)
            cold = blocks(conn, statement, table.queries)
            cold |= _share(before, _io(conn, name), len(table.queries))
            blocks(conn, statement, table.others)
            before = _io(conn, name)
            warm = blocks(conn, statement, table.queries)
            warm |= _share(before, _io(conn, name), len(table.queries))
    finally:
        server.settings = usual
    return {"ef_search": ef, "shared_buffers": shared_buffers, "cold": cold, "warm": warm}


def _io(conn: psycopg.Connection[Any], index: str) -> dict[str, int]:
    """Blocks read of the table and of its index so far."""
    conn.execute("SELECT pg_stat_force_next_flush()")
    row = conn.execute(
        "SELECT t.heap_blks_read, i.idx_blks_read FROM pg_statio_user_indexes i "
        "JOIN pg_statio_user_tables t USING (relid) WHERE i.indexrelname = %s",
        [index],
    ).fetchone()
    assert row is not None
    return {"read_table": row[0], "read_index": row[1]}


def _share(before: dict[str, int], after: dict[str, int], n: int) -> dict[str, float]:
    return {name: (after[name] - before[name]) / n for name in before}


def measured(
    server: EmbeddedServer, spec: IndexSpec, table: Rows, options: argparse.Namespace, status: Status, n: int
) -> dict[str, Any]:
    """Build and measure one index with everything in memory."""
    with server.connect() as conn, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        clock = BackendClock(conn)
        at: list[float] = []

        def progress(text: str) -> None:
            # Before the build, after it, and before each ef_search.
            at.append(clock.seconds())
            status.update(f"{n:,} rows, {text}")

        points = measure_index(
            conn,
            spec,
            table.queries,
            table.truth,
            table.base,
            table.metric,
            ef_searches=options.ef,
            k=K,
            progress=progress,
        )
        settings = server_settings(conn)
    return {
        "rows": n,
        "index": spec.index,
        "bits": spec.bits,
        "build_s": points[0].build_s,
        "build_cpu_s": at[1] - at[0],
        "size_bytes": points[0].size_bytes,
        "points": [
            {"ef_search": p.ef_search, "recall_at_10": p.recall_at_10, "cpu_ms": p.cpu_ms, "p50_ms": p.p50_ms}
            for p in points
        ],
        "warnings": [str(one.message) for one in caught],
        "settings": settings,
    }


def run_rows(options: argparse.Namespace, results: Results, folder: Path, n: int, status: Status) -> None:
    """Measure what is missing at one number of rows."""
    specs = [IndexSpec.parse(text) for text in options.indexes]
    missing = [spec for spec in specs if results.find(n, spec) is None]
    if not missing:
        return
    reference = IndexSpec("bqhnsw", 1)
    if results.find(n, reference) is None and missing[0] != reference:
        raise ValueError(
            f"{n:,} rows: shared buffers follow the size of bqhnsw:1, which must be measured first"
        )
    status.update(f"{n:,} rows: drawing them and their exact neighbours")
    table = draw(options, n)
    settings = tuned_settings(*table.base.shape)
    with EmbeddedServer(settings=settings, extension_dirs=[folder]) as server:
        with server.connect() as conn:
            conn.execute("CREATE EXTENSION bqcore CASCADE")
            load_table(conn, table.base, progress=status.update)
        for spec in missing:
            start = time.perf_counter()
            # Another index of the table may have left small buffers behind.
            server.restart()
            cell = measured(server, spec, table, options, status, n)
            status.update(f"{n:,} rows, {spec.label}: counting blocks")
            first = cell if spec == reference else results.find(n, reference)
            assert first is not None
            size = int(BUFFERS_PER_SIZE * first["size_bytes"])
            cell["buffers"] = count_blocks(server, spec, table, options.count_ef, size)
            results.add(cell)
            ERRORS.print(
                f"{n:,} rows, {spec.label}: built in {cell['build_s']:.1f} s, "
                f"{time.perf_counter() - start:.1f} s in all",
                markup=False,
            )


def main() -> int:
    options = arguments()
    setup = {
        "data": options.data.resolve().name,
        "draw": options.draw,
        "queries": options.queries,
        "ef": options.ef,
        "count_ef": options.count_ef,
        "k": K,
        "buffers_per_size": BUFFERS_PER_SIZE,
    }
    try:
        results = Results(options.json, setup)
        folder = build(embedded_pg_config())
        with ERRORS.status("") as status:
            for n in sorted(options.rows):
                run_rows(options, results, folder, n, status)
    except (ImportError, OSError, RuntimeError, ValueError, psycopg.Error) as error:
        print(f"growth: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"growth: stopped; the next start goes on after what {options.json} holds", file=sys.stderr)
        return 130
    render(results.cells)
    return 0


if __name__ == "__main__":
    sys.exit(main())
