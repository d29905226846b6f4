"""TEXMEX files (http://corpus-texmex.irisa.fr): a little-endian int32 dimension before every row."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore._validation import MAX_DIM
from bqcore.datasets._dataset import Dataset, assemble
from bqcore.datasets._part import WHOLE, Part

_ELEMENTS: dict[str, np.dtype[Any]] = {
    ".fvecs": np.dtype("<f4"),
    ".ivecs": np.dtype("<i4"),
    ".bvecs": np.dtype("u1"),
}
_HEADER = 4


def read_vecs(path: str | os.PathLike[str]) -> npt.NDArray[Any]:
    """Read the rows of an ``.fvecs``, ``.ivecs`` or ``.bvecs`` file.

    Parameters
    ----------
    path : path-like
        The suffix says the element type.

    Returns
    -------
    ndarray of float32, int32 or uint8, shape (n, dim)
        A read-only view of the mapped file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the suffix is another one, the file is truncated, or a row has another dimension than the first.
    """
    place = Path(path)
    element = _ELEMENTS.get(place.suffix.lower())
    if element is None:
        raise ValueError(f"{place}: expected a suffix of {', '.join(_ELEMENTS)}, not {place.suffix!r}")
    if not place.exists():
        raise FileNotFoundError(f"{place}: no such file")
    size = place.stat().st_size
    if size < _HEADER:
        raise ValueError(f"{place}: expected at least {_HEADER} bytes, not {size}")
    content = np.memmap(place, dtype=np.uint8, mode="r")
    dim = int(content[:_HEADER].view("<i4")[0])
    if not 1 <= dim <= MAX_DIM:
        raise ValueError(f"{place}: expected 1 to {MAX_DIM} dimensions in bytes 0 to 3, not {dim}")

    row_size = _HEADER + dim * element.itemsize
    n = size // row_size
    records = content[: n * row_size].reshape(n, row_size)
    dims = np.ascontiguousarray(records[:, :_HEADER]).view("<i4").ravel()
    foreign = np.flatnonzero(dims != dim)
    if foreign.size:
        row = int(foreign[0])
        raise ValueError(
            f"{place}: expected {dim} dimensions in every row like in row 0, "
            f"not {dims[row]} in row {row} at byte {row * row_size}"
        )
    if size != n * row_size:
        raise ValueError(
            f"{place}: expected a multiple of {row_size} bytes (rows of {dim} dimensions), not {size}: "
            f"{size - n * row_size} bytes follow row {n - 1}, from byte {n * row_size}"
            if n
            else f"{place}: expected at least {row_size} bytes (one row of {dim} dimensions), not {size}"
        )
    rows: npt.NDArray[Any] = records[:, _HEADER:].view(element)
    return rows


def _sibling(path: Path, part: str, suffixes: tuple[str, ...]) -> Path | None:
    stem = path.stem.removesuffix("base")
    if stem == path.stem:
        return None
    found = (path.with_name(f"{stem}{part}{suffix}") for suffix in suffixes)
    return next((candidate for candidate in found if candidate.exists()), None)


def read_vecs_dataset(path: Path, *, metric: str | None, rows: int | None, part: Part = WHOLE) -> Dataset:
    """Read base vectors, and the queries and ground truth that lie next to them.

    Parameters
    ----------
    path : Path
        An ``.fvecs`` or ``.bvecs`` file. For ``<name>_base.fvecs`` the files ``<name>_query.fvecs`` and
        ``<name>_groundtruth.ivecs`` of the same folder belong to it, as in siftsmall.
    metric, rows, part
        As in `read`; the metric is "l2" by default, which TEXMEX ground truths are for.

    Returns
    -------
    Dataset
        With ground truth where both neighbouring files exist.

    Raises
    ------
    ValueError
        If a file is truncated or foreign, or holds row numbers (``.ivecs``).
    """
    if path.suffix.lower() == ".ivecs":
        raise ValueError(
            f"{path}: expected vectors (.fvecs or .bvecs), not row numbers (.ivecs); read_vecs reads those"
        )
    query_path = _sibling(path, "query", (path.suffix, ".fvecs", ".bvecs"))
    truth_path = _sibling(path, "groundtruth", (".ivecs",)) if query_path else None
    return assemble(
        path.stem.removesuffix("_base"),
        read_vecs(path),
        read_vecs(query_path) if query_path else None,
        metric="l2" if metric is None else metric,
        stored_metric="l2",
        ground_truth=read_vecs(truth_path) if truth_path else None,
        rows=rows,
        part=part,
    )
