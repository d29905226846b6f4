"""TurboQuant as Qdrant has it: rotated, shifted and scaled coordinates, Lloyd-Max levels, norms restored."""

from __future__ import annotations

import math

import numpy as np

from bqcore._validation import Float32Array, row_blocks
from bqcore.turbo import lloyd_max
from bqcore_qdrant.config import turbo_dim
from bqcore_qdrant.turbo_rotation import server_rotation

# Rows that quantiles are taken from, by bits.
_QUANTILE_ROWS = {1.0: 2_048, 1.5: 2_048, 2.0: 4_096, 4.0: 8_192, 8.0: 8_192}
# Quantiles closer than this leave a coordinate's scale alone.
_FLAT = 1e-3
_LARGEST_QUANTILE = 0.99999
# At 8 bits levels are so dense that where they lie does not show: even steps over this many deviations.
_RANGE_8 = 4.5


def turbo_levels(bits: float) -> Float32Array:
    """Return the levels of codes, ascending: 2 at 1 and 1.5 bits."""
    if bits == 8:
        return np.linspace(-_RANGE_8, _RANGE_8, 256, dtype=np.float32)
    return lloyd_max(int(bits)).astype(np.float32)


def _unit_coordinates(X: Float32Array, rotation: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Return sqrt(d) R x / |x|, shape (n, d), and |x|, shape (n, 1)."""
    y = X @ rotation
    lengths = np.sqrt(np.einsum("ij,ij->i", y, y, dtype=np.float64)).astype(np.float32)[:, np.newaxis]
    y *= np.float32(math.sqrt(y.shape[1])) / np.where(lengths > 0, lengths, np.float32(1))
    return y, lengths


def _nearest_levels(y: Float32Array, levels: Float32Array) -> Float32Array:
    edges = (levels[1:] + levels[:-1]) / 2
    if len(levels) == 2:
        return np.asarray(np.where(y > edges[0], levels[1], levels[0]))
    if len(levels) == 256:
        step = levels[1] - levels[0]
        return np.asarray(levels[np.clip(np.rint((y - levels[0]) / step), 0, 255).astype(np.uint8)])
    return levels[np.searchsorted(edges, y)]


class TurboRows:
    """What codes stand for: v |x| / |v|, v being the levels with shift and scale undone.

    The server's score under Euclid, |q|^2 + |x|^2 - 2 <q, v> |x| / |v|, is the squared distance to it.

    Parameters
    ----------
    X : ndarray of float32, shape (n, dim)
    bits : {1, 1.5, 2, 4, 8}
    euclid : bool
    random_state : int
        Seed of the rows that quantiles are taken from.
    """

    def __init__(self, X: Float32Array, bits: float, euclid: bool, random_state: int) -> None:
        self._dim, self._euclid = turbo_dim(X.shape[1], bits), euclid
        self._rotation = server_rotation(self._dim)
        levels = turbo_levels(bits)
        rng = np.random.default_rng(random_state)
        n = min(len(X), _QUANTILE_ROWS[float(bits)])
        sample = X[np.sort(rng.choice(len(X), n, replace=False))]
        outer = float(levels[-1])
        tail = (1 - min(math.erf(outer / math.sqrt(2)), _LARGEST_QUANTILE)) / 2
        low, high = np.quantile(
            _unit_coordinates(self._padded(sample), self._rotation)[0], [tail, 1 - tail], axis=0
        )
        shift = np.asarray(-(low + high) / 2, dtype=np.float32)
        width = high - low
        scale = np.where(width > _FLAT, 2 * outer / np.maximum(width, _FLAT), 1).astype(np.float32)
        self._rows = np.empty((len(X), self._dim), dtype=np.float32)
        for rows in row_blocks(self._rows):
            y, lengths = _unit_coordinates(self._padded(X[rows]), self._rotation)
            v = _nearest_levels((y + shift) * scale, levels) / scale - shift
            norms = np.sqrt(np.einsum("ij,ij->i", v, v))[:, np.newaxis]
            self._rows[rows] = v * (lengths / norms)
        self._squares = np.einsum("ij,ij->i", self._rows, self._rows)

    def _padded(self, X: Float32Array) -> Float32Array:
        return np.pad(X, ((0, 0), (0, self._dim - X.shape[1])))

    def scores(self, Q: Float32Array) -> Float32Array:
        """Return scores up to a constant of the query, shape (n_queries, n)."""
        products = (self._padded(Q) @ self._rotation) @ self._rows.T
        if self._euclid:
            products *= 2
            products -= self._squares
        return np.asarray(products, dtype=np.float32)


def stored_as_turbo(X: Float32Array, bits: int) -> Float32Array:
    """Return what storage of a turbo datatype gives back, shape (n, dim): no shift, no scale, no padding."""
    rotation, levels = server_rotation(X.shape[1]), turbo_levels(bits)
    out = np.empty_like(X)
    for rows in row_blocks(X):
        y, lengths = _unit_coordinates(X[rows], rotation)
        v = _nearest_levels(y, levels)
        v *= lengths / np.sqrt(np.einsum("ij,ij->i", v, v))[:, np.newaxis]
        out[rows] = v @ rotation.T
    return out
