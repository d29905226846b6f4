"""SQL mode against pgvector's binary quantization with a rescoring subquery: recall, time, sizes.

    python benchmarks/postgres_sql.py /path/to/vectors --json result.json
    python benchmarks/postgres_sql.py /path/to/vectors --synthetic 1024 --storage external plain --json OUT

Every method is measured at rising numbers of candidates; the time at a recall is interpolated between them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from pgvector.psycopg import register_vector
from rich import box
from rich.console import Console
from rich.table import Table
from synthetic import DRAWS, with_dimensions

from bqcore.datasets import Dataset, read
from bqcore.evaluation import exact_search, recall
from bqcore_postgres import EmbeddedServer, sql_mode
from bqcore_postgres.candidates import OPERATORS, load_table, raw_sql, server_settings, tuned_settings
from bqcore_postgres.measure import BackendClock
from bqcore_postgres.sql_mode.client import CodedColumn

K = 10
ERRORS = Console(stderr=True)
Search = Callable[[psycopg.Cursor[Any], np.ndarray], list[tuple[Any, ...]]]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "data", type=Path, metavar="DATA_DIR", help="data set, as bqcore.datasets.read takes it"
    )
    parser.add_argument("--json", type=Path, required=True, metavar="OUT", help="write the rows here")
    parser.add_argument("--rows", type=int, help="use the first N rows only")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--candidates", type=numbers, default=[50, 100, 200, 400], metavar="50,100,...")
    parser.add_argument("--rescore", type=numbers, default=[20, 40], metavar="20,40", help="of three stages")
    parser.add_argument("--recall", type=float, default=0.97, help="compare times at this recall@10")
    parser.add_argument(
        "--synthetic",
        type=int,
        metavar="DIM",
        help="stretch the data's spectrum over this many dimensions",
    )
    parser.add_argument("--draw", choices=DRAWS, default="data", help="of which rows; gaussian: no clusters")
    parser.add_argument(
        "--storage", nargs="+", choices=("external", "plain"), default=["external"], help="of the vectors"
    )
    parser.add_argument("--postgres", type=int, choices=(16, 18), default=18)
    return parser.parse_args()


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def timed(
    conn: psycopg.Connection[Any], search: Search, data: Dataset, queries: np.ndarray
) -> dict[str, float]:
    """Recall of a warm-up pass; the faster of two timed passes."""
    assert data.ground_truth is not None
    clock = BackendClock(conn)
    found = np.full((len(queries), K), -1)
    p50, cpu, mean = [], [], []
    with conn.cursor() as cursor:
        for number in range(3):
            before = clock.seconds()
            seconds = np.empty(len(queries))
            for i, q in enumerate(queries):
                start = time.perf_counter()
                rows = search(cursor, q)
                seconds[i] = time.perf_counter() - start
                found[i, : len(rows)] = [row[0] for row in rows]
            if number:
                p50.append(np.median(seconds) * 1e3)
                mean.append(np.mean(seconds) * 1e3)
                cpu.append((clock.seconds() - before) / len(queries) * 1e3)
    truth = data.ground_truth[: len(queries)]
    quality = recall(found, truth, K, X=data.base, Q=queries, metric=data.metric)
    return {"recall_at_10": float(quality), "p50_ms": min(p50), "mean_ms": min(mean), "cpu_ms": min(cpu)}


def methods(
    options: argparse.Namespace, data: Dataset, column: CodedColumn
) -> list[tuple[str, int, int, Search]]:
    dim = data.base.shape[1]
    operator = OPERATORS[data.metric]
    found: list[tuple[str, int, int, Search]] = []
    for candidates in options.candidates:
        plain = raw_sql(
            f"SELECT id FROM (SELECT id, embedding FROM items "
            f"ORDER BY binary_quantize(embedding)::bit({dim}) <~> "
            f"binary_quantize(%(q)b::vector({dim}))::bit({dim}) LIMIT {candidates}) c "
            f"ORDER BY embedding {operator} %(q)b::vector({dim}) LIMIT {K}"
        )

        def pgvector(cursor: psycopg.Cursor[Any], q: np.ndarray, plain: Any = plain) -> list[tuple[Any, ...]]:
            return cursor.execute(plain, {"q": q}, prepare=True, binary=True).fetchall()

        found.append(("pgvector bit", candidates, candidates, pgvector))
        for rescore in (candidates, *(r for r in options.rescore if r < candidates)):
            stages = 2 if rescore == candidates else 3
            called = raw_sql(
                f"SELECT id FROM bqcore.search('items', 'embedding', %(q)b, {K}, {candidates}, {rescore})"
            )

            def server(
                cursor: psycopg.Cursor[Any], q: np.ndarray, called: Any = called
            ) -> list[tuple[Any, ...]]:
                return cursor.execute(called, {"q": q}, prepare=True, binary=True).fetchall()

            def client(
                cursor: psycopg.Cursor[Any],
                q: np.ndarray,
                candidates: int = candidates,
                rescore: int = rescore,
            ) -> list[tuple[Any, ...]]:
                statement, parameters = column.search_statement(q, K, candidates=candidates, rescore=rescore)
                return cursor.execute(statement, parameters, prepare=False, binary=True).fetchall()

            found.append((f"bqcore.search, {stages} stages", candidates, rescore, server))
            found.append((f"client statement, {stages} stages", candidates, rescore, client))
    return found


def run(
    options: argparse.Namespace, data: Dataset, storage: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    rows, dim = data.base.shape
    queries = np.ascontiguousarray(data.queries[: options.queries])
    results: list[dict[str, Any]] = []
    server = EmbeddedServer(settings=tuned_settings(rows, dim), postgres_version=options.postgres)
    with server, server.connect() as conn, ERRORS.status("") as status:
        settings = server_settings(conn)
        conn.execute("CREATE EXTENSION vector")
        register_vector(conn)
        sql_mode.install(conn)
        # An empty table first, so that its storage holds for every row.
        load_table(conn, data.base[:0], progress=status.update)
        conn.execute(raw_sql(f"ALTER TABLE items ALTER COLUMN embedding SET STORAGE {storage}"))
        copy_rows(conn, data.base)
        sizes: dict[str, Any] = {"rows": rows, "dim": dim, "storage": storage, "data": data.name}
        sizes["table_mb"], sizes["toast_mb"] = table_sizes(conn)
        for name, statement in {
            "train_s": "SELECT bqcore.add('items', 'embedding', "
            f"bqcore.train('items', 'embedding', 10000, '{data.metric}'))",
            "fill_s": "CALL bqcore.fill('items', 'embedding')",
            "vacuum_s": "VACUUM FULL items",
            "pgvector_build_s": f"CREATE INDEX items_bit ON items "
            f"USING hnsw ((binary_quantize(embedding)::bit({dim})) bit_hamming_ops)",
            "sql_build_s": "CREATE INDEX items_code ON items USING hnsw (embedding_code bit_hamming_ops)",
            "analyze_s": "VACUUM ANALYZE items",
        }.items():
            status.update(statement)
            start = time.perf_counter()
            conn.execute(raw_sql(statement))
            sizes[name] = round(time.perf_counter() - start, 2)
        sizes["table_with_codes_mb"], _ = table_sizes(conn)
        for index in ("items_bit", "items_code"):
            (size,) = one(conn, f"SELECT pg_relation_size('{index}')")
            sizes[f"{index}_mb"] = round(size / 1e6, 1)
        column = CodedColumn.read(conn, "items", "embedding")
        # The planner does not count what reading vectors out of line costs, and would scan small tables.
        conn.execute("SET enable_seqscan = off")
        for name, candidates, rescore, search in methods(options, data, column):
            status.update(f"{data.name}, {storage}: {name}, {candidates} candidates")
            conn.execute("SELECT set_config('hnsw.ef_search', %s, false)", [str(candidates)])
            measured = timed(conn, search, data, queries)
            results.append(
                {
                    "data": data.name,
                    "storage": storage,
                    "method": name,
                    "candidates": candidates,
                    "rescore": rescore,
                    **measured,
                }
            )
    return results, {**sizes, "settings": settings}


def copy_rows(conn: psycopg.Connection[Any], X: np.ndarray) -> None:
    with (
        conn.cursor() as cursor,
        cursor.copy("COPY items (id, embedding) FROM STDIN WITH (FORMAT BINARY)") as copy,
    ):
        copy.set_types(["int4", "vector"])
        for i, x in enumerate(X):
            copy.write_row((i, x))
    conn.execute("VACUUM ANALYZE items")


def one(conn: psycopg.Connection[Any], statement: str) -> tuple[Any, ...]:
    row = conn.execute(raw_sql(statement)).fetchone()
    assert row is not None
    return tuple(row)


def table_sizes(conn: psycopg.Connection[Any]) -> tuple[float, float]:
    (heap, toast) = one(
        conn,
        "SELECT pg_relation_size('items'), coalesce(pg_relation_size(nullif(reltoastrelid, 0)), 0) "
        "FROM pg_class WHERE oid = 'items'::regclass",
    )
    return round(heap / 1e6, 1), round(toast / 1e6, 1)


def time_at(results: list[dict[str, Any]], level: float, field: str) -> float | None:
    """Interpolate the milliseconds at a recall; None where it is not reached."""
    points = sorted((one["candidates"], one["recall_at_10"], one[field]) for one in results)
    for i, (_, quality, ms) in enumerate(points):
        if quality >= level:
            if i == 0:
                return float(ms)
            _, below, ms_below = points[i - 1]
            return float(ms_below + (ms - ms_below) * (level - below) / (quality - below))
    return None


def comparison(results: list[dict[str, Any]], level: float) -> list[dict[str, Any]]:
    found = []
    for storage in dict.fromkeys(one["storage"] for one in results):
        here = [one for one in results if one["storage"] == storage]
        curves: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for one in here:
            kept = one["rescore"] if one["rescore"] < one["candidates"] else 0
            curves.setdefault((one["method"], kept), []).append(one)
        reference = time_at(curves["pgvector bit", 0], level, "p50_ms")
        for (method, kept), points in curves.items():
            at = time_at(points, level, "p50_ms")
            ratio = None if at is None or reference is None else at / reference
            found.append(
                {
                    "storage": storage,
                    "method": method,
                    "rescore": kept or None,
                    "p50_ms": at,
                    "times_pgvector": ratio,
                }
            )
    return found


def render(results: list[dict[str, Any]], compared: list[dict[str, Any]], level: float) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("storage", "method", "candidates", "rescored", "recall@10", "p50 ms", "CPU ms"):
        table.add_column(heading, no_wrap=True)
    for one in results:
        table.add_row(
            one["storage"],
            one["method"],
            str(one["candidates"]),
            str(one["rescore"]),
            f"{one['recall_at_10']:.4f}",
            f"{one['p50_ms']:.3f}",
            f"{one['cpu_ms']:.3f}",
        )
    at = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"at recall@10 = {level}", title_justify="left")
    for heading in ("storage", "method", "rescored", "p50 ms", "x pgvector bit"):
        at.add_column(heading, no_wrap=True)
    for one in compared:
        at.add_row(
            one["storage"],
            one["method"],
            "all" if one["rescore"] is None else str(one["rescore"]),
            "not reached" if one["p50_ms"] is None else f"{one['p50_ms']:.3f}",
            "" if one["times_pgvector"] is None else f"{one['times_pgvector']:.2f}",
        )
    console = Console(width=140)
    console.print(table)
    console.print(at)


def main() -> int:
    options = arguments()
    try:
        data = read(options.data, rows=options.rows)
        if options.synthetic:
            data = with_dimensions(
                data,
                options.synthetic,
                rows=len(data.base),
                n_queries=options.queries,
                draw=options.draw,
                k=K,
            )
        elif data.ground_truth is None or options.rows:
            truth, _ = exact_search(data.base, data.queries, K, data.metric)
            data = Dataset(data.name, data.base, data.queries, data.metric, truth)
        results: list[dict[str, Any]] = []
        sizes = []
        for storage in options.storage:
            measured, size = run(options, data, storage)
            results += measured
            sizes.append(size)
            ERRORS.print(
                ", ".join(f"{name} {value}" for name, value in size.items() if name != "settings"),
                markup=False,
            )
    except (ImportError, OSError, RuntimeError, ValueError, psycopg.Error) as error:
        print(f"postgres_sql: {error}", file=sys.stderr)
        return 1
    compared = comparison(results, options.recall)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(
        json.dumps({"sizes": sizes, "results": results, "at_recall": compared}, indent=2) + "\n"
    )
    render(results, compared, options.recall)
    return 0


if __name__ == "__main__":
    sys.exit(main())
