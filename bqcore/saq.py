"""SAQ: bits where the variance is, by a trellis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bqcore._saq_kernel import SAQEncoder
from bqcore._trellis import Trellis
from bqcore._validation import Float32Array, Float64Array, InputTypeError, check_int, check_random_state
from bqcore.axes import Expectation, Pairs, expectation, fit_axes, near_pairs
from bqcore.centroids import assign, kmeans
from bqcore.codec import Codec
from bqcore.codes import Codes
from bqcore.factor_pairs import PAIR, FactorPairs
from bqcore.factors import FORMS, Factor, check_form
from bqcore.projection import shares

# Rows that second moments and the limits of factors are taken from.
_SAMPLE = 1 << 16
# Rows whose near rows tell what an error of f_rescale costs.
_PAIR_QUERIES = 500
# Searches of levels and scale in turn; a third one adds less than .001 of recall.
_ROUNDS = 2
_DECODE_ROWS = 1 << 13


class SAQ(Codec):
    """Residuals in their principal axes, bits per segment by variance, levels chosen along a trellis.

    The axes are the residuals' principal axes, each scaled by what an error there costs a ranking of near
    rows (bqcore/axes.py). Segments of axes get 0 to 8 bits per axis by dynamic programming under the exact
    budget, and a seeded rotation inside each. An axis of R bits has 2^(R + 1) levels, of which the code can
    name those that an 8-state trellis allows; the search for the best path takes the place of SAQ's code
    adjustment.

    Beside the code two factors are stored. ``f_rescale`` = |o| / |levels| in the scaled axes: what is decoded
    has the length of what was encoded. ``f_add`` is what an estimate has beyond the distance to the decoded
    row: above all the expected error for queries near the row, which is known when it is encoded.

    Parameters
    ----------
    bits : float, default 1
        Average bits per dimension, 0.5 to 8: a code has round(dim * bits / 8) bytes, at least 1.
    centroids : int, default 1
        Lists, 1 to 4096; their id is stored, 1 or 2 bytes beyond one list.
    factors : {"uint8", "pair", "bfloat16", "float32"}, default "uint8"
        How each of the two factors is stored; "pair": both in one byte (bqcore/factor_pairs.py).
    segment : int, default 8
        Axes that share their bits and are rotated together.
    metric : {"l2", "ip", "cosine"}, default "l2"
    random_state : int, default 0
        Seed of k-means, samples and rotations.

    Attributes
    ----------
    centroids_ : ndarray of float32, shape (n_lists, dim)
    forward_ : ndarray of float32, shape (dim, n_axes)
        Coordinates are residual @ forward_.
    back_ : ndarray of float32, shape (n_axes, dim)
        Residuals are levels @ back_.
    axis_bits_ : ndarray of uint8, shape (n_axes,)
        Descending.
    axis_deviation_ : ndarray of float32, shape (n_axes,)
        Of a coordinate.
    axis_share_, axis_length_ : ndarray of float32, shape (n_axes,)
        What a near query has of a coordinate; squared length of the axis' row of back_.
    dropped_share_ : float
        What a near query has of the dropped part.
    factor_limits_ : ndarray of float64, shape (2, 2)
        Limits of f_add and f_rescale at uint8.
    factor_pairs_ : ndarray of float32, shape (n_pairs, 2)
    pair_slope_, pair_weight_ : float
        `FactorPairs`, with "pair" only.

    References
    ----------
    Li et al., "SAQ: Pushing the Limits of Vector Quantization through Code Adjustment and Dimension
    Segmentation", 2025; Marcellin & Fischer, "Trellis Coded Quantization of Memoryless and Gauss-Markov
    Sources", IEEE Trans. Communications 1990.
    """

    codec: ClassVar[str] = "saq"
    idea: ClassVar[str] = "bits where neighbours differ, along a trellis in the principal axes"

    centroids_: Float32Array
    forward_: Float32Array
    back_: Float32Array
    axis_bits_: npt.NDArray[np.uint8]
    axis_deviation_: Float32Array
    axis_share_: Float32Array
    axis_length_: Float32Array
    dropped_share_: float
    code_nbytes_: int
    factors_: str
    factor_limits_: Float64Array
    factor_pairs_: Float32Array
    pair_slope_: float
    pair_weight_: float

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
        """Return what fills `nbytes`, with one list and with 256, and each form of factors that can win."""
        out: list[dict[str, Any]] = []
        for centroids, list_id in ((1, 0), (256, 1)):
            for factors, stored in ((PAIR, 1), ("uint8", 2), ("bfloat16", 4)):
                bits = 8 * (nbytes - list_id - stored) / dim
                if bits >= 0.5 and centroids * 16 <= max(n, 16):
                    out.append({"bits": min(bits, 8.0), "centroids": centroids, "factors": factors})
        return out

    @classmethod
    def needs_clustering(cls, settings: Mapping[str, Any]) -> bool:
        """Pairs of factors are k-means, too."""
        return super().needs_clustering(settings) or settings.get("factors") == PAIR

    # ---- train ----

    def _fit(self, X: Float32Array) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, (int, float)):
            raise InputTypeError(f"bits: expected a number, not {type(self.bits).__name__}")
        if not 0.5 <= self.bits <= 8:
            raise ValueError(f"bits: expected 0.5 to 8, not {self.bits}")
        n_lists = check_int(self.centroids, name="centroids", low=1, high=4096)
        segment = check_int(self.segment, name="segment", low=1)
        seed = check_random_state(self.random_state)
        self.factors_ = check_form(self.factors, (*FORMS, PAIR))
        self.code_nbytes_ = max(1, int(self.dim_ * self.bits / 8 + 0.5))
        self.centroids_ = kmeans(X, n_lists, seed)
        rng = np.random.default_rng(seed)
        sample = X if len(X) <= _SAMPLE else X[np.sort(rng.choice(len(X), _SAMPLE, replace=False))]
        pairs = near_pairs(X, self.metric_, rng)
        pair_centroids = self.centroids_[assign(pairs.rows, self.centroids_)]
        residuals = sample - self.centroids_[assign(sample, self.centroids_)]
        axes = fit_axes(residuals, pairs, pair_centroids, 8 * self.code_nbytes_, segment, rng)
        self.forward_, self.back_ = axes.forward, axes.back
        self.axis_bits_, self.axis_deviation_ = axes.bits, axes.deviation
        self._fit_expectation(expectation(pairs, pair_centroids, axes))
        self.factor_limits_ = np.ones((2, 2))
        if self.factors_ == PAIR:
            self._fit_pairs(pairs, sample)
        else:
            self._fit_factors(sample)

    def _fit_expectation(self, known: Expectation) -> None:
        # Queries of an inner-product set need not be like its rows: nothing but their mean is assumed.
        used = 0.0 if self.metric_ == "ip" else 1.0
        self.axis_share_, self.axis_length_ = known.share * np.float32(used), known.lengths
        self.dropped_share_ = known.dropped * used

    def _fit_factors(self, sample: Float32Array) -> None:
        self._restore()
        f_add, f_rescale = self._encoder.encode(np.ascontiguousarray(sample), _ROUNDS)[2:]
        add = Factor.fit(f_add, self.factors_, "linear")
        rescale = Factor.fit(f_rescale, self.factors_, "log")
        self.factor_limits_ = np.array([[add.low, add.high], [rescale.low, rescale.high]])

    def _fit_pairs(self, pairs: Pairs, sample: Float32Array) -> None:
        """Set the pairs, their slope and their weight from products of near rows with levels."""
        self.factor_pairs_ = np.zeros((1, 2), dtype=np.float32)
        self.pair_slope_, self.pair_weight_ = 0.0, 1.0
        self._restore()
        packed, lists, _, f_rescale = self._encoder.encode(pairs.rows, _ROUNDS)
        levels, origins = self._trellis.decode(packed), self.centroids_[lists]
        axes = (pairs.rows - origins) @ self.forward_
        known = np.einsum("ij,ij->i", axes * self.axis_share_, levels)
        back = levels @ self.back_
        times = 2.0 if self.metric_ == "l2" else 1.0
        if self.metric_ == "l2":
            slopes = 2 * (known - f_rescale * np.einsum("ij,ij->i", levels * self.axis_length_, levels))
        else:
            slopes = known + np.einsum("ij,ij->i", back, origins)
        squares = [
            np.square(np.einsum("ij,ij->i", q - origins[near], back[near]) - known[near]).mean()
            for q, near in zip(pairs.rows, pairs.near[:_PAIR_QUERIES], strict=False)
            if len(near)
        ]
        self.pair_slope_ = float(slopes.mean(dtype=np.float64))
        weight = times * float(np.sqrt(np.mean(squares, dtype=np.float64))) if squares else 0.0
        self.pair_weight_ = weight or abs(self.pair_slope_) or 1.0
        f_add, f_rescale = self._encoder.encode(sample, _ROUNDS)[2:]
        settings = self.pair_slope_, self.pair_weight_, check_random_state(self.random_state)
        self.factor_pairs_ = FactorPairs.fit(f_add, f_rescale, *settings).values

    def _restore(self) -> None:
        limits = self.factor_limits_.tolist()
        self._f_add = Factor(self.factors_, "linear", *limits[0])
        self._f_rescale = Factor(self.factors_, "log", *limits[1])
        if self.factors_ == PAIR:
            self._pairs = FactorPairs(self.factor_pairs_, self.pair_slope_, self.pair_weight_)
        self._trellis = Trellis(self.axis_bits_, self.axis_deviation_, self.code_nbytes_)
        self._encoder = SAQEncoder(
            self.metric_,
            self.centroids_,
            self.forward_,
            self._trellis,
            self.axis_share_,
            self.axis_length_,
            self.dropped_share_,
            np.ascontiguousarray(self.centroids_ @ self.back_.T),
        )

    # ---- store ----

    @property
    def code_nbytes(self) -> int:
        """Bytes of one packed code: round(dim * bits / 8), at least 1."""
        return self.code_nbytes_

    @property
    def factors_dtype(self) -> np.dtype[np.void]:
        """``f_add`` and ``f_rescale``, or ``pair``, and with several centroids ``list``."""
        fields: list[tuple[str, Any]] = [("pair", "u1")]
        if self.factors_ != PAIR:
            fields = [("f_add", self._f_add.dtype), ("f_rescale", self._f_rescale.dtype)]
        if len(self.centroids_) > 1:
            fields.append(("list", "u1" if len(self.centroids_) <= 256 else "<u2"))
        return np.dtype(fields)

    def _encode(self, X: Float32Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.void]]:
        packed, lists, f_add, f_rescale = self._encoder.encode(X, _ROUNDS)
        finite = np.isfinite(f_add) & np.isfinite(f_rescale)
        if not finite.all():
            raise ValueError(f"X: row {np.argmin(finite)}: vector too large: its factors overflow float32")
        factors = np.empty(len(X), dtype=self.factors_dtype)
        if self.factors_ == PAIR:
            factors["pair"] = self._pairs.pack(f_add, f_rescale)
        else:
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

    def factors_of(self, codes: Codes) -> tuple[Float32Array, Float32Array]:
        """Return f_add and f_rescale of codes, shape (n,) each."""
        stored = codes.factors
        if self.factors_ == PAIR:
            return self._pairs.unpack(stored["pair"])
        return self._f_add.unpack(stored["f_add"]), self._f_rescale.unpack(stored["f_rescale"])

    def _levels(self, codes: Codes) -> Float32Array:
        """Return decoded residuals in the kept axes, shape (n, n_axes)."""
        return self._trellis.decode(codes.packed) * self.factors_of(codes)[1][:, np.newaxis]

    def _estimate(self, codes: Codes, Q: Float32Array) -> Float32Array:
        # l2 does not depend on the origin, and squares lose fewest digits about the mean
        origin = self.centroids_.mean(axis=0) if self.metric_ == "l2" else np.zeros(self.dim_, np.float32)
        queries, centroids = Q - origin, self.centroids_ - origin
        products = queries @ centroids.T
        query_axes = queries @ self.back_.T
        centroid_axes = centroids @ self.back_.T
        lists, f_add = self._lists(codes), self.factors_of(codes)[0]
        s = shares(Q, self.centroids_) if self.metric_ == "ip" else None
        out = np.empty((len(Q), len(codes)), dtype=np.float32)
        for start in range(0, len(codes), _DECODE_ROWS):
            rows = slice(start, start + _DECODE_ROWS)
            own, levels = lists[rows], self._levels(codes[rows])
            block = -(query_axes @ levels.T)
            block -= products[:, own]
            if self.metric_ == "l2":  # |q - c - decoded o|^2, q and c seen from the origin
                block += np.einsum("ij,ij->i", queries, queries)[:, np.newaxis] / 2
                block += (np.einsum("ij,ij->i", centroids, centroids) / 2)[own]
                block += np.einsum("ij,ij->i", centroid_axes[own] + levels * (self.axis_length_ / 2), levels)
                block *= 2
            elif self.metric_ == "cosine":
                block += 1
            out[:, rows] = block + (f_add[rows] if s is None else s[:, own] * f_add[rows])
        return out

    def _decode(self, codes: Codes) -> Float32Array:
        return np.asarray(self._levels(codes) @ self.back_ + self.centroids_[self._lists(codes)])
