"""One bit per dimension, above the median or not, compared by Hamming distance or shared information."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bqcore import _kernels
from bqcore._validation import Float32Array, Float64Array, check_random_state, row_blocks
from bqcore.codec import Codec
from bqcore.codes import Codes
from bqcore.projection import less_centroid
from bqcore.residual_codec import SeededRotation, UInt8Array

SCORES = ("hamming", "its")


class MedianBinary(Codec):
    """Bits x_i > median_i, and an exhaustive comparison of the query's bits with every code's.

    The median makes every bit as likely 0 as 1 over the training vectors: no bit is wasted on what all
    vectors share. Nothing is stored beside the code.

    What `estimate` returns is not a distance in the unit of the metric, though it orders vectors as one does,
    the nearest first; the metric decides only whether rows are scaled to unit length (cosine) before their
    bits are taken, and the threshold of queries. In particular a vector's length is lost, which matters under
    ip. There queries are compared with s median, s = <q, median> / |median|^2: their length does not matter.

    - ``hamming``: bits that differ, 0 to dim.
    - ``its`` (ITS-style: rebuilt from the published form, not the original): 1 - I / H, 0 to 2. Of the
      N = dim pairs of bits (query's, code's) a are 11, b are 10, c are 01 and d are 00, and

          I = a lg(aN / ((a + b)(a + c))) + b lg(bN / ((a + b)(b + d)))
            + c lg(cN / ((a + c)(c + d))) + d lg(dN / ((b + d)(c + d)))

      is N times their mutual information, taken negative when bits tend to be opposite (ad < bc), as
      otherwise a vector and its opposite would score the same. H is N times the entropy of the query's bits;
      a query of equal bits has none, and 2 Hamming / N takes the place of 1 - I / H. Among codes of equally
      many ones the order is that of Hamming.

    Integers decide, so results are the same on every instruction set, in every thread and in every run.

    Parameters
    ----------
    score : {"hamming", "its"}, default "hamming"
    metric : {"l2", "ip", "cosine"}, default "l2"
    rotation : {"none", "hadamard"}, default "none"
    random_state : int, default 0

    Attributes
    ----------
    medians_ : ndarray of float32, shape (dim,)
        Of the rotated training vectors.
    means_ : ndarray of float32, shape (2, dim)
        Mean of what lies below and above: what `decode` returns.
    score_, rotation_ : str
    random_state_ : int

    References
    ----------
    Weiss, Torralba & Fergus, "Spectral Hashing", NIPS 2008, section 2 (balanced bits). The score follows the
    public description of the Moorcheh engine's maximally informative binarization and information-theoretic
    score, which is proprietary.
    """

    codec: ClassVar[str] = "median_binary"
    idea: ClassVar[str] = "one bit per coordinate, set above its median"

    medians_: Float32Array
    means_: Float32Array
    score_: str
    rotation_: str
    random_state_: int

    def __init__(
        self, score: str = "hamming", metric: str = "l2", rotation: str = "none", random_state: int = 0
    ) -> None:
        self.score = score
        self.metric = metric
        self.rotation = rotation
        self.random_state = random_state

    @classmethod
    def settings(cls, dim: int, n: int, nbytes: int) -> list[dict[str, Any]]:
        """Return both rotations where budgets are too small for corrective factors."""
        size = -(-dim // 8)
        return [{"rotation": r} for r in _kernels.ROTATIONS] if size <= nbytes < size + 8 else []

    def _fit(self, X: Float32Array) -> None:
        if self.score not in SCORES:
            raise ValueError(f"score: expected one of {', '.join(SCORES)}, not {self.score!r}")
        self.random_state_ = check_random_state(self.random_state)
        Y = SeededRotation(self.rotation, self.dim_, self.random_state_).apply(X)
        self.score_, self.rotation_ = self.score, self.rotation
        self.medians_ = np.median(Y, axis=0).astype(np.float32)
        above = self.medians_ < Y
        count = above.sum(axis=0)
        totals = [np.where(side, Y, 0).sum(axis=0, dtype=np.float64) for side in (~above, above)]
        medians = self.medians_.astype(np.float64)
        self.means_ = np.array(
            [
                np.divide(total, rows, out=medians.copy(), where=rows > 0)
                for total, rows in zip(totals, (len(Y) - count, count), strict=True)
            ],
            dtype=np.float32,
        )

    def _restore(self) -> None:
        self._rotation = SeededRotation(self.rotation_, self.dim_, self.random_state_)
        zero = np.zeros(self.dim_, dtype=np.float32)
        self._model = _kernels.Model(bits=1, metric="l2", rotation="none", seed=0, centroid=zero, n_trained=1)
        counts = np.arange(self.dim_ + 1, dtype=np.float64)
        self._x_lg_x = counts * np.log2(np.maximum(counts, 1))

    @property
    def code_nbytes(self) -> int:
        """Bytes of one packed code: ceil(dim / 8)."""
        return self._model.code_nbytes

    @property
    def factors_dtype(self) -> np.dtype[np.void]:
        """No fields: nothing is stored beside a code."""
        return np.dtype([])

    def _encode(self, X: Float32Array) -> tuple[UInt8Array, npt.NDArray[np.void]]:
        packed = np.empty((len(X), self.code_nbytes), dtype=np.uint8)
        for rows in row_blocks(X):
            above = self._rotation.apply(X[rows]) > self.medians_
            packed[rows] = np.packbits(above, axis=1, bitorder="little")
        return packed, np.empty(len(X), dtype=self.factors_dtype)

    def _estimate(self, codes: Codes, Q: Float32Array) -> Float32Array:
        packed = self._query_bits(Q)
        out = np.empty((len(Q), len(codes)), dtype=np.float32)
        ones = _ones(codes.packed) if self.score_ == "its" else None
        for row, query in enumerate(packed):
            hamming = (self.dim_ - self._model.sym(codes.packed, query)) // 2
            out[row] = hamming if ones is None else self._its(hamming, ones, int(_ones(query[np.newaxis])[0]))
        return out

    def _query_bits(self, Q: Float32Array) -> UInt8Array:
        """Return the bits of queries: under ip above s times the median, which does not depend on |q|."""
        if self.metric_ != "ip":
            return self._encode(Q)[0]
        rest, _ = less_centroid(self._rotation.apply(Q), self.medians_, self.metric_)
        return np.packbits(rest > 0, axis=1, bitorder="little")

    def _its(self, hamming: npt.NDArray[np.int32], ones: npt.NDArray[np.int64], k: int) -> Float64Array:
        """1 - I / H of codes with `ones` bits at `hamming` from a query with k bits."""
        t, n = self._x_lg_x, self.dim_
        entropy = t[n] - t[k] - t[n - k]
        if entropy == 0:
            return 2 * hamming / n
        a = (k + ones - hamming) // 2
        b, c = k - a, ones - a
        d = n - a - b - c
        information = t[a] + t[b] + t[c] + t[d] - t[k] - t[n - k] - t[ones] - t[n - ones] + t[n]
        return np.asarray(1 - np.sign(a * d - b * c) * information / entropy, dtype=np.float64)

    def _decode(self, codes: Codes) -> Float32Array:
        bits = np.unpackbits(codes.packed, axis=1, count=self.dim_, bitorder="little").view(bool)
        return self._rotation.undo(np.where(bits, self.means_[1], self.means_[0]))


def _ones(packed: UInt8Array) -> npt.NDArray[np.int64]:
    """Count the bits of each code."""
    return np.asarray(np.unpackbits(packed, axis=1).sum(axis=1), dtype=np.int64)
