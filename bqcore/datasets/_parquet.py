"""Parquet files with a column of number lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore.datasets._dataset import Dataset, assemble, import_extra, require_metric
from bqcore.datasets._part import WHOLE, Part


def _is_number_list(pa: Any, kind: Any) -> bool:
    types = pa.types
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(is_list and (types.is_floating(kind.value_type) or types.is_integer(kind.value_type)))


def _choose(candidates: list[str], column: str | None, path: Path) -> str:
    if column is None and len(candidates) == 1:
        return candidates[0]
    listed = ", ".join(candidates) or "none"
    if column is None:
        raise ValueError(f"{path}: expected one column of number lists, not {len(candidates)} ({listed})")
    if column not in candidates:
        raise ValueError(f"{path}: expected a column of number lists ({listed}), not {column!r}")
    return column


def _rows_of(pa: Any, part: Any, dim: int | None, first_row: int, where: str) -> npt.NDArray[Any]:
    if part.null_count:
        row = first_row + int(np.flatnonzero(part.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(f"{where}: expected a list in every row, not null in row {row}")
    lengths = part.value_lengths().to_numpy(zero_copy_only=False)
    expected = int(lengths[0]) if dim is None else dim
    odd = np.flatnonzero(lengths != expected)
    if odd.size:
        raise ValueError(
            f"{where}: expected {expected} dimensions like in row 0, "
            f"not {lengths[odd[0]]} in row {first_row + int(odd[0])}"
        )
    values = part.flatten()
    if values.null_count:
        position = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
        row, coordinate = first_row + position // expected, position % expected
        raise ValueError(f"{where}: expected numbers, not null in row {row}, coordinate {coordinate}")
    array: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False).reshape(len(part), expected)
    return array


def read_parquet(
    path: Path, *, metric: str | None, rows: int | None, column: str | None, part: Part = WHOLE
) -> Dataset:
    """Read one column of vectors and hold out queries.

    Parameters
    ----------
    path : Path
        The file.
    metric, rows, part
        As in `read`.
    column : str or None
        A column of lists (fixed-size or not) of floats or integers; None takes the only one.

    Returns
    -------
    Dataset
        Without ground truth.

    Raises
    ------
    ImportError
        If pyarrow is not installed.
    ValueError
        If it is not a whole Parquet file, the column is missing or ambiguous, rows differ in length or hold
        nulls, or the metric is missing.
    """
    pa = import_extra("pyarrow")
    parquet = import_extra("pyarrow.parquet")
    try:
        file = parquet.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        size = path.stat().st_size
        raise ValueError(f"{path}: expected a whole Parquet file, not these {size} bytes: {error}") from error
    with file:
        schema = file.schema_arrow
        candidates = [field.name for field in schema if _is_number_list(pa, field.type)]
        chosen = _choose(candidates, column, path)
        checked_metric = require_metric(metric, path)
        # In batches: the offsets of a whole list column overflow int32 from 2**31 numbers on.
        parts: list[npt.NDArray[Any]] = []
        first_row = 0
        for batch in file.iter_batches(columns=[chosen]):
            dim = int(parts[0].shape[1]) if parts else None
            if len(batch):
                parts.append(_rows_of(pa, batch.column(0), dim, first_row, f"{path}: column {chosen!r}"))
            first_row += len(batch)
    if not parts:
        raise ValueError(f"{path}: column {chosen!r}: expected at least 2 rows to hold out queries, not 0")
    return assemble(path.stem, np.concatenate(parts), None, metric=checked_metric, rows=rows, part=part)
