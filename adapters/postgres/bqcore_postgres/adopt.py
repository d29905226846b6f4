"""Put a bqhnsw index beside what a table has: look at it, advise, build without blocking writers, compare."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bqcore._validation import check_int, check_metric
from bqcore_postgres.advice import AT_K, SAMPLE_ROWS, IndexAdvice, advise_rows
from bqcore_postgres.candidates import OPERATORS, quote_name, raw_sql
from bqcore_postgres.inspection import Inspection, ddl, inspect, notes, one_row
from bqcore_postgres.names import index_name
from bqcore_postgres.rule import MAX_DIM
from bqcore_postgres.vectors import read_rows

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[Any]

#: Called with a phase and what is done of how much of it; total 0: unknown.
Progress = Callable[[str, int, int], None]

# Rows of a query whose time is taken.
_TIMED = 10
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
        Median wall time of a query for ten rows; None where the planner chose another index.
    size_bytes : int
    ef_search : int
        ``hnsw.ef_search`` of the queries.
    at_k : dict of int to float
        recall@k at k = 10, 20, 40.
    """

    index: str
    recall: float
    p50_ms: float | None
    size_bytes: int
    ef_search: int
    at_k: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Adoption:
    """What `adopt` found, advised and did.

    Parameters
    ----------
    inspection : Inspection
    advice : IndexAdvice
    ddl : str
        The statement that builds the index.
    ef_search : int
        ``hnsw.ef_search`` for its queries.
    notes : tuple of str
        What to know before and after.
    before, after : Reading or None
        None where there was no index, or nothing was built.
    build_s : float or None
    """

    inspection: Inspection
    advice: IndexAdvice
    ddl: str
    ef_search: int
    notes: tuple[str, ...]
    before: Reading | None = None
    after: Reading | None = None
    build_s: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return values that JSON can hold."""
        return {**asdict(self), "advice": self.advice.as_dict()}


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
        self._timed = raw_sql(f"SELECT ctid::text FROM {target} %s::{found.type_name} LIMIT {_TIMED + 1}")
        self._deep = raw_sql(f"SELECT ctid::text FROM {target} %s::{found.type_name} LIMIT {max(AT_K) + 1}")
        self._truth = []
        for i, (own, vector) in enumerate(self.queries):
            with conn.transaction():
                conn.execute("SET LOCAL enable_indexscan = off")
                self._truth.append(self._ask(own, vector))
            progress("exact search", i + 1, len(self.queries))

    def _ask(self, own: str, vector: str) -> list[str]:
        rows = [row[0] for row in self._conn.execute(self._deep, [vector]).fetchall()]
        return [row for row in rows if row != own][: max(AT_K)]

    def chosen_index(self) -> str:
        """Name the index that the planner scans, "" if it scans none."""
        import psycopg

        with psycopg.ClientCursor(self._conn) as cursor:
            cursor.execute(raw_sql("EXPLAIN (FORMAT JSON) ") + self._timed, [self.queries[0][1]])
            row = cursor.fetchone()
        assert row is not None
        node = row[0][0]["Plan"]
        while "Plans" in node:
            node = node["Plans"][0]
        return str(node.get("Index Name", ""))

    def read(self) -> tuple[dict[int, float], float]:
        """Return recall@k at k = 10, 20, 40, and the median wall time of a query for ten rows, in ms."""
        hits, wanted = dict.fromkeys(AT_K, 0), dict.fromkeys(AT_K, 0)
        seconds = []
        for (own, vector), truth in zip(self.queries, self._truth, strict=True):
            start = time.perf_counter()
            self._conn.execute(self._timed, [vector]).fetchall()
            seconds.append(time.perf_counter() - start)
            found = self._ask(own, vector)
            for k in AT_K:
                hits[k] += len(set(found[:k]) & set(truth[:k]))
                wanted[k] += len(truth[:k])
        return {k: hits[k] / max(wanted[k], 1) for k in AT_K}, float(np.median(seconds)) * 1e3


def adopt(
    conn: Connection,
    watcher: Connection,
    table: str,
    column: str,
    *,
    bits: int | None = None,
    metric: str | None = None,
    k: int = 10,
    target_recall: float | None = None,
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
    k : int, default 10
        Rows that queries will ask for.
    target_recall : float, optional
        recall@k that bits are chosen for, as `bqcore advise` does; .95 by default.
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
    if bits is not None and bits not in MAX_DIM:
        raise ValueError(f"expected bits in {list(MAX_DIM)}, not {bits}")
    if metric is not None:
        metric = check_metric(metric)
    if n_queries < 1:
        raise ValueError(f"expected 1 query or more, not {n_queries}")
    k = check_int(k, name="k", low=1)
    found = inspect(conn, table, column)
    metric = metric or found.metric
    say("sampling rows", 0, 0)
    X = read_rows(conn, found.source, SAMPLE_ROWS)
    n = max(found.rows, len(X))
    advice = advise_rows(
        X, metric, n, k=k, target_recall=target_recall, name=table, say=lambda text: say(text, 0, 0)
    )
    chosen = bits or advice.chosen.bits
    (session,) = one_row(conn, "SELECT coalesce(current_setting('hnsw.ef_search', true), '40')::int")
    option = advice.with_bits(chosen)
    ef_search = int(session) if option is None else option.ef_search
    statement = ddl(found, chosen, metric)
    said = notes(found, chosen)
    if dry_run:
        return Adoption(found, advice, statement, ef_search, tuple(said))
    if found.bqcore_schema is None:
        raise ValueError(said[0])
    name = index_name(found.table, found.column, chosen)
    if any(index.name.split(".")[-1].strip('"') == name for index in found.indexes):
        raise ValueError(f"index {name} is there already: DROP INDEX CONCURRENTLY {quote_name(name)} first")
    probe = Probe(conn, found, metric, n_queries, say)
    before = None
    if used := probe.chosen_index():
        recalls, ms = probe.read()
        (size,) = one_row(conn, f"SELECT pg_relation_size('{_escaped(found.schema, used)}')")
        before = Reading(used, recalls[10], ms, int(size), int(session), recalls)
    build_s = build(conn, watcher, statement, say)
    say("checking recall", 0, 0)
    relation = _escaped(found.schema, name)
    recall_function = f"{quote_name(found.bqcore_schema)}.bqcore_recall"
    conn.execute(raw_sql(f"SET hnsw.ef_search = {ef_search}"))
    try:
        at_k = {
            one: float(one_row(conn, f"SELECT {recall_function}('{relation}', {one}, {n_queries})")[0])
            for one in AT_K
        }
        (size,) = one_row(conn, f"SELECT pg_relation_size('{relation}')")
        ms_after = probe.read()[1] if probe.chosen_index() == name else None
    finally:
        conn.execute(raw_sql(f"SET hnsw.ef_search = {session}"))
    after = Reading(name, at_k[10], ms_after, int(size), ef_search, at_k)
    if ms_after is None:
        said.append(f"the planner does not choose {name} while the other index is there")
    for index in found.indexes:
        if index.is_valid:
            said.append(f"{index.name} is kept; once it is not needed: DROP INDEX CONCURRENTLY {index.name}")
    said.append(f"to go back: DROP INDEX CONCURRENTLY {quote_name(found.schema)}.{quote_name(name)}")
    return Adoption(found, advice, statement, ef_search, tuple(said), before, after, round(build_s, 2))


def _escaped(schema: str, name: str) -> str:
    """Return a relation's name for use inside a string literal."""
    return f"{quote_name(schema)}.{quote_name(name)}".replace("'", "''")
