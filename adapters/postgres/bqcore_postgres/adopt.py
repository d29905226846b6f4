"""Put a bqhnsw index beside what a table has: look at it, advise, build without blocking writers, compare."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bqcore_postgres.candidates import OPERATORS, quote_name, raw_sql
from bqcore_postgres.inspection import (
    RESCORED,
    BitAdvice,
    Inspection,
    K,
    advise_bits,
    ddl,
    index_name,
    inspect,
    notes,
    one_row,
    sample,
)

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[Any]

#: Called with a phase and what is done of how much of it; total 0: unknown.
Progress = Callable[[str, int, int], None]

_POLL_SECONDS = 0.5

_BUILD_PROGRESS = """
    SELECT phase, blocks_done, blocks_total, tuples_done, tuples_total
    FROM pg_stat_progress_create_index WHERE pid = %s"""


@dataclass(frozen=True)
class Reading:
    """An index in use.

    Parameters
    ----------
    index : str
        The index that the planner chose, "" for none.
    recall : float
        recall@10 with rows of the table as queries, each without itself.
    p50_ms : float or None
        Median wall time of a query; None where the planner chose another index.
    size_bytes : int
    """

    index: str
    recall: float
    p50_ms: float | None
    size_bytes: int


@dataclass(frozen=True)
class Adoption:
    """What `adopt` found, advised and did.

    Parameters
    ----------
    inspection : Inspection
    advice : BitAdvice
    ddl : str
        The statement that builds the index.
    notes : tuple of str
        What to know before and after.
    before, after : Reading or None
        None where there was no index, or nothing was built.
    build_s : float or None
    """

    inspection: Inspection
    advice: BitAdvice
    ddl: str
    notes: tuple[str, ...]
    before: Reading | None = None
    after: Reading | None = None
    build_s: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return values that JSON can hold."""
        return asdict(self)


def build(conn: Connection, watcher: Connection, statement: str, progress: Progress) -> float:
    """Run CREATE INDEX CONCURRENTLY, telling how far it is; return its seconds.

    Parameters
    ----------
    conn, watcher : psycopg.Connection
        In autocommit mode; the second one asks about the first.
    statement : str
    progress : callable

    Raises
    ------
    psycopg.Error
        What the statement raised. An index that it left is invalid, and named in a note.
    """
    failure: list[BaseException] = []

    def run() -> None:
        try:
            conn.execute(raw_sql(statement))
        except BaseException as error:
            failure.append(error)

    pid = conn.info.backend_pid
    start = time.perf_counter()
    worker = threading.Thread(target=run, daemon=True)
    worker.start()
    while worker.is_alive():
        worker.join(_POLL_SECONDS)
        row = watcher.execute(_BUILD_PROGRESS, [pid]).fetchone()
        if row is not None:
            phase, blocks, all_blocks, tuples, all_tuples = row
            done, total = (tuples, all_tuples) if all_tuples else (blocks, all_blocks)
            progress(str(phase), int(done), int(total))
    if failure:
        raise failure[0]
    return time.perf_counter() - start


class Probe:
    """Rows of the table as queries, with their exact neighbours.

    Parameters
    ----------
    conn : psycopg.Connection
    found : Inspection
    metric : {"l2", "ip", "cosine"}
    n_queries : int
    progress : callable
    """

    def __init__(
        self, conn: Connection, found: Inspection, metric: str, n_queries: int, progress: Progress
    ) -> None:
        self._conn, self._found = conn, found
        column = quote_name(found.column)
        percent = min(100.0, 100 * max(20.0 * n_queries, 1000) / max(found.rows, 1))
        self.queries = conn.execute(
            raw_sql(
                f"SELECT ctid::text, {column}::text FROM {found.relation} TABLESAMPLE BERNOULLI ({percent}) "
                f"REPEATABLE (1) WHERE {column} IS NOT NULL LIMIT {n_queries}"
            )
        ).fetchall()
        target = f"{found.relation} ORDER BY {column} {OPERATORS[metric]}".replace("%", "%%")
        self._statement = raw_sql(f"SELECT ctid::text FROM {target} %s::{found.type_name} LIMIT {K + 1}")
        self._truth = []
        for i, (own, vector) in enumerate(self.queries):
            with conn.transaction():
                conn.execute("SET LOCAL enable_indexscan = off")
                self._truth.append(self._ask(own, vector))
            progress("exact search", i + 1, len(self.queries))

    def _ask(self, own: str, vector: str) -> list[str]:
        rows = [row[0] for row in self._conn.execute(self._statement, [vector]).fetchall()]
        return [row for row in rows if row != own][:K]

    def chosen_index(self) -> str:
        """Name the index that the planner scans, "" if it scans none."""
        import psycopg

        with psycopg.ClientCursor(self._conn) as cursor:
            cursor.execute(raw_sql("EXPLAIN (FORMAT JSON) ") + self._statement, [self.queries[0][1]])
            row = cursor.fetchone()
        assert row is not None
        node = row[0][0]["Plan"]
        while "Plans" in node:
            node = node["Plans"][0]
        return str(node.get("Index Name", ""))

    def read(self) -> tuple[float, float]:
        """Return recall@10 and the median wall time in milliseconds."""
        hits = wanted = 0
        seconds = []
        for (own, vector), truth in zip(self.queries, self._truth, strict=True):
            start = time.perf_counter()
            found = self._ask(own, vector)
            seconds.append(time.perf_counter() - start)
            hits += len(set(found) & set(truth))
            wanted += len(truth)
        return hits / max(wanted, 1), float(np.median(seconds)) * 1e3


def adopt(
    conn: Connection,
    watcher: Connection,
    table: str,
    column: str,
    *,
    bits: int | None = None,
    metric: str | None = None,
    n_queries: int = 50,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Adoption:
    """Inspect a table, advise bits, build bqhnsw beside its indexes, and compare. No index is ever dropped.

    Parameters
    ----------
    conn, watcher : psycopg.Connection
        In autocommit mode, of the table's owner; the second one follows the build.
    table, column : str
        As `inspect` takes them.
    bits : {1, 2, 4, 8}, optional
        Instead of those advised.
    metric : {"l2", "ip", "cosine"}, optional
        Default: that of the vector index that is there, else cosine.
    n_queries : int
        Rows of the table that are searched for, each by a scan of the whole table too.
    dry_run : bool
        Build nothing, and measure nothing that scans the whole table.
    progress : callable, optional

    Raises
    ------
    ValueError
        If the table, the bits or the metric do not fit, or the database has no extension bqcore.
    """
    say = progress or (lambda phase, done, total: None)
    if bits is not None and bits not in RESCORED:
        raise ValueError(f"expected bits in {list(RESCORED)}, not {bits}")
    if metric is not None and metric not in OPERATORS:
        raise ValueError(f"expected a metric in {list(OPERATORS)}, not {metric!r}")
    if n_queries < 1:
        raise ValueError(f"expected 1 query or more, not {n_queries}")
    found = inspect(conn, table, column)
    metric = metric or found.metric
    say("sampling rows", 0, 0)
    (ef_search,) = one_row(conn, "SELECT coalesce(current_setting('hnsw.ef_search', true), '40')::int")
    advice = advise_bits(sample(conn, found), metric, ef_search)
    chosen = bits or advice.bits
    statement = ddl(found, chosen, metric)
    said = notes(found, chosen)
    if dry_run:
        return Adoption(found, advice, statement, tuple(said))
    if found.bqcore_schema is None:
        raise ValueError(said[0])
    name = index_name(found, chosen)
    if any(index.name.split(".")[-1].strip('"') == name for index in found.indexes):
        raise ValueError(f"index {name} is there already: DROP INDEX CONCURRENTLY {quote_name(name)} first")
    probe = Probe(conn, found, metric, n_queries, say)
    before = None
    if used := probe.chosen_index():
        recall, ms = probe.read()
        (size,) = one_row(conn, f"SELECT pg_relation_size('{_escaped(found.schema, used)}')")
        before = Reading(used, recall, ms, int(size))
    build_s = build(conn, watcher, statement, say)
    say("checking recall", 0, 0)
    relation = _escaped(found.schema, name)
    recall_function = f"{quote_name(found.bqcore_schema)}.bqcore_recall"
    recall, size = one_row(
        conn, f"SELECT {recall_function}('{relation}', {K}, {n_queries}), pg_relation_size('{relation}')"
    )
    ms_after = probe.read()[1] if probe.chosen_index() == name else None
    after = Reading(name, float(recall), ms_after, int(size))
    if ms_after is None:
        said.append(f"the planner does not choose {name} while the other index is there")
    for index in found.indexes:
        if index.is_valid:
            said.append(f"{index.name} is kept; once it is not needed: DROP INDEX CONCURRENTLY {index.name}")
    said.append(f"to go back: DROP INDEX CONCURRENTLY {quote_name(found.schema)}.{quote_name(name)}")
    return Adoption(found, advice, statement, tuple(said), before, after, round(build_s, 2))


def _escaped(schema: str, name: str) -> str:
    """Return a relation's name for use inside a string literal."""
    return f"{quote_name(schema)}.{quote_name(name)}".replace("'", "''")
