"""Parquet files, and folders of them, with a column of vectors or one column per dimension."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore.datasets._dataset import (
    ColumnChoiceError,
    Dataset,
    InvalidRowsError,
    assemble,
    import_extra,
    require_metric,
)
from bqcore.datasets._part import WHOLE, Part

# What pandas calls a column that holds an index without a name.
_BOOKKEEPING = re.compile(r"__index_level_\d+__")


@dataclass(frozen=True, eq=False)
class Rows:
    """Some consecutive rows of a table.

    Parameters
    ----------
    start : int
        Number of the first one in the table.
    vectors : ndarray, shape (n, dim)
        NaN where a row has no vector, or a coordinate is null.
    has_vector : ndarray of bool, shape (n,)
        False for null, for an empty list, and where a coordinate is null.
    flaw : str
        What the first row without a vector has instead; empty where all have one.
    batch : pyarrow.RecordBatch
        Whatever columns were asked for.
    ranges : dict of str to ndarray of int64, shape (n,)
        Indexes with a name that pandas keeps as a range, not as a column.
    """

    start: int
    vectors: npt.NDArray[Any]
    has_vector: npt.NDArray[np.bool_]
    flaw: str
    batch: Any
    ranges: dict[str, npt.NDArray[np.int64]]

    def widened(self, dim: int) -> Rows:
        """Return rows that have no vector with so many dimensions of NaN."""
        return replace(self, vectors=np.full((len(self.vectors), dim), np.nan, dtype=np.float32))


@dataclass(frozen=True, eq=False)
class VectorTable:
    """Parquet files of one table, and which of its columns are the vectors.

    Parameters
    ----------
    path : Path
        What was opened, for error texts.
    files : tuple of Path
        In the order of their names.
    columns : tuple of str
        One column of lists, or one column per dimension.
    n : int
        Rows of all files.
    names : tuple of str
        All columns, without those in which pandas keeps an index that has no name.
    """

    path: Path
    files: tuple[Path, ...]
    columns: tuple[str, ...]
    n: int
    names: tuple[str, ...]

    @property
    def where(self) -> str:
        """The table and its vectors, for error texts."""
        names = f"column {self.columns[0]!r}"
        if len(self.columns) > 1:
            names = f"columns {self.columns[0]!r} to {self.columns[-1]!r}"
        return f"{self.path}: {names}"

    def rows(self, size: int = 65_536, *, whole: bool = False) -> Iterator[Rows]:
        """Read the table in pieces, because offsets of a whole list column overflow int32 at 2**31 numbers.

        Parameters
        ----------
        size : int
            Rows of a piece at most.
        whole : bool, default False
            Whether to read the other columns, too.

        Raises
        ------
        ValueError
            If a file lacks the vectors' columns, or rows differ in length.
        """
        waiting: list[Rows] = []  # pieces before the first vector, which do not know how wide it is
        for rows in self._pieces(size, whole):
            if not rows.has_vector.any() and (waiting or rows.start == 0):
                waiting.append(rows)
                continue
            width = int(rows.vectors.shape[1])
            yield from (one.widened(width) for one in waiting)
            waiting = []
            yield rows
        yield from waiting

    def _pieces(self, size: int, whole: bool) -> Iterator[Rows]:
        pa = import_extra("pyarrow")
        start = 0
        like: tuple[int, int] | None = None
        for path in self.files:
            with opened(path) as file:
                missing = [name for name in self.columns if name not in file.schema_arrow.names]
                if missing:
                    listed = ", ".join(file.schema_arrow.names)
                    raise ValueError(f"{path}: expected a column {missing[0]!r}, not only {listed}")
                ranges, at = _pandas_ranges(file.schema_arrow), 0
                for batch in file.iter_batches(size, columns=None if whole else list(self.columns)):
                    vectors, has_vector, flaw = self._vectors(pa, batch, like, start)
                    if like is None and has_vector.any():
                        like = int(vectors.shape[1]), start + int(np.argmax(has_vector))
                    part = {
                        name: begin + step * np.arange(at, at + len(batch), dtype=np.int64)
                        for name, (begin, step) in ranges.items()
                    }
                    yield Rows(start, vectors, has_vector, flaw, batch, part)
                    start, at = start + len(batch), at + len(batch)

    def _vectors(
        self, pa: Any, batch: Any, like: tuple[int, int] | None, start: int
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_], str]:
        """Return vectors, which rows have one, and what the first other one has.

        `like` is the number of dimensions and the row that it was found in.
        """
        # by position: the name of a column may be that of a path into another one
        found = [batch.column(batch.schema.names.index(name)) for name in self.columns]
        if len(found) > 1:
            stacked = np.stack([one.to_numpy(zero_copy_only=False) for one in found], axis=1)
            null = np.stack([one.is_null().to_numpy(zero_copy_only=False) for one in found], axis=1)
            return stacked, _whole_rows(null), _null_at(null, start)
        lists = found[0].storage if isinstance(found[0], pa.ExtensionArray) else found[0]
        lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        is_list = lengths > 0
        flaw = "" if is_list.all() else f"null in row {start + int(np.argmin(is_list))}"
        if not is_list.any():
            return np.full((len(lists), like[0] if like else 1), np.nan, dtype=np.float32), is_list, flaw
        expected, first = like or (int(lengths[is_list][0]), start + int(np.argmax(is_list)))
        odd = np.flatnonzero(is_list & (lengths != expected))
        if odd.size:
            raise ValueError(
                f"{self.where}: expected {expected} dimensions like in row {first}, "
                f"not {lengths[odd[0]]} in row {start + int(odd[0])}"
            )
        values = lists.filter(pa.array(is_list)).flatten()
        null = np.zeros((len(lists), expected), dtype=np.bool_)
        if values.null_count:
            null[is_list] = values.is_null().to_numpy(zero_copy_only=False).reshape(-1, expected)
        numbers = values.to_numpy(zero_copy_only=False).reshape(-1, expected)
        if is_list.all():
            return numbers, _whole_rows(null), _null_at(null, start)
        vectors = np.full(null.shape, np.nan, dtype=np.result_type(numbers.dtype, np.float32))
        vectors[is_list] = numbers
        return vectors, is_list & _whole_rows(null), flaw


def _whole_rows(null: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return np.asarray(~null.any(axis=1), dtype=np.bool_)


def _null_at(null: npt.NDArray[np.bool_], start: int) -> str:
    if not null.any():
        return ""
    row, coordinate = (int(one) for one in np.argwhere(null)[0])
    return f"null in row {start + row}, coordinate {coordinate}"


def parquet_files(path: Path) -> tuple[Path, ...]:
    """Return the Parquet files of a path: itself, or those of a folder and its folders, by name."""
    if path.is_file():
        return (path,)
    found = (one for one in path.rglob("*") if one.suffix.lower() in (".parquet", ".pq") and one.is_file())
    return tuple(sorted(one for one in found if not one.name.startswith(("_", "."))))


def open_table(path: Path, column: str | None = None) -> VectorTable:
    """Look at the columns of a Parquet file, or of a folder of them.

    Parameters
    ----------
    path : Path
    column : str, optional
        A column of lists (fixed-size or not) of floats or integers, or what the names of one column per
        dimension begin with; needed where more than one column holds vectors.

    Raises
    ------
    ImportError
        If pyarrow is not installed.
    ColumnChoiceError
        If the column is missing or ambiguous.
    ValueError
        If a file is no whole Parquet file.
    """
    pa = import_extra("pyarrow")
    files = parquet_files(path)
    n = 0
    schema = None
    for one in files:
        with opened(one) as file:
            schema = schema or file.schema_arrow
            n += file.metadata.num_rows
    if schema is None:
        raise ValueError(f"{path}: expected Parquet files, not a folder without any")
    names = tuple(name for name in schema.names if not _BOOKKEEPING.fullmatch(name))
    return VectorTable(path, files, _choose(pa, schema, column, path), n, names)


def opened(path: Path) -> Any:
    """Open a Parquet file; a ValueError names one that is none."""
    pa, parquet = import_extra("pyarrow"), import_extra("pyarrow.parquet")
    try:
        return parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        size = path.stat().st_size
        raise ValueError(f"{path}: expected a whole Parquet file, not these {size} bytes: {error}") from error


def _pandas_ranges(schema: Any) -> dict[str, tuple[int, int]]:
    """Return start and step of the indexes that pandas describes in the metadata alone."""
    stored = (schema.metadata or {}).get(b"pandas")
    if stored is None:
        return {}
    return {
        one["name"]: (int(one["start"]), int(one["step"]))
        for one in json.loads(stored).get("index_columns", ())
        if isinstance(one, dict) and one.get("kind") == "range" and one.get("name")
    }


def _is_number(pa: Any, kind: Any) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _is_number_list(pa: Any, kind: Any) -> bool:
    types = pa.types
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(is_list and _is_number(pa, kind.value_type))


def _dimensions(pa: Any, schema: Any) -> dict[str, tuple[str, ...]]:
    """Return columns of numbers whose names count from 0 or 1, by what stands before the number."""
    found: dict[str, dict[int, str]] = {}
    for field in schema:
        parts = re.fullmatch(r"(.*?)(\d+)", field.name)
        if parts is not None and _is_number(pa, field.type):
            found.setdefault(parts[1], {})[int(parts[2])] = field.name
    return {
        prefix: tuple(names[number] for number in sorted(names))
        for prefix, names in found.items()
        if len(names) > 1 and sorted(names) in ([*range(len(names))], [*range(1, len(names) + 1)])
    }


def _choose(pa: Any, schema: Any, column: str | None, path: Path) -> tuple[str, ...]:
    lists = [field.name for field in schema if _is_number_list(pa, field.type)]
    groups = _dimensions(pa, schema)
    listed = ", ".join(lists) or "none"
    if column is not None:
        if column in lists:
            return (column,)
        if column in groups:
            return groups[column]
        raise ColumnChoiceError(f"{path}: expected a column of number lists ({listed}), not {column!r}")
    if len(lists) == 1:
        return (lists[0],)
    if not lists and len(groups) == 1:
        return next(iter(groups.values()))
    if not lists and groups:
        counted = ", ".join(f"{prefix!r} ({len(names)})" for prefix, names in groups.items())
        raise ColumnChoiceError(f"{path}: expected one row of columns per dimension, not {counted}")
    raise ColumnChoiceError(f"{path}: expected one column of number lists, not {len(lists)} ({listed})")


def read_vectors(table: VectorTable, *, drop_invalid: bool) -> npt.NDArray[Any]:
    """Return all vectors, shape (n, dim), with NaN in rows that have none.

    Raises
    ------
    InvalidRowsError
        If a row has no vector, unless `drop_invalid`; the text counts them.
    ValueError
        If the rows differ in length, or there are none.
    """
    parts: list[npt.NDArray[Any]] = []
    flaws: list[str] = []
    missing = 0
    for rows in table.rows():
        if len(rows.vectors):
            parts.append(rows.vectors)
        missing += int(np.count_nonzero(~rows.has_vector))
        flaws += [rows.flaw] if rows.flaw else []
    if not parts:
        raise ValueError(f"{table.where}: expected at least 2 rows to hold out queries, not 0")
    if missing and not drop_invalid:
        wanted = "numbers" if "coordinate" in flaws[0] else "a list in every row"
        raise InvalidRowsError(
            f"{table.where}: expected {wanted}, not {flaws[0]}; "
            f"{missing:,} of {table.n:,} rows have no vector"
        )
    return np.concatenate(parts)


def read_parquet(
    path: Path, *, metric: str | None, rows: int | None, column: str | None, part: Part = WHOLE
) -> Dataset:
    """Read the vectors of a file or folder, and hold out queries.

    Parameters
    ----------
    path : Path
    metric, rows, part
        As in `read`.
    column : str or None
        As in `open_table`.

    Returns
    -------
    Dataset
        Without ground truth.

    Raises
    ------
    ImportError, ValueError
        As `open_table` and `read_vectors`; also if the metric is missing.
    """
    table = open_table(path, column)
    checked_metric = require_metric(metric, path)
    found = read_vectors(table, drop_invalid=part.drop_invalid)
    return assemble(path.stem, found, None, metric=checked_metric, rows=rows, part=part)
