"""Rescoring through code columns beside rescoring from toasted vectors: recall and CPU per query of bqhnsw.

    python benchmarks/postgres_rescore.py DATA_DIR --dims 1024,1536 --json OUT

Rows are those of the data set, its spectrum stretched over more dimensions, so that vectors are too long for
their rows; with ``--draw gaussian`` they are Gaussian with that spectrum: all neighbours are about equally
far, so that graphs do worse than on embeddings. Each table has a graph of its own per width, so that recall
varies a little; `graph_recall` is that of rescoring from vectors on the same graph. Modes take turns, all
queries at a time: an index in use finds its own pages in the caches. Of nine rounds the medians count.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from pgvector.psycopg import register_vector
from rich import box
from rich.console import Console
from rich.table import Table
from synthetic import DRAWS, with_dimensions

from bqcore.datasets import Dataset, read
from bqcore_postgres import EmbeddedServer, build, embedded_pg_config
from bqcore_postgres.candidates import raw_sql, tuned_settings

K = 10
ROUNDS = 9
OPERATORS = {"l2": "<->", "ip": "<#>", "cosine": "<=>"}
ERRORS = Console(stderr=True)
FloatArray = NDArray[np.float32]
Connection = psycopg.Connection[Any]


@dataclass
class Row:
    """One mode at one ef_search; `ratio` is its CPU time over that of rescoring from vectors."""

    dim: int
    bits: int
    rescored_from: str
    ef_search: int
    recall_at_10: float
    graph_recall: float
    cpu_ms: float
    ratio: float
    row_bytes: int


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path, metavar="DATA_DIR")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--dims", type=numbers, default=[1024, 1536])
    parser.add_argument("--draw", choices=DRAWS, default="data")
    parser.add_argument("--rows", type=int, default=20000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--bits", type=numbers, default=[1], help="of the graph")
    parser.add_argument("--code-bits", type=numbers, default=[8, 4])
    parser.add_argument("--ef", type=numbers, default=[40, 100, 200])
    return parser.parse_args()


def load(conn: Connection, table: str, X: FloatArray, metric: str, code_bits: int | None) -> None:
    """Fill a table of ids and vectors; code_bits adds codes by a model that is trained on table floats."""
    conn.execute(raw_sql(f"CREATE TABLE {table} (id int PRIMARY KEY, embedding vector({X.shape[1]}))"))
    with conn.cursor() as cursor:
        if code_bits:
            text = (
                f"SELECT bq_train(embedding, {code_bits}, '{metric}') AS model FROM floats WHERE id < 10000"
            )
            cursor.execute("DROP TABLE IF EXISTS models")
            cursor.execute(raw_sql(f"CREATE TABLE models AS {text}"))
            row = cursor.execute("SELECT model::text FROM models").fetchone()
            assert row is not None
            column = (
                f"code bqcode({X.shape[1]}) GENERATED ALWAYS AS (bq_encode(embedding, '{row[0]}')) STORED"
            )
            cursor.execute(raw_sql(f"ALTER TABLE {table} ADD {column}"))
        with cursor.copy(raw_sql(f"COPY {table} (id, embedding) FROM STDIN WITH (FORMAT BINARY)")) as copy:
            copy.set_types(["int4", "vector"])
            for i, x in enumerate(X):
                copy.write_row((i, x))
    conn.execute(raw_sql(f"VACUUM ANALYZE {table}"))


def backend_seconds(conn: Connection) -> float:
    """CPU seconds of the connection's server process so far."""
    return int(Path(f"/proc/{conn.info.backend_pid}/schedstat").read_text().split()[0]) * 1e-9


def run_queries(
    conn: Connection, table: str, metric: str, Q: FloatArray, truth: NDArray[np.integer[Any]]
) -> tuple[float, float]:
    """Recall@10, and CPU milliseconds of the backend per query."""
    statement = raw_sql(f"SELECT id FROM {table} ORDER BY embedding {OPERATORS[metric]} %(q)b LIMIT {K}")
    hits, before = 0, backend_seconds(conn)
    with conn.cursor() as cursor:
        for q, nearest in zip(Q, truth, strict=True):
            rows = cursor.execute(statement, {"q": q}, prepare=True, binary=True).fetchall()
            hits += len({row[0] for row in rows} & set(nearest.tolist()))
    return hits / truth[:, :K].size, (backend_seconds(conn) - before) * 1e3 / len(Q)


def measure(options: argparse.Namespace, data: Dataset, dim: int) -> list[Row]:
    made = with_dimensions(data, dim, rows=options.rows, n_queries=options.queries, draw=options.draw, k=K)
    X, Q, metric, truth = made.base, made.queries, made.metric, made.ground_truth
    assert truth is not None
    tables: dict[str, int | None] = {"floats": None} | {f"codes{bits}": bits for bits in options.code_bits}
    found = []
    settings = tuned_settings(len(X) * 2, dim) | {"jit": "off"}
    server = EmbeddedServer(settings=settings, extension_dirs=[build(embedded_pg_config())])
    with server, server.connect() as conn:
        conn.execute("CREATE EXTENSION bqcore CASCADE")
        register_vector(conn)
        for table, code_bits in tables.items():
            load(conn, table, X, metric, code_bits)
            for bits in options.bits:
                option = ", rescore_column = 'code'" if code_bits else ""
                conn.execute(
                    raw_sql(
                        f"CREATE INDEX {table}_{bits} ON {table} USING bqhnsw "
                        f"(embedding vector_{metric}_ops) WITH (bits = {bits}{option})"
                    )
                )
            ERRORS.print(f"{dim} dimensions: {table} is built")
        for bits in options.bits:
            found += compare(conn, tables, options, metric, bits, Q, truth)
    return found


def compare(
    conn: Connection,
    tables: dict[str, int | None],
    options: argparse.Namespace,
    metric: str,
    bits: int,
    Q: FloatArray,
    truth: NDArray[np.integer[Any]],
) -> list[Row]:
    """Measure the graphs of one width; the others are hidden from the planner."""
    conn.execute("SET enable_seqscan = off")
    for table in tables:
        for other in options.bits:
            conn.execute(
                "UPDATE pg_index SET indisvalid = %s WHERE indexrelid = %s::regclass",
                [other == bits, f"{table}_{other}"],
            )
    found = []
    for ef in options.ef:
        conn.execute("SELECT set_config('hnsw.ef_search', %s, false)", [str(ef)])
        graph_recalls = {}
        for table, code_bits in tables.items():
            for option in ("RESET (rescore_column)", "SET (rescore_column = code)") if code_bits else ():
                conn.execute(raw_sql(f"ALTER INDEX {table}_{bits} {option}"))
                if option.startswith("RESET"):
                    graph_recalls[table] = run_queries(conn, table, metric, Q, truth)[0]
        recalls = {table: run_queries(conn, table, metric, Q, truth)[0] for table in tables}  # warms up
        rounds = [
            {table: run_queries(conn, table, metric, Q, truth)[1] for table in tables} for _ in range(ROUNDS)
        ]
        times = {table: float(np.median([one[table] for one in rounds])) for table in tables}
        for table, code_bits in tables.items():
            rows = conn.execute(
                raw_sql(f"SELECT pg_relation_size('{table}') / count(*) FROM {table}")
            ).fetchone()
            assert rows is not None
            cpu, what = times[table], f"{code_bits}-bit codes" if code_bits else "vectors"
            ratio = float(np.median([one[table] / one["floats"] for one in rounds]))
            graph = graph_recalls.get(table, recalls[table])
            found.append(Row(Q.shape[1], bits, what, ef, recalls[table], graph, cpu, ratio, rows[0]))
    return found


def main() -> int:
    options = arguments()
    data = read(options.data)
    rows = [row for dim in options.dims for row in measure(options, data, dim)]
    setup = {"draw": options.draw, "rows": options.rows, "metric": data.metric}
    result = setup | {"results": [asdict(row) for row in rows]}
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in (
        "dim",
        "graph bits",
        "rescored from",
        "ef",
        "recall@10",
        "from vectors",
        "CPU ms",
        "ratio",
        "heap B/row",
    ):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            str(row.dim),
            str(row.bits),
            row.rescored_from,
            str(row.ef_search),
            f"{row.recall_at_10:.4f}",
            f"{row.graph_recall:.4f}",
            f"{row.cpu_ms:.3f}",
            f"{row.ratio:.2f}",
            str(row.row_bytes),
        )
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
