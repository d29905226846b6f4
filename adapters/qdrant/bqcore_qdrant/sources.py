"""Where points come from: arrays, .npy and Parquet files, iterators; always in batches."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore._validation import InputTypeError
from bqcore.datasets import invalid_rows, is_table, mapped, open_points, read_ids
from bqcore_qdrant.inputs import PointId, as_id, as_numbers


@dataclass(frozen=True, eq=False)
class Batch:
    """Points that are sent together.

    Parameters
    ----------
    ids : list of int or str
    vectors : ndarray, shape (n, dim)
    payloads : list of dict
    others : list of dict, optional
        Vectors by other names, per point.
    start : int
        Position of the first point in the source.
    has_vector : ndarray of bool, shape (n,), optional
        False where a point has none: its row of `vectors` means nothing.
    """

    ids: list[PointId]
    vectors: npt.NDArray[Any]
    payloads: list[dict[str, Any]]
    others: list[dict[str, Any]] | None = None
    start: int = 0
    has_vector: npt.NDArray[np.bool_] | None = None

    def part(self, rows: list[int]) -> Batch:
        """Return some of the points."""
        return Batch(
            [self.ids[i] for i in rows],
            self.vectors[rows],
            [self.payloads[i] for i in rows],
            None if self.others is None else [self.others[i] for i in rows],
            self.start,
            None if self.has_vector is None else self.has_vector[rows],
        )


@dataclass(frozen=True)
class Source:
    """Batches, how many points they have together (None where that is not known), and about their ids.

    `has_distinct_ids` says that no id can occur twice: row numbers, or another collection's.
    """

    batches: Iterator[Batch]
    n: int | None
    has_distinct_ids: bool = False


def open_source(
    source: Any,
    *,
    batch_size: int,
    ids: Sequence[PointId] | None = None,
    payloads: Sequence[Mapping[str, Any]] | None = None,
    id_column: str = "id",
    vector_column: str | None = None,
    missing: str = "error",
) -> Source:
    """Return the batches of a source.

    Parameters
    ----------
    source : array-like, path, iterable or Source
        Vectors (n, dim), also as a column of pandas or polars, or a tensor; a file or folder of them, as
        `bqcore.datasets.read` takes it, which is mapped or read in pieces where its format allows it; of
        Parquet the other columns become the payload; an iterable of (id, vector, payload) tuples or of
        mappings with these keys.
    batch_size : int
    ids, payloads : sequence, optional
        Of an array or a file that is not Parquet; ids are row numbers by default.
    id_column, vector_column : str, optional
        Of a Parquet file. Without an id column, or with "", ids are row numbers; the vector column is needed
        where more than one holds vectors, and names the array of an .npz file.
    missing : {"error", "keep", "drop"}, default "error"
        What becomes of rows of a table that have no vector: they are refused, become points without a vector,
        or are left out, as all rows are then that hold NaN or inf.

    Raises
    ------
    FileNotFoundError, ImportError, TypeError, ValueError
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file")
        if is_table(path):
            if ids is not None or payloads is not None:
                raise ValueError("ids and payloads go with an array: a Parquet file brings its own")
            opened = _from_table(path, batch_size, id_column, vector_column, missing)
        else:
            opened = _from_array(mapped(path, vector_column), batch_size, ids, payloads)
        return opened if missing != "drop" else replace(opened, batches=_valid(opened.batches))
    if isinstance(source, np.ndarray) or any(hasattr(source, name) for name in ("__array__", "__dlpack__")):
        return _from_array(as_numbers(source, "source"), batch_size, ids, payloads)
    if isinstance(source, Iterable):
        if ids is not None or payloads is not None:
            raise InputTypeError("ids and payloads go with an array: an iterable brings its own")
        return Source(
            _from_iterable(source, batch_size), len(source) if isinstance(source, Sequence) else None
        )
    raise InputTypeError(f"source: expected an array, a path or an iterable, not {type(source).__name__}")


def _from_array(
    vectors: npt.NDArray[Any],
    batch_size: int,
    ids: Sequence[PointId] | None,
    payloads: Sequence[Mapping[str, Any]] | None,
) -> Source:
    if vectors.ndim != 2:
        raise ValueError(
            f"source: expected a 2-d array (n, dim), not {vectors.ndim}-d of shape {vectors.shape}"
        )
    n = len(vectors)
    for name, given in (("ids", ids), ("payloads", payloads)):
        if given is not None and len(given) != n:
            raise ValueError(f"{name}: expected {n}, one per vector, not {len(given)}")

    def batches() -> Iterator[Batch]:
        for start in range(0, n, batch_size):
            end = min(start + batch_size, n)
            yield Batch(
                list(range(start, end)) if ids is None else [as_id(one) for one in ids[start:end]],
                vectors[start:end],
                [{} for _ in range(start, end)]
                if payloads is None
                else [dict(one) for one in payloads[start:end]],
                start=start,
            )

    return Source(batches(), n, has_distinct_ids=ids is None)


def _from_table(
    path: Path, batch_size: int, id_column: str, vector_column: str | None, missing: str
) -> Source:
    """Points of a Parquet file or folder; `missing` as in `open_source`."""
    table = open_points(path, id_column=id_column, column=vector_column)

    def batches() -> Iterator[Batch]:
        for part in table.points(batch_size):
            n = len(part.payloads)
            ids = range(part.start, part.start + n) if part.ids is None else part.ids
            vectors, has_vector = part.vectors, part.has_vector
            if not has_vector.all():
                if missing == "error":
                    row = part.start + int(np.argmin(has_vector))
                    raise ValueError(
                        f"{table.table.where}: expected a vector in every row, but row {row} has none: leave "
                        "such rows out (drop_invalid), or keep their points without it (zero_vectors='keep')"
                    )
                vectors = np.where(has_vector[:, np.newaxis], vectors, 0)
            batch = Batch(
                [as_id(one) for one in ids],
                np.asarray(vectors, dtype=np.float32),
                part.payloads,
                start=part.start,
                has_vector=has_vector,
            )
            yield batch if missing != "drop" else batch.part(np.flatnonzero(has_vector).tolist())

    return Source(batches(), table.n, has_distinct_ids=not table.has_ids)


def usable_ids(path: Path, id_column: str = "id") -> bool:
    """Tell whether the id column of a Parquet file or folder holds distinct ids that Qdrant takes.

    Parameters
    ----------
    path : Path
    id_column : str, default "id"

    Returns
    -------
    bool
        True also where there is no such column: ids are row numbers then.

    Raises
    ------
    ImportError, ValueError
        As `open_source`.
    """
    seen: set[PointId] = set()
    try:
        for ids in read_ids(path, id_column):
            for one in ids:
                id_ = as_id(one)
                if id_ in seen:
                    return False
                seen.add(id_)
    except (TypeError, ValueError):
        return False
    return True


def _valid(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Leave out points whose vectors float32 cannot hold as finite numbers."""
    for batch in batches:
        bad = np.isin(np.arange(len(batch.ids)), invalid_rows(batch.vectors))
        yield batch if not bad.any() else batch.part(np.flatnonzero(~bad).tolist())


def _from_iterable(source: Iterable[Any], batch_size: int) -> Iterator[Batch]:
    ids: list[PointId] = []
    rows: list[Any] = []
    payloads: list[dict[str, Any]] = []
    start = 0
    for point in source:
        id_, vector, payload = _unpacked(point, start + len(ids))
        ids.append(id_)
        rows.append(vector)
        payloads.append(payload)
        if len(ids) == batch_size:
            yield Batch(ids, _stacked(rows, start), payloads, start=start)
            start, ids, rows, payloads = start + len(ids), [], [], []
    if ids:
        yield Batch(ids, _stacked(rows, start), payloads, start=start)


def _unpacked(point: Any, position: int) -> tuple[PointId, Any, dict[str, Any]]:
    if isinstance(point, Mapping):
        if "id" not in point or "vector" not in point:
            raise ValueError(
                f"point {position}: expected keys id and vector, not {', '.join(map(str, point))}"
            )
        return as_id(point["id"]), point["vector"], dict(point.get("payload") or {})
    if isinstance(point, tuple | list) and len(point) in (2, 3):
        payload = dict(point[2] or {}) if len(point) == 3 else {}
        return as_id(point[0]), point[1], payload
    if hasattr(point, "id") and hasattr(point, "vector"):
        return as_id(point.id), point.vector, dict(getattr(point, "payload", None) or {})
    raise InputTypeError(
        f"point {position}: expected (id, vector, payload) or a mapping, not {type(point).__name__}"
    )


def _stacked(rows: Sequence[Any], start: int) -> npt.NDArray[Any]:
    try:
        found = np.asarray(rows)
        # Of other kinds are text that reads as numbers, and arrays that numpy does not know.
        return (found if found.dtype.kind in "fiu" else as_numbers(rows, "vectors")).astype(np.float32)
    except ValueError:
        lengths = [len(row) if hasattr(row, "__len__") else -1 for row in rows]
        odd = next((i for i, length in enumerate(lengths) if length != lengths[0]), 0)
        raise ValueError(
            f"vectors: expected rows of {lengths[0]} numbers, but point {start + odd} has {lengths[odd]}"
        ) from None
