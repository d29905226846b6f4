"""STORE: both factors of a vector in one byte, the number of one of 256 pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bqcore._codebook_kernels import pq_assign
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
        # the last pair fills the codebook up; of equal ones the first is found
        pairs = self.values[np.minimum(np.arange(1, _PAIRS + 1), len(self.values) - 1)]
        codebook = _points(pairs[:, 0], pairs[:, 1], self.slope, self.weight)
        unit = _unit(codebook)
        rows = _points(f_add, f_rescale, self.slope, self.weight) / unit
        targets = np.clip(rows, -_FAR, _FAR).astype(np.float32)
        found = pq_assign(
            np.ascontiguousarray((codebook / unit).T, dtype=np.float32),
            np.array([0, 2], dtype=np.uint32),
            targets,
            np.zeros_like(targets),
            np.zeros(len(rows), dtype=np.float32),
            max_sweeps=0,
        )
        return np.where(f_rescale > 0, found[:, 0] + 1, 0).astype(np.uint8)

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
