"""SAQ: bits where the variance is, by a trellis."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bqcore._trellis import Trellis
from bqcore._validation import Float32Array, Float64Array, check_int, check_random_state
from bqcore.allocation import STEP, allocate
from bqcore.centroids import assign, kmeans
from bqcore.codec import Codec
from bqcore.codes import Codes
from bqcore.factors import Factor, check_form

# Rows that second moments and the limits of factors are taken from.
_SAMPLE = 1 << 16
# Neighbours are looked for between this many queries and rows; this share of the rows are neighbours.
_NEIGHBOUR_QUERIES, _NEIGHBOUR_ROWS, _NEIGHBOUR_SHARE = 1000, 10_000, 0.01
# Searches of levels and scale in turn; a third one adds less than .001 of recall.
_ROUNDS = 2
# Rows of a matrix product when encoding: always as many, so that a row's result is its own alone.
_ENCODE_ROWS = 64
_DECODE_ROWS = 1 << 13


class SAQ(Codec):
    """Residuals in their principal axes, bits per segment by variance, levels chosen along a trellis.

    The axes are those of the residuals' covariance. An error on an axis counts by the variance of
    differences between neighbours there, because these are what a ranking depends on. Segments of axes get 0
    to 8 bits per axis by dynamic programming under the exact budget, and a seeded rotation inside each. An
    axis of R bits has 2^(R + 1) levels, of which the code can name those that an 8-state trellis allows; the
    search for the best path takes the place of SAQ's code adjustment, and is exact.

    Beside the code two factors are stored. ``f_rescale`` = |o| / |levels| on the kept axes: a decoded vector
    has the kept part's norm. ``f_add`` is what an estimate has beyond the distance to the decoded vector: the
    squared norm of the dropped part (l2; half of it under cosine), or -<c, x - decoded x> (ip).

    Parameters
    ----------
    bits : float, default 1
        Average bits per dimension, 0.5 to 8: a code has round(dim * bits / 8) bytes, at least 1.
    centroids : int, default 1
        Lists, 1 to 4096; their id is stored, 1 or 2 bytes beyond one list.
    factors : {"uint8", "bfloat16", "float32"}, default "uint8"
        How each of the two factors is stored.
    segment : int, default 8
        Axes that share their bits and are rotated together.
    metric : {"l2", "ip", "cosine"}, default "l2"
    random_state : int, default 0
        Seed of k-means, samples and rotations.

    Attributes
    ----------
    centroids_ : ndarray of float32, shape (n_lists, dim)
    basis_ : ndarray of float32, shape (dim, n_axes)
        Orthonormal columns: the kept axes.
    axis_bits_ : ndarray of uint8, shape (n_axes,)
        Descending.
    axis_step_, axis_weight_ : ndarray of float32, shape (n_axes,)
        Distance of two levels; what a squared error counts.
    norm_ : float
        Root mean weighted square of what is encoded.
    factor_limits_ : ndarray of float64, shape (2, 2)
        Limits of f_add and f_rescale at uint8.

    References
    ----------
    Li et al., "SAQ: Pushing the Limits of Vector Quantization through Code Adjustment and Dimension
    Segmentation", 2025; Marcellin & Fischer, "Trellis Coded Quantization of Memoryless and Gauss-Markov
    Sources", IEEE Trans. Communications 1990.
    """

    codec: ClassVar[str] = "saq"
    idea: ClassVar[str] = "bits where neighbours differ, along a trellis in the principal axes"
    #: 8 goes through the integer kernels; 32, the default, decodes and multiplies matrices.
    query_widths: ClassVar[tuple[int, ...]] = (8, 32)

    centroids_: Float32Array
    basis_: Float32Array
    axis_bits_: npt.NDArray[np.uint8]
    axis_step_: Float32Array
    axis_weight_: Float32Array
    norm_: float
    code_nbytes_: int
    factors_: str
    factor_limits_: Float64Array

    def __init__(
        self,
        bits: float = 1,
        centroids: int = 1,
        factors: str = "uint8",
        segment: int = 8,
        metric: str = "l2",
        random_state: int = 0,
    ) -> None:
        self.bits = bits
        self.centroids = centroids
        self.factors = factors
        self.segment = segment
        self.metric = metric
        self.random_state = random_state

    @classmethod
    def settings(cls, dim: int, n: int, nbytes: int) -> list[dict[str, Any]]:
        """Return what fills `nbytes`, with one list and with 256."""
        out: list[dict[str, Any]] = []
        for centroids, extra in ((1, 2), (256, 3)):
            bits = 8 * (nbytes - extra) / dim
            if bits >= 0.5 and centroids * 16 <= max(n, 16):
                out.append({"bits": min(bits, 8.0), "centroids": centroids})
        return out

    # ---- train ----

    def _fit(self, X: Float32Array) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, (int, float)):
            raise TypeError(f"bits: expected a number, not {type(self.bits).__name__}")
        if not 0.5 <= self.bits <= 8:
            raise ValueError(f"bits: expected 0.5 to 8, not {self.bits}")
        n_lists = check_int(self.centroids, name="centroids", low=1, high=4096)
        segment = check_int(self.segment, name="segment", low=1)
        seed = check_random_state(self.random_state)
        self.factors_ = check_form(self.factors)
        self.code_nbytes_ = max(1, int(self.dim_ * self.bits / 8 + 0.5))
        self.centroids_ = kmeans(X, n_lists, seed)
        rng = np.random.default_rng(seed)
        sample = X if len(X) <= _SAMPLE else X[np.sort(rng.choice(len(X), _SAMPLE, replace=False))]
        residuals = sample - self.centroids_[assign(sample, self.centroids_)]
        self._fit_axes(residuals, _neighbour_moments(X, rng), segment, rng)
        self.factor_limits_ = np.ones((2, 2))
        self._restore()
        f_add, f_rescale = self._encode_floats(sample)[2:]
        self.factor_limits_ = np.array(
            [
                [limits.low, limits.high]
                for limits in (
                    Factor.fit(f_add, self.factors_, "linear"),
                    Factor.fit(f_rescale, self.factors_, "log"),
                )
            ]
        )

    def _fit_axes(
        self, residuals: Float32Array, neighbours: Float64Array, segment: int, rng: np.random.Generator
    ) -> None:
        """Set the kept axes, their bits, steps and weights."""
        moments = (residuals.T @ residuals).astype(np.float64) / len(residuals)
        variance, axes = np.linalg.eigh(moments)
        variance = np.where(variance > 1e-9 * variance[-1], variance, 0.0)
        weight = np.einsum("ij,ij->j", axes, neighbours @ axes)
        weight = np.maximum(weight, 1e-6 * weight.max()) if weight.max() > 0 else np.ones(self.dim_)
        order = np.argsort(-variance * weight, kind="stable")
        variance, weight, axes = variance[order], weight[order], axes[:, order]

        starts = np.arange(0, self.dim_, segment)
        sizes = np.diff(np.append(starts, self.dim_))
        weight = np.repeat(np.add.reduceat(weight, starts) / sizes, sizes)
        error = np.add.reduceat(variance * weight, starts)
        if not error.any():  # all rows lie on centroids: any one segment will do
            error[0] = 1.0
        bits = allocate(error, sizes, 8 * self.code_nbytes_)
        for start, size in zip(starts, sizes, strict=True):
            axes[:, start : start + size] @= _orthogonal(rng, int(size))
        deviation = np.sqrt(np.repeat(np.add.reduceat(variance, starts) / sizes, sizes))
        axis_bits = np.repeat(bits, sizes)
        # a few segments may have got more bits than ones before them, where variances are nearly equal
        kept = np.argsort(-axis_bits.astype(np.int64), kind="stable")[: np.count_nonzero(axis_bits)]
        self.axis_bits_ = axis_bits[kept]
        self.basis_ = np.ascontiguousarray(axes[:, kept], dtype=np.float32)
        deviation = np.where(deviation[kept] > 0, deviation[kept], 1.0)
        self.axis_step_ = (np.array(STEP)[self.axis_bits_ - 1] * deviation).astype(np.float32)
        self.axis_weight_ = (weight[kept] / weight[kept].mean()).astype(np.float32)
        self.norm_ = float(np.sqrt(np.sum(self.axis_weight_ * np.square(deviation))))

    def _restore(self) -> None:
        limits = self.factor_limits_.tolist()
        self._f_add = Factor(self.factors_, "linear", *limits[0])
        self._f_rescale = Factor(self.factors_, "log", *limits[1])
        self._trellis = Trellis(
            self.axis_bits_, self.axis_step_, self.axis_weight_, self.norm_, self.code_nbytes_
        )
        self._centroid_axes: Float32Array = self.centroids_ @ self.basis_

    # ---- store ----

    @property
    def code_nbytes(self) -> int:
        """Bytes of one packed code: round(dim * bits / 8), at least 1."""
        return self.code_nbytes_

    @property
    def factors_dtype(self) -> np.dtype[np.void]:
        """``f_add``, ``f_rescale`` and, with several centroids, ``list``."""
        fields: list[tuple[str, Any]] = [("f_add", self._f_add.dtype), ("f_rescale", self._f_rescale.dtype)]
        if len(self.centroids_) > 1:
            fields.append(("list", "u1" if len(self.centroids_) <= 256 else "<u2"))
        return np.dtype(fields)

    def _encode_floats(
        self, X: Float32Array
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], Float32Array, Float32Array]:
        """Return codes, lists and the factors before they are rounded, each of X's length."""
        n = len(X)
        packed = np.empty((n, self.code_nbytes_), dtype=np.uint8)
        lists = np.zeros(n, dtype=np.int64)
        f_add, f_rescale = np.empty(n, dtype=np.float32), np.empty(n, dtype=np.float32)
        block = np.zeros((_ENCODE_ROWS, self.dim_), dtype=np.float32)
        for start in range(0, n, _ENCODE_ROWS):
            rows = X[start : start + _ENCODE_ROWS]
            at = slice(start, start + len(rows))
            block[: len(rows)] = rows
            if len(self.centroids_) > 1:
                lists[at] = assign(block, self.centroids_)[: len(rows)]
            block[: len(rows)] -= self.centroids_[lists[at]]
            axes = (block @ self.basis_)[: len(rows)]
            packed[at], f_rescale[at] = self._trellis.encode(axes, _ROUNDS)
            f_add[at] = self._add_term(block[: len(rows)], axes, lists[at], packed[at], f_rescale[at])
        return packed, lists, f_add, f_rescale

    def _add_term(
        self,
        residuals: Float32Array,
        axes: Float32Array,
        lists: npt.NDArray[np.int64],
        packed: npt.NDArray[np.uint8],
        f_rescale: Float32Array,
    ) -> Float32Array:
        if self.metric_ == "ip":
            levels = self._trellis.decode(packed) * f_rescale[:, np.newaxis]
            exact = np.einsum("ij,ij->i", self.centroids_[lists], residuals)
            return np.asarray(np.einsum("ij,ij->i", self._centroid_axes[lists], levels) - exact)
        dropped = np.einsum("ij,ij->i", residuals, residuals) - np.einsum("ij,ij->i", axes, axes)
        return np.asarray(np.maximum(dropped, 0) * np.float32(1 if self.metric_ == "l2" else 0.5))

    def _encode(self, X: Float32Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.void]]:
        packed, lists, f_add, f_rescale = self._encode_floats(X)
        factors = np.empty(len(X), dtype=self.factors_dtype)
        factors["f_add"] = self._f_add.pack(f_add)
        factors["f_rescale"] = self._f_rescale.pack(f_rescale)
        if len(self.centroids_) > 1:
            factors["list"] = lists
        return packed, factors

    # ---- estimate ----

    def _lists(self, codes: Codes) -> npt.NDArray[np.int64]:
        if len(self.centroids_) == 1:
            return np.zeros(len(codes), dtype=np.int64)
        return codes.factors["list"].astype(np.int64)

    def _levels(self, codes: Codes) -> Float32Array:
        """Return decoded residuals in the kept axes, shape (n, n_axes)."""
        return (
            self._trellis.decode(codes.packed)
            * self._f_rescale.unpack(codes.factors["f_rescale"])[:, np.newaxis]
        )

    def _estimate(self, codes: Codes, Q: Float32Array) -> Float32Array:
        return self._estimate_at(codes, Q, 32)

    def _estimate_at(self, codes: Codes, Q: Float32Array, query_bits: int) -> Float32Array:
        ip = self.metric_ == "ip"
        # l2 and cosine do not depend on the origin, and squares lose fewest digits about the mean
        origin = np.zeros(self.dim_, np.float32) if ip else self.centroids_.mean(axis=0)
        centroids, queries = self.centroids_ - origin, Q - origin
        query_axes, centroid_axes = queries @ self.basis_, centroids @ self.basis_
        # half the squared distance to c + o, o the decoded residual: |q|^2/2 - <q, c + o> + |c + o|^2/2
        query_half = np.einsum("ij,ij->i", queries, queries)[:, np.newaxis] / 2
        centroid_half = np.einsum("ij,ij->i", centroids, centroids) / 2
        products = queries @ centroids.T
        lists, f_add = self._lists(codes), self._f_add.unpack(codes.factors["f_add"])
        out = np.empty((len(Q), len(codes)), dtype=np.float32)
        for rows in _blocks(lists, by_list=query_bits == 8):
            own, levels = lists[rows], self._levels(codes[rows])
            if query_bits == 8:  # residual queries, whose coordinates are the smallest
                scale = self._f_rescale.unpack(codes.factors["f_rescale"][rows])
                dots = np.empty((len(Q), len(own)), dtype=np.float32)
                for i in range(len(Q)):
                    dots[i] = self._trellis.dot(codes.packed[rows], query_axes[i] - centroid_axes[own[0]])
                block = -(dots * scale + levels @ centroid_axes[own[0]])
            else:
                block = -(query_axes @ levels.T)
            block -= products[:, own]
            if not ip:
                square = np.einsum("ij,ij->i", levels, centroid_axes[own] + levels / 2)
                block += query_half
                block += centroid_half[own] + square
                if self.metric_ == "l2":
                    block *= 2
            out[:, rows] = block + f_add[rows]
        return out

    def _decode(self, codes: Codes) -> Float32Array:
        return np.asarray(self._levels(codes) @ self.basis_.T + self.centroids_[self._lists(codes)])


def _blocks(lists: npt.NDArray[np.int64], by_list: bool) -> list[Any]:
    """Return rows to take together: one list each, or some thousands."""
    if not by_list:
        return [slice(start, start + _DECODE_ROWS) for start in range(0, len(lists), _DECODE_ROWS)]
    order = np.argsort(lists, kind="stable")
    return [rows for rows in np.split(order, np.flatnonzero(np.diff(lists[order])) + 1) if len(rows)]


def _orthogonal(rng: np.random.Generator, size: int) -> Float64Array:
    """Random rotation, uniform over the orthogonal group."""
    q, r = np.linalg.qr(rng.normal(size=(size, size)))
    return np.asarray(q * np.where(np.diagonal(r) < 0, -1.0, 1.0))


def _neighbour_moments(X: Float32Array, rng: np.random.Generator) -> Float64Array:
    """Second moments of differences between near rows, shape (dim, dim)."""
    rows = X[rng.choice(len(X), min(len(X), _NEIGHBOUR_ROWS), replace=False)]
    queries = rows[:_NEIGHBOUR_QUERIES]
    k = min(len(rows) - 1, max(5, int(len(rows) * _NEIGHBOUR_SHARE)))
    if k < 1:
        return np.zeros((X.shape[1], X.shape[1]))
    distances = np.einsum("ij,ij->i", rows, rows) / 2 - queries @ rows.T
    distances[np.arange(len(queries)), np.arange(len(queries))] = np.inf
    near = np.argpartition(distances, k - 1, axis=1)[:, :k]
    moments = np.zeros((X.shape[1], X.shape[1]))
    for query, neighbours in zip(queries, near, strict=True):
        differences = rows[neighbours] - query
        moments += differences.T @ differences
    return moments / (len(queries) * k)
