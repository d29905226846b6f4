"""One door for all formats."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore._validation import check_int, check_metric
from bqcore.datasets._bin import ELEMENTS, read_bin, read_bin_dataset
from bqcore.datasets._dataset import ColumnChoiceError, Dataset
from bqcore.datasets._hdf5 import base_of, read_hdf5
from bqcore.datasets._npy import is_folder, load_npy, read_folder, read_npy
from bqcore.datasets._npz import read_npz, vectors_of
from bqcore.datasets._parquet import parquet_files, read_parquet
from bqcore.datasets._part import Part
from bqcore.datasets._vecs import read_vecs, read_vecs_dataset

_VECS = (".fvecs", ".bvecs", ".ivecs")
_HDF5 = (".hdf5", ".h5")
_PARQUET = (".pq", ".parquet")
_SUFFIXES = (".npy", ".npz", *_VECS, *ELEMENTS, *_HDF5, *_PARQUET)


def read(
    path: str | os.PathLike[str],
    *,
    metric: str | None = None,
    rows: int | None = None,
    column: str | None = None,
    sample: int | None = None,
    drop_invalid: bool = False,
    hold_out: bool = True,
) -> Dataset:
    """Read vectors, queries and ground truth.

    Parameters
    ----------
    path : path-like
        A folder with ``base.npy``, ``query.npy`` and ``meta.json`` (optionally ``gt.npy``, ``base_texts.txt``
        and ``query_texts.txt``); a folder of Parquet files, which are parts of one table; or a file whose
        suffix says its format: ``.npy``, ``.npz``, ``.fvecs`` or ``.bvecs`` (TEXMEX), ``.fbin``, ``.u8bin``,
        ``.i8bin`` or ``.ibin`` (big-ann), ``.hdf5`` or ``.h5`` (ann-benchmarks), ``.parquet``.
    metric : {"l2", "ip", "cosine"}, optional
        Or another name of one, such as "euclidean", "dot" and "cos". Needed where a file does not say its
        own: only folders and ``.hdf5`` do, and TEXMEX files are "l2". Where a file says another one, its
        ground truth is computed anew.
    rows : int, optional
        Keep the first `rows` base vectors (all where there are fewer) and compute the ground truth anew.
    column : str, optional
        The column of a Parquet file, or what the names of one column per dimension begin with; the array of
        an ``.npz`` file. Not needed where only one holds vectors.
    sample : int, optional
        Read so many random base vectors (all where there are fewer), the same every time; `n_source` of the
        result tells how many there are. The ground truth is left out.
    drop_invalid : bool, default False
        Leave out rows that are null, or hold NaN, inf or what float32 cannot; `n_dropped` of the result
        counts them. By default they are an error that counts them.
    hold_out : bool, default True
        Where a file has no queries, hold its last 5 % (1 to 500 rows) out. False leaves `queries` empty.

    Returns
    -------
    Dataset
        Where a file has no queries its ground truth is None.

    Raises
    ------
    FileNotFoundError
        If the path, or a file that the folder should hold, is missing.
    ImportError
        If the format needs the extra ``bqcore[datasets]``.
    TypeError, ValueError
        If the file is truncated, of another format, or inconsistent.
    """
    place = Path(path)
    if metric is not None:
        metric = check_metric(metric)
    if rows is not None:
        rows = check_int(rows, name="rows", low=1)
    if sample is not None:
        sample = check_int(sample, name="sample", low=1)
    part = Part(sample, drop_invalid, hold_out)
    if not place.exists():
        raise FileNotFoundError(f"{place}: no such file or folder")
    suffix = place.suffix.lower()
    if column is not None and not place.is_dir() and suffix not in (*_PARQUET, ".npz"):
        raise ColumnChoiceError(f"{place}: column={column!r} expects a .parquet file, not {suffix}")
    if place.is_dir():
        if is_table(place):
            return read_parquet(place, metric=metric, rows=rows, column=column, part=part)
        if column is not None:
            raise ColumnChoiceError(f"{place}: column={column!r} expects a .parquet file, not a folder")
        return read_folder(place, metric=metric, rows=rows, part=part)
    if suffix == ".npy":
        return read_npy(place, metric=metric, rows=rows, part=part)
    if suffix == ".npz":
        return read_npz(place, metric=metric, rows=rows, column=column, part=part)
    if suffix in _VECS:
        return read_vecs_dataset(place, metric=metric, rows=rows, part=part)
    if suffix in ELEMENTS:
        return read_bin_dataset(place, metric=metric, rows=rows, part=part)
    if suffix in _HDF5:
        return read_hdf5(place, metric=metric, rows=rows, part=part)
    if suffix in _PARQUET:
        return read_parquet(place, metric=metric, rows=rows, column=column, part=part)
    raise ValueError(f"{place}: expected a folder or a suffix of {', '.join(_SUFFIXES)}, not {suffix!r}")


def is_table(path: Path) -> bool:
    """Tell whether a path is a Parquet file, or a folder of them: vectors with other columns beside them."""
    if path.is_dir():
        return not is_folder(path) and bool(parquet_files(path))
    return path.suffix.lower() in _PARQUET


def mapped(path: Path, column: str | None = None) -> npt.NDArray[Any]:
    """Return the base vectors of a file as they are, shape (n, dim): mapped, where the format allows it.

    Parameters
    ----------
    path : Path
        Any file that `read` takes, but Parquet, which has other columns beside its vectors.
    column : str, optional
        As in `read`.

    Raises
    ------
    ImportError, ValueError
        As `read`.
    """
    suffix = path.suffix.lower()
    if column is not None and suffix != ".npz":
        raise ColumnChoiceError(
            f"{path}: column={column!r} expects a .parquet file, not {suffix or 'a folder'}"
        )
    if suffix == ".npy":
        return load_npy(path)
    if suffix == ".npz":
        return vectors_of(path, column)[0]
    if suffix in (".fvecs", ".bvecs"):
        return read_vecs(path)
    if suffix in ELEMENTS:
        return read_bin(path)
    if suffix in _HDF5:
        return np.asarray(base_of(path))
    if path.is_dir():
        return load_npy(path / "base.npy")
    raise ValueError(f"{path}: expected a folder or a suffix of {', '.join(_SUFFIXES)}, not {suffix!r}")
