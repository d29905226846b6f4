"""Recall of candidates at any depth and any k, from one sort."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bqcore._validation import Float64Array, IdArray


class Ranked:
    """Candidates of queries, within groups that are each searched for themselves.

    Parameters
    ----------
    exact : ndarray of float64, shape (n_queries, n_candidates)
        Scores that candidates are rescored by; columns are in the order of their codes.
    distances : ndarray of float64, shape (n_queries, n_candidates)
        True distances; infinite where they do not matter.
    groups : ndarray of int64, shape (n_queries, n_candidates)
        Group of each candidate, 0 to n_groups - 1.
    n_groups : int
    """

    def __init__(self, exact: Float64Array, distances: Float64Array, groups: IdArray, n_groups: int) -> None:
        n, m = exact.shape
        self._n_groups = n_groups
        rank = np.empty((n, m), dtype=np.int32)
        starts = np.zeros((n, n_groups), dtype=np.int64)
        for group in range(n_groups):
            inside = groups == group
            counts = np.cumsum(inside, axis=1, dtype=np.int32)
            rank[inside] = counts[inside]
            if group + 1 < n_groups:
                starts[:, group + 1] = starts[:, group] + counts[:, -1]
        # By group, best rescored first: the best k of a group are its first k that are deep enough.
        order = np.argsort(-exact, axis=1, kind="stable")
        if n_groups > 1:  # a stable sort of small integers counts them
            small = np.take_along_axis(groups, order, axis=1).astype(np.min_scalar_type(n_groups))
            order = np.take_along_axis(order, np.argsort(small, axis=1, kind="stable"), axis=1)
        self._rank = np.take_along_axis(rank, order, axis=1)
        self._distances = np.take_along_axis(distances, order, axis=1)
        self._groups = np.take_along_axis(groups, order, axis=1)
        # Where each candidate's group starts.
        self._starts = starts if n_groups == 1 else np.take_along_axis(starts, self._groups, axis=1)

    def near(self, kth: Float64Array) -> npt.NDArray[np.bool_]:
        """Return which candidates lie within their group's k-th distances, shape (n_queries, n_groups)."""
        limits = kth if self._n_groups == 1 else np.take_along_axis(kth, self._groups, axis=1)
        return np.asarray(self._distances <= limits)

    def recall(self, near: npt.NDArray[np.bool_], k: int, depth: int) -> float:
        """Return the share of the k nearest, mean over queries and groups.

        The first `depth` candidates of a group, by their codes, are rescored; the best k of them count.

        Parameters
        ----------
        near : ndarray of bool
            What `near` returned for this k.
        k, depth : int
        """
        deep = self._rank <= depth
        place = np.cumsum(deep, axis=1, dtype=np.int32)
        if self._n_groups > 1:
            before = np.pad(place, ((0, 0), (1, 0)))
            place -= np.take_along_axis(before, self._starts, axis=1)
        hits = np.count_nonzero(deep & (place <= k) & near)
        return hits / (len(deep) * self._n_groups * k)
