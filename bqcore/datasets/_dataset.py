"""The record that every reader and generator returns, and how it is put together."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore._validation import (
    Float32Array,
    IdArray,
    InputTypeError,
    as_vectors,
    check_int,
    check_metric,
    check_random_state,
)
from bqcore.datasets._part import WHOLE, Part, check_memory, chosen_texts, invalid_rows, random_rows
from bqcore.evaluation import exact_search


class InvalidRowsError(ValueError):
    """Some rows are not finite as float32; the text counts them."""


class MetricMissingError(ValueError):
    """A file does not say its metric, and the caller did not either."""


class ColumnChoiceError(ValueError):
    """A file holds vectors in no column, in several, or not in the one that was named."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Base vectors, queries and what is known about them.

    Parameters
    ----------
    name : str
        For reports.
    base : array-like, shape (n, dim)
        Vectors to index. Kept as C-contiguous float32, not normalised.
    queries : array-like, shape (n_queries, dim)
        Vectors to search for, likewise.
    metric : {"l2", "ip", "cosine"}
        The metric of the ground truth.
    ground_truth : array-like of int, shape (n_queries, k), optional
        Row numbers of the exact neighbours, nearest first. Kept as int64.
    base_texts, query_texts : list of str, optional
        What the vectors stand for, one text per row.
    n_source : int, optional
        Base vectors that the source holds, where `base` is a part of them.
    n_dropped : tuple of int, default (0, 0)
        Rows of base and queries left out because they are not finite.
    has_queries : bool, default True
        False where there are none, and `queries` may have no rows.
    has_own_queries : bool, default True
        False where queries are rows that were held out of the base.

    Raises
    ------
    TypeError, ValueError
        If an array is refused by `as_vectors`, the metric is unknown, or the parts do not fit each other.
    """

    name: str
    base: Float32Array
    queries: Float32Array
    metric: str
    ground_truth: IdArray | None = None
    base_texts: list[str] | None = None
    query_texts: list[str] | None = None
    n_source: int | None = None
    n_dropped: tuple[int, int] = (0, 0)
    has_queries: bool = True
    has_own_queries: bool = True

    def __post_init__(self) -> None:
        base = as_vectors(self.base, name=f"{self.name}: base")
        queries = as_vectors(
            self.queries, name=f"{self.name}: queries", dim=base.shape[1], allow_empty=not self.has_queries
        )
        object.__setattr__(self, "base", base)
        object.__setattr__(self, "queries", queries)
        object.__setattr__(self, "metric", check_metric(self.metric))
        if self.ground_truth is not None:
            truth = check_ground_truth(self.ground_truth, n=len(base), n_queries=len(queries), name=self.name)
            object.__setattr__(self, "ground_truth", truth)
        for what, texts, expected in (
            ("base_texts", self.base_texts, len(base)),
            ("query_texts", self.query_texts, len(queries)),
        ):
            if texts is not None and len(texts) != expected:
                raise ValueError(f"{self.name}: {what}: expected {expected} texts, not {len(texts)}")

    @property
    def n(self) -> int:
        """Number of base vectors."""
        return len(self.base)

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return int(self.base.shape[1])


def check_ground_truth(ids: npt.ArrayLike, *, n: int, n_queries: int, name: str) -> IdArray:
    """Check that neighbours belong to these base vectors and queries.

    Parameters
    ----------
    ids : array-like of int, shape (n_queries, k)
        Row numbers.
    n, n_queries : int
        Numbers of base vectors and queries.
    name : str
        What error texts call the data set.

    Returns
    -------
    ndarray of int64, shape (n_queries, k)
        The same row numbers.

    Raises
    ------
    TypeError
        If the ids are not integers.
    ValueError
        If the shape does not fit or an id is out of range.
    """
    array = np.asarray(ids)
    if array.dtype.kind not in "iu":
        raise InputTypeError(f"{name}: ground_truth: expected integer ids, not dtype {array.dtype}")
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"{name}: ground_truth: expected shape ({n_queries}, k), not {array.shape}")
    if len(array) != n_queries:
        raise ValueError(f"{name}: ground_truth: expected {n_queries} rows like queries, not {len(array)}")
    for extreme in (int(array.min()), int(array.max())):
        if not 0 <= extreme < n:
            row = int(np.argwhere(array == extreme)[0][0])
            raise ValueError(
                f"{name}: ground_truth: expected ids from 0 to {n - 1}, not {extreme} (row {row})"
            )
    return array.astype(np.int64)


def split_queries(
    X: npt.NDArray[Any], n: int | None = None, random_state: int | None = None
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Hold out some rows as queries.

    Parameters
    ----------
    X : ndarray, shape (n_rows, dim)
        All vectors.
    n : int, optional
        How many to hold out; by default 5 %, at least 1 and at most 500.
    random_state : int, optional
        Seed of the choice. By default the last rows are taken, so that the numbers of the other rows keep
        their meaning; give a seed where the file is sorted.

    Returns
    -------
    base : ndarray, shape (n_rows - n, dim)
        The other rows, in their order (a view where the last rows are held out).
    queries : ndarray, shape (n, dim)
        The rows held out, in their order.

    Raises
    ------
    TypeError
        If `n` or `random_state` is not an int.
    ValueError
        If fewer than one row would be left on either side.
    """
    total = len(X)
    if total < 2:
        raise ValueError(f"X: expected at least 2 rows to hold out queries, not {total}")
    if n is None:
        n = min(500, max(1, total // 20))
    n = check_int(n, name="n", low=1, high=total - 1)
    if random_state is None:
        return X[: total - n], X[total - n :]
    held_out = np.zeros(total, dtype=np.bool_)
    rng = np.random.default_rng(check_random_state(random_state))
    held_out[rng.choice(total, size=n, replace=False)] = True
    return X[~held_out], X[held_out]


def assemble(
    name: str,
    base: npt.NDArray[Any],
    queries: npt.NDArray[Any] | None,
    *,
    metric: str,
    stored_metric: str | None = None,
    ground_truth: npt.NDArray[Any] | None = None,
    rows: int | None = None,
    base_texts: list[str] | None = None,
    query_texts: list[str] | None = None,
    part: Part = WHOLE,
) -> Dataset:
    """Build a `Dataset` from what a file holds.

    Parameters
    ----------
    name, base, queries, metric, ground_truth, base_texts, query_texts
        As in `Dataset`; without `queries`, `split_queries` holds some rows of `base` out.
    stored_metric : str, optional
        The metric of `ground_truth` where it may differ from `metric`.
    rows : int, optional
        Keep this many base vectors at most.
    part : Part
        What else to leave out.

    Returns
    -------
    Dataset
        With the ground truth of the file, computed anew where `rows` or `metric` made it invalid, and without
        it where a part of the rows is left out.

    Raises
    ------
    TypeError, ValueError
        As in `Dataset`.
    """
    if base.ndim != 2:
        raise ValueError(
            f"{name}: base: expected a 2-d array (n, dim), not {base.ndim}-d of shape {base.shape}"
        )
    if base_texts is not None and len(base_texts) != len(base):
        raise ValueError(f"{name}: base_texts: expected {len(base)} texts, not {len(base_texts)}")
    n_source = len(base)
    n_dropped = (0, 0)
    if part.sample is not None and part.sample < len(base):
        kept = random_rows(len(base), part.sample)
        base, base_texts, ground_truth = base[kept], chosen_texts(base_texts, kept), None
    check_memory(base.shape, name)
    if part.drop_invalid:
        valid = np.delete(np.arange(len(base)), invalid_rows(base))
        if len(valid) < len(base):
            n_dropped = (len(base) - len(valid), 0)
            base, base_texts, ground_truth = base[valid], chosen_texts(base_texts, valid), None
        if queries is not None and queries.ndim == 2:
            valid = np.delete(np.arange(len(queries)), invalid_rows(queries))
            if len(valid) < len(queries):
                n_dropped = (n_dropped[0], len(queries) - len(valid))
                queries, query_texts = queries[valid], chosen_texts(query_texts, valid)
                ground_truth = None if ground_truth is None else ground_truth[valid]
    is_own = queries is not None
    has_queries = is_own or part.hold_out
    if queries is None:
        base, queries = split_queries(base) if part.hold_out else (base, base[:0])
    about: dict[str, Any] = {
        "n_source": n_source,
        "n_dropped": n_dropped,
        "has_queries": has_queries,
        "has_own_queries": is_own,
    }
    if ground_truth is not None:
        ground_truth = check_ground_truth(ground_truth, n=len(base), n_queries=len(queries), name=name)
    stale = stored_metric is not None and metric != stored_metric
    if rows is not None and check_int(rows, name="rows", low=1) < len(base):
        base = base[:rows]
        base_texts = None if base_texts is None else base_texts[:rows]
        stale = True
    known = None if stale else ground_truth
    try:
        found = Dataset(name, base, queries, metric, known, base_texts, query_texts, **about)
    except ValueError as error:
        counts = [(len(invalid_rows(X)), len(X)) for X in (base, queries)]
        if not any(count for count, _ in counts):
            raise
        listed = [
            f"{count:,} of {total:,} rows of {what}"
            for what, (count, total) in zip(("base", "queries"), counts, strict=True)
            if count
        ]
        raise InvalidRowsError(f"{error}; not finite as float32: {' and '.join(listed)}") from None
    if ground_truth is None or not stale:
        return found
    truth, _ = exact_search(found.base, found.queries, min(ground_truth.shape[1], found.n), metric)
    return replace(found, ground_truth=truth)


def require_metric(metric: str | None, path: object) -> str:
    """Insist on a metric where the file does not store one.

    Parameters
    ----------
    metric : str or None
        What the caller asked for.
    path : path-like
        For the error text.

    Returns
    -------
    str
        The checked metric.

    Raises
    ------
    MetricMissingError
        If it is None.
    ValueError
        If it is unknown.
    """
    if metric is None:
        raise MetricMissingError(
            f"{path}: the file does not say its metric; expected metric='l2', 'ip' or 'cosine', not None"
        )
    return check_metric(metric)


def import_extra(module: str) -> Any:
    """Import a module of the extra ``datasets``.

    Parameters
    ----------
    module : str
        Its name.

    Returns
    -------
    module
        The imported module.

    Raises
    ------
    ImportError
        If it is not installed; the text names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f"this format needs {package}: pip install 'bqcore[datasets]'") from error
