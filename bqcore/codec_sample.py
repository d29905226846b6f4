"""What codecs do on a sample: local fidelity for screening, recall for the decision."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bqcore._validation import Float32Array, IdArray
from bqcore.evaluation import exact_distances, exact_search, recall
from bqcore.registry import make_codec
from bqcore.theory import local_fidelity, plug_in_fidelity

# A recall of .8 from 400 queries has a standard error of .006.
MAX_QUERIES = 400
#: Rows that codecs are trained on at most, when they are screened and when they are settled.
SCREEN_ROWS, TRAIN_ROWS = 20_000, 65_536
#: Up to here recall is measured against all rows.
ALL_ROWS = 100_000
# Beyond it against these: rows outside the nearest 1,000 hardly ever come first by estimate.
_NEAREST, _OTHER_ROWS = 1000, 20_000
# Nearest rows of a query that local fidelity is taken over, and queries it is taken from.
_LOCAL, _LOCAL_QUERIES = 100, 100
#: Share of the true neighbours that oversampling has to hold.
RESCORED_RECALL = 0.99
_BLOCK_ESTIMATES = 1 << 24


@dataclass(frozen=True)
class Screened:
    """A codec trained on few rows.

    Parameters
    ----------
    spec : str
    bytes_per_vector : int
    fidelity, local_fidelity : float
        `theory.plug_in_fidelity` and `theory.local_fidelity`.
    """

    spec: str
    bytes_per_vector: int
    fidelity: float
    local_fidelity: float


class Sample:
    """Queries with their exact neighbours among all rows, and the rows that stand for all of them.

    Parameters
    ----------
    vectors : ndarray of float32, shape (n, dim)
        Without zero rows under cosine.
    queries : ndarray of float32, shape (n_queries, dim), or None
        None takes rows of `vectors`, each without itself among its neighbours.
    metric : {"l2", "ip", "cosine"}
    k : int
        Less than n.
    random_state : int
    """

    def __init__(
        self, vectors: Float32Array, queries: Float32Array | None, metric: str, k: int, random_state: int
    ) -> None:
        rng = np.random.default_rng(random_state)
        n = len(vectors)
        self.metric, self.k, self.random_state = metric, k, random_state
        self._vectors = vectors
        self._own: IdArray | None = None
        if queries is None:
            self._own = np.sort(rng.choice(n, min(n, MAX_QUERIES), replace=False))
            queries = vectors[self._own]
        elif len(queries) > MAX_QUERIES:
            queries = queries[np.sort(rng.choice(len(queries), MAX_QUERIES, replace=False))]
        self.queries = queries
        depth = (_NEAREST if n > ALL_ROWS else max(_LOCAL, k)) + 1
        near, _ = exact_search(vectors, queries, min(n, depth), metric)
        if self._own is not None:
            near = _without(near, self._own)
        self._near = near
        self.rows: IdArray = np.arange(n)
        if n > ALL_ROWS:
            others = rng.choice(n, _OTHER_ROWS, replace=False)
            own = np.empty(0, dtype=np.int64) if self._own is None else self._own
            self.rows = np.union1d(np.union1d(near, others), own)
        self._train = vectors
        if n > TRAIN_ROWS:
            self._train = vectors[np.sort(rng.choice(n, TRAIN_ROWS, replace=False))]
        self._few = self._train
        if len(self._train) > SCREEN_ROWS:
            self._few = self._train[np.sort(rng.choice(len(self._train), SCREEN_ROWS, replace=False))]

    def screen(self, spec: str) -> Screened:
        """Train a codec on few rows and see how it orders the nearest rows of some queries."""
        codec = make_codec(spec, metric=self.metric, random_state=self.random_state).fit(self._few)
        queries, near = self.queries[:_LOCAL_QUERIES], self._near[:_LOCAL_QUERIES, :_LOCAL]
        wanted, places = np.unique(near, return_inverse=True)
        rows, places = self._vectors[wanted], places.reshape(near.shape)
        codes = codec.encode(rows)
        estimates = np.take_along_axis(codec.estimate(codes, queries), places, axis=1)
        exact = exact_distances(rows, queries, places, self.metric)
        shown, decoded = codec.as_coded(rows), codec.decode(codes)
        mean = shown.mean(axis=0)
        return Screened(
            spec,
            codec.bytes_per_vector,
            plug_in_fidelity(shown - mean, decoded - mean, codec.as_coded(queries) - mean),
            local_fidelity(exact, estimates),
        )

    def settle(self, spec: str) -> tuple[float, float]:
        """Train in earnest; return recall@k without rescoring, and the oversampling that rescoring needs."""
        codec = make_codec(spec, metric=self.metric, random_state=self.random_state).fit(self._train)
        k, truth = self.k, self._near[:, : self.k]
        codes = codec.encode(self._vectors[self.rows])
        found = np.empty((len(self.queries), k), dtype=np.int64)
        ranks = np.empty(truth.shape, dtype=np.int64)
        step = max(1, _BLOCK_ESTIMATES // len(codes))
        for start in range(0, len(found), step):
            part = slice(start, start + step)
            estimates = codec.estimate(codes, self.queries[part])
            if self._own is not None:
                own = np.searchsorted(self.rows, self._own[part])
                estimates[np.arange(len(own)), own] = np.inf
            best = np.argpartition(estimates, k - 1, axis=1)[:, :k]
            found[part] = self.rows[best]
            true = np.take_along_axis(estimates, np.searchsorted(self.rows, truth[part]), axis=1)
            estimates.sort(axis=1)
            for i in range(len(true)):
                ranks[start + i] = np.searchsorted(estimates[i], true[i], side="right")
        measured = recall(found, truth, k, X=self._vectors, Q=self.queries, metric=self.metric)
        enough = math.ceil(RESCORED_RECALL * ranks.size) - 1
        needed = int(np.partition(ranks.ravel(), enough)[enough])
        return measured, max(1.0, math.ceil(needed / k * 10) / 10)


def _without(ids: IdArray, own: IdArray) -> IdArray:
    """Drop from each row the query's own id, or the last one where its own is not there."""
    keep = ids != own[:, np.newaxis]
    keep[keep.all(axis=1), -1] = False
    return np.asarray(ids[keep].reshape(len(ids), -1))
