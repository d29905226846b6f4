"""Ground truth and recall@k.

Distances are the package's units: squared L2, negative inner product, cosine distance ``1 - cos``; smaller is
nearer for all three.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore._validation import (
    Float32Array,
    Float64Array,
    IdArray,
    InputTypeError,
    Metric,
    as_vectors,
    check_int,
    check_metric,
    unit_rows,
    zero_rows,
)

# Bounds the score matrix of one step: 1024 x 8192 float32 are 32 MiB.
_QUERY_BLOCK = 1024
_ROW_BLOCK = 8192

# Below this norm every square, product and sum of the candidate pass stays inside float32's range, 2**128.
_FLOAT32_SAFE_NORM = 2.0**60

#: A float32 sum of squares is off by about this much; recall takes closer distances for ties.
TIE_TOLERANCE = 1e-6


def exact_search(
    X: npt.ArrayLike, Q: npt.ArrayLike, k: int, metric: str, *, block: int = _ROW_BLOCK
) -> tuple[IdArray, Float64Array]:
    """Find the exact `k` nearest rows of every query.

    A float32 matrix product proposes candidates: every row whose score lies within a proven rounding bound of
    the k-th. Their distances are recomputed in float64, so membership, order and ties are those of float64.

    Parameters
    ----------
    X : array-like, shape (n, dim)
        Base vectors.
    Q : array-like, shape (n_queries, dim)
        Queries.
    k : int
        Neighbours per query, 1 to n.
    metric : {"l2", "ip", "cosine"}
        Vectors need not be normalised for "cosine".
    block : int, default 8192
        Rows of `X` scored at a time; the result does not depend on it.

    Returns
    -------
    ids : ndarray of int64, shape (n_queries, k)
        Row numbers of `X`, nearest first; equal distances in ascending order of row number.
    distances : ndarray of float64, shape (n_queries, k)
        Squared L2, negative inner product or cosine distance.

    Raises
    ------
    TypeError, ValueError
        If an array is refused by `as_vectors`, dimensions differ, `k` exceeds n, the metric is unknown, or it
        is "cosine" and a row is a zero vector.
    """
    base, queries, checked_metric = check_pair(X, Q, metric)
    n = len(base)
    k = check_int(k, name="k", low=1, high=n)
    step = max(check_int(block, name="block", low=1), k)

    ids = np.empty((len(queries), k), dtype=np.int64)
    distances = np.empty((len(queries), k), dtype=np.float64)
    mean = _mean(base, checked_metric)
    for start in range(0, len(queries), _QUERY_BLOCK):
        chunk = queries[start : start + _QUERY_BLOCK]
        for i, candidates in enumerate(_candidates(base, chunk, k, checked_metric, mean, step)):
            exact = distances_to_rows(base, chunk[i], candidates, checked_metric)
            order = np.lexsort((candidates, exact))[:k]
            ids[start + i] = candidates[order]
            distances[start + i] = exact[order]
    return ids, distances


def exact_distances(X: npt.ArrayLike, Q: npt.ArrayLike, ids: npt.ArrayLike, metric: str) -> Float64Array:
    """Compute the float64 distances between queries and chosen rows.

    Parameters
    ----------
    X : array-like, shape (n, dim)
        Base vectors.
    Q : array-like, shape (n_queries, dim)
        Queries.
    ids : array-like of int, shape (n_queries, m)
        Row numbers of `X` for every query; -1 marks a missing row.
    metric : {"l2", "ip", "cosine"}
        Unit of the result.

    Returns
    -------
    ndarray of float64, shape (n_queries, m)
        Squared L2, negative inner product or cosine distance; inf where the id is -1.

    Raises
    ------
    TypeError, ValueError
        If an array is refused, dimensions or the numbers of queries differ, or an id is out of range.
    """
    base, queries, checked_metric = check_pair(X, Q, metric)
    rows = _check_ids(ids, "ids", n_base=len(base), low=-1)
    _check_n_queries(rows, "ids", queries)
    return _gathered_distances(base, queries, rows, checked_metric)


def recall(
    retrieved: npt.ArrayLike,
    ground_truth: npt.ArrayLike,
    k: int,
    *,
    X: npt.ArrayLike | None = None,
    Q: npt.ArrayLike | None = None,
    metric: str | None = None,
) -> float:
    """Average recall@k over the queries.

    Parameters
    ----------
    retrieved, ground_truth, k, X, Q, metric
        As in `recall_per_query`.

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    TypeError, ValueError
        As in `recall_per_query`.
    """
    return float(recall_per_query(retrieved, ground_truth, k, X=X, Q=Q, metric=metric).mean())


def recall_per_query(
    retrieved: npt.ArrayLike,
    ground_truth: npt.ArrayLike,
    k: int,
    *,
    X: npt.ArrayLike | None = None,
    Q: npt.ArrayLike | None = None,
    metric: str | None = None,
) -> Float64Array:
    """Compute the share of the `k` nearest rows that every query retrieved.

    With `X`, `Q` and `metric`, ties count: a retrieved row is a hit when its float64 distance does not exceed
    the k-th true distance by more than a relative 1e-6. Without them a hit is an id among the first `k` of
    the ground truth, which punishes a search for the choice it made among equally near rows.

    Parameters
    ----------
    retrieved : array-like of int, shape (n_queries, m)
        Row numbers that a search returned, in any order; -1 marks a missing row. All m columns count: m > k
        gives the recall of a candidate list ("k@m"); for recall@k pass ``retrieved[:, :k]``.
    ground_truth : array-like of int, shape (n_queries, at least k)
        Exact neighbours, nearest first.
    k : int
        Neighbours asked for.
    X, Q : array-like, shape (n, dim) and (n_queries, dim), optional
        Base vectors and queries, for ties.
    metric : {"l2", "ip", "cosine"}, optional
        Metric of the ground truth, for ties.

    Returns
    -------
    ndarray of float64, shape (n_queries,)
        Hits / k. An id that occurs twice counts once, and a query has at most `k` hits.

    Raises
    ------
    TypeError
        If ids are not integers, or only some of `X`, `Q` and `metric` are given.
    ValueError
        If the numbers of queries differ, the ground truth has fewer than `k` columns, repeats or lacks a row
        among the first `k`, or an id is out of range.
    """
    k = check_int(k, name="k", low=1)
    found = _check_ids(retrieved, "retrieved", low=-1)
    truth = _check_ids(ground_truth, "ground_truth", low=-1)
    if len(found) != len(truth):
        raise ValueError(f"retrieved: expected {len(truth)} rows like ground_truth, not {len(found)}")
    if truth.shape[1] < k:
        raise ValueError(f"ground_truth: expected at least k = {k} columns, not {truth.shape[1]}")
    truth = truth[:, :k]
    _check_ids(truth, "ground_truth", low=0)
    ordered = np.sort(truth, axis=1)
    repeats = np.argwhere(ordered[:, 1:] == ordered[:, :-1])
    if repeats.size:
        row, column = repeats[0]
        raise ValueError(
            f"ground_truth: expected {k} different ids, but row {row} repeats {ordered[row, column]}"
        )

    found = np.sort(found, axis=1)
    countable = found >= 0
    countable[:, 1:] &= found[:, 1:] != found[:, :-1]

    missing = [n for n, value in (("X", X), ("Q", Q), ("metric", metric)) if value is None]
    if X is None or Q is None or metric is None:
        if len(missing) < 3:
            raise InputTypeError(
                f"expected all of X, Q and metric or none, not without {' and '.join(missing)}"
            )
        hits = _contains(truth, found)
    else:
        base, queries, checked_metric = check_pair(X, Q, metric)
        _check_ids(truth, "ground_truth", n_base=len(base), low=0)
        _check_ids(found, "retrieved", n_base=len(base), low=-1)
        _check_n_queries(found, "retrieved", queries)
        # The largest of the k, not the last: float32 ground truths misplace neighbours by their rounding.
        kth = _gathered_distances(base, queries, truth, checked_metric).max(axis=1, keepdims=True)
        limit = kth + TIE_TOLERANCE * np.abs(kth)
        hits = _gathered_distances(base, queries, found, checked_metric) <= limit
    counts: npt.NDArray[np.int64] = (hits & countable).sum(axis=1)
    result: Float64Array = np.minimum(counts, k) / float(k)
    return result


def check_pair(X: npt.ArrayLike, Q: npt.ArrayLike, metric: str) -> tuple[Float32Array, Float32Array, Metric]:
    """Check base vectors, queries like them and a metric; under cosine no row may be zero."""
    checked_metric = check_metric(metric)
    base = as_vectors(X, name="X")
    queries = as_vectors(Q, name="Q", dim=base.shape[1])
    if checked_metric == "cosine":
        for name, vectors in (("X", base), ("Q", queries)):
            zeros = zero_rows(vectors)
            if zeros.size:
                raise ValueError(
                    f"{name}: cosine needs rows with a direction, but row {zeros[0]} is a zero vector "
                    f"({zeros.size} of {len(vectors)} rows are)"
                )
    return base, queries, checked_metric


def _check_ids(ids: npt.ArrayLike, name: str, *, low: int, n_base: int | None = None) -> IdArray:
    array = np.asarray(ids)
    if array.dtype.kind not in "iu":
        raise InputTypeError(f"{name}: expected integer ids, not dtype {array.dtype}")
    if array.ndim != 2:
        raise ValueError(
            f"{name}: expected a 2-d array (n_queries, m), not {array.ndim}-d of shape {array.shape}"
        )
    if 0 in array.shape:
        raise ValueError(f"{name}: expected at least 1 row and 1 column, not shape {array.shape}")
    high = np.iinfo(np.int64).max if n_base is None else n_base - 1
    for extreme in (int(array.min()), int(array.max())):
        if not low <= extreme <= high:
            row, column = np.argwhere(array == extreme)[0]
            limits = f"at least {low}" if n_base is None else f"from {low} to {high}"
            raise ValueError(f"{name}: expected ids {limits}, not {extreme} at row {row}, column {column}")
    return array.astype(np.int64)


def _check_n_queries(ids: IdArray, name: str, queries: Float32Array) -> None:
    if len(ids) != len(queries):
        raise ValueError(f"{name}: expected {len(queries)} rows like Q, not {len(ids)}")


def _contains(truth: IdArray, found: IdArray) -> npt.NDArray[np.bool_]:
    hits = np.empty(found.shape, dtype=np.bool_)
    for row, (wanted, got) in enumerate(zip(truth, found, strict=True)):
        hits[row] = np.isin(got, wanted)
    return hits


def distances_to_rows(base: Float32Array, query: Float32Array, ids: IdArray, metric: Metric) -> Float64Array:
    """Compute the float64 distances of one checked query to some checked rows, shape (len(ids),).

    A row's value does not depend on which other rows are asked for.
    """
    out = np.empty(len(ids), dtype=np.float64)
    q = query[np.newaxis]
    wide_q = unit_rows(q) if metric == "cosine" else q.astype(np.float64)
    for start in range(0, len(ids), _ROW_BLOCK):
        part = slice(start, start + _ROW_BLOCK)
        rows = base[ids[part]]
        # Plain sums along rows, not BLAS: its kernels round equal rows differently at different positions.
        if metric == "ip":
            out[part] = -(rows.astype(np.float64) * wide_q).sum(axis=1)
        elif metric == "l2":
            out[part] = np.square(rows.astype(np.float64) - wide_q).sum(axis=1)
        else:
            # 1 - cos of unit vectors is half their squared distance, which does not cancel near 0.
            out[part] = np.square(unit_rows(rows) - wide_q).sum(axis=1) / 2
    return out


def _gathered_distances(
    base: Float32Array, queries: Float32Array, ids: IdArray, metric: Metric
) -> Float64Array:
    out = np.full(ids.shape, np.inf)
    for row, query in enumerate(queries):
        present = ids[row] >= 0
        out[row, present] = distances_to_rows(base, query, ids[row, present], metric)
    return out


def _mean(base: Float32Array, metric: Metric) -> Float64Array:
    total = np.zeros(base.shape[1])
    for start in range(0, len(base), _ROW_BLOCK):
        rows = base[start : start + _ROW_BLOCK]
        total += (unit_rows(rows) if metric == "cosine" else rows).sum(axis=0, dtype=np.float64)
    return total / len(base)


def _norms(X: Float64Array) -> Float64Array:
    norms: Float64Array = np.sqrt(np.square(X).sum(axis=1))
    return norms


def _candidates(
    base: Float32Array, queries: Float32Array, k: int, metric: Metric, mean: Float64Array, step: int
) -> list[IdArray]:
    """Propose, for every query, ids that contain the k nearest and everything tied with them.

    Scores rank like distances: with x' = x - mean, ``|x'|**2 / 2 - x'.q'`` for l2 (q' = q - mean) and
    ``-x'.q`` for the inner product of (for cosine: unit) vectors. Neither centring changes the order; both
    shorten the vectors, to whose lengths the rounding error is proportional.

    With unit roundoff u, a = max |x'| and b = |q'|, a dot product of length d is off by at most
    d u / (1 - d u) a b whatever the order of summation [1]_; d u < 0.001, so 1.01 d u a b covers it. Rounding
    x', q', |x'|**2 / 2 and the difference once each adds at most 8 u a b (ip), 8 u (a + b)**2 (l2). Underflow
    adds at most 2**-126 for each of the d products and for the square. The float64 distances that decide in
    the end have a rounding error of their own, which centring does not shorten: 2**-48 |x| |q| is 32 of its
    units, more than a pairwise sum over 16,000 dimensions makes.

    References
    ----------
    .. [1] N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1.
    """
    n, dim = base.shape
    wide = unit_rows(queries) if metric == "cosine" else queries.astype(np.float64)
    if metric == "l2":
        wide -= mean
    b = _norms(wide)
    largest = 1.0 if metric == "cosine" else 2 * float(max(base.max(), -base.min())) * dim**0.5
    safe = max(largest, float(b.max())) < _FLOAT32_SAFE_NORM
    work: type[np.float32] | type[np.float64] = np.float32 if safe else np.float64
    u = float(np.finfo(work).eps) / 2
    narrow: npt.NDArray[Any] = wide.astype(work)
    mean_norm = float(np.linalg.norm(mean))

    threshold = np.full(len(queries), np.inf)
    found: list[tuple[IdArray, IdArray, Float64Array, Float64Array]] = []
    for start in range(0, n, step):
        rows = base[start : start + step]
        centred = (unit_rows(rows) if metric == "cosine" else rows.astype(np.float64)) - mean
        norms = _norms(centred)
        a = float(norms.max())
        scores = narrow @ centred.astype(work).T
        np.negative(scores, out=scores)
        if metric == "l2":
            scores += (np.square(norms) / 2).astype(work)
        extra = (a + b) ** 2 if metric == "l2" else a * b
        error = u * (1.01 * dim * a * b + 8 * extra) + (dim + 1) * 2.0**-126
        if metric != "l2":
            error += 2.0**-48 * (a + mean_norm) * b
        if len(rows) >= k:
            kth = np.partition(scores, k - 1, axis=1)[:, k - 1]
            threshold = np.minimum(threshold, kth + error)
        # The limit may round down when it becomes float32: one ulp more.
        limit = np.nextafter((threshold + error).astype(work), work(np.inf))
        query_of, row_of = np.nonzero(scores <= limit[:, np.newaxis])
        score = scores[query_of, row_of].astype(np.float64)
        slack = error[query_of]
        found.append((query_of, row_of + start, score - slack, score + slack))

    query_of, ids, lower, upper = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.argsort(query_of, kind="stable")
    ends = np.cumsum(np.bincount(query_of, minlength=len(queries)))[:-1]
    proposals = []
    for members in np.split(order, ends):
        kth_upper = np.partition(upper[members], k - 1)[k - 1]
        proposals.append(ids[members[lower[members] <= kth_upper]])
    return proposals
