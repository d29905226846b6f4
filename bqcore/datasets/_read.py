"""One door for all formats."""

from __future__ import annotations

import os
from pathlib import Path

from bqcore._validation import check_int, check_metric
from bqcore.datasets._dataset import Dataset
from bqcore.datasets._hdf5 import read_hdf5
from bqcore.datasets._npy import read_folder, read_npy
from bqcore.datasets._parquet import read_parquet
from bqcore.datasets._vecs import read_vecs_dataset

_SUFFIXES = (".npy", ".fvecs", ".bvecs", ".ivecs", ".hdf5", ".h5", ".parquet")


def read(
    path: str | os.PathLike[str],
    *,
    metric: str | None = None,
    rows: int | None = None,
    column: str | None = None,
) -> Dataset:
    """Read vectors, queries and ground truth.

    Parameters
    ----------
    path : path-like
        A folder with ``base.npy``, ``query.npy``, ``gt.npy`` and ``meta.json`` (optionally ``base_texts.txt``
        and ``query_texts.txt``), or a file whose suffix says its format: ``.npy``, ``.fvecs`` or ``.bvecs``
        (TEXMEX), ``.hdf5`` or ``.h5`` (ann-benchmarks), ``.parquet``.
    metric : {"l2", "ip", "cosine"}, optional
        Needed for ``.npy`` and ``.parquet``, which do not say theirs; TEXMEX files are "l2". Where a file
        says another one, its ground truth is computed anew.
    rows : int, optional
        Keep the first `rows` base vectors (all where there are fewer) and compute the ground truth anew.
    column : str, optional
        The column of a Parquet file; not needed where only one holds lists of numbers.

    Returns
    -------
    Dataset
        Where a file has no queries, its last 5 % (1 to 500 rows) are held out; its ground truth is None.

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
    if not place.exists():
        raise FileNotFoundError(f"{place}: no such file or folder")
    suffix = place.suffix.lower()
    if column is not None and suffix != ".parquet":
        raise ValueError(f"{place}: column={column!r} expects a .parquet file, not {suffix or 'a folder'}")
    if place.is_dir():
        return read_folder(place, metric=metric, rows=rows)
    if suffix == ".npy":
        return read_npy(place, metric=metric, rows=rows)
    if suffix in (".fvecs", ".bvecs", ".ivecs"):
        return read_vecs_dataset(place, metric=metric, rows=rows)
    if suffix in (".hdf5", ".h5"):
        return read_hdf5(place, metric=metric, rows=rows)
    if suffix == ".parquet":
        return read_parquet(place, metric=metric, rows=rows, column=column)
    raise ValueError(f"{place}: expected a folder or a suffix of {', '.join(_SUFFIXES)}, not {suffix!r}")
