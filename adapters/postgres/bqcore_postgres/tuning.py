"""Settings of a live bqhnsw index: recall and time at each hnsw.ef_search and bqcore.rescore."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bqcore._validation import check_int
from bqcore.quickest import quickest
from bqcore_postgres.advice import SAMPLE_ROWS, advise_rows
from bqcore_postgres.candidates import OPERATORS, raw_sql
from bqcore_postgres.vectors import find_column, read_rows, split_name

EF_SEARCH = (20, 40, 60, 100, 150, 200, 300, 400)
#: The largest that the server takes.
MAX_EF_SEARCH = 1000
#: -1 follows the bits.
RESCORE = (-1, 20, 40)


@dataclass(frozen=True)
class Setting:
    """A pair of settings, measured.

    Parameters
    ----------
    ef_search, rescore : int
        ``hnsw.ef_search`` and ``bqcore.rescore``.
    recall : float
        recall@k of rows of the table, each without itself (`bqcore_recall`).
    ms : float
        Median wall time of a query, milliseconds, as the client sees it.
    """

    ef_search: int
    rescore: int
    recall: float
    ms: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return asdict(self)


def find_index(conn: Any, table: str, column: str) -> tuple[str, str]:
    """Return the bqhnsw index of a column and its metric.

    Raises
    ------
    ValueError
        If there is none.
    """
    row = conn.execute(
        "SELECT i.indexrelid::regclass::text FROM pg_index i "
        "JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam "
        "JOIN pg_attribute t ON t.attrelid = i.indrelid AND t.attnum = i.indkey[0] "
        "WHERE i.indrelid = %s::regclass AND a.amname = 'bqhnsw' AND i.indisvalid "
        "AND quote_ident(t.attname) = ANY(%s) ORDER BY 1 LIMIT 1",
        [table, [column, f'"{column}"']],
    ).fetchone()
    if row is None:
        raise ValueError(
            f"{table}.{column}: expected a bqhnsw index, not none; make one with "
            f"CREATE INDEX ON {table} USING bqhnsw (...)"
        )
    (metric,) = conn.execute("SELECT metric FROM bqcore_index_info(%s)", [row[0]]).fetchone()
    return str(row[0]), str(metric)


def settings(bits: int, k: int) -> Iterator[tuple[int, int]]:
    """Yield the pairs worth measuring: at 1 bit all candidates are rescored by default."""
    for ef in [one for one in EF_SEARCH if one >= k] or [k]:
        for rescore in RESCORE:
            if rescore == -1 or (rescore < ef and bits == 1):
                yield ef, rescore


def tune_index(
    dsn: str,
    name: str,
    *,
    k: int = 10,
    target_recall: float | None = None,
    n_queries: int = 100,
    seconds: float = 300.0,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure settings on a live index and choose the quickest that reaches a recall.

    Parameters
    ----------
    dsn : str
    name : str
        ``table.column``, as SQL writes them.
    k : int, default 10
    target_recall : float, optional
        Without it the best recall is chosen.
    n_queries : int, default 100
        Rows that are asked for.
    seconds : float, default 300
        No further settings are begun after so many.
    progress : callable, optional
        Called with a text, steps done, steps in all.

    Returns
    -------
    dict
        ``chosen``, ``settings``, ``reaches_target``, the ``sql`` that sets them; ``advice``: the index that
        `bqcore advise` and `bqcore postgres adopt` would choose for the same rows, target and k.

    Raises
    ------
    ImportError
        If the driver is missing.
    ValueError
        If there is no such index.
    """
    try:
        import psycopg
    except ImportError as error:
        raise ImportError(f"Postgres needs pip install 'bqcore[postgres]' ({error})") from error
    table, column = split_name(name)
    k = check_int(k, name="k", low=1, high=MAX_EF_SEARCH)
    say = progress or (lambda text, done, total: None)
    started = time.monotonic()
    with psycopg.connect(dsn, autocommit=True) as conn:
        found = find_column(conn, table, column)
        index, metric = find_index(conn, found.table, column)
        info = conn.execute(
            "SELECT bits, (SELECT reltuples::bigint FROM pg_class WHERE oid = %s::regclass) "
            "FROM bqcore_index_info(%s)",
            [index, index],
        ).fetchone()
        assert info is not None
        bits, rows = int(info[0]), int(info[1])
        say("advise", 0, 0)
        X = read_rows(conn, found, SAMPLE_ROWS)
        advised = advise_rows(X, metric, max(found.rows, len(X)), k=k, target_recall=target_recall, name=name)
        asked = conn.execute(
            raw_sql(f"SELECT {column}::text FROM {table} WHERE {column} IS NOT NULL LIMIT {n_queries}")
        ).fetchall()
        conn.execute("SET enable_seqscan = off")
        pairs = list(settings(bits, k))
        measured: list[Setting] = []
        for done, (ef, rescore) in enumerate(pairs):
            if measured and time.monotonic() - started > seconds:
                break
            say(f"ef_search {ef}, rescore {rescore}", done, len(pairs))
            conn.execute(raw_sql(f"SET hnsw.ef_search = {ef}"))
            conn.execute(raw_sql(f"SET bqcore.rescore = {rescore}"))
            row = conn.execute("SELECT bqcore_recall(%s, %s, %s)", [index, k, n_queries]).fetchone()
            assert row is not None
            order = f"{column} {OPERATORS[metric]} %s::{found.type_name}"
            text = f"SELECT 1 FROM {table} ORDER BY {order} LIMIT {k}"
            measured.append(Setting(ef, rescore, round(float(row[0]), 4), _median_ms(conn, text, asked)))
    at, reaches = quickest(
        [one.recall for one in measured],
        [one.ms for one in measured],
        [(one.ef_search, one.rescore) for one in measured],
        target_recall,
    )
    best = measured[at]
    return {
        "index": index,
        "metric": metric,
        "bits": bits,
        "rows": rows,
        "k": k,
        "target_recall": target_recall,
        "chosen": best.as_dict(),
        "reaches_target": reaches,
        "settings": [one.as_dict() for one in measured],
        "advice": advised.as_dict(),
        "not_measured": [list(pair) for pair in pairs[len(measured) :]],
        "sql": f"SET hnsw.ef_search = {best.ef_search};\nSET bqcore.rescore = {best.rescore};",
    }


def _median_ms(conn: Any, text: str, asked: Sequence[Any]) -> float:
    times = []
    for row in asked:
        start = time.perf_counter()
        conn.execute(raw_sql(text), row).fetchall()
        times.append(time.perf_counter() - start)
    return round(float(np.median(times)) * 1e3, 3)
