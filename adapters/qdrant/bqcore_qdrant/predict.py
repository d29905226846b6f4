"""Recall of configurations, predicted by scoring a sample as the server would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bqcore._validation import Float32Array, IdArray, unit_or_zero_rows
from bqcore.evaluation import exact_distances, exact_search
from bqcore_qdrant.config import Config
from bqcore_qdrant.scorers import DenseRows, Rows, as_stored, coded_rows
from bqcore_qdrant.transform import Transform

#: Queries at most: a recall of .9 from 500 has a standard error of about .005.
MAX_QUERIES = 500
_BLOCK_SCORES = 1 << 25
# Smallest part that a sample is cut into; how much deeper than k, or the candidates, one looks for parts.
_FEWEST_IN_PART, _SPARE, _SPARE_CANDIDATES = 200, 20, 1.2
# Rows beyond the k-th that may be as near.
_TIES = 50
# A neighbour as near as the k-th, to this relative error, counts as found.
_TIE = 1e-6
#: Storage so fine that codes taken from it are those of the floats.
FINE_DATATYPES = ("float32", "float16", "turbo8")


@dataclass(frozen=True)
class Prediction:
    """Recall of one storage under one transform.

    Parameters
    ----------
    recall : dict of float to float
        By oversampling, rescored.
    recall_without_rescore : float
        By codes alone.
    """

    recall: dict[float, float]
    recall_without_rescore: float


class Sample:
    """Rows that stand for a collection, queries, and their exact neighbours.

    Parameters
    ----------
    X : ndarray of float32, shape (n, dim)
        Without zero rows under cosine.
    queries : ndarray of float32, shape (n_queries, dim), or None
        None takes rows of X, each without itself among its neighbours.
    metric : {"l2", "ip", "cosine"}
    k : int
    n_total : int
        Rows of the whole collection; X is taken as a random sample of them.
    random_state : int

    Notes
    -----
    Recall falls as a collection grows, because the k-th neighbour comes closer. The share f = n / n_total of
    the collection's k nearest rows falls into the sample: with k f in place of k and as much oversampling, a
    sample is searched at the distances that matter in the whole. That few neighbours take part has an effect
    of its own: it is seen when the sample is cut into 1 / f parts, searched with k f, beside the sample
    searched with k, and taken off.
    """

    def __init__(
        self,
        X: Float32Array,
        queries: Float32Array | None,
        metric: str,
        k: int,
        n_total: int,
        random_state: int,
    ) -> None:
        rng = np.random.default_rng(random_state)
        self.X, self.metric, self.n_total = X, metric, n_total
        self.own: IdArray | None = None
        if queries is None:
            self.own = np.sort(rng.choice(len(X), min(len(X), MAX_QUERIES), replace=False)).astype(np.int64)
            queries = X[self.own]
        elif len(queries) > MAX_QUERIES:
            queries = queries[np.sort(rng.choice(len(queries), MAX_QUERIES, replace=False))]
        self.queries = queries
        self.k, self.share = k, len(X) / n_total
        self.k_sample = max(1, round(k * self.share))
        n_parts = max(1, round(1 / self.share)) if self.share < 1 else 1
        self.parts = rng.permutation(len(X)) % n_parts
        self._n_parts = n_parts if len(X) >= _FEWEST_IN_PART * n_parts else 1
        own = int(self.own is not None)
        depth = min(len(X), (self.k if self._n_parts == 1 else _SPARE * self.k) + _TIES + own)
        near, _ = exact_search(X, queries, depth, metric)
        distances = exact_distances(X, queries, near, metric)
        if self.own is not None:
            distances[near == self.own[:, np.newaxis]] = np.inf
        order = np.argsort(distances, axis=1, kind="stable")
        self._near = np.take_along_axis(near, order, axis=1)
        self._kths: dict[tuple[int, int | None], npt.NDArray[np.float64]] = {}
        self._distances = np.take_along_axis(distances, order, axis=1)

    def _distances_of(self, found: IdArray) -> npt.NDArray[np.float64]:
        """Distances of candidates, shape (n_queries, depth); infinite beyond the nearest."""
        out = np.full(found.shape, np.inf)
        for i, ids in enumerate(found):
            order = np.argsort(self._near[i])
            known = self._near[i][order]
            place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
            is_near = known[place] == ids
            out[i, is_near] = self._distances[i][order][place[is_near]]
        return out

    def _kth(self, k: int, part: int | None = None) -> npt.NDArray[np.float64]:
        """Distance of the k-th neighbour, shape (n_queries,), with ties; within a part of the sample."""
        if (k, part) not in self._kths:
            self._kths[k, part] = self._find_kth(k, part)
        return self._kths[k, part]

    def _find_kth(self, k: int, part: int | None) -> npt.NDArray[np.float64]:
        if part is None:
            kth = self._distances[:, k - 1]
        else:
            inside = self.parts[self._near] == part
            place = np.argmax(np.cumsum(inside, axis=1) >= k, axis=1)
            kth = self._distances[np.arange(len(place)), place]
            kth[inside.sum(axis=1) < k] = np.inf
        return np.asarray(kth + _TIE * np.maximum(np.abs(kth), 1e-30))

    def _candidates(self, rows: Rows, Q: Float32Array, depth: int) -> IdArray:
        """Best `depth` rows by score, best first, shape (n_queries, depth); a query's own row left out."""
        found = np.empty((len(Q), depth), dtype=np.int64)
        step = max(1, _BLOCK_SCORES // len(self.X))
        for start in range(0, len(Q), step):
            part = slice(start, min(start + step, len(Q)))
            scores = rows.scores(Q[part])
            if self.own is not None:
                scores[np.arange(len(scores)), self.own[part]] = -np.inf
            best = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
            order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
            found[part] = np.take_along_axis(best, order, axis=1)
        return found

    def predict(
        self,
        transform: Transform,
        configs: Sequence[Config],
        oversampling: Sequence[float],
        shown: npt.NDArray[np.float32] | None = None,
    ) -> list[Prediction]:
        """Predict recall of storages that differ in nothing but their datatype, at several oversamplings.

        Codes on float16 and turbo8 storage are those on float32: the rounding is below their own by far.

        Parameters
        ----------
        transform : Transform
        configs : sequence of Config
            Of one quantizer; their own oversampling is not used.
        oversampling : sequence of float
        shown : ndarray of float32, shape (n, dim), optional
            `transform.apply(X)`, where it is at hand.
        """
        distance = transform.distance
        rows = transform.apply(self.X) if shown is None else shown
        asked = transform.apply_query(self.queries)
        if distance == "Cosine":
            rows, asked = unit_or_zero_rows(rows), unit_or_zero_rows(asked)
        depths = self._depths(oversampling)
        shared: IdArray | None = None
        out = []
        for config in configs:
            stored = as_stored(rows, config)
            primary = DenseRows(stored, distance == "Euclid")
            is_fine = config.datatype in FINE_DATATYPES and config.quantizer != "none"
            found = shared if is_fine else None
            if found is None:
                coded = coded_rows(rows if is_fine else stored, config, distance, 0)
                found = self._candidates(coded, asked, depths)
            if is_fine:
                shared = found
            exact = self._rescored(primary, asked, found)
            out.append(self._prediction(found, exact, oversampling, config.quantizer == "none"))
        return out

    def _depths(self, oversampling: Sequence[float]) -> int:
        """Candidates per query that predictions are made from."""
        n = len(self.X) - (self.own is not None)
        if self._n_parts == 1:
            return min(n, round(max(oversampling) * self.k_sample))
        largest = (2 * self.k_sample - 1) / self.share
        # Every part has to find its own k among them, too.
        return min(n, round(max(max(oversampling) * largest * _SPARE_CANDIDATES, _SPARE * self.k)))

    def _prediction(
        self, found: IdArray, exact: npt.NDArray[np.float64], oversampling: Sequence[float], plain: bool
    ) -> Prediction:
        distances = self._distances_of(found)
        if plain:
            share = self._extrapolated(found, exact, distances, 1.0)
            return Prediction(dict.fromkeys(oversampling, share), share)
        by_code = -np.broadcast_to(np.arange(found.shape[1], dtype=np.float64), found.shape)
        return Prediction(
            {one: self._extrapolated(found, exact, distances, one) for one in oversampling},
            self._extrapolated(found, by_code, distances, 1.0),
        )

    def _extrapolated(
        self,
        found: IdArray,
        exact: npt.NDArray[np.float64],
        distances: npt.NDArray[np.float64],
        oversampling: float,
    ) -> float:
        """Recall in the whole collection, from candidates in the order of their codes."""
        every = np.ones(found.shape, dtype=bool)

        def at(inside: npt.NDArray[np.bool_], k: int, part: int | None = None) -> float:
            depth = max(k, round(oversampling * k))
            return _recall(inside, exact, distances, self._kth(k, part), k, depth)

        if self._n_parts == 1:
            return at(every, self.k_sample)
        # Recall hardly depends on k: the ones about k f, together, have less noise than k f alone.
        found_at = []
        for k in range(1, 2 * self.k_sample):
            cut = [at(self.parts[found] == part, k, part) for part in range(self._n_parts)]
            found_at.append(at(every, k) + at(every, round(k / self.share)) - float(np.mean(cut)))
        return min(1.0, max(0.0, float(np.mean(found_at))))

    @staticmethod
    def _rescored(primary: DenseRows, Q: Float32Array, found: IdArray) -> npt.NDArray[np.float64]:
        """Scores from primary storage of candidates, shape (n_queries, depth)."""
        out = np.empty(found.shape)
        for i, q in enumerate(Q):
            rows = primary.rows[found[i]]
            if primary.euclid:
                rows -= q
                out[i] = -np.einsum("ij,ij->i", rows, rows)
            else:
                out[i] = rows @ q
        return out


def _recall(
    inside: npt.NDArray[np.bool_],
    exact: npt.NDArray[np.float64],
    distances: npt.NDArray[np.float64],
    kth: npt.NDArray[np.float64],
    k: int,
    depth: int,
) -> float:
    """Recall of candidates, in their codes' order, that lie inside: the first `depth`, rescored, best k."""
    among = inside & (np.cumsum(inside, axis=1) <= depth)
    scores = np.where(among, exact, -np.inf)
    width = min(k, scores.shape[1])
    best = np.argpartition(-scores, width - 1, axis=1)[:, :width]
    hits = np.take_along_axis((distances <= kth[:, np.newaxis]) & among, best, axis=1)
    return float(hits.sum(axis=1).mean()) / k
