"""Rows, sessions and states that the tests of waiting rows share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from conftest import Server
from pgvector.psycopg import register_vector
from support import (
    Connection,
    FloatArray,
    configure,
    execute,
    force_index,
    go_on_until_the_limit,
    has_iterative_scan,
    search_ids,
)

from bqcore.datasets import clustered

DATA = clustered(1500, 48, n_queries=40, random_state=71)
#: Far from the origin, so that codes without a centroid are all alike.
BASE: FloatArray = DATA.base + np.float32(3)
QUERIES: FloatArray = DATA.queries + np.float32(3)
WAIT = 400


@contextmanager
def session(server: Server, database: str, rows: int = WAIT) -> Iterator[Connection]:
    """Connect with an index's number of rows to wait for."""
    with server.connect(database, options=f"-c bqcore.train_rows={rows}") as conn:
        conn.execute("SET client_min_messages = error; CREATE EXTENSION IF NOT EXISTS bqcore CASCADE")
        conn.execute("RESET client_min_messages")
        register_vector(conn)
        force_index(conn)
        yield conn


def state(conn: Connection, index: str = "items_bq") -> tuple[bool, int, int]:
    """Whether an index has a model, of how many rows, and how many wait."""
    row = execute(
        conn, f"SELECT trained, trained_rows, waiting_rows FROM bqcore_index_info('{index}')"
    ).fetchone()
    assert row is not None
    return bool(row[0]), int(row[1]), int(row[2])


def check(conn: Connection, index: str = "items_bq") -> tuple[int, int, int]:
    """Rows in index and table, and rows without a path, of an index that is sound."""
    row = execute(conn, f"SELECT rows, heap_rows, unreachable FROM bqcore_check('{index}', true)").fetchone()
    assert row is not None
    return int(row[0]), int(row[1]), int(row[2])


def all_rows_reached(conn: Connection, rows: int, table: str = "items", target: str = "embedding") -> None:
    """A scan without a limit returns every row once."""
    if not has_iterative_scan(conn):
        return
    go_on_until_the_limit(conn, mode="relaxed_order")
    configure(conn, hnsw_max_scan_tuples=1_000_000, hnsw_scan_mem_multiplier=100)
    found = search_ids(conn, QUERIES[0], None, "l2", table, target=target)
    assert len(found) == len(set(found)) == rows
    configure(conn, hnsw_iterative_scan="off")


def same_answers(conn: Connection) -> list[list[int]]:
    """Nearest rows of all queries."""
    force_index(conn)
    return [search_ids(conn, q, 10) for q in QUERIES]
