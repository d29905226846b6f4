"""Qdrant's own scoring, simulated: what codes stand for, and what queries become.

Every quantizer here scores by a product or a squared distance of two dense rows: a matrix product over what
codes stand for gives the engine's order. Facts of the server's source (lib/quantization, Apache-2.0).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bqcore._validation import Float32Array, row_blocks
from bqcore_qdrant.config import Config, Datatype, turbo_dim
from bqcore_qdrant.dense import DenseRows, Rows
from bqcore_qdrant.transform import Distance
from bqcore_qdrant.turbo_scorer import Coordinates, TurboRows

# Two-bit binary codes cut standardised coordinates at these many standard deviations.
_CUT = 2 / 3
# Rows and quantile that scalar quantization takes its range from.
_SCALAR_ROWS, SCALAR_QUANTILE = 5_000, 0.99
_LEVELS = 127
# Turbo codes of 1.5 bits have half as many dimensions again, and rotated coordinates to themselves.
_SHARED_PADDING = 1.25


# Bits of a byte, for numpy before 2.0.
_BITS_OF_BYTE = np.asarray([value.bit_count() for value in range(256)], dtype=np.uint8)


def bit_counts(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """Return how many bits of every word are set, shape (n,)."""
    if hasattr(np, "bitwise_count"):
        return np.asarray(np.bitwise_count(words))
    return bit_counts_by_byte(words)


def bit_counts_by_byte(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """Return what `bit_counts` does, by a table of bytes."""
    return np.asarray(_BITS_OF_BYTE[words.view(np.uint8)].reshape(-1, 8).sum(axis=1, dtype=np.uint8))


class PackedRows:
    """Rows of bits, compared with other rows of bits by counting where they differ.

    Parameters
    ----------
    bits : ndarray of bool, shape (n, width)
    """

    def __init__(self, bits: npt.NDArray[np.bool_]) -> None:
        self._width = bits.shape[1]
        # Words by column: a pass over a column of words is one contiguous read.
        self._words = np.ascontiguousarray(self._packed(bits).T)

    @staticmethod
    def _packed(bits: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
        codes = np.packbits(bits, axis=1)
        return np.pad(codes, ((0, 0), (0, -codes.shape[1] % 8))).view(np.uint64)

    def scores(self, bits: npt.NDArray[np.bool_]) -> Float32Array:
        """Return width - 2 Hamming distance, shape (n_queries, n)."""
        n = self._words.shape[1]
        out = np.empty((len(bits), n), dtype=np.float32)
        differ = np.empty(n, dtype=np.uint64)
        total = np.empty(n, dtype=np.uint16)  # dimensions and half as many again stay below 2**16
        for i, code in enumerate(self._packed(bits)):
            total[:] = 0
            for column, word in zip(self._words, code, strict=True):
                np.bitwise_xor(column, word, out=differ)
                total += bit_counts(differ)
            np.multiply(total, np.float32(-2), out=out[i])
            out[i] += np.float32(self._width)
        return out


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
        if self._bits > 1:
            self._mean = (X.mean(axis=0, dtype=np.float64) - shift).astype(np.float32)
            self._deviation = X.std(axis=0, dtype=np.float64, ddof=1).astype(np.float32)
        width = X.shape[1] if self._bits == 1 else self._signs(X[:1]).shape[1]
        signs = np.empty((len(X), width), dtype=bool)
        for rows in row_blocks(signs):
            signs[rows] = self._signs(X[rows] - self._shift)
        self._packed = self._dense = None
        if self._encoding == "binary":
            self._packed = PackedRows(signs)
        else:
            self._dense = DenseRows(signs.astype(np.float32) * 2 - 1, euclid=False)

    def _signs(self, X: Float32Array) -> npt.NDArray[np.bool_]:
        if self._bits == 1:
            return X > 0
        flat = self._deviation < np.finfo(np.float32).eps
        z = (X - self._mean) / np.where(flat, np.float32(1), self._deviation)
        low = np.where(flat, X > 0, z > -_CUT)
        high = np.where(flat, False, z >= _CUT)
        if self._bits == 1.5:
            if high.shape[1] % 2:
                high = np.concatenate([high, np.zeros((len(high), 1), dtype=bool)], axis=1)
            high = high[:, 0::2] | high[:, 1::2]
        return np.concatenate([low, high], axis=1)

    def scores(self, Q: Float32Array) -> Float32Array:
        """Return scores, shape (n_queries, n)."""
        centred = Q - self._shift
        if self._packed is not None:
            return self._packed.scores(self._signs(centred))
        assert self._dense is not None
        if self._bits == 2:
            centred = np.concatenate([centred, centred], axis=1)
        elif self._bits == 1.5:
            padded = centred if centred.shape[1] % 2 == 0 else np.pad(centred, ((0, 0), (0, 1)), mode="edge")
            centred = np.concatenate([centred, np.maximum(padded[:, 0::2], padded[:, 1::2])], axis=1)
        ranges = 15 if self._encoding == "scalar4bits" else 255
        largest = np.abs(centred).max(axis=1, keepdims=True)
        delta = np.where(largest > 0, 2 * largest / ranges, np.float32(1))
        levels = np.floor((centred + largest) / delta + np.float32(0.5))
        return self._dense.scores(np.asarray(2 * levels / ranges - 1, dtype=np.float32))


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
        out = np.empty_like(X)
        for rows in row_blocks(X):
            codes = np.floor(np.clip((X[rows] - self._offset) / self._alpha, 0, _LEVELS) + np.float32(0.5))
            out[rows] = codes * self._alpha + self._offset
        return out

    def scores(self, Q: Float32Array) -> Float32Array:
        """Return scores up to a constant of the query, shape (n_queries, n)."""
        return self._rows.scores(self._round(Q))


class Encoder:
    """Rows under one transform, as configurations store and code them; what several share is made once.

    Parameters
    ----------
    rows : ndarray of float32, shape (n, dim)
        Transformed; unit rows under "Cosine".
    distance : {"Cosine", "Euclid", "Dot"}
    random_state : int
        Seed of the rows that ranges and quantiles are taken from.
    """

    def __init__(self, rows: Float32Array, distance: Distance, random_state: int) -> None:
        self.rows, self.distance = rows, distance
        self._euclid, self._seed = distance == "Euclid", random_state
        self._stored: dict[Datatype, DenseRows] = {"float32": DenseRows(rows, self._euclid)}
        self._coordinates: dict[tuple[Datatype, int], Coordinates] = {}

    def _rotated(self, datatype: Datatype, dim: int) -> Coordinates:
        """Return rotated coordinates of stored rows: those that every number of bits but 1.5 shares."""
        key = (datatype, dim)
        if key in self._coordinates:
            return self._coordinates[key]
        found = Coordinates.of(self.stored(datatype).rows, dim)
        if dim < _SHARED_PADDING * self.rows.shape[1]:
            self._coordinates[key] = found
        return found

    def stored(self, datatype: Datatype) -> DenseRows:
        """Return what primary storage gives back."""
        if datatype not in self._stored:
            self._stored[datatype] = DenseRows(self._as_stored(datatype), self._euclid)
        return self._stored[datatype]

    def _as_stored(self, datatype: Datatype) -> Float32Array:
        if datatype == "float16":
            return self.rows.astype(np.float16).astype(np.float32)
        if datatype.startswith("turbo"):
            bits = int(datatype.removeprefix("turbo"))
            return self._rotated("float32", self.rows.shape[1]).stored(bits)
        return self.rows

    def coded(self, config: Config, datatype: Datatype) -> Rows:
        """Return the rows that the graph is searched with; codes are taken from rows stored as `datatype`."""
        if config.quantizer == "none":
            return self.stored(config.datatype)
        if config.quantizer == "turbo":
            dim = turbo_dim(self.rows.shape[1], config.bits)
            return TurboRows(self._rotated(datatype, dim), config.bits, self._euclid, self._seed)
        rows = self.stored(datatype).rows
        if config.quantizer == "binary":
            return BinaryRows(rows, config, 127.0 if config.datatype == "uint8" else 0.0)
        return ScalarRows(rows, self._euclid, self._seed)
