"""Vectors that are in a table: find the column, read a random part of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bqcore._validation import METRICS, Float32Array, check_metric
from bqcore.datasets import MetricMissingError
from bqcore.study.source import Origin, Source
from bqcore_postgres.candidates import raw_sql
from bqcore_postgres.names import bare

_TYPES = ("vector", "halfvec")
# More rows than wanted are asked for, because TABLESAMPLE gives about so many, and NULLs are left out.
_SPARE = 1.1


@dataclass(frozen=True)
class Column:
    """A column of vectors.

    Parameters
    ----------
    table, column : str
        As SQL writes them.
    type_name : {"vector", "halfvec"}
    dim : int
        -1 where the column does not say.
    rows : int
        Estimate of the planner, or counted where there is none.
    """

    table: str
    column: str
    type_name: str
    dim: int
    rows: int

    @property
    def name(self) -> str:
        """``table.column``."""
        return f"{self.table}.{self.column}"


def find_column(conn: Any, table: str, column: str) -> Column:
    """Look a column up.

    Parameters
    ----------
    conn : psycopg.Connection
    table, column : str
        As SQL writes them.

    Raises
    ------
    ValueError
        If there is no such table or column, or it is of another type.
    """
    row = conn.execute("SELECT to_regclass(%s)::oid", [table]).fetchone()
    if row is None or row[0] is None:
        raise ValueError(f"expected a table, not {table!r}")
    found = conn.execute(
        "SELECT attname, typname, atttypmod, reltuples::bigint FROM pg_attribute "
        "JOIN pg_type ON pg_type.oid = atttypid JOIN pg_class ON pg_class.oid = attrelid "
        "WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped AND quote_ident(attname) = ANY(%s)",
        [row[0], [column, f'"{column}"']],
    ).fetchone()
    if found is None:
        raise ValueError(f"table {table}: expected a column {column!r}")
    _, type_name, dim, rows = found
    if type_name not in _TYPES:
        raise ValueError(f"{table}.{column}: expected a column of {' or '.join(_TYPES)}, not {type_name}")
    if rows < 0:  # never analysed
        rows = conn.execute(raw_sql(f"SELECT count(*) FROM {table}")).fetchone()[0]
    return Column(table, column, type_name, dim, int(rows))


def split_name(name: str) -> tuple[str, str]:
    """Split ``table.column`` or ``schema.table.column`` at its last dot.

    Raises
    ------
    ValueError
        If there is none.
    """
    table, dot, column = name.rpartition(".")
    if not dot or not table or not column:
        raise ValueError(f"expected table.column (or schema.table.column) with --dsn, not {name!r}")
    return table, column


def read_rows(conn: Any, found: Column, rows: int) -> Float32Array:
    """Read up to `rows` random vectors of a column, the same every time; NULLs are left out.

    Parameters
    ----------
    conn : psycopg.Connection
    found : Column
    rows : int

    Returns
    -------
    ndarray of float32, shape (n, dim)

    Raises
    ------
    ValueError
        If the column holds no vectors, or those of several numbers of dimensions.
    """
    from pgvector.psycopg import register_vector

    sample = ""
    if found.rows > rows:
        share = min(100.0, 100 * _SPARE * rows / found.rows)
        sample = f" TABLESAMPLE BERNOULLI ({share:.6f}) REPEATABLE (0)"
    text = f"SELECT {found.column} FROM {found.table}{sample} WHERE {found.column} IS NOT NULL LIMIT {rows}"
    with conn.transaction():
        register_vector(conn)
        with conn.cursor(name="bqcore_read", binary=True) as cursor:
            cursor.execute(raw_sql(text))
            parts = [_numbers(row[0]) for row in cursor]
    if not parts:
        raise ValueError(f"{found.name}: expected vectors, not an empty column")
    lengths = {len(part) for part in parts}
    if len(lengths) > 1:
        raise ValueError(f"{found.name}: expected rows of one number of dimensions, not {sorted(lengths)}")
    return np.stack(parts)


def read_column(dsn: str, name: str, *, metric: str | None, rows: int) -> tuple[Source, str, str]:
    """Read up to `rows` random vectors of a column; NULLs are left out.

    Parameters
    ----------
    dsn : str
    name : str
        ``table.column``, as SQL writes them.
    metric : {"l2", "ip", "cosine"} or None
        None takes that of the vector index on the column.
    rows : int

    Returns
    -------
    source : Source
    table, column : str

    Raises
    ------
    ImportError
        If the driver is missing.
    MetricMissingError
        If the metric is None, and no index says it.
    ValueError
        If there is no such column, or it holds no vectors.
    """
    try:
        import psycopg
        from pgvector.psycopg import register_vector  # noqa: F401 (what `read_rows` needs)
    except ImportError as error:
        raise ImportError(f"Postgres needs pip install 'bqcore[postgres]' ({error})") from error
    table, column = split_name(name)
    with psycopg.connect(dsn) as conn:
        conn.execute("SET TRANSACTION READ ONLY")
        found = find_column(conn, table, column)
        known = metric or indexed_metric(conn, table, bare(column))
        if known is None:
            raise MetricMissingError(f"{name}: no index says its metric; expected 'l2', 'ip' or 'cosine'")
        base = read_rows(conn, found, rows)
    origin = Origin("postgres", name, type_name=found.type_name)
    return Source(base, None, check_metric(known), origin, max(found.rows, len(base))), table, column


def indexed_metric(conn: Any, table: str, column: str) -> str | None:
    """Return the metric of the first vector index on a column, None where there is none.

    Parameters
    ----------
    conn : psycopg.Connection
    table : str
        As SQL writes it.
    column : str
        Without quotes.
    """
    rows = conn.execute(
        "SELECT o.opcname FROM pg_index i JOIN pg_opclass o ON o.oid = i.indclass[0] "
        "JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] "
        "WHERE i.indrelid = %s::regclass AND a.attname = %s ORDER BY i.indexrelid::regclass::text",
        [table, column],
    ).fetchall()
    return metric_of([row[0] for row in rows])


def metric_of(opclasses: Iterable[str]) -> str | None:
    """Return the metric that the first of some operator classes stands for."""
    for opclass in opclasses:
        for metric in METRICS:
            if opclass.endswith(f"_{metric}_ops"):
                return metric
    return None


def _numbers(value: Any) -> Any:
    """Return a vector as float32, of pgvector's type or numpy's."""
    array = value.to_numpy() if hasattr(value, "to_numpy") else value
    return np.asarray(array, dtype=np.float32)
