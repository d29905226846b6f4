"""Concurrent clients on one index: pgbench with nine searches to one insert, update or delete.

    python benchmarks/load.py /path/to/vectors --seconds 600 --indexes bqhnsw:1 --json load.json

Rows are the first of the data set, inserts and updates take the others, searches take its queries. pgbench
logs every transaction, and latencies are from its log. Afterwards recall is measured against exact search
over the rows that the table then holds, and bqcore_check looks at the index where the extension has it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from pgvector.psycopg import register_vector
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from bqcore.cli.tables import print_table
from bqcore.datasets import Dataset, read
from bqcore.evaluation import exact_distances, exact_search
from bqcore_postgres import EmbeddedServer, build, embedded_pg_config
from bqcore_postgres.candidates import (
    OPERATORS,
    IndexSpec,
    build_index,
    load_table,
    raw_sql,
    server_settings,
    set_setting,
    tuned_settings,
)

K = 10
ERRORS = Console(stderr=True)
#: Scripts of pgbench and how many of a hundred transactions each is.
SCRIPTS = {
    "search": (
        90,
        r"""\set q random(0, {queries} - 1)
SELECT id FROM items ORDER BY embedding {operator} (SELECT embedding FROM queries WHERE id = :q) LIMIT 10;
""",
    ),
    "insert": (
        4,
        r"""\set i random(0, {pool} - 1)
INSERT INTO items SELECT nextval('next_id'), embedding FROM pool WHERE id = :i;
""",
    ),
    "update": (
        3,
        r"""\set i random(0, {pool} - 1)
\set j random(0, {rows} - 1)
UPDATE items SET embedding = (SELECT embedding FROM pool WHERE id = :i)
WHERE id = (SELECT id FROM items WHERE id >= :j ORDER BY id LIMIT 1);
""",
    ),
    "delete": (
        3,
        r"""\set j random(0, {rows} - 1)
DELETE FROM items WHERE id = (SELECT id FROM items WHERE id >= :j ORDER BY id LIMIT 1);
""",
    ),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "data", type=Path, metavar="DATA_DIR", help="data set, as bqcore.datasets.read takes it"
    )
    parser.add_argument("--json", type=Path, required=True, metavar="OUT", help="write the figures here")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument(
        "--rows", type=int, help="rows at the start (default: three quarters of the data set)"
    )
    parser.add_argument("--ef", type=int, default=100, help="hnsw.ef_search")
    parser.add_argument("--indexes", default="bqhnsw:1,vector", metavar="bqhnsw:1,vector")
    parser.add_argument("--seed", type=int, default=0, help="of pgbench's random numbers")
    options = parser.parse_args()
    for name in ("seconds", "clients", "ef"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: expected 1 or more, not {getattr(options, name)}")
    return options


def prepare(conn: psycopg.Connection[Any], data: Dataset, rows: int) -> None:
    """Tables items (searched and changed), pool (vectors to come) and queries."""
    conn.execute("CREATE EXTENSION bqcore CASCADE")
    load_table(conn, data.base[:rows])
    load_table(conn, data.base[rows:], table="pool")
    load_table(conn, data.queries, table="queries")
    conn.execute(raw_sql(f"CREATE SEQUENCE next_id START {rows}"))
    # So that vacuum runs beside the clients, also in a short run.
    conn.execute(
        "ALTER TABLE items SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 50)"
    )


def recall_now(conn: psycopg.Connection[Any], data: Dataset) -> tuple[float, int]:
    """recall@10 of all queries against exact search over the table's rows, and the number of rows.

    A row counts when its distance is not above the tenth: inserts bring equal vectors.
    """
    rows = conn.execute("SELECT id, embedding FROM items ORDER BY id").fetchall()
    ids = np.array([row[0] for row in rows])
    X = np.array([row[1].to_numpy() for row in rows], np.float32)
    truth, exact = exact_search(X, data.queries, K, data.metric)
    statement = raw_sql(f"SELECT id FROM items ORDER BY embedding {OPERATORS[data.metric]} %s LIMIT {K}")
    hits = 0
    for q, furthest in zip(data.queries, exact[:, -1], strict=True):
        found = [row[0] for row in conn.execute(statement, [q]).fetchall()]
        at = np.searchsorted(ids, found)
        if len(set(found)) != len(found) or (ids[at] != found).any():
            raise RuntimeError(f"a search returned a row twice, or one that is not there: {found}")
        distances = exact_distances(X, q[None], at[None], data.metric)[0]
        # float32 sums against float64 ones
        hits += int((distances <= furthest + 1e-6 * max(1.0, abs(furthest))).sum())
    return hits / truth.size, len(ids)


def scripts(folder: Path, data: Dataset, rows: int) -> list[str]:
    """Write the scripts; return pgbench's arguments for them."""
    found = []
    for name, (weight, text) in SCRIPTS.items():
        path = folder / f"{name}.sql"
        values = {"queries": len(data.queries), "pool": len(data.base) - rows, "rows": rows}
        path.write_text(text.format(operator=OPERATORS[data.metric], **values))
        found += ["-f", f"{path}@{weight}"]
    return found


def pgbench(
    server: EmbeddedServer, data: Dataset, rows: int, options: argparse.Namespace, label: str
) -> dict[str, Any]:
    """Run the load; return what pgbench counted and latencies in milliseconds."""
    with tempfile.TemporaryDirectory(prefix="bq-load-") as name:
        folder = Path(name)
        command = [str(server.bin_dir / "pgbench"), "-n", "-M", "prepared", "-T", str(options.seconds)]
        command += ["-c", str(options.clients), "-j", "1", f"--random-seed={options.seed}", "--log"]
        command += [f"--log-prefix={folder}/log", *scripts(folder, data, rows), server.dsn()]
        # Tables of a test are so small that the planner would read all of them.
        settings = f"-c hnsw.ef_search={options.ef} -c enable_seqscan=off"
        with (folder / "output").open("w+") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "PGOPTIONS": settings}
            )
            try:
                _watch(process, options.seconds, label)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            output.seek(0)
            text = output.read()
        if process.returncode != 0:
            raise RuntimeError(f"pgbench failed:\n{text[-2000:]}")
        lines = [line.split() for log in folder.glob("log.*") for line in log.read_text().splitlines()]
    failed = re.search(r"failed transactions: (\d+)", text)
    if failed is None:
        raise RuntimeError(f"expected pgbench to count failed transactions, not\n{text[-2000:]}")
    return {"failed": int(failed.group(1)), **latencies(lines, options.seconds)}


def _watch(process: subprocess.Popen[Any], seconds: int, label: str) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=ERRORS) as progress:
        task = progress.add_task(label, total=seconds)
        start = time.monotonic()
        while process.poll() is None:
            progress.update(task, completed=min(seconds, time.monotonic() - start))
            time.sleep(0.5)


def latencies(lines: list[list[str]], seconds: int) -> dict[str, Any]:
    """Sum up pgbench's log: client, transaction, microseconds or what failed, script, time in two fields."""
    names = list(SCRIPTS)
    microseconds = np.array([float(line[2]) for line in lines if line[2].isdigit()])
    of_script = np.array([int(line[3]) for line in lines if line[2].isdigit()])
    groups = {"all": np.ones(len(of_script), bool)}
    groups |= {name: of_script == number for number, name in enumerate(names)}
    return {
        "transactions": len(microseconds),
        "per_second": len(microseconds) / seconds,
        "latency_ms": {
            name: {
                "n": int(chosen.sum()),
                **{
                    f"p{p}": float(np.percentile(microseconds[chosen], p)) / 1e3 if chosen.any() else None
                    for p in (50, 99)
                },
            }
            for name, chosen in groups.items()
        },
    }


def run(options: argparse.Namespace, data: Dataset, spec: IndexSpec, folder: Path) -> dict[str, Any]:
    """Load one index."""
    rows = options.rows or len(data.base) * 3 // 4
    if not K <= rows < len(data.base):
        raise ValueError(f"--rows: expected {K} to {len(data.base) - 1}, not {rows}")
    settings = tuned_settings(2 * len(data.base), data.base.shape[1])
    with EmbeddedServer(settings=settings, extension_dirs=[folder]) as server, server.connect() as conn:
        prepare(conn, data, rows)
        name, build_s, size = build_index(conn, spec, data.metric)
        register_vector(conn)
        conn.execute("LOAD 'vector'")
        set_setting(conn, "hnsw.ef_search", str(options.ef))
        set_setting(conn, "enable_seqscan", "off")
        before, _ = recall_now(conn, data)
        found = pgbench(server, data, rows, options, spec.label)
        after, n_after = recall_now(conn, data)
        vacuums = conn.execute(
            "SELECT autovacuum_count FROM pg_stat_user_tables WHERE relname = 'items'"
        ).fetchone()
        grown = conn.execute("SELECT pg_relation_size(%s::regclass)", [name]).fetchone()
        assert vacuums is not None
        assert grown is not None
        return {
            "data": data.name,
            "index": spec.index,
            "bits": spec.bits,
            "seconds": options.seconds,
            "clients": options.clients,
            "ef_search": options.ef,
            **found,
            "rows_before": rows,
            "rows_after": n_after,
            "size_before": size,
            "size_after": grown[0],
            "build_s": build_s,
            "autovacuums": vacuums[0],
            "recall_before": before,
            "recall_after": after,
            "check": checked(conn, spec, name),
            "settings": server_settings(conn),
        }


def checked(conn: psycopg.Connection[Any], spec: IndexSpec, name: str) -> str:
    """Return what bqcore_check says of the index."""
    row = conn.execute("SELECT to_regproc('bqcore_check') IS NOT NULL").fetchone()
    if spec.index != "bqhnsw" or row is None or not row[0]:
        return "not available"
    return "; ".join(str(one) for one in conn.execute("SELECT bqcore_check(%s::regclass)", [name]).fetchall())


def render(results: list[dict[str, Any]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("index", "script", "transactions", "per second", "p50 ms", "p99 ms"):
        table.add_column(heading, no_wrap=True, justify="left" if heading in ("index", "script") else "right")
    for one in results:
        for name, found in one["latency_ms"].items():
            times = ["-" if found[p] is None else f"{found[p]:.2f}" for p in ("p50", "p99")]
            rate = f"{found['n'] / one['seconds']:.1f}"
            table.add_row(f"{one['index']} {one['bits']}", name, f"{found['n']:,}", rate, *times)
        table.add_section()
    print_table(table)
    for one in results:
        recalls = f"{one['recall_before']:.4f} before, {one['recall_after']:.4f} after"
        rows = f"{one['rows_before']:,} before, {one['rows_after']:,} after"
        load = f"{one['clients']} clients, {one['seconds']} s"
        print(f"{one['index']} {one['bits']}: {load}, failed {one['failed']}")
        print(f"  recall@10 {recalls}; rows {rows}; autovacuums {one['autovacuums']}; check: {one['check']}")


def main() -> int:
    options = arguments()
    try:
        data = read(options.data)
        specs = [IndexSpec.parse(text) for text in options.indexes.split(",")]
        folder = build(embedded_pg_config())
        results = [run(options, data, spec, folder) for spec in specs]
    except (ImportError, OSError, RuntimeError, ValueError, psycopg.Error) as error:
        print(f"load: {error}", file=sys.stderr)
        return 1
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=2) + "\n")
    render(results)
    return 1 if any(one["failed"] for one in results) else 0


if __name__ == "__main__":
    sys.exit(main())
