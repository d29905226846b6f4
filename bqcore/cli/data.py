"""Vectors from files, by the rules that all commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bqcore._validation import Float32Array, zero_rows
from bqcore.datasets import Dataset, InvalidRowsError, MetricMissingError, read

T = TypeVar("T")

#: Where neither the user nor the data says a metric: what embedding models are made for.
DEFAULT_METRIC = "cosine"


def with_metric(
    open_data: Callable[[str | None], T], metric: str | None, name: str, note: Callable[[str], None]
) -> T:
    """Read data with the user's metric, else the data's, else cosine, which a note says.

    Parameters
    ----------
    open_data : callable
        Reads with a metric, or None for that of the data.
    metric : str or None
    name : str
        Of the data, for the note.
    note : callable
        Takes a line.
    """
    try:
        return open_data(metric)
    except MetricMissingError:
        note(f"{name} does not say its metric: taken as {DEFAULT_METRIC} (--metric changes that)")
        return open_data(DEFAULT_METRIC)


def read_data(
    path: Path, *, metric: str | None, note: Callable[[str], None], can_drop: bool = False, **options: Any
) -> Dataset:
    """Read a file or folder of vectors.

    Parameters
    ----------
    path : Path
    metric, note
        As `with_metric` takes them.
    can_drop : bool, default False
        Whether the command has ``--drop-invalid``, which errors then name.
    **options
        Further arguments of `bqcore.datasets.read`.

    Raises
    ------
    FileNotFoundError, ImportError, TypeError, ValueError
        As `bqcore.datasets.read`.
    """
    try:
        return with_metric(lambda known: read(path, metric=known, **options), metric, path.name, note)
    except InvalidRowsError as error:
        if not can_drop:
            raise
        raise ValueError(f"{error}; --drop-invalid leaves them out") from None


def read_queries(path: Path, metric: str, note: Callable[[str], None]) -> Float32Array:
    """Read queries from a file; those that cannot be asked are left out, and counted in a note.

    Parameters
    ----------
    path : Path
    metric : {"l2", "ip", "cosine"}
        Under cosine zero vectors are left out, too.
    note : callable
        Takes a line.

    Returns
    -------
    ndarray of float32, shape (n, dim)

    Raises
    ------
    FileNotFoundError, ImportError, ValueError
        As `bqcore.datasets.read`; also if none is left.
    """
    found = read(path, metric=metric, hold_out=False, drop_invalid=True)
    zeros = zero_rows(found.base) if metric == "cosine" else np.empty(0, dtype=np.int64)
    left_out = found.n_dropped[0] + len(zeros)
    if left_out:
        note(f"{path.name}: left out {left_out:,} queries that are not finite or have no direction")
    queries: Float32Array = np.delete(found.base, zeros, axis=0)
    if not len(queries):
        raise ValueError(f"{path}: expected at least 1 query, not 0 ({left_out:,} were left out)")
    return queries
