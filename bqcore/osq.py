"""Optimized scalar quantization: an interval per vector, chosen by coordinate descent."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bqcore import _kernels, levels
from bqcore._validation import (
    Float32Array,
    Float64Array,
    check_bits,
    check_factors,
    check_random_state,
    row_blocks,
)
from bqcore.centroids import kmeans
from bqcore.codec import Codec
from bqcore.codes import Codes
from bqcore.projection import less_centroid

BITS = (1, 2, 4, 7)
#: Half widths of the first interval by bits, in standard deviations: the ends of the grid that is best for a
#: Gaussian (Max 1960; Lucene's MINIMUM_MSE_GRID).
_FIRST_HALF_WIDTH = {1: 0.798, 2: 1.493, 4: 2.514, 7: 3.611}
#: Lucene's weight of the whole error against its part along the vector.
_LUCENE_WEIGHT = 0.1
_MAX_SWEEPS = 5
#: With the whole error alone the sweeps move slowly, and vectors with heavy tails need a wider start.
_COSINE_STARTS = 4


class OSQ(Codec):
    """Levels on an interval of each vector's own, as in Lucene and Elasticsearch.

    Parameters
    ----------
    bits : {1, 2, 4, 7}, default 1
        Bits per dimension.
    metric : {"l2", "ip", "cosine"}, default "l2"
    rotation : {"hadamard", "none"}, default "hadamard"
        Lucene has none; with it the interval fits every coordinate.
    interval : {"cosine", "lucene"}, default "cosine"
        What the interval minimises. "lucene": 0.9 times the squared error along the vector and 0.1 times all
        of it. "cosine": the squared error, then it is stretched until <x, decoded x> = |x|^2: the levels with
        the largest cosine, and unbiased.
    random_state : int, default 0
        Seed of the rotation.

    Attributes
    ----------
    centroid_ : ndarray of float32, shape (dim,)
        Mean of the training vectors.
    bits_, random_state_ : int
    rotation_, interval_ : str

    References
    ----------
    Trent, "Understanding optimized scalar quantization", Elasticsearch Labs, 2025, and Lucene's
    ``OptimizedScalarQuantizer``. Its corrective terms are the interval's two ends, one of the metric and the
    sum of levels (14 bytes); the sum serves quantized queries alone and is left out (12 bytes).
    """

    codec: ClassVar[str] = "osq"
    idea: ClassVar[str] = "an interval optimised for each vector"

    centroid_: Float32Array
    bits_: int
    random_state_: int
    rotation_: str
    interval_: str

    def __init__(
        self,
        bits: int = 1,
        metric: str = "l2",
        rotation: str = "hadamard",
        interval: str = "cosine",
        random_state: int = 0,
    ) -> None:
        self.bits = bits
        self.metric = metric
        self.rotation = rotation
        self.interval = interval
        self.random_state = random_state

    @classmethod
    def settings(cls, dim: int, n: int, nbytes: int) -> list[dict[str, Any]]:
        """Return the widest codes that fit, rotated and on the axes as they are."""
        widths = [bits for bits in BITS if levels.code_nbytes(dim, bits) + 12 <= nbytes]
        return [{"bits": widths[-1], "rotation": r} for r in _kernels.ROTATIONS] if widths else []

    def _fit(self, X: Float32Array) -> None:
        self.bits_ = check_bits(self.bits, BITS)
        self.random_state_ = check_random_state(self.random_state)
        for name, value, allowed in [
            ("rotation", self.rotation, _kernels.ROTATIONS),
            ("interval", self.interval, ("cosine", "lucene")),
        ]:
            if value not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(allowed)}, not {value!r}")
        self.rotation_, self.interval_ = self.rotation, self.interval
        self.centroid_ = kmeans(X, 1, self.random_state_)[0]

    def _restore(self) -> None:
        self._queries = _kernels.Model(
            bits=self.bits_ if self.bits_ in levels.PACKED_BITS else 1,
            metric="l2",
            rotation=self.rotation_,
            seed=self.random_state_,
            centroid=np.zeros_like(self.centroid_),
            n_trained=self.n_trained_,
        )

    @property
    def code_nbytes(self) -> int:
        """Bytes of one packed code: ceil(dim * bits / 8); 7 * ceil(dim / 8) with 7 bits."""
        return levels.code_nbytes(self.dim_, self.bits_)

    @property
    def factors_dtype(self) -> np.dtype[np.void]:
        """``f_add``, ``f_rescale`` (a step) and ``f_centre`` (the interval's), in the unit of the metric."""
        return np.dtype([("f_add", "<f4"), ("f_rescale", "<f4"), ("f_centre", "<f4")])

    @property
    def _weight(self) -> float:
        return -2.0 if self.metric_ == "l2" else -1.0

    def _encode(self, X: Float32Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.void]]:
        packed = np.empty((len(X), self.code_nbytes), dtype=np.uint8)
        factors = np.empty(len(X), dtype=self.factors_dtype)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows shows in the factors
            for rows in row_blocks(X):
                packed[rows] = self._encode_rows(X[rows], factors[rows])
        check_factors(factors)
        return packed, factors

    def _encode_rows(self, X: Float32Array, factors: npt.NDArray[np.void]) -> npt.NDArray[np.uint8]:
        """Return packed codes and fill `factors`."""
        top = (1 << self.bits_) - 1
        residuals = X - self.centroid_
        o = self._queries.rotate(residuals).astype(np.float64)
        n2 = np.square(o).sum(axis=1)
        if self.interval_ == "cosine":
            lower, upper, u, _ = optimize_intervals(o, self.bits_, 1.0, _COSINE_STARTS)
        else:
            lower, upper, u, _ = optimize_intervals(o, self.bits_, _LUCENE_WEIGHT)
        centre, step = (lower + upper) / 2, (upper - lower) / top
        if self.interval_ == "cosine":
            decoded = step[:, np.newaxis] * (u - top / 2) + centre[:, np.newaxis]
            along = (o * decoded).sum(axis=1)
            stretch = np.divide(n2, along, out=np.ones_like(n2), where=along > 0)
            centre, step = centre * stretch, step * stretch
        factors["f_rescale"], factors["f_centre"] = self._weight * step, self._weight * centre
        if self.metric_ == "ip":
            factors["f_add"] = -(residuals.astype(np.float64) * self.centroid_).sum(axis=1)
        else:
            factors["f_add"] = n2 if self.metric_ == "l2" else n2 / 2
        return levels.pack(u.astype(np.uint8), self.bits_)

    def _estimate(self, codes: Codes, Q: Float32Array) -> Float32Array:
        out = np.empty((len(Q), len(codes)), dtype=np.float32)
        centred, s = less_centroid(Q, self.centroid_, self.metric_)
        if self.metric_ == "ip":
            g_add = -(Q.astype(np.float64) @ self.centroid_)
        else:
            g_add = np.square(centred, dtype=np.float64).sum(axis=1) / (2 if self.metric_ == "cosine" else 1)
        sums = self._queries.rotate(centred).sum(axis=1)
        scan = levels.Scan(codes.packed, self.bits_, codes.factors["f_add"], codes.factors["f_rescale"])
        for i in range(len(Q)):
            query = levels.prepare(self._queries, centred, i)
            query.struct.g_add, query.struct.g_weight = g_add[i], s[i]
            out[i] = scan.estimate(self._queries, query) + codes.factors["f_centre"] * sums[i]
        return out

    def _decode(self, codes: Codes) -> Float32Array:
        out = np.empty((len(codes), self.dim_), dtype=np.float32)
        middle = np.float32((1 << self.bits_) - 1) / 2
        scale = np.float32(1 / self._weight)
        for rows in row_blocks(out):
            k = levels.unpack(codes.packed[rows], self.dim_, self.bits_).astype(np.float32) - middle
            step, centre = (
                codes.factors[name][rows, np.newaxis] * scale for name in ("f_rescale", "f_centre")
            )
            out[rows] = self._queries.unrotate(step * k + centre) + self.centroid_
        return out


def optimize_intervals(
    x: Float64Array, bits: int, weight: float, n_starts: int = 1
) -> tuple[Float64Array, Float64Array, Float64Array, list[Float64Array]]:
    """Choose the interval [a, b] of every vector, and its levels.

    Minimises (1 - weight) <x, e>^2 / |x|^2 + weight |e|^2 with e = x - decoded x, in turn over the ends for
    the levels at hand (a 2 by 2 system) and over the levels for the ends; a vector stops when its loss would
    rise.

    Parameters
    ----------
    x : ndarray of float64, shape (n, dim)
        Residuals.
    bits : int
    weight : float
        In (0, 1].
    n_starts : int, default 1
        First intervals tried, evenly from that of a Gaussian, Lucene's only one, to all coordinates.

    Returns
    -------
    lower, upper : ndarray of float64, shape (n,)
    u : ndarray of float64, shape (n, dim)
        Level indices, 0 to 2**bits - 1.
    losses : list of ndarray of float64, shape (n,)
        After each sweep, the first interval's first.

    References
    ----------
    Lucene, ``OptimizedScalarQuantizer.optimizeIntervals``.
    """
    top = (1 << bits) - 1
    n2 = np.square(x).sum(axis=1)
    mean, half = x.mean(axis=1), _FIRST_HALF_WIDTH[bits] * x.std(axis=1)
    low, high = x.min(axis=1), x.max(axis=1)
    lower, upper = np.clip(mean - half, low, high), np.clip(mean + half, low, high)

    def along(n2: Float64Array) -> Float64Array:
        return np.divide(1 - weight, n2, out=np.zeros_like(n2), where=n2 > 0)

    def place(
        x: Float64Array, n2: Float64Array, lower: Float64Array, upper: Float64Array
    ) -> tuple[Float64Array, Float64Array]:
        """Levels as shares of the interval, and the loss."""
        width = (upper - lower)[:, np.newaxis]
        s = np.divide(x - lower[:, np.newaxis], width, out=np.zeros_like(x), where=width > 0)
        s = np.rint(np.clip(s, 0, 1) * top) / top
        e = x - (lower[:, np.newaxis] + width * s)
        loss = along(n2) * np.square((x * e).sum(axis=1)) + weight * np.square(e).sum(axis=1)
        return s, loss

    s, loss = place(x, n2, lower, upper)
    first = lower, upper
    for share in np.linspace(0, 1, n_starts)[1:]:
        a, b = first[0] + share * (low - first[0]), first[1] + share * (high - first[1])
        placed, found = place(x, n2, a, b)
        better = found < loss
        lower, upper, loss = np.where(better, (a, b, found), (lower, upper, loss))
        s[better] = placed[better]
    losses = [loss.copy()]
    active = np.arange(len(x))
    for _ in range(_MAX_SWEEPS):
        xs, ss, ns = x[active], s[active], n2[active]
        rest = 1 - ss
        daa, dab, dbb = (rest * rest).sum(axis=1), (rest * ss).sum(axis=1), (ss * ss).sum(axis=1)
        dax, dbx = (xs * rest).sum(axis=1), (xs * ss).sum(axis=1)
        m0 = along(ns) * dax * dax + weight * daa
        m1 = along(ns) * dax * dbx + weight * dab
        m2 = along(ns) * dbx * dbx + weight * dbb
        det = m0 * m2 - m1 * m1
        solvable = det > 1e-9 * m0 * m2  # not where all levels are the same
        det = np.where(solvable, det, 1)
        a, b = (m2 * dax - m1 * dbx) / det, (m0 * dbx - m1 * dax) / det
        placed, found = place(xs, ns, a, b)
        better = solvable & (b > a) & (found < loss[active])
        active, a, b = active[better], a[better], b[better]
        lower[active], upper[active], s[active], loss[active] = a, b, placed[better], found[better]
        losses.append(loss.copy())
        if len(active) == 0:
            break
    return lower, upper, np.rint(s * top), losses
