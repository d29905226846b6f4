"""One codec measured on some rows: recall by tier and candidates, bytes, time."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from bqcore._validation import Float32Array, Float64Array, IdArray
from bqcore.evaluation import TIE_TOLERANCE, exact_distances, exact_search
from bqcore.registry import make_codec

#: Where candidates are rescored from: not at all, 8-bit scalar codes, vectors.
TIERS = ("none", "int8", "float32")
#: Candidates per wanted row that are rescored.
OVERSAMPLING = (1.0, 2.0, 4.0, 10.0, 20.0)
_BLOCK_ESTIMATES = 1 << 24


@dataclass(frozen=True)
class Point:
    """One way to answer queries: a codec, a tier, a number of candidates.

    Parameters
    ----------
    codec : str
        Spec, as `make_codec` takes it.
    tier : {"none", "int8", "float32"}
    oversampling : float
    rows : int
        Rows that were searched.
    recall, standard_error : float
        recall@k, and the standard error of the mean over queries.
    ram_bytes, disk_bytes : int
        Per vector: the code; the tier it is rescored from.
    ms : float
        CPU time per query over `rows` rows, milliseconds, in this process and one thread.
    """

    codec: str
    tier: str
    oversampling: float
    rows: int
    recall: float
    standard_error: float
    ram_bytes: int
    disk_bytes: int
    ms: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Rebuild a point from `as_dict`."""
        return cls(**fields)

    @property
    def way(self) -> tuple[str, str, float]:
        """Codec, tier and candidates: what stays as the rows grow."""
        return self.codec, self.tier, self.oversampling


class Rows:
    """Rows to search, queries, and their exact neighbours.

    Parameters
    ----------
    vectors : ndarray of float32, shape (n, dim)
        Without zero rows under cosine.
    queries : ndarray of float32, shape (n_queries, dim)
    own : ndarray of int64, shape (n_queries,), optional
        Rows that the queries are, which are not among their neighbours; they come first in `vectors`.
    metric : {"l2", "ip", "cosine"}
    k : int
    """

    def __init__(
        self, vectors: Float32Array, queries: Float32Array, own: IdArray | None, metric: str, k: int
    ) -> None:
        self.vectors, self.queries, self.own, self.metric, self.k = vectors, queries, own, metric, k
        near, distances = exact_search(vectors, queries, k + (own is not None), metric)
        if own is not None:
            distances = np.where(near == own[:, np.newaxis], np.inf, distances)
            distances.sort(axis=1)
        kth = distances[:, k - 1]
        self._limit = kth + TIE_TOLERANCE * np.maximum(np.abs(kth), 1e-30)
        self._int8: Any = None

    def _tier(self) -> Any:
        if self._int8 is None:
            codec = make_codec("scalar(format=int8)", metric=self.metric).fit(self.vectors)
            self._int8 = codec, codec.encode(self.vectors)
        return self._int8

    def measure(self, spec: str, random_state: int) -> list[Point]:
        """Train a codec, encode, and search by it; return a point per tier and number of candidates."""
        codec = make_codec(spec, metric=self.metric, random_state=random_state).fit(self.vectors)
        codes = codec.encode(self.vectors)
        depth = min(len(self.vectors) - 1, round(max(OVERSAMPLING) * self.k))
        found = np.empty((len(self.queries), depth), dtype=np.int64)
        step = max(1, _BLOCK_ESTIMATES // len(codes))
        start = time.process_time()
        for first in range(0, len(found), step):
            part = slice(first, min(first + step, len(found)))
            estimates = codec.estimate(codes, self.queries[part])
            if self.own is not None:
                estimates[np.arange(len(estimates)), self.own[part]] = np.inf
            best = np.argpartition(estimates, depth - 1, axis=1)[:, :depth]
            order = np.argsort(np.take_along_axis(estimates, best, axis=1), axis=1, kind="stable")
            found[part] = np.take_along_axis(best, order, axis=1)
        scan_ms = (time.process_time() - start) / len(found) * 1e3
        exact, exact_ms = self._rescored(found, "float32")
        coarse, coarse_ms = self._rescored(found, "int8")
        places: Float64Array = np.broadcast_to(np.arange(depth, dtype=np.float64), found.shape)
        dim = self.vectors.shape[1]
        tier_codec, _ = self._tier()
        ways = {
            "none": (places, 0.0, 0),
            "int8": (coarse, coarse_ms, tier_codec.bytes_per_vector),
            "float32": (exact, exact_ms, 4 * dim),
        }
        points = []
        # One neighbour more or less: no mean is known better, even where all shares are 1.
        least_error = 1 / (self.k * len(self.queries))
        for tier, (scores, ms, disk) in ways.items():
            for over in OVERSAMPLING if tier != "none" else (1.0,):
                n = min(depth, round(over * self.k))
                shares = self._shares(scores[:, :n], exact[:, :n])
                points.append(
                    Point(
                        spec,
                        tier,
                        over,
                        len(self.vectors),
                        round(float(shares.mean()), 5),
                        round(max(least_error, float(shares.std() / np.sqrt(len(shares)))), 5),
                        codec.bytes_per_vector,
                        disk,
                        round(scan_ms + ms * n / depth, 5),
                    )
                )
        return points

    def _rescored(self, found: IdArray, tier: str) -> tuple[Float64Array, float]:
        """Return distances of candidates from a tier, and milliseconds per query."""
        start = time.process_time()
        if tier == "float32":
            out = exact_distances(self.vectors, self.queries, found, self.metric)
        else:
            codec, codes = self._tier()
            out = np.empty(found.shape)
            for i, rows in enumerate(found):
                out[i] = codec.estimate(codes[rows], self.queries[i])
        return out, (time.process_time() - start) / len(found) * 1e3

    def _shares(self, scores: Float64Array, exact: Float64Array) -> Float64Array:
        """Return the share of true neighbours among the best k by score, per query."""
        k = min(self.k, scores.shape[1])
        best = np.argpartition(scores, k - 1, axis=1)[:, :k]
        hits = np.take_along_axis(exact, best, axis=1) <= self._limit[:, np.newaxis]
        return np.asarray(hits.sum(axis=1) / self.k)
