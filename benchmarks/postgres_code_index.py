"""pgvector's hnsw and ivfflat over bqcode columns: recall of two-stage queries, CPU, size and build time.

    python benchmarks/postgres_code_index.py DATA_DIR --json OUT

Candidates come by code from the index, the first 10 of them by vector. The fastest of two passes counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from pgvector.psycopg import register_vector
from postgres_rescore import OPERATORS, Connection, FloatArray, K, backend_seconds, load, numbers
from rich import box
from rich.console import Console
from rich.table import Table

from bqcore.datasets import Dataset, read
from bqcore.evaluation import exact_search
from bqcore_postgres import EmbeddedServer, build, embedded_pg_config
from bqcore_postgres.candidates import raw_sql, tuned_settings

METHODS = {"hnsw": "hnsw.ef_search", "ivfflat": "ivfflat.probes"}


@dataclass
class Row:
    """One index at one setting; `effort` is hnsw.ef_search or ivfflat.probes."""

    method: str
    bits: int
    effort: int
    candidates: int
    recall_at_10: float
    cpu_ms: float
    size_bytes: int
    build_s: float


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path, metavar="DATA_DIR")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--bits", type=numbers, default=[1, 4])
    parser.add_argument("--ef", type=numbers, default=[100, 200])
    parser.add_argument("--lists", type=int, default=200)
    parser.add_argument("--probes", type=numbers, default=[5, 20])
    parser.add_argument("--candidates", type=int, default=100)
    return parser.parse_args()


def measure(
    conn: Connection, data: Dataset, table: str, method: str, bits: int, options: argparse.Namespace
) -> list[Row]:
    Q: FloatArray = data.queries[: options.queries]
    truth = exact_search(data.base, Q, K, data.metric)[0]
    op = OPERATORS[data.metric]
    with_lists = f"WITH (lists = {options.lists})" if method == "ivfflat" else ""
    start = time.perf_counter()
    conn.execute(
        raw_sql(f"CREATE INDEX codes ON {table} USING {method} (code bqcode_{data.metric}_ops) {with_lists}")
    )
    build_s = time.perf_counter() - start
    row = conn.execute("SELECT pg_relation_size('codes'), (SELECT model::text FROM models)").fetchone()
    assert row is not None
    size, model = row
    candidates = (
        f"SELECT id, embedding FROM {table} ORDER BY code {op} (SELECT bq_query(%(q)b, '{model}')) "
        f"LIMIT {options.candidates}"
    )
    statement = raw_sql(f"SELECT id FROM ({candidates}) AS c ORDER BY embedding {op} %(q)b LIMIT {K}")
    found = []
    for effort in options.ef if method == "hnsw" else options.probes:
        conn.execute("SELECT set_config(%s, %s, false)", [METHODS[method], str(effort)])
        passes = []
        for _ in range(3):
            hits, before = 0, backend_seconds(conn)
            for q, nearest in zip(Q, truth, strict=True):
                rows = conn.execute(statement, {"q": q}, prepare=True, binary=True).fetchall()
                hits += len({row[0] for row in rows} & set(nearest.tolist()))
            passes.append((backend_seconds(conn) - before) / len(Q) * 1e3)
        recall = hits / truth.size
        found.append(Row(method, bits, effort, options.candidates, recall, min(passes[1:]), size, build_s))
    conn.execute("DROP INDEX codes")
    return found


def main() -> int:
    options = arguments()
    data = read(options.data, rows=options.rows)
    found: list[Row] = []
    settings = tuned_settings(len(data.base) * 2, data.base.shape[1]) | {"jit": "off"}
    server = EmbeddedServer(settings=settings, extension_dirs=[build(embedded_pg_config())])
    with server, server.connect() as conn:
        conn.execute("CREATE EXTENSION bqcore CASCADE")
        conn.execute("LOAD 'vector'")
        register_vector(conn)
        load(conn, "floats", data.base, data.metric, None)
        conn.execute("SET enable_seqscan = off")
        for bits in options.bits:
            conn.execute("DROP TABLE IF EXISTS models")
            load(conn, f"codes{bits}", data.base, data.metric, bits)
            for method in METHODS:
                found += measure(conn, data, f"codes{bits}", method, bits, options)
    if options.json:
        result = {"rows": len(data.base), "metric": data.metric, "results": [asdict(row) for row in found]}
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("index", "bits", "ef / probes", "recall@10", "CPU ms", "size MB", "build s"):
        table.add_column(column, justify="right")
    for row in found:
        values = (f"{row.recall_at_10:.4f}", f"{row.cpu_ms:.3f}", f"{row.size_bytes / 1e6:.1f}")
        table.add_row(row.method, str(row.bits), str(row.effort), *values, f"{row.build_s:.1f}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
