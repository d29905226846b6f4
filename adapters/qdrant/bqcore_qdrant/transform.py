"""What happens to a vector on its way into a collection, and back."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast

import numpy as np

from bqcore import _kernels
from bqcore._validation import (
    Float32Array,
    Float64Array,
    Metric,
    as_matrix_or_vector,
    row_blocks,
    unit_or_zero_rows,
)
from bqcore.projection import less_centroid

Kind = Literal["raw", "centre", "rotate"]
Distance = Literal["Cosine", "Euclid", "Dot"]
#: Ways to store a vector: as it is; less the mean; less the mean, and rotated.
KINDS: tuple[Kind, ...] = ("raw", "centre", "rotate")
_NATIVE: dict[Metric, Distance] = {"cosine": "Cosine", "l2": "Euclid", "ip": "Dot"}
# Part of a coordinate's range that uint8 covers; the rest, equal on both sides, is cut off.
_COVERED = 0.9999


@dataclass(frozen=True, eq=False)
class Transform:
    """T: x -> s R (x - c) + o for stored vectors, after scaling to unit length under cosine.

    Under cosine and l2 queries go the same way, and Euclid keeps the order: |T q - T x|^2 = s^2 |q - x|^2,
    which is s^2 (2 - 2 cos) for unit vectors. Under ip only stored vectors are centred: <R q, R (x - c)> =
    <q, x> - <q, c>, the same shift for all x.

    Parameters
    ----------
    metric : {"l2", "ip", "cosine"}
        What users ask for.
    kind : {"raw", "centre", "rotate"}
    mean : ndarray of float32, shape (dim,)
        c; zeros under "raw".
    random_state : int
        Seed of the rotation.
    scale, offset : float
        s and o: 1 and 0, unless vectors are stored as uint8.
    factors : bool
        Whether corrective factors in the payload complete the score (`formula.py`): vectors and queries are
        centred, rotated and multiplied under every metric. Under ip only a query's share of the mean is taken
        off it, s c with s = <q, c> / |c|^2, and f_add counts s times: scores are linear in the query.
    """

    metric: Metric
    kind: Kind
    mean: Float32Array
    random_state: int = 0
    scale: float = 1.0
    offset: float = 0.0
    factors: bool = False

    @classmethod
    def fit(cls, X: Float32Array, metric: Metric, kind: Kind, random_state: int = 0) -> Transform:
        """Learn the mean of X, shape (n, dim): unit rows under cosine, zero rows left out there."""
        if kind == "raw":
            return cls(metric, kind, np.zeros(X.shape[1], dtype=np.float32), random_state)
        rows = unit_or_zero_rows(X)[X.any(axis=1)] if metric == "cosine" else X
        mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        return cls(metric, kind, mean, random_state)

    def for_uint8(self, X: Float32Array, shown: Float32Array | None = None) -> Transform | None:
        """Return this transform with s and o that bring X, shape (n, dim), into 0..255; None: order is lost.

        Inner products and cosines do not survive an offset; whole numbers in 0..255 need neither s nor o.
        `shown` is `apply(X)`, where it is at hand.
        """
        if self.distance != "Euclid":
            return None
        shown = self.apply(X) if shown is None else shown
        low, high = float(shown.min()), float(shown.max())
        if low >= 0 and high <= 255 and not np.any(shown % 1):
            return self
        edge = float(np.quantile(np.abs(shown[:: max(1, len(shown) // 5000)]), _COVERED))
        if edge <= 0:
            return None
        return Transform(self.metric, self.kind, self.mean, self.random_state, 127.0 / edge, 127.0)

    @property
    def dim(self) -> int:
        """Dimensions of vectors, stored and asked."""
        return len(self.mean)

    @property
    def distance(self) -> Distance:
        """The collection's distance."""
        if self.factors:
            return "Dot"
        if self.metric == "cosine" and self.kind != "raw":
            return "Euclid"
        return _NATIVE[self.metric]

    @cached_property
    def _rotation(self) -> _kernels.Model:
        return _kernels.Model(
            bits=1,
            metric="l2",
            rotation="hadamard",
            seed=self.random_state,
            centroid=np.zeros(self.dim, dtype=np.float32),
            n_trained=1,
        )

    def apply(self, X: Float32Array) -> Float32Array:
        """Return T x of checked rows, shape (n, dim); a zero row stays a direction-less one under cosine."""
        return self._apply(X, self.mean)

    def apply_query(self, Q: Float32Array) -> Float32Array:
        """Return T q of checked queries, shape (n_queries, dim)."""
        if self.metric != "ip":
            return self._apply(Q, self.mean)
        if self.factors:
            Q = less_centroid(Q, self.mean, self.metric)[0]
        return self._apply(Q, np.zeros_like(self.mean))

    def query_weight(self, Q: Float32Array) -> Float32Array:
        """Return how often f_add counts for checked queries, shape (n_queries,): once; under ip s times."""
        return less_centroid(Q, self.mean, self.metric)[1]

    def _apply(self, X: Float32Array, mean: Float32Array) -> Float32Array:
        if self.kind == "raw":
            return X
        if self.metric == "cosine":
            X = unit_or_zero_rows(X)
        out = X - mean
        if self.kind == "rotate" and len(out):
            out = self._rotation.rotate(out)
        return self.rounded(np.asarray(out, dtype=np.float32))

    def rounded(self, shown: Float32Array) -> Float32Array:
        """Return s x + o as whole numbers in 0..255 where vectors are stored as uint8, else x itself."""
        if self.scale == 1.0 and self.offset == 0.0:
            return shown
        scaled = np.rint(shown * np.float32(self.scale) + np.float32(self.offset))
        return np.asarray(np.clip(scaled, 0, 255), dtype=np.float32)

    def invert(self, V: Float32Array) -> Float32Array:
        """Return the vectors that were stored as V, shape (n, dim); unit vectors under cosine."""
        if self.kind == "raw":
            return V
        out = np.empty_like(V)
        for rows in row_blocks(V):
            part = np.asarray((V[rows] - np.float32(self.offset)) / np.float32(self.scale), dtype=np.float32)
            out[rows] = (self._rotation.unrotate(part) if self.kind == "rotate" else part) + self.mean
        return out

    # ---- scores ----

    def query_shift(self, Q: Float32Array) -> Float64Array:
        """Return what scores of queries, shape (n_queries, dim), are completed with, shape (n_queries,).

        <q, c> under ip where vectors are centred; with factors also -s |c|^2, and |q - c|^2 under l2; else 0.
        """
        if self.kind == "raw" or (self.metric != "ip" and not self.factors):
            return np.zeros(len(Q))
        queries = (unit_or_zero_rows(Q) if self.metric == "cosine" else Q).astype(np.float64)
        mean = self.mean.astype(np.float64)
        if self.metric == "l2":
            return np.asarray(np.square(queries - mean).sum(axis=1))
        if not self.factors:
            return np.asarray(queries @ mean)
        return np.asarray(queries @ mean - self.query_weight(Q) * (mean @ mean))

    def score(self, stored: float, shift: float = 0.0) -> float:
        """Turn a score of the collection into one of the metric: cosine, product, or Euclidean distance."""
        if self.kind == "raw":
            return stored
        if self.factors and self.metric == "l2":
            return math.sqrt(max(0.0, shift - 2.0 * stored))
        if self.metric == "ip" or self.factors:
            return stored + shift
        distance = stored / self.scale
        return 1.0 - distance * distance / 2.0 if self.metric == "cosine" else distance

    def threshold(self, wanted: float, shift: float = 0.0) -> float:
        """Turn a score threshold of the metric into one of the collection.

        Raises
        ------
        ValueError
            If a distance is negative.
        """
        if self.kind == "raw":
            return wanted
        if self.metric == "l2" and wanted < 0:
            raise ValueError(f"score_threshold: expected a distance >= 0 under l2, not {wanted}")
        if self.factors and self.metric == "l2":
            return (shift - wanted * wanted) / 2.0
        if self.metric == "ip" or self.factors:
            return wanted - shift
        if self.metric == "cosine":
            return math.sqrt(max(0.0, 2.0 - 2.0 * wanted)) * self.scale
        return wanted * self.scale

    # ---- identity ----

    @cached_property
    def hash(self) -> str:
        """SHA-256 of everything that decides what is stored, hexadecimal."""
        digest = hashlib.sha256(b"bqcore qdrant transform 1")
        digest.update(json.dumps([self.dim, self.as_dict()], sort_keys=True).encode())
        digest.update(self.mean.astype("<f4").tobytes())
        return digest.hexdigest()

    def as_dict(self) -> dict[str, str | int | float]:
        """Return what `from_dict` needs beside the mean."""
        return {
            "metric": self.metric,
            "kind": self.kind,
            "random_state": self.random_state,
            "scale": self.scale,
            "offset": self.offset,
            "factors": self.factors,
        }

    @classmethod
    def from_dict(cls, fields: dict[str, str | int | float], mean: Float32Array) -> Transform:
        """Rebuild a transform from `as_dict` and its mean, shape (dim,)."""
        return cls(
            metric=cast(Metric, fields["metric"]),
            kind=cast(Kind, fields["kind"]),
            mean=np.asarray(mean, dtype=np.float32),
            random_state=int(fields["random_state"]),
            scale=float(fields["scale"]),
            offset=float(fields["offset"]),
            factors=bool(fields["factors"]),
        )


def check_query(Q: object, dim: int) -> tuple[Float32Array, bool]:
    """Check one query or several: shape (n, dim), and whether it was a single one."""
    return as_matrix_or_vector(cast(Float32Array, Q), name="query", dim=dim)
