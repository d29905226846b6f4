"""SEARCH: exhaustive scan over codes, then the candidates are rescored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore._validation import (
    Float32Array,
    Float64Array,
    IdArray,
    InputTypeError,
    as_matrix_or_vector,
    check_int,
)
from bqcore.codec import Codec
from bqcore.codes import Codes
from bqcore.rescore import Rescorer, Tier, rescore_bounded, rescorer
from bqcore.scan import ScanIndex

# Estimates held at a time.
_BLOCK_ESTIMATES = 1 << 24

MODES = ("decoupled", "bound")


@dataclass(frozen=True)
class SearchResult:
    """Best rows per query, best first.

    Parameters
    ----------
    ids : ndarray of int64, shape (n_queries, k)
    distances : ndarray of float, shape (n_queries, k)
        In the unit of the metric; exact where vectors were given for rescoring, else estimated.
    n_rescored : ndarray of int64, shape (n_queries,)
        Rows rescored for each query.
    """

    ids: IdArray
    distances: Float64Array
    n_rescored: IdArray

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        """Yield ids and distances: ``ids, distances = search(...)``."""
        return iter((self.ids, self.distances))

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.ids)

    def __repr__(self) -> str:
        n, k = self.ids.shape
        return f"SearchResult({n:,} queries, k = {k}, {int(self.n_rescored.sum()):,} rows rescored)"


def _best(distances: Float32Array, k: int) -> IdArray:
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
    codes: Codes | ScanIndex,
    Q: npt.ArrayLike,
    k: int = 10,
    *,
    X: npt.ArrayLike | Tier | None = None,
    mode: str = "decoupled",
    oversampling: float = 10.0,
    eps0: float = 1.9,
    query_bits: int | None = None,
) -> SearchResult:
    """Search every code; with `X`, rescore the best ones.

    Parameters
    ----------
    quantizer : Codec
        The fitted model that made `codes`.
    codes : Codes or ScanIndex
        With an index candidates are what it finds, many times faster and with the small loss of its default
        bound; without one every code is estimated.
    Q : ndarray of float32, shape (n_queries, dim) or (dim,)
    k : int, default 10
        Rows wanted, at most ``len(codes)``.
    X : ndarray of float32, shape (n, dim), or Tier, optional
        The vectors behind the codes, or a storage tier of them, to rescore from; without it results are in
        estimated order.
    mode : {"decoupled", "bound"}, default "decoupled"
        Which rows are rescored. "decoupled": the ``oversampling * k`` best estimates. "bound": each row whose
        optimistic bound, estimate - error, is not above the k-th best distance so far; it takes a codec with
        `error_bound`, and loses nothing at eps0 = inf, where it rescores every row.
    oversampling : float, default 10.0
        Candidates rescored per wanted row, in mode "decoupled".
    eps0 : float, default 1.9
        Width of the error bound in standard deviations, in mode "bound".
    query_bits : int, optional
        Bits per coordinate that queries are rounded to: see `Codec.estimate`. An index has its own.

    Returns
    -------
    SearchResult
        A single query gives arrays with one row.

    Raises
    ------
    ValueError
        If k exceeds the number of codes, X has another shape than the codes, the mode is unknown, or
        oversampling is below 1 or eps0 below 0; in mode "bound" without X or without `error_bound`, or with
        an index; the index is of another model; or the codec does not have this query_bits.
    """
    index = codes if isinstance(codes, ScanIndex) else None
    if isinstance(codes, ScanIndex):
        codes = codes.codes
    if not isinstance(codes, Codes):
        raise InputTypeError(
            f"codes: expected Codes or a ScanIndex, not {type(codes).__name__}: search(quantizer, codes, Q)"
        )
    quantizer.check_codes(codes)
    queries, _ = as_matrix_or_vector(Q, dim=quantizer.dim_)
    if len(codes) == 0:
        raise ValueError("codes: expected at least 1 code, not 0")
    k = check_int(k, name="k", low=1, high=len(codes))
    if not oversampling >= 1:
        raise ValueError(f"oversampling: expected at least 1, not {oversampling}")
    if not eps0 >= 0:
        raise ValueError(f"eps0: expected a number >= 0, not {eps0}")
    if mode not in MODES:
        raise ValueError(f"mode: expected one of {', '.join(MODES)}, not {mode!r}")
    if index is not None and (mode == "bound" or query_bits is not None):
        raise ValueError("an index expects mode 'decoupled' and no query_bits")
    rescore = None if X is None else rescorer(X, queries, quantizer.metric_, len(codes))
    bound: Callable[..., Float32Array] | None = None
    if mode == "bound":
        bound = getattr(quantizer, "error_bound", None)
        if bound is None:
            raise ValueError(f"mode: 'bound' needs a codec with an error bound, not {quantizer.codec!r}")
        if rescore is None:
            raise ValueError("mode: 'bound' rescores: expected vectors or a tier as X, not None")
    n_candidates = k if rescore is None else int(min(len(codes), np.ceil(k * oversampling)))

    if index is not None:
        return _search_index(index, queries, k, n_candidates, rescore)
    ids = np.empty((len(queries), k), dtype=np.int64)
    distances = np.empty((len(queries), k), dtype=np.float64)
    n_rescored = np.zeros(len(queries), dtype=np.int64)
    rounding = {} if query_bits is None else {"query_bits": query_bits}
    step = max(1, _BLOCK_ESTIMATES // len(codes))
    for start in range(0, len(queries), step):
        block = queries[start : start + step]
        scores = quantizer.estimate(codes, block, query_bits)
        if bound is not None:
            scores -= bound(codes, block, eps0=eps0, **rounding)
        for i, one in enumerate(scores, start):
            if rescore is None:
                ids[i] = _best(one, k)
                distances[i] = one[ids[i]]
                continue
            if bound is not None:
                rows, found = rescore_bounded(one, k, partial(rescore, i))
            else:
                rows = _best(one, n_candidates)
                found = rescore(i, rows)
            n_rescored[i] = len(rows)
            order = np.lexsort((rows, found))[:k]
            ids[i], distances[i] = rows[order], found[order]
    return SearchResult(ids, distances, n_rescored)


def _search_index(
    index: ScanIndex, queries: Float32Array, k: int, n_candidates: int, rescore: Rescorer | None
) -> SearchResult:
    found = index.search(queries, n_candidates)
    if rescore is None:
        return SearchResult(found.ids, found.distances, np.zeros(len(queries), dtype=np.int64))
    ids = np.empty((len(queries), k), dtype=np.int64)
    distances = np.empty((len(queries), k), dtype=np.float64)
    for i, rows in enumerate(found.ids):
        exact = rescore(i, rows)
        order = np.lexsort((rows, exact))[:k]
        ids[i], distances[i] = rows[order], exact[order]
    return SearchResult(ids, distances, np.full(len(queries), n_candidates, dtype=np.int64))
