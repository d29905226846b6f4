"""Compare pgvector's HNSW indexes with bqhnsw on one data set: recall, CPU, size and build time.

    python benchmarks/postgres_indexes.py /path/to/vectors --json result.json --builds 3

Builds repeat outermost and candidates innermost, so that a slow minute of the machine hits all of them alike.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from rich import box
from rich.console import Console
from rich.status import Status
from rich.table import Table

from bqcore.datasets import Dataset, read
from bqcore.evaluation import exact_search
from bqcore_postgres import EmbeddedServer, build, embedded_pg_config
from bqcore_postgres.candidates import (
    DEFAULT_SPECS,
    IndexSpec,
    check_supported,
    load_table,
    server_settings,
    tuned_settings,
)
from bqcore_postgres.measure import Measurement, average, measure_index

ERRORS = Console(stderr=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "data", type=Path, metavar="DATA_DIR", help="data set, as bqcore.datasets.read takes it"
    )
    parser.add_argument("--json", type=Path, required=True, metavar="OUT", help="write the rows here")
    parser.add_argument(
        "--metric", choices=("l2", "ip", "cosine"), help="of files that do not say (npy, Parquet)"
    )
    parser.add_argument("--rows", type=positive, help="use the first N rows only")
    parser.add_argument("--builds", type=positive, default=1, help="builds to average over (default 1)")
    parser.add_argument("--ef", type=positives, default=[40, 100, 200], metavar="40,100,200")
    parser.add_argument("--k", type=positives, default=[10, 20, 40], metavar="10,20,40", help="LIMITs")
    parser.add_argument("--dsn", help="existing server; a scratch database is created there and dropped")
    parser.add_argument(
        "--indexes",
        type=specs,
        default=list(DEFAULT_SPECS),
        metavar="vector,halfvec,bit,bqhnsw:1,bqhnsw:4",
        help="candidates (default: all of these)",
    )
    return parser.parse_args()


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, not {value}")
    return value


def positives(text: str) -> list[int]:
    return [positive(part) for part in text.split(",")]


def specs(text: str) -> list[IndexSpec]:
    try:
        return [IndexSpec.parse(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


@contextlib.contextmanager
def database(options: argparse.Namespace, data: Dataset) -> Iterator[psycopg.Connection[Any]]:
    """Connect to an empty database with the extensions that the candidates need."""
    needs_bqcore = any(spec.index == "bqhnsw" for spec in options.indexes)
    extension = "bqcore" if needs_bqcore else "vector"
    with contextlib.ExitStack() as stack:
        if options.dsn is None:
            folders = [build(embedded_pg_config())] if needs_bqcore else []
            server = EmbeddedServer(settings=tuned_settings(*data.base.shape), extension_dirs=folders)
            conn = stack.enter_context(stack.enter_context(server).connect())
        else:
            admin = stack.enter_context(psycopg.connect(options.dsn, autocommit=True))
            name = f"bqcore_benchmark_{os.getpid()}"
            admin.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
            drop = psycopg.sql.SQL("DROP DATABASE {} WITH (FORCE)").format(psycopg.sql.Identifier(name))
            stack.callback(admin.execute, drop)
            conn = stack.enter_context(psycopg.connect(options.dsn, dbname=name, autocommit=True))
            for setting in ("maintenance_work_mem", "max_parallel_maintenance_workers"):
                value = tuned_settings(*data.base.shape)[setting]
                conn.execute("SELECT set_config(%s, %s, false)", [setting, value])
        conn.execute(psycopg.sql.SQL("CREATE EXTENSION {} CASCADE").format(psycopg.sql.Identifier(extension)))
        yield conn


def _show(status: Status, prefix: str, text: str) -> None:
    status.update(prefix + text)


def run(options: argparse.Namespace) -> tuple[list[Measurement], dict[str, str | None]]:
    data = read(options.data, metric=options.metric, rows=options.rows)
    rows, dim = data.base.shape
    truth = data.ground_truth
    if truth is None or truth.shape[1] < max(options.k):
        truth, _ = exact_search(data.base, data.queries, max(options.k), data.metric)
    ERRORS.print(f"{data.name}: {rows:,} x {dim}, {len(data.queries):,} queries, {data.metric}", markup=False)
    measurements: list[Measurement] = []
    with database(options, data) as conn, ERRORS.status("") as status:
        settings = server_settings(conn)
        check_supported(conn, options.indexes, data.metric)
        load_table(conn, data.base, progress=status.update)
        for number in range(options.builds):
            for spec in options.indexes:
                start = time.perf_counter()
                prefix = f"build {number + 1} of {options.builds}, "
                measurements += measure_index(
                    conn,
                    spec,
                    data.queries,
                    truth,
                    data.base,
                    data.metric,
                    ef_searches=options.ef,
                    k=options.k,
                    progress=functools.partial(_show, status, prefix),
                )
                ERRORS.print(f"{prefix}{spec.label}: {time.perf_counter() - start:.1f} s", markup=False)
    return average(measurements), settings


def render(measurements: list[Measurement]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("index", "bits", "ef", "k", "recall@k", "CPU ms", "p50 ms", "size MB", "build s"):
        table.add_column(column, justify="left" if column == "index" else "right", no_wrap=True)
    previous = None
    for one in measurements:
        if previous is not None and previous != (one.index, one.bits):
            table.add_section()
        previous = (one.index, one.bits)
        table.add_row(
            one.index,
            str(one.bits),
            str(one.ef_search),
            str(one.k),
            f"{one.recall_at_10:.4f}",
            "-" if one.cpu_ms is None else f"{one.cpu_ms:.3f}",
            f"{one.p50_ms:.3f}",
            f"{one.size_bytes / 1e6:.1f}",
            f"{one.build_s:.2f}",
        )
    return table


def main() -> int:
    options = arguments()
    try:
        measurements, settings = run(options)
    except (ImportError, OSError, RuntimeError, ValueError, psycopg.Error) as error:
        print(f"postgres_indexes: {error}", file=sys.stderr)
        return 1
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps([one.as_dict() for one in measurements], indent=2) + "\n")
    print(", ".join(f"{name} {value or '-'}" for name, value in settings.items()))
    table = render(measurements)
    console = Console()
    # A pipe has no width of its own: take what the table wants, so that no cell is cut.
    width = console.measure(table).maximum
    console.width = max(width, console.width) if console.is_terminal else width
    console.print(table)
    if any(one.cpu_ms is None for one in measurements):
        print("CPU ms is missing: the server's processes are not visible from here.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
