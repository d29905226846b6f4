"""STORE: both factors of a vector in one byte, the number of one of 256 pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bqcore._ffi import _check, _pointer
from bqcore._native import lib
from bqcore._validation import Float32Array, Float64Array
from bqcore.centroids import kmeans

#: Name of the form.
PAIR = "pair"
_PAIRS = 256
# Lengths of the codebook beyond which a point is as good as there.
_FAR = 1e6


@dataclass(frozen=True)
class FactorPairs:
    """Pairs (f_add, f_rescale), and what an error in either costs.

    An estimate errs by d f_add - d f_rescale v, v the product of a query with the levels. v has a part known
    when a row is encoded, which f_add removes at every f_rescale: f_add changes by slope d f_rescale. Of the
    rest, of mean 0, the deviation is `weight`. So the squared error is that of the two coordinates
    (f_add - slope f_rescale, weight f_rescale), in which k-means finds the pairs.

    Attributes
    ----------
    values : ndarray of float32, shape (n, 2)
        At most 256 pairs; the first is (0, 0), of rows on their centroid.
    slope, weight : float
    """

    values: Float32Array
    slope: float
    weight: float

    @classmethod
    def fit(
        cls, f_add: Float32Array, f_rescale: Float32Array, slope: float, weight: float, random_state: int
    ) -> FactorPairs:
        """Take the pairs from the factors of training rows, shape (n,) each."""
        nothing = np.zeros((1, 2), np.float32)
        used = f_rescale > 0
        if not used.any():
            return cls(nothing, slope, weight)
        points = _points(f_add[used], f_rescale[used], slope, weight)
        unit = _unit(points)
        found = kmeans((points / unit).astype(np.float32), _PAIRS - 1, random_state) * unit
        scales = found[:, 1] / weight
        pairs = np.stack([found[:, 0] + slope * scales, scales], axis=1)
        return cls(np.vstack([nothing, pairs]).astype(np.float32), slope, weight)

    def pack(self, f_add: Float32Array, f_rescale: Float32Array) -> npt.NDArray[np.uint8]:
        """Return the number of the nearest pair, shape (n,); 0 where f_rescale is 0."""
        if len(self.values) == 1:
            return np.zeros(len(f_add), dtype=np.uint8)
        codebook = _points(self.values[1:, 0], self.values[1:, 1], self.slope, self.weight)
        unit = _unit(codebook)
        rows = np.clip(_points(f_add, f_rescale, self.slope, self.weight) / unit, -_FAR, _FAR)
        x, y = np.ascontiguousarray(rows.T, dtype=np.float32)
        found = np.empty(len(rows), dtype=np.uint8)
        status = lib.bqk_nearest_pairs(
            _pointer("float", x),
            _pointer("float", y),
            len(rows),
            _pointer("float", np.ascontiguousarray(codebook / unit, dtype=np.float32)),
            len(codebook),
            _pointer("uint8_t", found, writable=True),
        )
        _check(status)
        return np.where(f_rescale > 0, found + np.uint8(1), np.uint8(0))

    def unpack(self, stored: npt.NDArray[np.uint8]) -> tuple[Float32Array, Float32Array]:
        """Return f_add and f_rescale of stored numbers, shape (n,) each."""
        return self.values[stored, 0], self.values[stored, 1]


def _points(f_add: Float32Array, f_rescale: Float32Array, slope: float, weight: float) -> Float64Array:
    """Return the coordinates of pairs in which distances are errors, shape (n, 2)."""
    scales = f_rescale.astype(np.float64)
    return np.stack([f_add - slope * scales, weight * scales], axis=1)


def _unit(points: Float64Array) -> float:
    """Return a unit of length in which squares of points are in float32's range, whatever the data's is."""
    return float(np.abs(points).max(initial=0.0)) or 1.0
