"""Vectors that are in a table: find the column, read a random part of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bqcore.study.source import Origin, Source
from bqcore_postgres.candidates import raw_sql

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


def read_column(dsn: str, name: str, *, metric: str, rows: int) -> tuple[Source, str, str]:
    """Read up to `rows` random vectors of a column; NULLs are left out.

    Parameters
    ----------
    dsn : str
    name : str
        ``table.column``, as SQL writes them.
    metric : {"l2", "ip", "cosine"}
    rows : int

    Returns
    -------
    source : Source
    table, column : str

    Raises
    ------
    ImportError
        If the driver is missing.
    ValueError
        If there is no such column, or it holds no vectors.
    """
    try:
        import psycopg
        from pgvector.psycopg import register_vector
    except ImportError as error:
        raise ImportError(f"Postgres needs pip install 'bqcore[postgres]' ({error})") from error
    table, column = split_name(name)
    with psycopg.connect(dsn) as conn:
        register_vector(conn)
        conn.execute("SET TRANSACTION READ ONLY")
        found = find_column(conn, table, column)
        sample = ""
        if found.rows > rows:
            share = min(100.0, 100 * _SPARE * rows / found.rows)
            sample = f" TABLESAMPLE BERNOULLI ({share:.6f}) REPEATABLE (0)"
        text = f"SELECT {column} FROM {table}{sample} WHERE {column} IS NOT NULL LIMIT {rows}"
        with conn.cursor(name="bqcore_read", binary=True) as cursor:
            cursor.execute(raw_sql(text))
            parts = [_numbers(row[0]) for row in cursor]
    if not parts:
        raise ValueError(f"{name}: expected vectors, not an empty column")
    lengths = {len(part) for part in parts}
    if len(lengths) > 1:
        raise ValueError(f"{name}: expected rows of one number of dimensions, not {sorted(lengths)}")
    base = np.stack(parts)
    origin = Origin("postgres", name, type_name=found.type_name)
    return Source(base, None, metric, origin, max(found.rows, len(base))), table, column


def _numbers(value: Any) -> Any:
    """Return a vector as float32, of pgvector's type or numpy's."""
    array = value.to_numpy() if hasattr(value, "to_numpy") else value
    return np.asarray(array, dtype=np.float32)
