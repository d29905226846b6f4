"""Base of the codecs that stand for a residual by a vector that is linear in the query's eyes."""

from __future__ import annotations

import abc

import numpy as np
import numpy.typing as npt

from bqcore import _kernels
from bqcore._validation import Float32Array, Float64Array, check_int, row_blocks
from bqcore.centroids import assign, kmeans
from bqcore.codec import Codec
from bqcore.codes import Codes
from bqcore.factors import check_form
from bqcore.projection import less_centroid, shares
from bqcore.stored_factors import LIMIT_ROWS, StoredFactors

#: What a list id of two bytes can name.
MAX_CENTROIDS = 1 << 16

UInt8Array = npt.NDArray[np.uint8]


class ResidualCodec(Codec):
    """Centroids, corrective factors and metrics around a code for residuals.

    A subclass turns a residual o = x - c into a packed code, which stands for a vector v, and a factor f, so
    that <o, q> ~ f <v, T q> for a linear map T of its own. This class turns that into distances, with q - m
    in place of q (m: mean of the centroids), so that one product serves all lists: per code

        l2:      f_add = |o|^2 + 2 f <v, T(c - m)>,   f_rescale = -2 f
        cosine:  half of it, on unit rows
        ip:      f_add = -<o, c> + f <v, T(c - m)>,   f_rescale = -f

    and per query and list |q - c|^2, half of it, or -<q, c>. Only <o, q - c> is estimated; under ip
    <o, q - s c> with s = <q, c> / |c|^2, where f_add counts s times (`projection.py`).

    Attributes
    ----------
    centroids_ : ndarray of float32, shape (n_lists, dim)
        The mean, k-means, or the origin (``centroids=0``).
    factors_ : str
    factor_limits_ : ndarray of float64, shape (2, 2)
        Least and largest f_add and -f_rescale that the form "uint8" can store.
    """

    centroids: int
    factors: str
    random_state: int
    centroids_: Float32Array
    factors_: str
    factor_limits_: Float64Array

    @abc.abstractmethod
    def _train(self, residuals: Float32Array) -> None:
        """Set the fitted state from residuals, shape (n, dim)."""

    @abc.abstractmethod
    def _quantize(self, residuals: Float32Array) -> tuple[UInt8Array, Float64Array]:
        """Return packed codes, shape (n, code_nbytes), and f, shape (n,); f = 0 for what has no direction."""

    @abc.abstractmethod
    def _values(self, packed: UInt8Array) -> Float32Array:
        """Return v, shape (n, width)."""

    @abc.abstractmethod
    def _fold(self, Q: Float32Array) -> Float32Array:
        """Return T q, shape (n, width)."""

    @abc.abstractmethod
    def _unfold(self, values: Float32Array) -> Float32Array:
        """Return T' v, shape (n, dim): what the code stands for."""

    def _query(self, Q: Float32Array) -> Float32Array:
        """Return what codes are multiplied by: T q, or what a coarser query keeps of it."""
        return self._fold(Q)

    def _fit(self, X: Float32Array) -> None:
        n_centroids = check_int(self.centroids, name="centroids", low=0, high=MAX_CENTROIDS)
        if n_centroids == 0:
            self.centroids_ = np.zeros((1, self.dim_), dtype=np.float32)
        else:
            self.centroids_ = kmeans(X, n_centroids, self.random_state)
        self.factors_ = check_form(self.factors)
        self._train(X - self.centroids_[assign(X, self.centroids_)])
        self.factor_limits_ = np.ones((2, 2))
        if self.factors_ == "uint8":
            self._restore()
            rows = np.random.default_rng(self.random_state).permutation(len(X))[:LIMIT_ROWS]
            self.factor_limits_ = StoredFactors.limits(self._encode_floats(X[rows])[1])

    def _restore(self) -> None:
        self._stored = StoredFactors(self.factors_, self.factor_limits_)
        self._origin = self.centroids_.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._folded_centroids = self._fold(self.centroids_ - self._origin)
        self._folded_origin = self._fold(self._origin[np.newaxis])[0]

    @property
    def factors_dtype(self) -> np.dtype[np.void]:
        """``f_add`` and ``f_rescale`` in the metric's unit; ``list`` beside several centroids."""
        return np.dtype([*self._stored.fields(), *self._float_dtype.descr[2:]])

    @property
    def _float_dtype(self) -> np.dtype[np.void]:
        n = len(self.centroids_)
        ids = [("list", "<u1" if n <= 256 else "<u2")] if n > 1 else []
        return np.dtype([("f_add", "<f4"), ("f_rescale", "<f4"), *ids])

    def _encode(self, X: Float32Array) -> tuple[UInt8Array, npt.NDArray[np.void]]:
        packed, floats = self._encode_floats(X)
        return packed, self._stored.pack(floats, self.factors_dtype)

    def _encode_floats(self, X: Float32Array) -> tuple[UInt8Array, npt.NDArray[np.void]]:
        """Return codes, and factors before they are rounded to their form."""
        packed = np.empty((len(X), self.code_nbytes), dtype=np.uint8)
        factors = np.empty(len(X), dtype=self._float_dtype)
        lists = assign(X, self.centroids_) if len(X) else np.empty(0, dtype=np.int64)
        for rows in row_blocks(X):
            centroids = self.centroids_[lists[rows]]
            with np.errstate(over="ignore", invalid="ignore"):
                residuals = X[rows] - centroids
                packed[rows], f = self._quantize(residuals)
                folded = self._folded_centroids[lists[rows]]
                shift = f * np.einsum("ij,ij->i", self._values(packed[rows]), folded, dtype=np.float64)
                if self.metric_ == "ip":
                    f_add = shift - np.einsum("ij,ij->i", residuals, centroids, dtype=np.float64)
                else:
                    f_add = np.einsum("ij,ij->i", residuals, residuals, dtype=np.float64) + 2 * shift
                if self.metric_ == "cosine":
                    f_add /= 2
                factors["f_add"][rows] = f_add
                factors["f_rescale"][rows] = f * (-2 if self.metric_ == "l2" else -1)
            finite = np.isfinite(factors["f_add"][rows]) & np.isfinite(factors["f_rescale"][rows])
            if not finite.all():
                row = rows.start + int(np.argmin(finite))
                raise ValueError(f"X: row {row}: vector too large: its factors overflow float32")
        if len(self.centroids_) > 1:
            factors["list"] = lists
        return packed, factors

    def _estimate(self, codes: Codes, Q: Float32Array) -> Float32Array:
        several = len(self.centroids_) > 1
        rest, s = less_centroid(Q, self._origin, self.metric_)
        queries, offsets = self._query(rest), self._query_terms(Q)
        own_shares = shares(Q, self.centroids_) if several and self.metric_ == "ip" else None
        out = np.empty((len(Q), len(codes)), dtype=np.float32)
        step = max(1, (1 << 22) // queries.shape[1])
        for start in range(0, len(codes), step):
            rows = slice(start, min(start + step, len(codes)))
            factors = self._stored.unpack(codes.factors[rows], self._float_dtype)
            values = self._values(codes.packed[rows])
            part = np.matmul(queries, values.T, out=out[:, rows])
            part *= factors["f_rescale"]
            if own_shares is None:
                part += s[:, np.newaxis] * factors["f_add"]
            else:  # f_add asks for q - s m with the s of the list
                own = own_shares[:, factors["list"]]
                part += own * factors["f_add"]
                part += (s[:, np.newaxis] - own) * (factors["f_rescale"] * (values @ self._folded_origin))
            part += offsets[:, factors["list"]] if several else offsets
        return out

    def _query_terms(self, Q: Float32Array) -> Float32Array:
        """Return what a query adds to the distance of each list, shape (n_queries, n_lists)."""
        if self.metric_ == "ip":
            return np.asarray(-(Q @ self.centroids_.T), dtype=np.float32)
        q, c = Q - self._origin, self.centroids_ - self._origin
        terms = np.einsum("ij,ij->i", q, q)[:, np.newaxis] - 2 * (q @ c.T) + np.einsum("ij,ij->i", c, c)
        return np.asarray(terms / 2 if self.metric_ == "cosine" else terms, dtype=np.float32)

    def _decode(self, codes: Codes) -> Float32Array:
        floats = self._stored.unpack(codes.factors, self._float_dtype)
        f = floats["f_rescale"] * np.float32(-0.5 if self.metric_ == "l2" else -1)
        lists = codes.factors["list"] if len(self.centroids_) > 1 else np.zeros(len(codes), dtype=np.intp)
        out: Float32Array = self.centroids_[lists]
        for rows in row_blocks(out):
            out[rows] += self._unfold(self._values(codes.packed[rows]) * f[rows, np.newaxis])
        return out


class SeededRotation:
    """The kernels' seeded rotation, or none.

    Parameters
    ----------
    rotation : {"hadamard", "none"}
    dim : int
    random_state : int

    Raises
    ------
    ValueError
        If there is no rotation of that name.
    """

    def __init__(self, rotation: str, dim: int, random_state: int) -> None:
        if rotation not in _kernels.ROTATIONS:
            raise ValueError(f"rotation: expected one of {', '.join(_kernels.ROTATIONS)}, not {rotation!r}")
        zero = np.zeros(dim, dtype=np.float32)
        self._model = _kernels.Model(
            bits=1, metric="l2", rotation=rotation, seed=random_state, centroid=zero, n_trained=1
        )

    def apply(self, X: Float32Array) -> Float32Array:
        """Return R x of each row, shape (n, dim)."""
        if self._model.signs is None:
            return X
        return self._model.rotate(np.ascontiguousarray(X, dtype=np.float32))

    def undo(self, X: Float32Array) -> Float32Array:
        """Return R' x of each row, shape (n, dim)."""
        if self._model.signs is None:
            return X
        return self._model.unrotate(np.ascontiguousarray(X, dtype=np.float32))
