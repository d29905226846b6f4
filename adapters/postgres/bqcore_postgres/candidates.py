"""The indexes that are compared: their DDL, their queries, their table, the settings they need."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

    Connection = psycopg.Connection[Any]

Progress = Callable[[str], None]
FloatArray = NDArray[np.float32]

#: Distance operators of pgvector by metric.
OPERATORS = {"l2": "<->", "ip": "<#>", "cosine": "<=>"}
_FIXED_BITS = {"vector": 32, "halfvec": 16, "bit": 1}
_COPY_REPORT_ROWS = 10_000
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
    m, ef_construction : int, optional
        HNSW build parameters; the access method's own defaults where they are not given.

    Raises
    ------
    ValueError
        If the index is unknown or cannot have that number of bits.
    """

    index: str
    bits: int
    m: int | None = None
    ef_construction: int | None = None

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


def raw_sql(text: str) -> sql.SQL:
    """Mark a text built here as SQL: psycopg's types accept literals only."""
    from psycopg import sql

    return sql.SQL(text)  # type: ignore[arg-type,unused-ignore]


def quote_name(identifier: str) -> str:
    """Quote an identifier."""
    return '"' + identifier.replace('"', '""') + '"'


def setting(conn: Connection, name: str) -> str | None:
    """Return a setting's value, None if the server does not know it."""
    row = conn.execute("SELECT current_setting(%s, true)", [name]).fetchone()
    return None if row is None else row[0]


def set_setting(conn: Connection, name: str, value: str) -> None:
    """Set a setting for the session."""
    conn.execute("SELECT set_config(%s, %s, false)", [name, value])


def report(progress: Progress | None, text: str) -> None:
    """Hand a line of text to `progress`, if there is one."""
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
    conn.execute(
        raw_sql(f"CREATE TABLE {quote_name(table)} (id integer PRIMARY KEY, embedding vector({dim}))")
    )
    statement = f"COPY {quote_name(table)} (id, embedding) FROM STDIN WITH (FORMAT BINARY)"
    with conn.cursor() as cursor, cursor.copy(raw_sql(statement)) as copy:
        copy.set_types(["int4", "vector"])
        for row in range(rows):
            copy.write_row((row, X[row]))
            if row % _COPY_REPORT_ROWS == 0:
                report(progress, f"loading: {row:,} of {rows:,} rows")
    conn.execute(raw_sql(f"VACUUM (ANALYZE) {quote_name(table)}"))
    report(progress, f"loaded {rows:,} rows of {dim} dimensions")


def index_name(spec: IndexSpec, table: str = "items") -> str:
    """Name that `build_index` gives to a candidate index."""
    return f"{table}_candidate_{spec.index}{spec.bits}"


def _table_dim(conn: Connection, table: str) -> int:
    row = conn.execute(
        "SELECT atttypmod FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'embedding'",
        [quote_name(table)],
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
    if metric not in OPERATORS:
        raise ValueError(f"expected a metric in {list(OPERATORS)}, not {metric!r}")
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
    options = {"m": spec.m, "ef_construction": spec.ef_construction}
    if spec.index == "bqhnsw":
        options["bits"] = spec.bits
        target = f"bqhnsw (embedding vector_{metric}_ops)"
    else:
        columns = {
            "vector": f"embedding vector_{metric}_ops",
            "halfvec": f"(embedding::halfvec({dim})) halfvec_{metric}_ops",
            "bit": f"(binary_quantize(embedding)::bit({dim})) bit_hamming_ops",
        }
        target = f"hnsw ({columns[spec.index]})"
    given = ", ".join(f"{name} = {value}" for name, value in options.items() if value is not None)
    tail = f" WITH ({given})" if given else ""
    return f"CREATE INDEX {quote_name(index_name(spec, table))} ON {quote_name(table)} USING {target}{tail}"


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
        [quote_name(table), f"{table}_candidate_"],
    ).fetchall()
    for (other,) in earlier:
        conn.execute(raw_sql(f"DROP INDEX {other}"))

    notices: list[str] = []

    def collect(diagnostic: Any) -> None:
        notices.append(diagnostic.message_primary or "")

    conn.add_notice_handler(collect)
    try:
        start = time.perf_counter()
        conn.execute(raw_sql(_index_sql(spec, metric, dim, table)))
        build_s = time.perf_counter() - start
    finally:
        conn.remove_notice_handler(collect)
    if any("no longer fits into maintenance_work_mem" in notice for notice in notices):
        warnings.warn(
            f"{spec.label}: the graph outgrew maintenance_work_mem = "
            f"{setting(conn, 'maintenance_work_mem')}; its build time is not comparable",
            RuntimeWarning,
            stacklevel=2,
        )
    name = index_name(spec, table)
    row = conn.execute("SELECT pg_relation_size(%s::regclass)", [quote_name(name)]).fetchone()
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
    operator = OPERATORS[metric]
    source = quote_name(table)
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


def server_settings(conn: Connection) -> dict[str, str | None]:
    """Return the settings and versions that a result depends on; None for what the server does not have."""
    names = (
        "server_version",
        "shared_buffers",
        "maintenance_work_mem",
        "max_parallel_maintenance_workers",
        "jit",
    )
    settings = {name: setting(conn, name) for name in names}
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
