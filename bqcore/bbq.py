"""Elastic's BBQ layout: signs about the centroid, two corrective factors, queries of 4 bits."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from bqcore import _kernels
from bqcore._validation import Float32Array, check_random_state, unit_or_zero_rows
from bqcore.centroids import kmeans
from bqcore.codec import Codec
from bqcore.codes import Codes
from bqcore.projection import less_centroid

_QUERY_LEVELS = 15


class BBQ(Codec):
    """One bit per dimension and 8 bytes; queries are rounded to 16 levels between their extremes.

    The codes are those of `RaBitQ` at 1 bit with one centroid; what differs is the query. Elastic leaves the
    axes as they are.

    Parameters
    ----------
    metric : {"l2", "ip", "cosine"}, default "l2"
    rotation : {"none", "hadamard"}, default "none"
    random_state : int, default 0
        Seed of the rotation.

    Attributes
    ----------
    centroid_ : ndarray of float32, shape (dim,)
        Mean of the training vectors.
    random_state_ : int
    rotation_ : str

    References
    ----------
    Trent, "Better Binary Quantization (BBQ) in Lucene and Elasticsearch", Elasticsearch Labs, 2024; Gao &
    Long 2024, section 3.3 (the query's bits).
    """

    codec: ClassVar[str] = "bbq"
    idea: ClassVar[str] = "one bit per coordinate and a 4-bit query"
    gets_unit_rows: ClassVar[bool] = False  # the kernels scale rows

    centroid_: Float32Array
    random_state_: int
    rotation_: str

    def __init__(self, metric: str = "l2", rotation: str = "none", random_state: int = 0) -> None:
        self.metric = metric
        self.rotation = rotation
        self.random_state = random_state

    def _fit(self, X: Float32Array) -> None:
        if self.rotation not in _kernels.ROTATIONS:
            allowed = ", ".join(_kernels.ROTATIONS)
            raise ValueError(f"rotation: expected one of {allowed}, not {self.rotation!r}")
        self.random_state_ = check_random_state(self.random_state)
        self.rotation_ = self.rotation
        self.centroid_ = kmeans(X, 1, self.random_state_)[0]

    def _restore(self) -> None:
        self._model = _kernels.Model(
            bits=1,
            metric=self.metric_,
            rotation=self.rotation_,
            seed=self.random_state_,
            centroid=self.centroid_,
            n_trained=self.n_trained_,
        )

    @property
    def code_nbytes(self) -> int:
        """Bytes of one packed code: ceil(dim / 8)."""
        return self._model.code_nbytes

    @property
    def factors_dtype(self) -> np.dtype[np.void]:
        """``f_add`` and ``f_rescale``, float32 in the unit of the metric."""
        return _kernels.FACTORS_DTYPE

    def _encode(self, X: Float32Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.void]]:
        return self._model.encode(X)

    def _estimate(self, codes: Codes, Q: Float32Array) -> Float32Array:
        out = np.empty((len(Q), len(codes)), dtype=np.float32)
        if self.metric_ == "cosine":
            Q = unit_or_zero_rows(Q)
        with np.errstate(over="ignore"):
            rest, s = less_centroid(Q, self.centroid_, self.metric_)
            rotated = self._model.rotate(rest)
        z = np.zeros(-(-self.dim_ // 64) * 64, dtype=np.int8)  # whole kernel blocks
        z[: self.dim_] = 1
        n_set = self._model.dot(codes.packed, z).astype(np.float32)
        f_add, f_rescale = codes.factors["f_add"], codes.factors["f_rescale"]
        for i, q in enumerate(rotated.astype(np.float64)):
            if self.metric_ == "ip":
                g_add = -(Q[i].astype(np.float64) @ self.centroid_)
            else:
                g_add = (q @ q) / (2 if self.metric_ == "cosine" else 1)
            if not max(abs(g_add), q @ q) < np.finfo(np.float32).max:
                raise ValueError(f"Q: row {i}: vector too large: its distance overflows float32")
            low, step, z[: self.dim_] = quantize_query(q)
            # <k, q> with levels k = bit - 1/2 and q ~ low + step z
            sum_q = self.dim_ * low + step * float(z[: self.dim_].sum(dtype=np.int64))
            product = np.float32(low) * n_set + np.float32(step) * self._model.dot(codes.packed, z)
            out[i] = s[i] * f_add + np.float32(g_add) + f_rescale * (product - np.float32(sum_q / 2))
        return out

    def _decode(self, codes: Codes) -> Float32Array:
        signs = (
            np.unpackbits(codes.packed, axis=1, count=self.dim_, bitorder="little").astype(np.float32) - 0.5
        )
        scale = codes.factors["f_rescale"] * np.float32(-0.5 if self.metric_ == "l2" else -1)
        return self._model.unrotate(signs * scale[:, np.newaxis]) + self.centroid_


def quantize_query(q: npt.NDArray[np.float64]) -> tuple[float, float, npt.NDArray[np.int8]]:
    """Round a rotated query residual to 4 bits: q ~ low + step z, z in 0 to 15.

    Returns
    -------
    low, step : float
        The smallest coordinate, and a 15th of the range.
    z : ndarray of int8, shape (dim,)
    """
    low = float(q.min())
    step = (float(q.max()) - low) / _QUERY_LEVELS
    if step == 0:
        return low, 0.0, np.zeros(len(q), dtype=np.int8)
    return low, step, np.rint((q - low) / step).astype(np.int8)
