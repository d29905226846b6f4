"""Measure HNSW indexes against each other: what the demo and the benchmarks share.

One table, one candidate index at a time, one connection. A candidate is judged by recall@k against exact
ground truth, by the CPU time of its backend per query (steadier than wall time on a shared machine), by size
and by build time.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

    Connection = psycopg.Connection[Any]

Progress = Callable[[str], None]
FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

_OPERATORS = {"l2": "<->", "ip": "<#>", "cosine": "<=>"}
_FIXED_BITS = {"vector": 32, "halfvec": 16, "bit": 1}
_COPY_REPORT_ROWS = 10_000
# Sums of float32 products in another order: n eps with n in the hundreds, relative to the terms' size.
_ORDER_TOLERANCE = 2e-5
_MB = 1 << 20


@dataclass(frozen=True)
class IndexSpec:
    """One candidate index.

    Parameters
    ----------
    index : {"vector", "halfvec", "bit", "bqhnsw"}
        pgvector's hnsw over vectors, half-precision casts or `binary_quantize`, or our access method.
    bits : int
        Stored bits per dimension: 32, 16, 1, or 1 to 8 for bqhnsw.
    m, ef_construction : int
        HNSW build parameters.

    Raises
    ------
    ValueError
        If the index is unknown or cannot have that number of bits.
    """

    index: str
    bits: int
    m: int = 16
    ef_construction: int = 64

    def __post_init__(self) -> None:
        if self.index == "bqhnsw":
            if not 1 <= self.bits <= 8:
                raise ValueError(f"expected 1 to 8 bits for bqhnsw, not {self.bits}")
        elif self.index not in _FIXED_BITS:
            raise ValueError(f"expected an index in {[*_FIXED_BITS, 'bqhnsw']}, not {self.index!r}")
        elif self.bits != _FIXED_BITS[self.index]:
            raise ValueError(f"expected {_FIXED_BITS[self.index]} bits for {self.index}, not {self.bits}")

    @classmethod
    def parse(cls, text: str) -> IndexSpec:
        """Read ``vector``, ``halfvec``, ``bit`` or ``bqhnsw:<bits>`` (``bqhnsw`` alone means 1 bit)."""
        index, _, bits = text.strip().partition(":")
        try:
            return cls(index, int(bits) if bits else _FIXED_BITS.get(index, 1))
        except ValueError as error:
            raise ValueError(f"{text!r} is no index: {error}") from error

    @property
    def label(self) -> str:
        """Name for people, for example "bqhnsw 4 bits"."""
        if self.index == "bqhnsw":
            return f"bqhnsw {self.bits} bit{'s' if self.bits > 1 else ''}"
        return self.index


DEFAULT_SPECS: tuple[IndexSpec, ...] = (
    IndexSpec("vector", 32),
    IndexSpec("halfvec", 16),
    IndexSpec("bit", 1),
    IndexSpec("bqhnsw", 1),
    IndexSpec("bqhnsw", 4),
)


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

    def as_dict(self) -> dict[str, Any]:
        """Return the fields in order, ready for JSON."""
        return asdict(self)


def _query(text: str) -> sql.SQL:
    """Mark a text built here as SQL: psycopg's types accept literals only."""
    from psycopg import sql

    return sql.SQL(text)  # type: ignore[arg-type,unused-ignore]


def _name(identifier: str) -> str:
    """Quote an identifier."""
    return '"' + identifier.replace('"', '""') + '"'


def _setting(conn: Connection, name: str) -> str | None:
    row = conn.execute("SELECT current_setting(%s, true)", [name]).fetchone()
    return None if row is None else row[0]


def _set(conn: Connection, name: str, value: str) -> None:
    conn.execute("SELECT set_config(%s, %s, false)", [name, value])


def _report(progress: Progress | None, text: str) -> None:
    if progress is not None:
        progress(text)


def _register(conn: Connection) -> None:
    from pgvector.psycopg import register_vector

    register_vector(conn)


def load_table(
    conn: Connection, X: FloatArray, *, table: str = "items", progress: Progress | None = None
) -> None:
    """Create a table ``(id integer PRIMARY KEY, embedding vector(dim))`` and fill it by binary COPY.

    Parameters
    ----------
    conn : psycopg.Connection
        In autocommit mode, in a database with the extension vector.
    X : ndarray of float32, shape (n, dim)
        Rows, stored as they are; row number is id.
    table : str
        Must not exist yet.
    progress : callable, optional
        Receives a line of text now and then.
    """
    X = np.ascontiguousarray(X, dtype=np.float32)
    rows, dim = X.shape
    _register(conn)
    conn.execute(_query(f"CREATE TABLE {_name(table)} (id integer PRIMARY KEY, embedding vector({dim}))"))
    statement = f"COPY {_name(table)} (id, embedding) FROM STDIN WITH (FORMAT BINARY)"
    with conn.cursor() as cursor, cursor.copy(_query(statement)) as copy:
        copy.set_types(["int4", "vector"])
        for row in range(rows):
            copy.write_row((row, X[row]))
            if row % _COPY_REPORT_ROWS == 0:
                _report(progress, f"loading: {row:,} of {rows:,} rows")
    conn.execute(_query(f"VACUUM (ANALYZE) {_name(table)}"))
    _report(progress, f"loaded {rows:,} rows of {dim} dimensions")


def index_name(spec: IndexSpec, table: str = "items") -> str:
    """Name that `build_index` gives to a candidate index."""
    return f"{table}_candidate_{spec.index}{spec.bits}"


def _table_dim(conn: Connection, table: str) -> int:
    row = conn.execute(
        "SELECT atttypmod FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'embedding'",
        [_name(table)],
    ).fetchone()
    if row is None:
        raise ValueError(f"table {table} has no column embedding")
    return int(row[0])


def check_supported(conn: Connection, specs: Iterable[IndexSpec], metric: str) -> None:
    """Check that the server can build the candidates.

    Parameters
    ----------
    conn : psycopg.Connection
        In the database to measure in, extensions created.
    specs : iterable of IndexSpec
        Candidates.
    metric : {"l2", "ip", "cosine"}
        Metric of the data.

    Raises
    ------
    ValueError
        If bqhnsw is among them and has no operator class for this metric, or does not exist.
    """
    if metric not in _OPERATORS:
        raise ValueError(f"expected a metric in {list(_OPERATORS)}, not {metric!r}")
    if all(spec.index != "bqhnsw" for spec in specs):
        return
    found = conn.execute(
        "SELECT opcname FROM pg_opclass JOIN pg_am ON pg_am.oid = opcmethod WHERE amname = 'bqhnsw' "
        "AND opcname LIKE 'vector%%' ORDER BY 1"
    ).fetchall()
    names = [row[0] for row in found]
    if not names:
        raise ValueError("this database has no access method bqhnsw: run CREATE EXTENSION bqcore CASCADE")
    if f"vector_{metric}_ops" not in names:
        raise ValueError(
            f"the data's metric is {metric}, and bqhnsw in this release has {', '.join(names)}, "
            f"not vector_{metric}_ops: leave bqhnsw out of the list of indexes"
        )


def _index_sql(spec: IndexSpec, metric: str, dim: int, table: str) -> str:
    build = f"m = {spec.m}, ef_construction = {spec.ef_construction}"
    if spec.index == "bqhnsw":
        target = f"bqhnsw (embedding vector_{metric}_ops) WITH (bits = {spec.bits}, {build})"
    else:
        columns = {
            "vector": f"embedding vector_{metric}_ops",
            "halfvec": f"(embedding::halfvec({dim})) halfvec_{metric}_ops",
            "bit": f"(binary_quantize(embedding)::bit({dim})) bit_hamming_ops",
        }
        target = f"hnsw ({columns[spec.index]}) WITH ({build})"
    return f"CREATE INDEX {_name(index_name(spec, table))} ON {_name(table)} USING {target}"


def build_index(
    conn: Connection, spec: IndexSpec, metric: str, table: str = "items"
) -> tuple[str, float, int]:
    """Build a candidate index after dropping the one before it.

    Parameters
    ----------
    conn : psycopg.Connection
        In autocommit mode.
    spec : IndexSpec
        What to build.
    metric : {"l2", "ip", "cosine"}
        Chooses the operator class.
    table : str
        As given to `load_table`.

    Returns
    -------
    name : str
        Name of the index.
    build_s : float
        Wall time of CREATE INDEX in seconds.
    size_bytes : int
        Size of the index's main fork.

    Raises
    ------
    ValueError
        If the server lacks the access method or operator class.

    Warns
    -----
    RuntimeWarning
        If the graph outgrew maintenance_work_mem: the build time is then not comparable.
    """
    check_supported(conn, [spec], metric)
    _register(conn)
    dim = _table_dim(conn, table)
    earlier = conn.execute(
        "SELECT c.oid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "WHERE i.indrelid = %s::regclass AND starts_with(c.relname, %s)",
        [_name(table), f"{table}_candidate_"],
    ).fetchall()
    for (other,) in earlier:
        conn.execute(_query(f"DROP INDEX {other}"))

    notices: list[str] = []

    def collect(diagnostic: Any) -> None:
        notices.append(diagnostic.message_primary or "")

    conn.add_notice_handler(collect)
    try:
        start = time.perf_counter()
        conn.execute(_query(_index_sql(spec, metric, dim, table)))
        build_s = time.perf_counter() - start
    finally:
        conn.remove_notice_handler(collect)
    if any("no longer fits into maintenance_work_mem" in notice for notice in notices):
        warnings.warn(
            f"{spec.label}: the graph outgrew maintenance_work_mem = "
            f"{_setting(conn, 'maintenance_work_mem')}; its build time is not comparable",
            RuntimeWarning,
            stacklevel=2,
        )
    name = index_name(spec, table)
    row = conn.execute("SELECT pg_relation_size(%s::regclass)", [_name(name)]).fetchone()
    assert row is not None
    return name, build_s, int(row[0])


def query_sql(
    spec: IndexSpec,
    metric: str,
    dim: int,
    table: str = "items",
    k: int = 10,
    *,
    ef_search: int | None = None,
) -> str:
    """Return the query that users of an index write; its parameter is ``%(q)b`` (a vector, sent binary).

    Parameters
    ----------
    spec : IndexSpec
        Index the query is meant for.
    metric : {"l2", "ip", "cosine"}
        Chooses the operator.
    dim : int
        Dimensions, for the casts.
    table : str
        Table name.
    k : int
        Rows wanted.
    ef_search : int, optional
        Candidates of the rescoring subquery of "bit"; default: ``hnsw.ef_search`` when the query runs.

    Returns
    -------
    str
        SQL in psycopg's placeholder style, one result column ``id``, best first.
    """
    operator = _OPERATORS[metric]
    source = _name(table)
    query = f"%(q)b::vector({dim})"
    if spec.index == "halfvec":
        order = f"embedding::halfvec({dim}) {operator} {query}::halfvec({dim})"
    elif spec.index == "bit":
        limit = "current_setting('hnsw.ef_search')::int" if ef_search is None else str(ef_search)
        source = (
            f"(SELECT id, embedding FROM {source} "
            f"ORDER BY binary_quantize(embedding)::bit({dim}) <~> binary_quantize({query})::bit({dim}) "
            f"LIMIT {limit}) candidates"
        )
        order = f"embedding {operator} {query}"
    else:
        order = f"embedding {operator} {query}"
    return f"SELECT id FROM {source} ORDER BY {order} LIMIT {k}"


def _check_plans(conn: Connection, statement: str, query: FloatArray, name: str) -> None:
    """Both plans a prepared statement may get, with the value and without, have to scan the index."""
    generic = statement.replace("%(q)b", "$1")
    with conn.cursor() as cursor:
        cursor.execute(_query(f"EXPLAIN (COSTS OFF) {statement}"), {"q": query}, prepare=False)
        plans = {"custom": "\n".join(row[0] for row in cursor.fetchall())}
        if conn.info.server_version >= 160000:
            # The simple protocol leaves $1 to EXPLAIN.
            cursor.execute(_query(f"EXPLAIN (COSTS OFF, GENERIC_PLAN) {generic}"), prepare=False)
            plans["generic"] = "\n".join(row[0] for row in cursor.fetchall())
    for kind, plan in plans.items():
        if name not in plan:
            raise RuntimeError(f"the {kind} plan of\n  {statement}\ndoes not use index {name}:\n{plan}")


class _BackendClock:
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
    prepared = _query(statement)
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
    k: int = 10,
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
    k : int
        Rows per query.
    table : str
        Table name.
    progress : callable, optional
        Receives a line of text per step.

    Returns
    -------
    list of Measurement
        One per ef_search, in the given order.

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
    if queries.shape[1] != dim:
        raise ValueError(f"expected queries of {dim} dimensions, not {queries.shape[1]}")
    if len(ground_truth) != len(queries) or ground_truth.shape[1] < k:
        expected = f"({len(queries)}, at least {k})"
        raise ValueError(f"expected ground truth of shape {expected}, not {ground_truth.shape}")

    _report(progress, f"{spec.label}: building")
    name, build_s, size_bytes = build_index(conn, spec, metric, table)
    _set(conn, "enable_seqscan", "off")
    clock = _BackendClock(conn)
    if not clock.works:
        _report(progress, "CPU time unknown: the server's backend is not a process of this machine")

    measurements = []
    for ef_search in ef_searches:
        _report(progress, f"{spec.label}: ef_search {ef_search}")
        _set(conn, "hnsw.ef_search", str(ef_search))
        statement = query_sql(spec, metric, dim, table, k, ef_search=ef_search)
        _check_plans(conn, statement, queries[0], name)
        retrieved, _ = _pass(conn, statement, queries, k)
        if spec.index == "bqhnsw":
            _check_order(spec, X, queries, retrieved, metric)
        cpu_ms, p50_ms = [], []
        for _ in range(2):
            before = clock.seconds()
            _, seconds = _pass(conn, statement, queries, k)
            cpu_ms.append((clock.seconds() - before) / len(queries) * 1e3)
            p50_ms.append(float(np.median(seconds)) * 1e3)
        measurements.append(
            Measurement(
                index=spec.index,
                bits=spec.bits,
                ef_search=ef_search,
                recall_at_10=float(recall(retrieved, ground_truth, k, X=X, Q=queries, metric=metric)),
                cpu_ms=min(cpu_ms) if clock.works else None,
                p50_ms=min(p50_ms),
                size_bytes=size_bytes,
                build_s=build_s,
                rows=rows,
                dim=dim,
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
        Means per (index, bits, ef_search) in order of first appearance; cpu_ms is None if any value is.
    """
    groups: dict[tuple[str, int, int], list[Measurement]] = {}
    for one in measurements:
        groups.setdefault((one.index, one.bits, one.ef_search), []).append(one)
    means = []
    for (index, bits, ef_search), group in groups.items():
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
            )
        )
    return means


def server_settings(conn: Connection) -> dict[str, str | None]:
    """Return the settings and versions that a result depends on; None for what the server does not have."""
    names = (
        "server_version",
        "shared_buffers",
        "maintenance_work_mem",
        "max_parallel_maintenance_workers",
        "jit",
    )
    settings = {name: _setting(conn, name) for name in names}
    versions = dict(
        conn.execute(
            "SELECT extname, extversion FROM pg_extension WHERE extname IN ('vector', 'bqcore')"
        ).fetchall()
    )
    settings["pgvector"] = versions.get("vector")
    settings["bqcore"] = versions.get("bqcore")
    return settings


def tuned_settings(rows: int, dim: int) -> dict[str, str]:
    """Return server settings under which the largest candidate is built and searched in memory.

    Parameters
    ----------
    rows, dim : int
        Shape of the table.

    Returns
    -------
    dict of str to str
        ``shared_buffers``, ``maintenance_work_mem`` and ``max_parallel_maintenance_workers`` (0: one builder,
        so that build times compare).

    Notes
    -----
    A page holds 8,168 bytes. A table row is the vector of 4 dim + 8 bytes plus about 40; above 2 kB it moves
    to TOAST in chunks of about 2,000 bytes. An index element is the vector plus about 80 bytes and never
    crosses a page, its neighbour list takes 6 bytes for each of about 2m = 32 links. While building, an
    element costs the vector plus about 1 kB of graph.
    """
    vector = 4 * dim + 8
    table = rows * (vector * 1.15 + 80)
    per_page = max(1, 8168 // (vector + 80))
    index = rows * (8192 / per_page + 250)
    buffers = 1.25 * (table + index) + 128 * _MB
    graph = 1.3 * rows * (vector + 1024) + 64 * _MB
    return {
        "shared_buffers": f"{int(buffers / _MB) + 1}MB",
        "maintenance_work_mem": f"{int(graph / _MB) + 1}MB",
        "max_parallel_maintenance_workers": "0",
    }
