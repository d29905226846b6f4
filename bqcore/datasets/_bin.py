"""Files of the big-ann benchmarks: rows and dimensions as uint32, then the values, row by row."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore._validation import MAX_DIM
from bqcore.datasets._dataset import Dataset, assemble, require_metric
from bqcore.datasets._part import WHOLE, Part

#: Element types by suffix.
ELEMENTS: dict[str, np.dtype[Any]] = {
    ".fbin": np.dtype("<f4"),
    ".u8bin": np.dtype("u1"),
    ".i8bin": np.dtype("i1"),
    ".ibin": np.dtype("<i4"),
}
_HEADER = 8


def read_bin(path: str | os.PathLike[str]) -> npt.NDArray[Any]:
    """Read the rows of an ``.fbin``, ``.u8bin``, ``.i8bin`` or ``.ibin`` file.

    Parameters
    ----------
    path : path-like
        The suffix says the element type.

    Returns
    -------
    ndarray of float32, uint8, int8 or int32, shape (n, dim)
        A read-only view of the mapped file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the suffix is another one, or the file is not as long as its header says.
    """
    place = Path(path)
    element = ELEMENTS.get(place.suffix.lower())
    if element is None:
        raise ValueError(f"{place}: expected a suffix of {', '.join(ELEMENTS)}, not {place.suffix!r}")
    size = place.stat().st_size
    if size < _HEADER:
        raise ValueError(f"{place}: expected at least {_HEADER} bytes, not {size}")
    n, dim = (int(one) for one in np.fromfile(place, dtype="<u4", count=2))
    if not 1 <= dim <= MAX_DIM:
        raise ValueError(f"{place}: expected 1 to {MAX_DIM} dimensions in bytes 4 to 7, not {dim}")
    expected = _HEADER + n * dim * element.itemsize
    if size != expected:
        raise ValueError(
            f"{place}: expected {expected:,} bytes ({n:,} rows of {dim} dimensions), not {size:,}"
        )
    if n == 0:
        return np.empty((0, dim), dtype=element)
    return np.memmap(place, dtype=element, mode="r", offset=_HEADER, shape=(n, dim))


def _sibling(path: Path, name: str) -> Path | None:
    """Return the file that belongs to ``base.fbin`` or ``NAME.base.fbin``, if there is one."""
    stem = path.stem.removesuffix("base")
    found = path.with_name(f"{stem}{name}{path.suffix}")
    return found if stem != path.stem and found.exists() else None


def read_bin_dataset(path: Path, *, metric: str | None, rows: int | None, part: Part = WHOLE) -> Dataset:
    """Read base vectors; for ``NAME.base.fbin`` the queries of ``NAME.query.fbin`` beside it.

    Parameters
    ----------
    path : Path
    metric, rows, part
        As in `read`.

    Raises
    ------
    ValueError
        As `read_bin`; also if the metric is missing.
    """
    checked = require_metric(metric, path)
    query_path = _sibling(path, "query")
    return assemble(
        path.stem,
        read_bin(path),
        None if query_path is None else read_bin(query_path),
        metric=checked,
        rows=rows,
        part=part,
    )
