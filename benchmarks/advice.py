"""`bqcore advise` end to end: its printed SQL and commands are run as they are, and recall is measured.

For each set: seconds of the advice, recall predicted by codes and measured with other queries, and recall
predicted and reached in an embedded Postgres and in Qdrant's embedded engine, with the set's own queries.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from bqcore.cli.tables import print_table, write_json
from bqcore.datasets import Dataset, read
from bqcore.evaluation import exact_search, recall

K = 10
OPERATORS = {"l2": "<->", "ip": "<#>", "cosine": "<=>"}


def shell(command: str, folder: Path, **environment: str) -> str:
    """Run lines in a shell that finds this environment's bqcore; progress goes to this one's stderr."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-ec", command],
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def reached_in_postgres(data: Dataset, part: dict[str, Any], truth: np.ndarray, folder: Path) -> float:
    """Run the printed steps on an embedded server; return recall of the set's queries."""
    from pgvector.psycopg import register_vector

    from bqcore_postgres import EmbeddedServer, build, embedded_pg_config

    with EmbeddedServer(extension_dirs=[build(embedded_pg_config())]) as server:
        server.create_database("advice")
        with server.connect("advice") as conn:
            for step in part["steps"]:
                if step["kind"] == "shell":
                    shell(step["text"], folder, DSN=server.dsn("advice"))
                    continue
                for statement in step["text"].split(";"):
                    if statement.strip():
                        conn.execute(statement.encode())
            register_vector(conn)
            order = f"{part['column']} {OPERATORS[data.metric]} %s"
            text = f"SELECT id FROM {part['table']} ORDER BY {order} LIMIT {K}".encode()
            conn.execute("SET enable_seqscan = off")
            ids = [[row[0] for row in conn.execute(text, [q]).fetchall()] for q in data.queries]
    return recall(np.array(ids), truth, K, X=data.base, Q=data.queries, metric=data.metric)


def reached_in_qdrant(data: Dataset, part: dict[str, Any], truth: np.ndarray, folder: Path) -> float:
    """Run the printed commands; return recall of the set's queries in the collection they made."""
    from bqcore_qdrant import Collection, QdrantCodec
    from bqcore_qdrant.edge import EdgeClient

    (step,) = part["steps"]
    # verify's exit code tells of a recall below the prediction, which is what is measured here
    shell(re.sub(r"(?m)^(bqcore qdrant verify .*)$", r"\1 || true", step["text"]), folder)
    codec = QdrantCodec.load(folder / f"{part['collection']}-qdrant.npz")
    with EdgeClient(folder / f"qdrant_{part['collection']}") as client:
        ids, _ = Collection(client, part["collection"], codec).search(data.queries, K)
    return recall(np.array(ids), truth, K, X=data.base, Q=data.queries, metric=data.metric)


def judge(path: Path, engines: list[str], seconds: float) -> dict[str, Any]:
    """Return a row for a set."""
    data = read(path)
    truth, _ = exact_search(data.base, data.queries, K, data.metric)
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        chosen = " ".join(f"--engine {engine}" for engine in engines)
        shell(
            f"bqcore advise '{path.resolve()}' --json a.json --report a.html --seconds {seconds} {chosen}",
            folder,
        )
        document = json.loads((folder / "a.json").read_text())
        rows = {one["codec"]: one for one in document["verification"]["rows"]}
        checked = rows.get(document["chosen"])
        row: dict[str, Any] = {
            "set": path.name,
            "advice_s": document["seconds"],
            "advice_cpu_s": document["cpu_seconds"],
            "report_kB": (folder / "a.html").stat().st_size // 1000,
            "codec": document["chosen"],
            "predicted": checked and checked["predicted"],
            "measured": checked and checked["measured"],
        }
        for engine, reach in (("postgres", reached_in_postgres), ("qdrant", reached_in_qdrant)):
            part = document.get(engine, {})
            done = "chosen" in part
            row[f"{engine}_predicted"] = part["predicted_recall"] if done else None
            row[f"{engine}_reached"] = reach(data, part, truth, folder) if done else None
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder that holds the sets")
    parser.add_argument("--sets", nargs="+", help="default: all in the folder")
    parser.add_argument("--engines", nargs="+", default=["postgres", "qdrant"])
    parser.add_argument("--seconds", type=float, default=40, help="as `bqcore advise --seconds`")
    parser.add_argument(
        "--json", metavar="FILE", help="write the rows as JSON; - for stdout, without the table"
    )
    options = parser.parse_args()
    names = options.sets or sorted(path.parent.name for path in options.data.glob("*/base.npy"))
    rows = []
    for name in names:
        print(name, file=sys.stderr)
        rows.append(judge(options.data / name, options.engines, options.seconds))
    if options.json != "-":
        table = Table(title="Advice, and what came of it", title_justify="left")
        for column in rows[0]:
            table.add_column(column, no_wrap=True)
        for row in rows:
            table.add_row(*(f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row.values()))
        print_table(table)
    if options.json:
        write_json(rows, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
