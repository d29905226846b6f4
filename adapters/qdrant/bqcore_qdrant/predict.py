"""Recall of configurations, predicted by scoring a sample as the server would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bqcore._validation import (
    Float32Array,
    Float64Array,
    IdArray,
    Metric,
    as_vectors,
    check_int,
    unit_or_zero_rows,
    zero_rows,
)
from bqcore.evaluation import exact_distances, exact_search
from bqcore_qdrant.config import Config
from bqcore_qdrant.dense import DenseRows, Rows, best_rows
from bqcore_qdrant.ranked import Ranked
from bqcore_qdrant.scorers import Encoder
from bqcore_qdrant.transform import Transform

#: Rows that recall is predicted from at most.
MAX_SAMPLE = 100_000
#: Queries at most: a recall of .9 from 500 has a standard error of about .005.
MAX_QUERIES = 500
_BLOCK_SCORES = 1 << 24
# Smallest part that a sample is cut into; how much deeper than k, or the candidates, one looks for parts.
_FEWEST_IN_PART, _SPARE, _SPARE_CANDIDATES = 200, 20, 1.2
# Rows beyond the k-th that may be as near.
_TIES = 50
# A neighbour as near as the k-th, to this relative error, counts as found.
_TIE = 1e-6
#: Storage so fine that codes taken from it are those of the floats.
FINE_DATATYPES = ("float32", "float16", "turbo8", "turbo16")


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
        self._distances = np.take_along_axis(distances, order, axis=1)
        self._kth_known: dict[tuple[int, int], Float64Array] = {}
        self._known: tuple[IdArray, npt.NDArray[np.float64]] | None = None

    def distances_of(self, found: IdArray) -> npt.NDArray[np.float64]:
        """Distances of candidates, shape (n_queries, depth); infinite beyond the nearest."""
        # One sorted list of (query, row) for all queries: one search finds every candidate in it.
        base = (np.arange(len(found), dtype=np.int64) * len(self.X))[:, np.newaxis]
        if self._known is None:
            keys = (base + self._near).ravel()
            order = np.argsort(keys)
            self._known = keys[order], self._distances.ravel()[order]
        known, distances = self._known
        asked = base + found
        place = np.minimum(np.searchsorted(known, asked), len(known) - 1)
        return np.where(known[place] == asked, distances[place], np.inf)

    def kth(self, k: int, n_groups: int) -> Float64Array:
        """Distance of the k-th neighbour, with ties, of all rows or of every part: (n_queries, n_groups)."""
        if (k, n_groups) not in self._kth_known:
            out = np.empty((len(self._near), n_groups))
            for group in range(n_groups):
                inside = self._near >= 0 if n_groups == 1 else self.parts[self._near] == group
                counts = np.cumsum(inside, axis=1)
                kth = self._distances[np.arange(len(out)), np.argmax(counts >= k, axis=1)]
                out[:, group] = np.where(counts[:, -1] >= k, kth, np.inf)
            self._kth_known[k, n_groups] = out + _TIE * np.maximum(np.abs(out), 1e-30)
        return self._kth_known[k, n_groups]

    def _candidates(self, rows: Rows, Q: Float32Array, depth: int) -> IdArray:
        """Best `depth` rows by score, best first, shape (n_queries, depth); a query's own row left out."""
        found = np.empty((len(Q), depth), dtype=np.int64)
        step = max(1, _BLOCK_SCORES // len(self.X))
        for start in range(0, len(Q), step):
            part = slice(start, min(start + step, len(Q)))
            scores = rows.scores(Q[part])
            if self.own is not None:
                scores[np.arange(len(scores)), self.own[part]] = -np.inf
            found[part] = best_rows(scores, depth)
        return found

    def predict(
        self,
        transform: Transform,
        configs: Sequence[Config],
        oversampling: Sequence[float],
        encoder: Encoder | None = None,
    ) -> list[Prediction]:
        """Predict recall of storages that differ in nothing but their datatype, at several oversamplings.

        Codes on float16, turbo8 and turbo16 storage are those on float32: the rounding is below their own by
        far. It is too small as well to bring a row among the k nearest that is not among the nearest 50 more.

        Parameters
        ----------
        transform : Transform
        configs : sequence of Config
            Of one quantizer; their own oversampling is not used.
        oversampling : sequence of float
        encoder : Encoder, optional
            `self.encoder(transform)`, where it is at hand.
        """
        encoder = encoder or self.encoder(transform)
        asked = transform.apply_query(self.queries)
        if transform.distance == "Cosine":
            asked = unit_or_zero_rows(asked)
        depths = self.depth(oversampling)
        shared: IdArray | None = None
        out = []
        for config in configs:
            plain = config.quantizer == "none"
            if config.datatype not in FINE_DATATYPES:
                found = self._candidates(encoder.coded(config, config.datatype), asked, depths)
            elif plain:
                found = self._near
            else:
                if shared is None:
                    shared = self._candidates(encoder.coded(config, "float32"), asked, depths)
                found = shared
            if config.datatype == "float32":  # rescored by the floats themselves, the nearest come first
                exact = -self.distances_of(found)
            else:
                exact = self.rescored(encoder.stored(config.datatype), asked, found)
            if self.own is not None:
                exact[found == self.own[:, np.newaxis]] = -np.inf
            if plain:  # the order of their codes is that of what is stored
                order = np.argsort(-exact, axis=1, kind="stable")
                found = np.take_along_axis(found, order, axis=1)
                exact = np.take_along_axis(exact, order, axis=1)
            out.append(self._prediction(found, exact, oversampling, plain))
        return out

    def encoder(self, transform: Transform, shown: Float32Array | None = None) -> Encoder:
        """Return the sample's rows as a transform shows them to a server; `shown` is transform.apply(X)."""
        rows = transform.apply(self.X) if shown is None else shown
        if transform.distance == "Cosine":
            rows = unit_or_zero_rows(rows)
        return Encoder(rows, transform.distance, 0)

    def depth(self, oversampling: Sequence[float]) -> int:
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
        distances = self.distances_of(found)
        if plain:
            (share,) = self._recalls(found, exact, distances, [1.0])
            return Prediction(dict.fromkeys(oversampling, share), share)
        by_code = -np.broadcast_to(np.arange(found.shape[1], dtype=np.float64), found.shape)
        recalls = self._recalls(found, exact, distances, oversampling)
        (blind,) = self._recalls(found, by_code, distances, [1.0])
        return Prediction(dict(zip(oversampling, recalls, strict=True)), blind)

    def _recalls(
        self,
        found: IdArray,
        exact: npt.NDArray[np.float64],
        distances: npt.NDArray[np.float64],
        oversampling: Sequence[float],
    ) -> list[float]:
        """Recall in the whole collection at several oversamplings, from candidates in their codes' order."""
        every = Ranked(exact, distances, np.zeros(found.shape, dtype=np.int64), 1)
        cut = Ranked(exact, distances, self.parts[found], self._n_parts) if self._n_parts > 1 else every

        def at(n_groups: int, k: int) -> Float64Array:
            ranked = every if n_groups == 1 else cut
            near = ranked.near(self.kth(k, n_groups))
            return np.asarray([ranked.recall(near, k, max(k, round(over * k))) for over in oversampling])

        return [float(one) for one in self.in_the_whole(at)]

    def in_the_whole(self, at: Callable[[int, int], Float64Array]) -> Float64Array:
        """Return recall in the whole collection, from recall in all of the sample or its parts, with any k.

        Parameters
        ----------
        at : callable
            Takes 1 or the number of parts, and k; returns recalls.
        """
        if self._n_parts == 1:
            return at(1, self.k_sample)
        # Recall hardly depends on k: the ones about k f, together, have less noise than k f alone.
        found = [
            at(1, k) + at(1, round(k / self.share)) - at(self._n_parts, k)
            for k in range(1, 2 * self.k_sample)
        ]
        return np.asarray(np.clip(np.mean(found, axis=0), 0.0, 1.0))

    @staticmethod
    def rescored(primary: DenseRows, Q: Float32Array, found: IdArray) -> npt.NDArray[np.float64]:
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


def checked_sample(
    X: npt.ArrayLike,
    queries: npt.ArrayLike | None,
    metric: Metric,
    k: int,
    n_total: int | None,
    seed: int,
) -> tuple[Sample, int]:
    """Check data and return the sample that recall is predicted from, and how many zero rows it left out."""
    rows = as_vectors(X)
    n_zero = 0
    if metric == "cosine":
        zeros = zero_rows(rows)
        n_zero = len(zeros)
        if n_zero == len(rows):
            raise ValueError(f"X: expected rows with a direction, but all {n_zero} are zero vectors")
        rows = np.delete(rows, zeros, axis=0) if n_zero else rows
    total = len(rows) if n_total is None else check_int(n_total, name="n_total", low=len(rows))
    if len(rows) > MAX_SAMPLE:
        keep = np.random.default_rng(seed).choice(len(rows), MAX_SAMPLE, replace=False)
        rows = rows[np.sort(keep)]
    if len(rows) < 2:
        raise ValueError(f"X: expected at least 2 rows, not {len(rows)}")
    k = check_int(k, name="k", low=1, high=len(rows) - 1)
    asked = None
    if queries is not None:
        asked = as_vectors(queries, name="queries", dim=rows.shape[1])
        if metric == "cosine":
            asked = np.delete(asked, zero_rows(asked), axis=0)
        if not len(asked):
            raise ValueError("queries: expected at least 1 with a direction, not 0")
    return Sample(rows, asked, metric, k, total, seed), n_zero
