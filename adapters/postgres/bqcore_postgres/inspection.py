"""What a table with a column of vectors is like, and what to know before an index is built on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bqcore_postgres.advice import index_ddl
from bqcore_postgres.candidates import quote_name, raw_sql
from bqcore_postgres.vectors import Column, metric_of

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[Any]

#: Bytes of pgvector's graph per row while it is built, at m = 16, without the code.
_GRAPH_BYTES = 720

_TABLE = """
    SELECT c.oid, n.nspname, c.relname, c.relkind::text, c.reltuples::float8,
        pg_table_size(c.oid), coalesce(pg_relation_size(nullif(c.reltoastrelid, 0)), 0),
        a.atttypmod, t.typname, a.attstorage::text, pg_has_role(c.relowner, 'USAGE')
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = %(column)s AND a.attnum > 0
    LEFT JOIN pg_type t ON t.oid = a.atttypid
    WHERE c.oid = %(table)s::regclass"""

_INDEXES = """
    SELECT i.indexrelid::regclass::text, m.amname, o.opcname, pg_relation_size(i.indexrelid), i.indisvalid,
        pg_get_indexdef(i.indexrelid)
    FROM pg_index i
    JOIN pg_class c ON c.oid = i.indexrelid
    JOIN pg_am m ON m.oid = c.relam
    JOIN pg_opclass o ON o.oid = i.indclass[0]
    WHERE i.indrelid = %(oid)s AND i.indnatts = 1 AND m.amname NOT IN ('btree', 'hash', 'brin', 'gin', 'gist')
      AND (i.indkey[0] = (SELECT attnum FROM pg_attribute WHERE attrelid = %(oid)s AND attname = %(column)s)
        OR (i.indkey[0] = 0 AND position(quote_ident(%(column)s) IN pg_get_expr(i.indexprs, i.indrelid)) > 0))
    ORDER BY 1"""


@dataclass(frozen=True)
class FoundIndex:
    """An index that a column has already.

    Parameters
    ----------
    name, method, opclass, definition : str
    size_bytes : int
    is_valid : bool
        False where a concurrent build failed.
    """

    name: str
    method: str
    opclass: str
    size_bytes: int
    is_valid: bool
    definition: str


@dataclass(frozen=True)
class Inspection:
    """What there is: a table, its column of vectors, its indexes.

    Parameters
    ----------
    schema, table, column, type_name : str
    rows : int
        Estimated by the last ANALYZE, or counted where there was none.
    dim : int
    table_bytes, toast_bytes : int
    is_toasted : bool
        Whether vectors lie out of line, where reading one costs several times as much.
    indexes : tuple of FoundIndex
    metric : str
        Of the vector index that is there, else cosine.
    bqcore_schema : str or None
        Schema of the extension, None where the database has none.
    maintenance_work_mem_bytes : int
    """

    schema: str
    table: str
    column: str
    type_name: str
    rows: int
    dim: int
    table_bytes: int
    toast_bytes: int
    is_toasted: bool
    indexes: tuple[FoundIndex, ...]
    metric: str
    bqcore_schema: str | None
    maintenance_work_mem_bytes: int

    @property
    def relation(self) -> str:
        """The table as SQL names it."""
        return f"{quote_name(self.schema)}.{quote_name(self.table)}"

    @property
    def source(self) -> Column:
        """The column, for reading."""
        return Column(self.relation, quote_name(self.column), self.type_name, self.dim, self.rows)


def inspect(conn: Connection, table: str, column: str) -> Inspection:
    """Look at a table.

    Parameters
    ----------
    conn : psycopg.Connection
        In autocommit mode.
    table : str
        As SQL names it: quoted and with its schema where that is needed.
    column : str
        Unquoted.

    Raises
    ------
    ValueError
        If it is no table of the role's own with a column of type vector or halfvec that holds vectors.
    """
    row = conn.execute(_TABLE, {"table": table, "column": column}).fetchone()
    assert row is not None
    oid, schema, name, kind, estimate, size, toast, typmod, type_name, storage, owns = row
    if kind != "r":
        raise ValueError(
            f"expected an ordinary table, not {table} (of a partitioned one, adopt each partition)"
        )
    if type_name is None:
        raise ValueError(f"table {table} has no column {column!r}")
    if type_name not in ("vector", "halfvec"):
        raise ValueError(f"expected a column of type vector or halfvec, not {type_name}")
    if not owns:
        raise ValueError(f"only the owner of {table} can build indexes on it")
    relation = f"{quote_name(schema)}.{quote_name(name)}"
    dim = int(typmod)
    if dim < 0:
        raise ValueError(
            f"column {column!r} has no declared dimensions, which an index needs: "
            f"ALTER TABLE {relation} ALTER COLUMN {quote_name(column)} TYPE {type_name}(N)"
        )
    if estimate < 0:
        (estimate,) = one_row(conn, f"SELECT count(*) FROM {relation}")
    indexes = tuple(
        FoundIndex(*found) for found in conn.execute(_INDEXES, {"oid": oid, "column": column}).fetchall()
    )
    extension = conn.execute(
        "SELECT nspname FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace "
        "WHERE extname = 'bqcore'"
    ).fetchone()
    (memory,) = one_row(conn, "SELECT pg_size_bytes(current_setting('maintenance_work_mem'))")
    width = dim * (2 if type_name == "halfvec" else 4)
    return Inspection(
        schema=schema,
        table=name,
        column=column,
        type_name=type_name,
        rows=int(estimate),
        dim=dim,
        table_bytes=size,
        toast_bytes=toast,
        # rows beyond some 2,000 bytes move their widest columns out of line
        is_toasted=storage != "p" and toast > 0 and width > 1900,
        indexes=indexes,
        metric=metric_of(index.opclass for index in indexes) or "cosine",
        bqcore_schema=None if extension is None else extension[0],
        maintenance_work_mem_bytes=int(memory),
    )


def ddl(found: Inspection, bits: int, metric: str) -> str:
    """Return the statement that builds the index."""
    return index_ddl(
        bits,
        metric,
        table=found.relation,
        column=quote_name(found.column),
        type_name=found.type_name,
        schema=quote_name(found.bqcore_schema) if found.bqcore_schema else "",
    )


def notes(found: Inspection, bits: int) -> list[str]:
    """Say what to know before building."""
    said = []
    if found.bqcore_schema is None:
        said.append("this database has no extension bqcore yet: CREATE EXTENSION bqcore CASCADE")
    needed = found.rows * (_GRAPH_BYTES + found.dim * bits // 8)
    if needed > found.maintenance_work_mem_bytes:
        said.append(
            f"the graph takes about {needed / 1e6:,.0f} MB, more than maintenance_work_mem "
            f"({found.maintenance_work_mem_bytes / 1e6:,.0f} MB): raise it, or the build "
            "takes many times as long"
        )
    if found.is_toasted:
        said.append(
            "vectors lie out of line (TOAST), where rescoring costs several times as much: more bits rescore "
            "fewer rows, and ALTER COLUMN ... SET STORAGE PLAIN keeps new rows in line "
            "(up to 2,000 dimensions)"
        )
    said += [
        f"index {index.name} is invalid, left by a build that failed: it only costs time"
        for index in found.indexes
        if not index.is_valid
    ]
    return said


def one_row(conn: Connection, statement: str) -> tuple[Any, ...]:
    """Return the only row of a statement."""
    row = conn.execute(raw_sql(statement)).fetchone()
    assert row is not None
    return tuple(row)
