"""Rows that are scored by a matrix product, and the best of their scores."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from bqcore._validation import Float32Array, IdArray

# Every so many scores one is looked at, to guess how large the best are; how many more the guess lets by.
_STRIDE, _SLACK, _LEAST = 16, 1.5, 8


class Rows(Protocol):
    """Coded rows that queries are scored against."""

    def scores(self, Q: Float32Array) -> Float32Array:
        """Return scores, larger is nearer, shape (n_queries, n)."""


@dataclass(frozen=True, eq=False)
class DenseRows:
    """Rows scored by inner product, or by negative squared distance.

    Parameters
    ----------
    rows : ndarray of float32, shape (n, width)
    euclid : bool
    """

    rows: Float32Array
    euclid: bool

    @cached_property
    def _squares(self) -> Float32Array:
        return np.asarray(np.einsum("ij,ij->i", self.rows, self.rows))

    def scores(self, Q: Float32Array) -> Float32Array:
        """Return scores up to a constant of the query, shape (n_queries, n)."""
        if not self.euclid:
            return Q @ self.rows.T
        products = (2 * Q) @ self.rows.T
        products -= self._squares
        return products


def best_rows(scores: Float32Array, depth: int) -> IdArray:
    """Return the rows of the largest scores, largest first, ties by row, shape (n_queries, depth).

    Parameters
    ----------
    scores : ndarray of float32, shape (n_queries, n)
    depth : int
        At most n.

    Notes
    -----
    A sample of the scores gives a threshold that somewhat more than `depth` of them reach; only those are
    sorted. Where fewer reach it, the threshold is the depth-th score itself: the result is exact either way.
    """
    n = scores.shape[1]
    out = np.empty((len(scores), depth), dtype=np.int64)
    few = scores[:, ::_STRIDE]
    rank = min(few.shape[1], int(depth / _STRIDE * _SLACK) + _LEAST)
    guesses = np.partition(few, few.shape[1] - rank, axis=1)[:, few.shape[1] - rank]
    for i, row in enumerate(scores):
        ids = np.flatnonzero(row >= guesses[i])
        if len(ids) < depth:
            ids = np.flatnonzero(row >= np.partition(row, n - depth)[n - depth])
        out[i] = ids[np.argsort(-row[ids], kind="stable")[:depth]]
    return out
