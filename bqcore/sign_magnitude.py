"""Two bits per dimension on the data's own axes: the sign, and whether the magnitude is above the mean."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bqcore import _kernels
from bqcore._validation import Float32Array, Float64Array, check_random_state
from bqcore.codes import Codes
from bqcore.residual_codec import ResidualCodec, SeededRotation, UInt8Array

QUERIES = ("float", "int8", "code")


class SignMagnitude(ResidualCodec):
    """Levels +-1 and +-2: sign, and a strong bit where |o_i| > alpha = mean |o_i| of the same vector.

    Axes are kept unless a rotation is asked for. As a metric between codes, which a graph build asks for,
    <v, v'> takes XOR, AND and popcounts (`symmetric_scores`). Distances to a query are estimated with
    f = |o|^2 / <o, v>, which leaves no error along o.

    Parameters
    ----------
    metric : {"l2", "ip", "cosine"}, default "l2"
    centroids : int, default 1
        Residuals are taken to the nearest of so many; 0 keeps vectors as they are (QuIVer).
    rotation : {"none", "hadamard"}, default "none"
    query : {"float", "int8", "code"}, default "float"
        What `estimate` multiplies codes by: the query, the query in steps of its largest magnitude / 127, or
        the query's own code with its own factor (symmetric).
    factors : {"float32", "bfloat16", "uint8"}, default "float32"
        How each of the two factors is stored.
    random_state : int, default 0

    Attributes
    ----------
    centroids_ : ndarray of float32, shape (n_lists, dim)
    rotation_, query_ : str
    random_state_ : int

    References
    ----------
    Xiao, "QuIVer", arXiv:2605.02171 (code and symmetric score); Gao & Long, "RaBitQ", SIGMOD 2024, equation 8
    (the factor).
    """

    codec: ClassVar[str] = "sign_magnitude"
    idea: ClassVar[str] = "a sign and a magnitude bit per coordinate"

    rotation_: str
    query_: str
    random_state_: int

    def __init__(
        self,
        metric: str = "l2",
        centroids: int = 1,
        rotation: str = "none",
        query: str = "float",
        factors: str = "float32",
        random_state: int = 0,
    ) -> None:
        self.metric = metric
        self.centroids = centroids
        self.rotation = rotation
        self.query = query
        self.factors = factors
        self.random_state = random_state

    @classmethod
    def settings(cls, dim: int, n: int, nbytes: int) -> list[dict[str, Any]]:
        """Return the code on the axes as they are: rotated, `RaBitQ` of 2 bits has better levels."""
        return [{"rotation": "none"}] if 2 * -(-dim // 8) + 8 <= nbytes <= 3 * dim // 8 + 8 else []

    def _fit(self, X: Float32Array) -> None:
        if self.query not in QUERIES:
            raise ValueError(f"query: expected one of {', '.join(QUERIES)}, not {self.query!r}")
        self.random_state_ = check_random_state(self.random_state)
        SeededRotation(self.rotation, self.dim_, self.random_state_)
        self.rotation_, self.query_ = self.rotation, self.query
        super()._fit(X)

    def _train(self, residuals: Float32Array) -> None:
        """Nothing is learned beyond the centroids."""

    def _restore(self) -> None:
        self._rotation = SeededRotation(self.rotation_, self.dim_, self.random_state_)
        super()._restore()

    @property
    def code_nbytes(self) -> int:
        """Bytes of one packed code, a plane of signs and one of strong bits: 2 ceil(dim / 8)."""
        return 2 * -(-self.dim_ // 8)

    def _levels(self, residuals: Float32Array) -> tuple[UInt8Array, Float32Array, Float32Array]:
        o = self._rotation.apply(residuals)
        magnitudes = np.abs(o)
        strong = magnitudes > magnitudes.mean(axis=1, keepdims=True)
        planes = [np.packbits(plane, axis=1, bitorder="little") for plane in (o > 0, strong)]
        packed = np.ascontiguousarray(np.concatenate(planes, axis=1))
        return packed, self._values(packed), o

    def _quantize(self, residuals: Float32Array) -> tuple[UInt8Array, Float64Array]:
        packed, values, o = self._levels(residuals)
        squares = np.einsum("ij,ij->i", o, o, dtype=np.float64)
        along = np.einsum("ij,ij->i", o, values, dtype=np.float64)
        return packed, np.divide(squares, along, out=np.zeros(len(o)), where=along > 0)

    def _values(self, packed: UInt8Array) -> Float32Array:
        half = self.code_nbytes // 2
        signs, strong = (
            np.unpackbits(packed[:, part], axis=1, count=self.dim_, bitorder="little")
            for part in (slice(half), slice(half, None))
        )
        values = signs.astype(np.float32)
        values *= 2
        values -= 1
        values *= strong + np.float32(1)
        return values

    def _fold(self, Q: Float32Array) -> Float32Array:
        return self._rotation.apply(Q)

    def _unfold(self, values: Float32Array) -> Float32Array:
        return self._rotation.undo(values)

    def _query(self, Q: Float32Array) -> Float32Array:
        if self.query_ == "code":
            packed, f = self._quantize(Q)
            return np.asarray(self._values(packed) * f[:, np.newaxis], dtype=np.float32)
        folded = self._fold(Q)
        if self.query_ == "int8":
            step = np.abs(folded).max(axis=1, keepdims=True) / np.float32(127)
            step[step == 0] = 1
            folded = np.rint(folded / step) * step
        return folded

    def symmetric_scores(self, codes: Codes, row: int) -> npt.NDArray[np.int32]:
        """Compare codes with the code in `row` by popcounts: <v, v'>, larger is nearer.

        Parameters
        ----------
        codes : Codes
            Made by this model.
        row : int

        Returns
        -------
        ndarray of int32, shape (n,)
            The sum over dimensions of +1 where signs agree and -1 where not, times 4 where both are strong, 2
            where one is, 1 where none is. Without factors, and with several centroids only comparable within
            a list.

        Raises
        ------
        ValueError
            If the codes are of another model, or there is no such row.
        """
        self.check_codes(codes)
        if not 0 <= row < len(codes):
            raise ValueError(f"row: expected 0 to {len(codes) - 1}, not {row}")
        return _kernels.sign_magnitude_sym(self.dim_, codes.packed, codes.packed[row])
