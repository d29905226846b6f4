"""RESCORE: distances of candidates, from the vectors or from a storage tier, and which rows need them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bqcore._validation import Float32Array, Float64Array, IdArray, as_vectors
from bqcore.codec import Codec
from bqcore.codes import Codes
from bqcore.evaluation import check_pair, distances_to_rows

#: Rescored at a time in `rescore_bounded`; the threshold falls between steps.
BOUND_STEP = 16

#: Maps a query's number and row numbers to distances.
Rescorer = Callable[[int, IdArray], Float64Array]


@dataclass(frozen=True)
class Tier:
    """Codes that candidates are rescored from in place of the vectors.

    Parameters
    ----------
    codec : Codec
        A fitted codec with more precision than the codes that are scanned, such as `Scalar`.
    codes : Codes
        The same rows in the same order.
    """

    codec: Codec
    codes: Codes

    def __post_init__(self) -> None:
        self.codec.check_codes(self.codes)

    def __repr__(self) -> str:
        return f"Tier({self.codec!r}, {self.codes!r})"


def rescorer(X: npt.ArrayLike | Tier, Q: Float32Array, metric: str, n_rows: int) -> Rescorer:
    """Return what computes the distances of queries to rows of `X`.

    Parameters
    ----------
    X : ndarray of float32, shape (n, dim), or Tier
        Vectors give exact distances in float64, a tier its estimates.
    Q : ndarray of float32, shape (n_queries, dim)
    metric : {"l2", "ip", "cosine"}
    n_rows : int
        Rows expected.

    Raises
    ------
    ValueError
        If X has another shape than the codes, or a tier another metric; under cosine, if a row of X or Q is
        zero.
    """
    dim = Q.shape[1]
    if isinstance(X, Tier):
        tier = X
        if tier.codec.metric_ != metric:
            raise ValueError(f"X: expected a tier of metric {metric!r}, not {tier.codec.metric_!r}")
        if tier.codec.dim_ != dim:
            raise ValueError(f"X: expected {dim} dimensions, not {tier.codec.dim_}")
        n_found = len(tier.codes)
    else:
        vectors, _, checked_metric = check_pair(as_vectors(X, dim=dim), Q, metric)
        n_found = len(vectors)
    if n_found != n_rows:
        raise ValueError(f"X: expected {n_rows} rows, one per code, not {n_found}")

    def from_tier(query: int, rows: IdArray) -> Float64Array:
        return tier.codec.estimate(tier.codes[rows], Q[query]).astype(np.float64)

    def from_vectors(query: int, rows: IdArray) -> Float64Array:
        return distances_to_rows(vectors, Q[query], rows, checked_metric)

    return from_tier if isinstance(X, Tier) else from_vectors


def rescore_bounded(
    lower: Float32Array, k: int, distances: Callable[[IdArray], Float64Array]
) -> tuple[IdArray, Float64Array]:
    """Rescore the rows of one query whose lower bound is not above the k-th best distance found so far.

    Parameters
    ----------
    lower : ndarray of float32, shape (n,)
        Optimistic bounds: estimate - error.
    k : int
        Rows wanted, at most n.
    distances : callable
        Distances of rows.

    Returns
    -------
    rows : ndarray of int64
        Rescored rows, at least k, at most `BOUND_STEP` - 1 more than one at a time would take.
    distances : ndarray of float64
        Their distances.

    References
    ----------
    Gao & Long 2024, section 4: a candidate is skipped where its lower bound exceeds the k-th distance.
    """
    order = np.argsort(lower, kind="stable")
    first = order[: max(k, int(np.count_nonzero(lower == -np.inf)))]
    rows, found = first, distances(first)
    while len(rows) < len(order):
        kth = np.partition(found, k - 1)[k - 1]
        step = order[len(rows) : len(rows) + BOUND_STEP]
        step = step[lower[step] <= kth]
        if len(step) == 0:
            break
        rows, found = np.concatenate([rows, step]), np.concatenate([found, distances(step)])
    return rows, found
