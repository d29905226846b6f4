"""Qdrant's own scoring, simulated: what codes stand for, and what queries become.

Every quantizer here scores by a product or a squared distance of two dense rows: a matrix product over what
codes stand for gives the engine's order. Facts of the server's source (lib/quantization, Apache-2.0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bqcore._validation import Float32Array
from bqcore_qdrant.config import Config
from bqcore_qdrant.transform import Distance
from bqcore_qdrant.turbo_scorer import TurboRows, stored_as_turbo

# Two-bit binary codes cut standardised coordinates at these many standard deviations.
_CUT = 2 / 3
# Rows and quantile that scalar quantization takes its range from.
_SCALAR_ROWS, SCALAR_QUANTILE = 5_000, 0.99
_LEVELS = 127


class Rows(Protocol):
    """Coded rows that queries are scored against."""

    def scores(self, Q: Float32Array) -> Float32Array:
        """Return scores, larger is nearer, shape (n_queries, n)."""


@dataclass(frozen=True, eq=False)
class DenseRows:
    """Rows scored by inner product, or by negative squared distance.

    Parameters
    ----------
    rows : ndarray of float32, shape (n, width)
    euclid : bool
    """

    rows: Float32Array
    euclid: bool

    def scores(self, Q: Float32Array) -> Float32Array:
        """Return scores up to a constant of the query, shape (n_queries, n)."""
        products = Q @ self.rows.T
        if not self.euclid:
            return products
        squares = np.einsum("ij,ij->i", self.rows, self.rows)
        return np.asarray(2 * products - squares, dtype=np.float32)


class BinaryRows:
    """Binary quantization: signs against signs or rounded queries, norms dropped under every distance.

    Parameters
    ----------
    X : ndarray of float32, shape (n, dim)
        Vectors as stored.
    config : Config
    shift : float
        127 where vectors are stored as uint8, else 0: what the server subtracts first.
    """

    def __init__(self, X: Float32Array, config: Config, shift: float = 0.0) -> None:
        self._bits, self._encoding, self._shift = config.bits, config.query_encoding, np.float32(shift)
        centred = X - self._shift
        if self._bits > 1:
            self._mean = centred.mean(axis=0, dtype=np.float64).astype(np.float32)
            self._deviation = centred.std(axis=0, dtype=np.float64, ddof=1).astype(np.float32)
        self._rows = DenseRows(self._signs(centred), euclid=False)

    def _signs(self, X: Float32Array) -> Float32Array:
        if self._bits == 1:
            return np.where(X > 0, np.float32(1), np.float32(-1))
        flat = self._deviation < np.finfo(np.float32).eps
        z = (X - self._mean) / np.where(flat, np.float32(1), self._deviation)
        low = np.where(flat, X > 0, z > -_CUT)
        high = np.where(flat, False, z >= _CUT)
        if self._bits == 1.5:
            if high.shape[1] % 2:
                high = np.concatenate([high, np.zeros((len(high), 1), dtype=bool)], axis=1)
            high = high[:, 0::2] | high[:, 1::2]
        return np.where(np.concatenate([low, high], axis=1), np.float32(1), np.float32(-1))

    def scores(self, Q: Float32Array) -> Float32Array:
        """Return scores, shape (n_queries, n)."""
        centred = Q - self._shift
        if self._encoding == "binary":
            return self._rows.scores(self._signs(centred))
        if self._bits == 2:
            centred = np.concatenate([centred, centred], axis=1)
        elif self._bits == 1.5:
            padded = centred if centred.shape[1] % 2 == 0 else np.pad(centred, ((0, 0), (0, 1)), mode="edge")
            centred = np.concatenate([centred, np.maximum(padded[:, 0::2], padded[:, 1::2])], axis=1)
        ranges = 15 if self._encoding == "scalar4bits" else 255
        largest = np.abs(centred).max(axis=1, keepdims=True)
        delta = np.where(largest > 0, 2 * largest / ranges, np.float32(1))
        levels = np.floor((centred + largest) / delta + np.float32(0.5))
        return self._rows.scores(np.asarray(2 * levels / ranges - 1, dtype=np.float32))


class ScalarRows:
    """Scalar quantization: codes 0..127 over one range for all coordinates, for rows and queries.

    Parameters
    ----------
    X : ndarray of float32, shape (n, dim)
    euclid : bool
    random_state : int
        Seed of the rows that the range is taken from.
    """

    def __init__(self, X: Float32Array, euclid: bool, random_state: int) -> None:
        rng = np.random.default_rng(random_state)
        n = min(len(X), _SCALAR_ROWS)
        values = np.sort(X[np.sort(rng.choice(len(X), n, replace=False))].ravel())
        # The share is of rows, not of values: it cuts off next to nothing.
        cut = max(1, min((len(values) - 1) // 2, int(n * (1 - SCALAR_QUANTILE) / 2))) if len(X) >= 127 else 0
        low, high = float(values[cut]), float(values[-1 - cut])
        self._offset, self._alpha = np.float32(low), np.float32(max((high - low) / _LEVELS, 1e-30))
        self._rows = DenseRows(self._round(X), euclid)

    def _round(self, X: Float32Array) -> Float32Array:
        codes = np.floor(np.clip((X - self._offset) / self._alpha, 0, _LEVELS) + np.float32(0.5))
        return np.asarray(codes * self._alpha + self._offset, dtype=np.float32)

    def scores(self, Q: Float32Array) -> Float32Array:
        """Return scores up to a constant of the query, shape (n_queries, n)."""
        return self._rows.scores(self._round(Q))


def as_stored(X: Float32Array, config: Config) -> Float32Array:
    """Return what primary storage gives back for transformed vectors, shape (n, dim)."""
    if config.datatype == "float16":
        return X.astype(np.float16).astype(np.float32)
    if config.datatype.startswith("turbo"):
        return stored_as_turbo(X, int(config.datatype.removeprefix("turbo")))
    return X


def coded_rows(stored: Float32Array, config: Config, distance: Distance, random_state: int) -> Rows:
    """Return the rows that the graph is searched with.

    Parameters
    ----------
    stored : ndarray of float32, shape (n, dim)
        As `as_stored` returns them; unit rows under "Cosine".
    config : Config
    distance : {"Cosine", "Euclid", "Dot"}
    random_state : int
    """
    euclid = distance == "Euclid"
    if config.quantizer == "binary":
        return BinaryRows(stored, config, 127.0 if config.datatype == "uint8" else 0.0)
    if config.quantizer == "scalar":
        return ScalarRows(stored, euclid, random_state)
    if config.quantizer == "turbo":
        return TurboRows(stored, config.bits, euclid, random_state)
    return DenseRows(stored, euclid)
