"""Rows into a table by binary COPY, on either kind of connection."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

    Connection = psycopg.Connection[Any]
    AsyncConnection = psycopg.AsyncConnection[Any]


def copy_rows(
    conn: Connection,
    table: str | Sequence[str],
    columns: Sequence[str],
    types: Sequence[str],
    rows: Iterable[Sequence[Any]],
) -> int:
    """Append rows to a table.

    Parameters
    ----------
    conn : psycopg.Connection
        With the types registered that the rows need (`pgvector.psycopg.register_vector`, `register_codes`).
    table : str or sequence of str
        Name, or schema and name, unquoted.
    columns : sequence of str
        Names, unquoted.
    types : sequence of str
        SQL types of the columns, which the binary format needs: ``["int4", "vector", "bqcode"]``.
    rows : iterable of sequence

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    ValueError
        If there are not as many types as columns.
    """
    count = 0
    with conn.cursor() as cursor, cursor.copy(_statement(table, columns, types)) as copy:
        copy.set_types(types)
        for row in rows:
            copy.write_row(row)
            count += 1
    return count


async def copy_rows_async(
    conn: AsyncConnection,
    table: str | Sequence[str],
    columns: Sequence[str],
    types: Sequence[str],
    rows: Iterable[Sequence[Any]],
) -> int:
    """`copy_rows` on an asynchronous connection."""
    count = 0
    async with conn.cursor() as cursor, cursor.copy(_statement(table, columns, types)) as copy:
        copy.set_types(types)
        for row in rows:
            await copy.write_row(row)
            count += 1
    return count


def _statement(table: str | Sequence[str], columns: Sequence[str], types: Sequence[str]) -> sql.Composed:
    from psycopg import sql

    if len(types) != len(columns):
        raise ValueError(f"expected {len(columns)} types, one per column, not {len(types)}")
    parts = [table] if isinstance(table, str) else table
    return sql.SQL("COPY {} ({}) FROM STDIN WITH (FORMAT BINARY)").format(
        sql.Identifier(*parts), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
