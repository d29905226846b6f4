"""One door for all formats."""

from __future__ import annotations

import os
from pathlib import Path

from bqcore._validation import check_int, check_metric
from bqcore.datasets._dataset import Dataset
from bqcore.datasets._hdf5 import read_hdf5
from bqcore.datasets._npy import read_folder, read_npy
from bqcore.datasets._parquet import read_parquet
from bqcore.datasets._part import Part
from bqcore.datasets._vecs import read_vecs_dataset

_SUFFIXES = (".npy", ".fvecs", ".bvecs", ".ivecs", ".hdf5", ".h5", ".parquet")


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
        and ``query_texts.txt``), or a file whose suffix says its format: ``.npy``, ``.fvecs`` or ``.bvecs``
        (TEXMEX), ``.hdf5`` or ``.h5`` (ann-benchmarks), ``.parquet``.
    metric : {"l2", "ip", "cosine"}, optional
        Needed for ``.npy`` and ``.parquet``, which do not say theirs; TEXMEX files are "l2". Where a file
        says another one, its ground truth is computed anew.
    rows : int, optional
        Keep the first `rows` base vectors (all where there are fewer) and compute the ground truth anew.
    column : str, optional
        The column of a Parquet file; not needed where only one holds lists of numbers.
    sample : int, optional
        Read so many random base vectors (all where there are fewer), the same every time; `n_source` of the
        result tells how many there are. The ground truth is left out.
    drop_invalid : bool, default False
        Leave out rows that hold NaN, inf or what float32 cannot; `n_dropped` of the result counts them. By
        default they are an error that counts them.
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
    if column is not None and suffix != ".parquet":
        raise ValueError(f"{place}: column={column!r} expects a .parquet file, not {suffix or 'a folder'}")
    if place.is_dir():
        return read_folder(place, metric=metric, rows=rows, part=part)
    if suffix == ".npy":
        return read_npy(place, metric=metric, rows=rows, part=part)
    if suffix in (".fvecs", ".bvecs", ".ivecs"):
        return read_vecs_dataset(place, metric=metric, rows=rows, part=part)
    if suffix in (".hdf5", ".h5"):
        return read_hdf5(place, metric=metric, rows=rows, part=part)
    if suffix == ".parquet":
        return read_parquet(place, metric=metric, rows=rows, column=column, part=part)
    raise ValueError(f"{place}: expected a folder or a suffix of {', '.join(_SUFFIXES)}, not {suffix!r}")
