"""Lloyd-Max codes of rotated unit vectors, as TurboQuant and Qdrant have them."""

from __future__ import annotations

from functools import lru_cache
from math import erf, exp, pi, sqrt
from typing import Any, ClassVar

import numpy as np

from bqcore import levels
from bqcore._validation import Float32Array, Float64Array, check_bits, check_random_state, row_blocks
from bqcore.residual_codec import ResidualCodec, SeededRotation, UInt8Array

BITS = (1, 2, 3, 4)
CORRECTIONS = ("norm", "unbiased")


@lru_cache
def lloyd_max(bits: int) -> Float64Array:
    """Return the levels that quantize N(0, 1) with the least squared error, ascending, shape (2**bits,).

    Lloyd's fixed point: every level is the mean of the density between the midpoints to its neighbours.

    References
    ----------
    Max, "Quantizing for minimum distortion", IRE Transactions on Information Theory, 1960, table I.
    """
    found = np.linspace(-2.5, 2.5, 1 << bits) if bits > 1 else np.array([-1.0, 1.0])
    for _ in range(10_000):
        edges = [-np.inf, *((found[1:] + found[:-1]) / 2), np.inf]
        density = np.array([exp(-e * e / 2) / sqrt(2 * pi) for e in edges])
        below = np.array([(1 + erf(e / sqrt(2))) / 2 for e in edges])
        moved = (density[:-1] - density[1:]) / np.diff(below)
        if np.abs(moved - found).max() < 1e-12:
            break
        found = moved
    return np.asarray(found - found[::-1]) / 2


class Turbo(ResidualCodec):
    """Lloyd-Max levels for each coordinate of sqrt(dim) R o / |o|, which a rotation makes all but N(0, 1).

    Calibration shifts and scales every coordinate, y+ = (y + shift) scale, so that its quantiles at the
    outermost levels are those of N(0, 1). Both go into the query: <q, y> = <q / scale, y+> - <q, shift>.

    Parameters
    ----------
    bits : {1, 2, 3, 4}, default 2
        Bits per dimension.
    metric : {"l2", "ip", "cosine"}, default "l2"
    centroids : int, default 1
        Residuals are taken to the nearest of so many; 0 takes the origin.
    rotation : {"hadamard", "none"}, default "hadamard"
    calibrate : bool, default True
        Whether coordinates are shifted and scaled.
    correction : {"norm", "unbiased"}, default "norm"
        The factor: |o| / |v|, which restores the vector's length, or |o|^2 / <o, v>.
    factors : {"float32", "bfloat16", "uint8"}, default "float32"
        How each of the two factors is stored.
    random_state : int, default 0

    Attributes
    ----------
    centroids_ : ndarray of float32, shape (n_lists, dim)
    shift_, inverse_scale_ : ndarray of float32, shape (dim,)
        The inverse scale of a dead coordinate is 0: its value is -shift.
    bits_, random_state_ : int
    rotation_, correction_ : str

    References
    ----------
    Zandieh, Daliri, Hadian & Mirrokni, "TurboQuant: Online Vector Quantization with Near-optimal Distortion
    Rate", arXiv:2504.19874, algorithm 1 (TurboQuant_mse). Norm correction, shift and scale: Qdrant 1.18.
    """

    codec: ClassVar[str] = "turbo"
    idea: ClassVar[str] = "Lloyd-Max levels of rotated coordinates"

    bits_: int
    rotation_: str
    correction_: str
    random_state_: int
    shift_: Float32Array
    inverse_scale_: Float32Array

    def __init__(
        self,
        bits: int = 2,
        metric: str = "l2",
        centroids: int = 1,
        rotation: str = "hadamard",
        calibrate: bool = True,
        correction: str = "norm",
        factors: str = "float32",
        random_state: int = 0,
    ) -> None:
        self.bits = bits
        self.metric = metric
        self.centroids = centroids
        self.rotation = rotation
        self.calibrate = calibrate
        self.correction = correction
        self.factors = factors
        self.random_state = random_state

    @classmethod
    def settings(cls, dim: int, n: int, nbytes: int) -> list[dict[str, Any]]:
        """Return the widest codes that fit: rotated, on the axes as they are, residuals to 256 lists.

        On the axes also 1 bit: of two-valued coordinates it is all there is to know.
        """
        found: list[dict[str, Any]] = []
        for lists, rotation in ((1, "hadamard"), (1, "none"), (256, "hadamard")):
            room = nbytes - 8 - (lists > 1)
            widths = [bits for bits in BITS if levels.code_nbytes(dim, bits) <= room]
            if widths and (lists == 1 or n >= 30 * lists):
                for bits in {widths[0], widths[-1]} if rotation == "none" else widths[-1:]:
                    found.append({"bits": bits, "rotation": rotation, "centroids": lists})
        return found

    def _fit(self, X: Float32Array) -> None:
        self.bits_ = check_bits(self.bits, BITS)
        if self.correction not in CORRECTIONS:
            raise ValueError(f"correction: expected one of {', '.join(CORRECTIONS)}, not {self.correction!r}")
        self.random_state_ = check_random_state(self.random_state)
        self._rotation = SeededRotation(self.rotation, self.dim_, self.random_state_)
        self.rotation_, self.correction_ = self.rotation, self.correction
        super()._fit(X)

    def _train(self, residuals: Float32Array) -> None:
        self.shift_ = np.zeros(self.dim_, dtype=np.float32)
        self.inverse_scale_ = np.ones(self.dim_, dtype=np.float32)
        y = self._unit_coordinates(residuals[residuals.any(axis=1)])[0]
        if not self.calibrate or len(y) == 0:
            return
        outer = float(lloyd_max(self.bits_)[-1])
        tail = (1 - erf(outer / sqrt(2))) / 2
        low, high = np.quantile(y, [tail, 1 - tail], axis=0)
        self.shift_ = np.asarray(-(low + high) / 2, dtype=np.float32)
        self.inverse_scale_ = np.asarray((high - low) / (2 * outer), dtype=np.float32)

    def _restore(self) -> None:
        self._rotation = SeededRotation(self.rotation_, self.dim_, self.random_state_)
        self._levels = lloyd_max(self.bits_).astype(np.float32)
        super()._restore()

    @property
    def code_nbytes(self) -> int:
        """Bytes of one packed code: ceil(dim * bits / 8); at 3 bits three planes of ceil(dim / 8)."""
        return levels.code_nbytes(self.dim_, self.bits_)

    def _unit_coordinates(self, residuals: Float32Array) -> tuple[Float32Array, Float64Array]:
        """Return sqrt(dim) R o / |o|, shape (n, dim), and |o| / sqrt(dim), shape (n,)."""
        y = np.empty_like(residuals)
        scale = np.empty(len(residuals))
        for rows in row_blocks(residuals):
            o = residuals[rows]
            scale[rows] = np.sqrt(np.einsum("ij,ij->i", o, o, dtype=np.float64) / self.dim_)
            some = np.where(scale[rows] > 0, scale[rows], 1)[:, np.newaxis]
            y[rows] = self._rotation.apply(np.asarray(o / some, dtype=np.float32))
        return y, scale

    def _quantize(self, residuals: Float32Array) -> tuple[UInt8Array, Float64Array]:
        y, scale = self._unit_coordinates(residuals)
        alive = self.inverse_scale_ > 0
        plus = np.divide(y + self.shift_, self.inverse_scale_, out=np.zeros_like(y), where=alive)
        edges = (self._levels[1:] + self._levels[:-1]) / 2
        packed = levels.pack(np.searchsorted(edges, plus).astype(np.uint8), self.bits_)
        v = self._coordinates(packed)
        along = np.einsum("ij,ij->i", y if self.correction_ == "unbiased" else v, v, dtype=np.float64)
        squares = np.einsum("ij,ij->i", y, y, dtype=np.float64)
        ratio = np.divide(squares, along, out=np.zeros(len(y)), where=along > 0)
        return packed, scale * (ratio if self.correction_ == "unbiased" else np.sqrt(ratio))

    def _coordinates(self, packed: UInt8Array) -> Float32Array:
        values = self._levels[levels.unpack(packed, self.dim_, self.bits_)]
        values *= self.inverse_scale_
        values -= self.shift_
        return values

    def _values(self, packed: UInt8Array) -> Float32Array:
        """Levels, and a column that carries <q, shift>."""
        values = np.ones((len(packed), self.dim_ + 1), dtype=np.float32)
        values[:, :-1] = self._levels[levels.unpack(packed, self.dim_, self.bits_)]
        return values

    def _fold(self, Q: Float32Array) -> Float32Array:
        rotated = self._rotation.apply(Q)
        constant = rotated @ self.shift_
        return np.concatenate([rotated * self.inverse_scale_, -constant[:, np.newaxis]], axis=1)

    def _unfold(self, values: Float32Array) -> Float32Array:
        return self._rotation.undo(values[:, :-1] * self.inverse_scale_ - values[:, -1:] * self.shift_)
