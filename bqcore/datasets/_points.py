"""Points of a Parquet table: ids, vectors, and the other columns as values that JSON has."""

from __future__ import annotations

import base64
import datetime
import decimal
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore.datasets._dataset import import_extra
from bqcore.datasets._parquet import Rows, VectorTable, open_table, opened, parquet_files


@dataclass(frozen=True, eq=False)
class Points:
    """Consecutive points of a table.

    Parameters
    ----------
    start : int
        Row of the first one.
    ids : list or None
        Values of the id column as they are; None where the table has no such column.
    vectors : ndarray, shape (n, dim)
        NaN where a row has no vector.
    has_vector : ndarray of bool, shape (n,)
    payloads : list of dict
        The other columns.
    """

    start: int
    ids: list[Any] | None
    vectors: npt.NDArray[Any]
    has_vector: npt.NDArray[np.bool_]
    payloads: list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class PointTable:
    """A table of points.

    Parameters
    ----------
    table : VectorTable
    id_column : str
        A column, or the name of an index of pandas that is kept as a range; "" for none.
    has_ids : bool
        Whether there is such a column.
    """

    table: VectorTable
    id_column: str
    has_ids: bool

    @property
    def n(self) -> int:
        """Number of points."""
        return self.table.n

    def points(self, size: int) -> Iterator[Points]:
        """Read up to `size` points at a time; errors as `VectorTable.rows`."""
        pa = import_extra("pyarrow")
        for rows in self.table.rows(size, whole=True):
            columns = self._columns(pa, rows)
            ids = columns.pop(self.id_column) if self.has_ids else None
            payloads = [
                dict(zip(columns, (plain(one) for one in values), strict=True))
                for values in zip(*columns.values(), strict=True)
            ]
            yield Points(
                rows.start,
                ids,
                rows.vectors,
                rows.has_vector,
                payloads or [{} for _ in rows.vectors],
            )

    def _columns(self, pa: Any, rows: Rows) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {}
        for name, column in zip(rows.batch.schema.names, rows.batch.columns, strict=True):
            if name in self.table.columns or name not in self.table.names:
                continue
            if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
                # Python's times have microseconds
                column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
            columns[name] = column.to_pylist()
        for name, values in rows.ranges.items():
            columns.setdefault(name, values.tolist())
        return columns


def open_points(path: Path, *, id_column: str = "id", column: str | None = None) -> PointTable:
    """Open a Parquet file or folder as points.

    Parameters
    ----------
    path : Path
    id_column : str, default "id"
        Points have the numbers of their rows as ids where there is no such column; "" leaves it alone.
    column : str, optional
        The vectors, as `bqcore.datasets.read` takes it.

    Raises
    ------
    ImportError, ValueError
        As `bqcore.datasets.read`.
    """
    table = open_table(path, column)
    first = next(iter(table.rows(1)), None)
    ranges = {} if first is None else first.ranges
    known = [name for name in table.names if name not in table.columns]
    return PointTable(table, id_column, id_column in (*known, *ranges))


def plain(value: Any) -> Any:
    """Return a value as JSON has it: times in ISO 8601, NaN as null, bytes as text or base64."""
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float | decimal.Decimal):
        number = float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)


def read_ids(path: Path, id_column: str) -> Iterator[list[Any]]:
    """Read the ids of a Parquet file or folder in pieces; nothing where it has no such column.

    Parameters
    ----------
    path : Path
    id_column : str
        A column, or an index of pandas.

    Raises
    ------
    ImportError, ValueError
        As `VectorTable.rows`.
    """
    for file_path in parquet_files(path):
        with opened(file_path) as file:
            if id_column in file.schema_arrow.names:
                for batch in file.iter_batches(columns=[id_column]):
                    yield batch.column(batch.schema.names.index(id_column)).to_pylist()
