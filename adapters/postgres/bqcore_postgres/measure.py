"""Measure one HNSW index after another: what the demo and the benchmarks share.

One table, one candidate index at a time, one connection. A candidate is judged by recall@k against exact
ground truth, by the CPU time of its backend per query (steadier than wall time on a shared machine), by size
and by build time.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bqcore_postgres.candidates import (
    FloatArray,
    IndexSpec,
    Progress,
    build_index,
    query_sql,
    raw_sql,
    report,
    set_setting,
)

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[Any]

IntArray = NDArray[np.int64]

# Sums of float32 products in another order: n eps with n in the hundreds, relative to the terms' size.
_ORDER_TOLERANCE = 2e-5


@dataclass(frozen=True)
class Measurement:
    """One candidate at one ef_search.

    Parameters
    ----------
    index, bits
        As in `IndexSpec`.
    ef_search : int
        ``hnsw.ef_search``; for "bit" also the number of rescored candidates.
    recall_at_10 : float
        recall@k with the k of the measurement, 10 by default.
    cpu_ms : float or None
        CPU time of the backend per query in milliseconds; None when the backend is not on this machine.
    p50_ms : float
        Median wall time per query in milliseconds, as the client sees it.
    size_bytes : int
        Size of the index.
    build_s : float
        Wall time of CREATE INDEX in seconds.
    rows, dim : int
        Shape of the table.
    k : int
        Rows per query.
    """

    index: str
    bits: int
    ef_search: int
    recall_at_10: float
    cpu_ms: float | None
    p50_ms: float
    size_bytes: int
    build_s: float
    rows: int
    dim: int
    k: int = 10

    def as_dict(self) -> dict[str, Any]:
        """Return the fields in order, ready for JSON."""
        return asdict(self)


def _check_plans(conn: Connection, statement: str, query: FloatArray, name: str) -> None:
    """Both plans a prepared statement may get, with the value and without, have to scan the index."""
    generic = statement.replace("%(q)b", "$1")
    with conn.cursor() as cursor:
        cursor.execute(raw_sql(f"EXPLAIN (COSTS OFF) {statement}"), {"q": query}, prepare=False)
        plans = {"custom": "\n".join(row[0] for row in cursor.fetchall())}
        if conn.info.server_version >= 160000:
            # The simple protocol leaves $1 to EXPLAIN.
            cursor.execute(raw_sql(f"EXPLAIN (COSTS OFF, GENERIC_PLAN) {generic}"), prepare=False)
            plans["generic"] = "\n".join(row[0] for row in cursor.fetchall())
    for kind, plan in plans.items():
        if name not in plan:
            raise RuntimeError(f"the {kind} plan of\n  {statement}\ndoes not use index {name}:\n{plan}")


class BackendClock:
    """CPU time of a connection's backend, read from /proc; absent for a server elsewhere."""

    def __init__(self, conn: Connection) -> None:
        self._path: Path | None = None
        proc = Path("/proc") / str(conn.info.backend_pid)
        try:
            title = (proc / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            # A pid of another machine or container could belong to anything here.
            if title.startswith("postgres:") and f" {conn.info.dbname} " in title:
                self._path = proc / "schedstat"
                self.seconds()
        except OSError:
            self._path = None

    @property
    def works(self) -> bool:
        """Whether the backend is a process of this machine."""
        return self._path is not None

    def seconds(self) -> float:
        """CPU seconds so far; only differences mean something."""
        if self._path is None:
            return 0.0
        return int(self._path.read_text().split()[0]) * 1e-9


def _pass(
    conn: Connection, statement: str, queries: FloatArray, k: int
) -> tuple[IntArray, NDArray[np.float64]]:
    """Run every query once; return ids (-1 where rows are missing) and wall seconds."""
    retrieved = np.full((len(queries), k), -1, dtype=np.int64)
    seconds = np.empty(len(queries))
    prepared = raw_sql(statement)
    with conn.cursor() as cursor:
        for i, query in enumerate(queries):
            start = time.perf_counter()
            cursor.execute(prepared, {"q": query}, prepare=True, binary=True)
            rows = cursor.fetchall()
            seconds[i] = time.perf_counter() - start
            retrieved[i, : len(rows)] = [row[0] for row in rows]
    return retrieved, seconds


def _check_order(spec: IndexSpec, X: FloatArray, queries: FloatArray, found: IntArray, metric: str) -> None:
    """Check that no row came twice and that exact distances never decrease, up to float32 rounding."""
    from bqcore.evaluation import exact_distances

    distances = exact_distances(X, queries, found, metric)
    # What the rounding of one float32 distance is relative to: sums of squares, products of norms, or 1.
    scale = np.ones((len(queries), 1))
    if metric == "l2":
        scale = np.where(np.isfinite(distances), distances, 0.0).max(axis=1, keepdims=True)
    elif metric == "ip":
        scale = np.linalg.norm(queries, axis=1, keepdims=True) * np.linalg.norm(X, axis=1).max()
    for i, row in enumerate(found):
        ids = row[row >= 0]
        if len(np.unique(ids)) != len(ids):
            raise RuntimeError(f"{spec.label}: query {i} returned a row twice: {ids.tolist()}")
        if (np.diff(distances[i, : len(ids)]) < -_ORDER_TOLERANCE * scale[i]).any():
            raise RuntimeError(
                f"{spec.label}: rows of query {i} are not in exact order: ids {ids.tolist()}, "
                f"{metric} distances {np.round(distances[i, : len(ids)], 6).tolist()}"
            )


def measure_index(
    conn: Connection,
    spec: IndexSpec,
    queries: FloatArray,
    ground_truth: NDArray[np.integer[Any]],
    X: FloatArray,
    metric: str,
    *,
    ef_searches: Sequence[int] = (40, 100, 200),
    k: int | Sequence[int] = 10,
    table: str = "items",
    progress: Progress | None = None,
) -> list[Measurement]:
    """Build a candidate and measure it at each ef_search.

    Every ef_search gets a warm-up pass over all queries, then two timed ones of which the faster counts.
    Sequential scans are disabled in the session: on a few thousand rows the planner rightly prefers them.

    Parameters
    ----------
    conn : psycopg.Connection
        In autocommit mode; the table is filled by `load_table`.
    spec : IndexSpec
        What to build.
    queries : ndarray of float32, shape (nq, dim)
        Queries, unnormalised.
    ground_truth : ndarray of int, shape (nq, >= k)
        Exact neighbours, best first.
    X : ndarray of float32, shape (n, dim)
        The table's rows.
    metric : {"l2", "ip", "cosine"}
        Metric of ground truth, index and query.
    ef_searches : sequence of int
        Values of ``hnsw.ef_search``.
    k : int or sequence of int
        Rows per query; of several each is measured.
    table : str
        Table name.
    progress : callable, optional
        Receives a line of text per step.

    Returns
    -------
    list of Measurement
        One per ef_search and k, in the given order.

    Raises
    ------
    ValueError
        If shapes disagree or the server cannot build the index.
    RuntimeError
        If a plan does not use the index, or bqhnsw returns rows out of exact order.
    """
    from bqcore.evaluation import recall

    queries = np.ascontiguousarray(queries, dtype=np.float32)
    rows, dim = X.shape
    ks = [k] if isinstance(k, int) else list(k)
    if queries.shape[1] != dim:
        raise ValueError(f"expected queries of {dim} dimensions, not {queries.shape[1]}")
    if len(ground_truth) != len(queries) or ground_truth.shape[1] < max(ks):
        expected = f"({len(queries)}, at least {max(ks)})"
        raise ValueError(f"expected ground truth of shape {expected}, not {ground_truth.shape}")

    report(progress, f"{spec.label}: building")
    name, build_s, size_bytes = build_index(conn, spec, metric, table)
    set_setting(conn, "enable_seqscan", "off")
    clock = BackendClock(conn)
    if not clock.works:
        report(progress, "CPU time unknown: the server's backend is not a process of this machine")

    measurements = []
    for ef_search, one_k in itertools.product(ef_searches, ks):
        report(progress, f"{spec.label}: ef_search {ef_search}, k {one_k}")
        set_setting(conn, "hnsw.ef_search", str(ef_search))
        statement = query_sql(spec, metric, dim, table, one_k, ef_search=ef_search)
        _check_plans(conn, statement, queries[0], name)
        retrieved, _ = _pass(conn, statement, queries, one_k)
        if spec.index == "bqhnsw":
            _check_order(spec, X, queries, retrieved, metric)
        cpu_ms, p50_ms = [], []
        for _ in range(2):
            before = clock.seconds()
            _, seconds = _pass(conn, statement, queries, one_k)
            cpu_ms.append((clock.seconds() - before) / len(queries) * 1e3)
            p50_ms.append(float(np.median(seconds)) * 1e3)
        measurements.append(
            Measurement(
                index=spec.index,
                bits=spec.bits,
                ef_search=ef_search,
                recall_at_10=float(recall(retrieved, ground_truth, one_k, X=X, Q=queries, metric=metric)),
                cpu_ms=min(cpu_ms) if clock.works else None,
                p50_ms=min(p50_ms),
                size_bytes=size_bytes,
                build_s=build_s,
                rows=rows,
                dim=dim,
                k=one_k,
            )
        )
    return measurements


def average(measurements: Iterable[Measurement]) -> list[Measurement]:
    """Average repeated measurements.

    Parameters
    ----------
    measurements : iterable of Measurement
        Several builds, in any order.

    Returns
    -------
    list of Measurement
        Means per (index, bits, ef_search, k) in order of first appearance; cpu_ms is None if any value is.
    """
    groups: dict[tuple[str, int, int, int], list[Measurement]] = {}
    for one in measurements:
        groups.setdefault((one.index, one.bits, one.ef_search, one.k), []).append(one)
    means = []
    for (index, bits, ef_search, k), group in groups.items():
        cpu = [one.cpu_ms for one in group if one.cpu_ms is not None]
        means.append(
            Measurement(
                index=index,
                bits=bits,
                ef_search=ef_search,
                recall_at_10=float(np.mean([one.recall_at_10 for one in group])),
                cpu_ms=float(np.mean(cpu)) if len(cpu) == len(group) else None,
                p50_ms=float(np.mean([one.p50_ms for one in group])),
                size_bytes=round(np.mean([one.size_bytes for one in group])),
                build_s=float(np.mean([one.build_s for one in group])),
                rows=group[0].rows,
                dim=group[0].dim,
                k=k,
            )
        )
    return means
