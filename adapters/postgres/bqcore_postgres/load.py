"""Fill a table with vectors by binary COPY."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bqcore_postgres.candidates import raw_sql
from bqcore_postgres.vectors import Column

_REPORT_ROWS = 1000


def load(
    conn: Any,
    column: Column,
    X: NDArray[np.float32],
    *,
    id_column: str = "id",
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Append rows (row number, vector) to a table.

    Parameters
    ----------
    conn : psycopg.Connection
        In a database with the extension vector.
    column : Column
        What is filled.
    X : ndarray of float32, shape (n, dim)
    id_column : str, default "id"
        As SQL writes it; gets the numbers of the rows, from 0.
    progress : callable, optional
        Called with rows done and rows in all.

    Returns
    -------
    int
        Rows written, all or none.

    Raises
    ------
    ValueError
        If the column has other dimensions.
    """
    from pgvector import HalfVector
    from pgvector.psycopg import register_vector

    if column.dim > 0 and X.shape[1] != column.dim:
        raise ValueError(f"{column.name}: expected {column.dim} dimensions, not {X.shape[1]}")
    register_vector(conn)
    statement = f"COPY {column.table} ({id_column}, {column.column}) FROM STDIN WITH (FORMAT BINARY)"
    is_half = column.type_name == "halfvec"
    with conn.cursor() as cursor, cursor.copy(raw_sql(statement)) as copy:
        copy.set_types(["int8", column.type_name])
        for row, x in enumerate(X):
            copy.write_row((row, HalfVector(x) if is_half else x))
            if progress is not None and row % _REPORT_ROWS == 0:
                progress(row, len(X))
    conn.execute(raw_sql(f"ANALYZE {column.table}"))
    return len(X)
