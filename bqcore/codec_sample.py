"""What codecs do on a sample: local fidelity for screening, recall for the decision."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bqcore._validation import Float32Array, Float64Array, IdArray
from bqcore.codec import Codec
from bqcore.evaluation import exact_distances, exact_search, recall_per_query
from bqcore.registry import make_codec
from bqcore.theory import local_fidelity, plug_in_fidelity

#: Queries that recall is measured with at most, against all rows and against a sample. A recall of .8 has a
#: standard error of .004 and .007.
MAX_QUERIES, SAMPLED_QUERIES = 1000, 300
#: Rows that codecs are trained on at most when they are screened and when they are settled; no more
#: coordinates than the second number, but at least the third's rows.
SCREENING, TRAINING = (20_000, 5_000_000, 8192), (65_536, 25_000_000, 16_384)
#: Recall is measured against all rows where they are no more, and have no more coordinates.
ALL_ROWS, ALL_COORDINATES = 100_000, 40_000_000
# Beyond it against the nearest rows of each query and as many others, which stand for all others.
_NEAREST, _OTHER_ROWS = 200, 20_000
# Without queries, at most one row in so many is one. Training does not see it: where there are few rows per
# centroid, a centroid near the query would be a gain that other queries do not have.
_OWN_PART = 8
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


@dataclass(frozen=True, eq=False)
class Profile:
    """What a codec does to the neighbours of a sample's queries.

    Parameters
    ----------
    spec : str
    codec : Codec
        Trained in earnest.
    k : int
    recall : float
        Share of the k nearest among the first k estimates.
    ranks : ndarray of float64, shape (n_queries, k)
        Place of each true neighbour among all rows by estimate, from 1; ties count against it.
    per_query : ndarray of float64, shape (n_queries,)
        Recall of each query.
    deep_ranks : ndarray of float64, shape (n_queries, depth)
        `ranks` with further neighbours, where they were asked for.
    """

    spec: str
    codec: Codec
    k: int
    recall: float
    ranks: Float64Array
    per_query: Float64Array
    deep_ranks: Float64Array

    @property
    def bytes_per_vector(self) -> int:
        """Code, corrective factors and list id."""
        return self.codec.bytes_per_vector

    @property
    def oversampling(self) -> float:
        """Candidates per wanted row that hold 99 % of the k nearest, in tenths, at least 1."""
        enough = math.ceil(RESCORED_RECALL * self.ranks.size) - 1
        needed = float(np.partition(self.ranks.ravel(), enough)[enough])
        return max(1.0, math.ceil(needed / self.k * 10) / 10)

    def recall_in(self, n_candidates: float) -> float:
        """Return the share of the k nearest among so many candidates: recall after exact rescoring."""
        return float((self.ranks <= n_candidates).mean())


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
        #: Numbers of the queries among those given, or of the rows that they are.
        self.query_ids: IdArray
        self._whole = n <= ALL_ROWS and vectors.size <= ALL_COORDINATES
        most = MAX_QUERIES if self._whole else SAMPLED_QUERIES
        if queries is None:
            self._own = np.sort(rng.choice(n, min(most, -(-n // _OWN_PART)), replace=False))
            queries = vectors[self._own]
            self.query_ids = self._own
        else:
            self.query_ids = np.arange(len(queries))
            if len(queries) > most:
                self.query_ids = np.sort(rng.choice(len(queries), most, replace=False))
                queries = queries[self.query_ids]
        self.queries = queries
        depth = max(_LOCAL if self._whole else _NEAREST, k) + 1
        near, _ = exact_search(vectors, queries, min(n, depth), metric)
        if self._own is not None:
            near = _without(near, self._own)
        self._near = near
        self.rows: IdArray = np.arange(n)
        self._is_other = np.ones(n, dtype=bool)
        if not self._whole:
            others = rng.choice(n, min(n, _OTHER_ROWS), replace=False)
            own = np.empty(0, dtype=np.int64) if self._own is None else self._own
            self.rows = np.union1d(np.union1d(near, others), own)
            self._is_other = np.isin(self.rows, others)
        trained = vectors if self._own is None else np.delete(vectors, self._own, axis=0)
        self._train = _part(trained, TRAINING, rng)
        self._few = _part(self._train, SCREENING, rng)
        #: Spec -> profile, of all that was settled.
        self.profiles: dict[str, Profile] = {}

    @property
    def vectors(self) -> Float32Array:
        """All vectors, shape (n, dim)."""
        return self._vectors

    @property
    def near(self) -> IdArray:
        """Row numbers of each query's nearest rows among all, nearest first."""
        return self._near

    @property
    def is_whole(self) -> bool:
        """Whether queries are compared with all rows, not with a sample that stands for them."""
        return self._whole

    @property
    def has_queries(self) -> bool:
        """Whether queries were given, not taken from the rows."""
        return self._own is None

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
        profile = self.profile(spec)
        return profile.recall, profile.oversampling

    def profile(self, spec: str, depth: int = 0) -> Profile:
        """Train in earnest and place each query's neighbours by estimate; once for a spec.

        Parameters
        ----------
        spec : str
        depth : int, default 0
            Place so many neighbours, where they are more than k; fewer where rows are.
        """
        depth = min(max(depth, self.k), self._near.shape[1])
        found = self.profiles.get(spec)
        if found is None or found.deep_ranks.shape[1] < depth:
            found = self.profiles[spec] = self._profile(spec, depth)
        return found

    def _profile(self, spec: str, depth: int) -> Profile:
        codec = make_codec(spec, metric=self.metric, random_state=self.random_state).fit(self._train)
        k, truth = self.k, self._near[:, :depth]
        codes = codec.encode(self._vectors[self.rows])
        found = np.empty((len(self.queries), k), dtype=np.int64)
        ranks, credits = np.empty(truth.shape), np.empty((len(truth), k))
        step = max(1, _BLOCK_ESTIMATES // len(codes))
        for start in range(0, len(found), step):
            part = slice(start, start + step)
            for i, estimates in enumerate(codec.estimate(codes, self.queries[part]), start):
                if self._own is not None:
                    estimates[np.searchsorted(self.rows, self._own[i])] = np.inf
                true = estimates[np.searchsorted(self.rows, truth[i])]
                if self._whole:
                    found[i] = np.argpartition(estimates, k - 1)[:k]
                    ranks[i] = [np.count_nonzero(estimates <= estimate) for estimate in true]
                else:
                    ranks[i], credit = self._extrapolate(i, estimates, true)
                    credits[i] = credit[:k]
        if self._whole:
            shares = recall_per_query(
                found, truth[:, :k], k, X=self._vectors, Q=self.queries, metric=self.metric
            )
        else:
            shares = credits.mean(axis=1)
        return Profile(spec, codec, k, float(shares.mean()), ranks[:, :k], shares, ranks)

    def _extrapolate(
        self, query: int, estimates: Float32Array, true: Float32Array
    ) -> tuple[Float64Array, Float64Array]:
        """Return the true neighbours' expected ranks among all rows, and probabilities of a rank up to k.

        A query's nearest rows are all there; the sampled others stand for w rows each. Of f sampled ones in
        front of a neighbour follow f w among all, with a spread: taken as Gamma distributed, of shape f and
        scale w. Rows that are there for other queries' sake are no fair sample and do not count.
        """
        near = np.searchsorted(self.rows, self._near[query])
        far = self._is_other.copy()
        far[near] = False
        weight = (len(self._vectors) - len(near)) / max(1, far.sum())
        close, others = estimates[near], np.sort(estimates[far])
        before = np.array([np.count_nonzero(close <= estimate) for estimate in true])
        n_far = np.searchsorted(others, true, side="right")
        room = np.maximum(self.k + 1 - before, 0) / weight
        tail = np.array([_poisson_below(x, f) for x, f in zip(room, n_far, strict=True)])
        return before + weight * n_far, np.where(before <= self.k, 1 - tail, 0.0)


def _poisson_below(mean: float, count: int) -> float:
    """P(N < count) of a Poisson N: what a Gamma distribution of shape `count` has above `mean`."""
    term, total = math.exp(-mean), 0.0
    for j in range(min(count, 100)):
        total += term
        term *= mean / (j + 1)
    return total


def _part(rows: Float32Array, limits: tuple[int, int, int], rng: np.random.Generator) -> Float32Array:
    """Return a random part of rows, in their order, or all of them."""
    n_rows, n_coordinates, at_least = limits
    n = min(n_rows, max(at_least, n_coordinates // rows.shape[1]))
    return rows if len(rows) <= n else rows[np.sort(rng.choice(len(rows), n, replace=False))]


def _without(ids: IdArray, own: IdArray) -> IdArray:
    """Drop from each row the query's own id, or the last one where its own is not there."""
    keep = ids != own[:, np.newaxis]
    keep[keep.all(axis=1), -1] = False
    return np.asarray(ids[keep].reshape(len(ids), -1))
