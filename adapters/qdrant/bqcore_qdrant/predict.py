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
    sample is searched at the distances that matter in the whole.
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
        depth = self.k_sample + (self.own is not None)
        near, _ = exact_search(X, queries, depth, metric)
        distances = exact_distances(X, queries, near, metric)
        if self.own is not None:
            distances[near == self.own[:, np.newaxis]] = -np.inf
            distances.sort(axis=1)
        self.kth = distances[:, -1]

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

    def _recall(self, found: IdArray) -> float:
        distances = exact_distances(self.X, self.queries, found, self.metric)
        slack = _TIE * np.maximum(np.abs(self.kth), 1e-30)
        return float((distances <= (self.kth + slack)[:, np.newaxis]).sum(axis=1).clip(max=self.k_sample).mean()) / (
            self.k_sample
        )

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
        n = len(self.X) - (self.own is not None)
        depths = {one: min(n, max(self.k_sample, round(one * self.k * self.share))) for one in oversampling}
        shared: IdArray | None = None
        out = []
        for config in configs:
            stored = as_stored(rows, config)
            primary = DenseRows(stored, distance == "Euclid")
            if config.quantizer == "none":
                share = self._recall(self._candidates(primary, asked, self.k_sample))
                out.append(Prediction(dict.fromkeys(oversampling, share), share))
                continue
            is_fine = config.datatype in FINE_DATATYPES
            found = shared if is_fine else None
            if found is None:
                coded = coded_rows(rows if is_fine else stored, config, distance, 0)
                found = self._candidates(coded, asked, max(depths.values()))
            if is_fine:
                shared = found
            out.append(self._from_candidates(found, self._rescored(primary, asked, found), depths))
        return out

    def _from_candidates(
        self, found: IdArray, exact: npt.NDArray[np.float64], depths: dict[float, int]
    ) -> Prediction:
        k = self.k_sample
        recall = {}
        for one, depth in depths.items():
            best = np.argsort(-exact[:, :depth], axis=1, kind="stable")[:, :k]
            recall[one] = self._recall(np.take_along_axis(found[:, :depth], best, axis=1))
        return Prediction(recall, self._recall(found[:, :k]))

    @staticmethod
    def _rescored(primary: DenseRows, Q: Float32Array, found: IdArray) -> npt.NDArray[np.float64]:
        """Scores from primary storage of candidates, shape (n_queries, depth)."""
        out = np.empty(found.shape)
        for i in range(len(Q)):
            rows = primary.rows[found[i]].astype(np.float64)
            q = Q[i].astype(np.float64)
            out[i] = -np.square(rows - q).sum(axis=1) if primary.euclid else rows @ q
        return out
