"""Recall of candidates at any depth and any k, from one sort."""

from __future__ import annotations

import numpy as np

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
        # What is counted in a query's row before a candidate's group, as a place in the flat array: the
        # last candidate of the group before; -1 at the row's first group.
        before = starts - 1 + np.where(starts > 0, m * np.arange(n)[:, np.newaxis], 0)
        self._before = np.where(starts > 0, before, -1)

    def near(self, kth: Float64Array) -> tuple[IdArray, IdArray]:
        """Return candidates within their group's k-th distances, kth of shape (n_queries, n_groups).

        Returns
        -------
        places, before : ndarray of int64, shape (n_near,)
            In the flat array of candidates: theirs, and that of the last one before their group, or -1.
        """
        limits = kth if self._n_groups == 1 else np.take_along_axis(kth, self._groups, axis=1)
        rows, columns = np.nonzero(self._distances <= limits)
        groups = self._groups[rows, columns]
        return rows * self._distances.shape[1] + columns, self._before[rows, groups]

    def recall(self, near: tuple[IdArray, IdArray], k: int, depth: int) -> float:
        """Return the share of the k nearest, mean over queries and groups.

        The first `depth` candidates of a group, by their codes, are rescored; the best k of them count.

        Parameters
        ----------
        near : tuple
            What `near` returned for this k.
        k, depth : int
        """
        deep = self._rank <= depth
        counts = np.cumsum(deep, axis=1, dtype=np.int32).ravel()
        places, before = near
        # How many of the group are deep enough up to here: only of those that are near it matters.
        place = counts[places] - np.where(before >= 0, counts[before], 0)
        hits = np.count_nonzero(deep.ravel()[places] & (place <= k))
        return hits / (len(deep) * self._n_groups * k)
