"""SEARCH and RESCORE: exhaustive scan over codes, then exact distances of the candidates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bqcore._validation import Float32Array, as_matrix_or_vector, as_vectors, check_int
from bqcore.codec import Codec
from bqcore.codes import Codes
from bqcore.evaluation import exact_distances

# Estimates held at a time.
_BLOCK_ESTIMATES = 1 << 24


@dataclass(frozen=True)
class SearchResult:
    """Best rows per query, best first.

    Parameters
    ----------
    ids : ndarray of int64, shape (n_queries, k)
    distances : ndarray of float, shape (n_queries, k)
        In the unit of the metric; exact where vectors were given for rescoring, else estimated.
    n_rescored : int
        Exact distances computed per query.
    """

    ids: npt.NDArray[np.int64]
    distances: npt.NDArray[np.float64]
    n_rescored: int


def _best(distances: Float32Array, k: int) -> npt.NDArray[np.int64]:
    """Rows of the k smallest distances, ascending, ties by row."""
    if k < len(distances):
        # every row at the k-th distance is kept until ties are settled by row number
        limit = np.partition(distances, k - 1)[k - 1]
        rows = np.flatnonzero(distances <= limit)
    else:
        rows = np.arange(len(distances))
    return rows[np.argsort(distances[rows], kind="stable")][:k].astype(np.int64)


def search(
    quantizer: Codec,
    codes: Codes,
    Q: npt.ArrayLike,
    k: int = 10,
    *,
    X: npt.ArrayLike | None = None,
    oversampling: float = 10.0,
    query_bits: int | None = None,
) -> SearchResult:
    """Search every code; with `X`, rescore the best ones exactly.

    Parameters
    ----------
    quantizer : Codec
        The fitted model that made `codes`.
    codes : Codes
    Q : ndarray of float32, shape (n_queries, dim) or (dim,)
    k : int, default 10
        Rows wanted, at most ``len(codes)``.
    X : ndarray of float32, shape (n, dim), optional
        The vectors behind the codes; without them results are in estimated order.
    oversampling : float, default 10.0
        Candidates rescored per wanted row.
    query_bits : int, optional
        Bits per coordinate that queries are rounded to: see `Codec.estimate`.

    Returns
    -------
    SearchResult
        A single query gives arrays with one row.

    Raises
    ------
    ValueError
        If k exceeds the number of codes, X has another shape than the codes, oversampling is below 1, or
        the codec does not have this query_bits.
    """
    quantizer.check_codes(codes)
    queries, _ = as_matrix_or_vector(Q, dim=quantizer.dim_)
    if len(codes) == 0:
        raise ValueError("codes: expected at least 1 code, not 0")
    k = check_int(k, name="k", low=1, high=len(codes))
    if not oversampling >= 1:
        raise ValueError(f"oversampling: expected at least 1, not {oversampling}")
    metric = quantizer.metric_
    vectors = None
    if X is not None:
        vectors = as_vectors(X, dim=quantizer.dim_)
        if len(vectors) != len(codes):
            raise ValueError(f"X: expected {len(codes)} rows, one per code, not {len(vectors)}")
    n_candidates = k if vectors is None else int(min(len(codes), np.ceil(k * oversampling)))
    rows = np.empty((len(queries), n_candidates), dtype=np.int64)
    estimates = np.empty((len(queries), n_candidates), dtype=np.float64)
    step = max(1, _BLOCK_ESTIMATES // len(codes))
    for start in range(0, len(queries), step):
        found = quantizer.estimate(codes, queries[start : start + step], query_bits)
        for i, one in enumerate(found, start):
            rows[i] = _best(one, n_candidates)
            estimates[i] = one[rows[i]]
    if vectors is None:
        return SearchResult(rows, estimates, 0)
    exact = exact_distances(vectors, queries, rows, metric)
    order = np.lexsort((rows, exact))[:, :k]
    return SearchResult(
        np.take_along_axis(rows, order, axis=1), np.take_along_axis(exact, order, axis=1), n_candidates
    )
