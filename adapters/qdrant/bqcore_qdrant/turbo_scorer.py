"""TurboQuant as Qdrant has it: rotated, shifted and scaled coordinates, Lloyd-Max levels, norms restored."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bqcore._validation import Float32Array, row_blocks
from bqcore.turbo import lloyd_max
from bqcore_qdrant.dense import DenseRows
from bqcore_qdrant.turbo_rotation import server_rotation

# Rows that quantiles are taken from, by bits.
_QUANTILE_ROWS = {1.0: 2_048, 1.5: 2_048, 2.0: 4_096, 4.0: 8_192, 8.0: 8_192}
# Quantiles closer than this leave a coordinate's scale alone.
_FLAT = 1e-3
_LARGEST_QUANTILE = 0.99999
# At 8 bits and 16 levels are so dense that where they lie does not show: even steps over these deviations.
_RANGE, _DENSE = 4.5, 256


def turbo_levels(bits: float) -> Float32Array:
    """Return the levels of codes, ascending: 2 at 1 and 1.5 bits."""
    if bits >= 8:
        return np.linspace(-_RANGE, _RANGE, 1 << int(bits), dtype=np.float32)
    return lloyd_max(int(bits)).astype(np.float32)


def _nearest_levels(y: Float32Array, levels: Float32Array) -> Float32Array:
    edges = (levels[1:] + levels[:-1]) / 2
    if len(levels) == 2:
        return np.asarray(np.where(y > edges[0], levels[1], levels[0]))
    if len(levels) >= _DENSE:
        step, last = np.float32(2 * _RANGE / (len(levels) - 1)), len(levels) - 1
        return np.asarray(levels[np.clip(np.rint((y - levels[0]) / step), 0, last).astype(np.uint16)])
    place = np.zeros(y.shape, dtype=np.uint8)
    for edge in edges:  # at most 15: far faster than a search per coordinate
        place += y > edge
    return levels[place]


def _lengths(y: Float32Array) -> Float32Array:
    """Return |y|, shape (n, 1)."""
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", y, y))[:, np.newaxis])


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Rows as turbo codes see them: directions under the server's rotation, and lengths.

    Parameters
    ----------
    y : ndarray of float32, shape (n, dim)
        sqrt(dim) R x / |x|, x padded with zeros to `dim`.
    lengths : ndarray of float32, shape (n, 1)
    """

    y: Float32Array
    lengths: Float32Array

    @classmethod
    def of(cls, X: Float32Array, dim: int) -> Coordinates:
        """Rotate rows, shape (n, at most dim)."""
        y = np.empty((len(X), dim), dtype=np.float32)
        lengths = np.empty((len(X), 1), dtype=np.float32)
        # Padding coordinates are zero: their rows of the matrix play no part.
        rotation = server_rotation(dim)[: X.shape[1]]
        for rows in row_blocks(y):
            np.matmul(X[rows], rotation, out=y[rows])
            squares = np.einsum("ij,ij->i", y[rows], y[rows], dtype=np.float64)
            lengths[rows, 0] = np.sqrt(squares)
            y[rows] *= np.float32(math.sqrt(dim)) / np.where(lengths[rows] > 0, lengths[rows], np.float32(1))
        return cls(y, lengths)

    def stored(self, bits: int) -> Float32Array:
        """Return what storage of a turbo datatype gives back, shape (n, dim): no shift, no scale."""
        levels, back = turbo_levels(bits), server_rotation(self.y.shape[1]).T
        out = np.empty_like(self.y)
        for rows in row_blocks(out):
            v = _nearest_levels(self.y[rows], levels)
            v *= self.lengths[rows] / _lengths(v)
            np.matmul(v, back, out=out[rows])
        return out


class TurboRows:
    """What codes stand for: v |x| / |v|, v being the levels with shift and scale undone.

    The server's score under Euclid, |q|^2 + |x|^2 - 2 <q, v> |x| / |v|, is the squared distance to it.

    Parameters
    ----------
    rotated : Coordinates
    bits : {1, 1.5, 2, 4, 8}
    euclid : bool
    random_state : int
        Seed of the rows that quantiles are taken from.
    """

    def __init__(self, rotated: Coordinates, bits: float, euclid: bool, random_state: int) -> None:
        y = rotated.y
        levels = turbo_levels(bits)
        rng = np.random.default_rng(random_state)
        n = min(len(y), _QUANTILE_ROWS[float(bits)])
        sample = y[np.sort(rng.choice(len(y), n, replace=False))]
        outer = float(levels[-1])
        tail = (1 - min(math.erf(outer / math.sqrt(2)), _LARGEST_QUANTILE)) / 2
        low, high = np.quantile(sample, [tail, 1 - tail], axis=0)
        shift = np.asarray(-(low + high) / 2, dtype=np.float32)
        width = high - low
        scale = np.where(width > _FLAT, 2 * outer / np.maximum(width, _FLAT), 1).astype(np.float32)
        out = np.empty_like(y)
        for rows in row_blocks(out):
            v = _nearest_levels((y[rows] + shift) * scale, levels)
            v /= scale
            v -= shift
            v *= rotated.lengths[rows] / _lengths(v)
            out[rows] = v
        self._rows = DenseRows(out, euclid)

    def scores(self, Q: Float32Array) -> Float32Array:
        """Return scores up to a constant of the query, shape (n_queries, n)."""
        return self._rows.scores(Q @ server_rotation(self._rows.rows.shape[1])[: Q.shape[1]])
