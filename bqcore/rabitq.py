"""RaBitQ: centroid, rotation, levels per dimension, two corrective factors."""

from __future__ import annotations

import hashlib
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from bqcore import _kernels
from bqcore._kernels import Float32Array
from bqcore._validation import as_matrix_or_vector, check_bits, check_random_state
from bqcore.codec import Codec
from bqcore.codes import Codes

BITS = (1, 2, 4, 8)


class RaBitQ(Codec):
    """RaBitQ codes of 1, 2, 4 or 8 bits per dimension: unbiased distance estimates with an error bound.

    Parameters
    ----------
    bits : {1, 2, 4, 8}, default 1
        Bits per dimension.
    metric : {"l2", "ip", "cosine"}, default "l2"
        Squared Euclidean distance, negative inner product, or 1 - cosine.
    rotation : {"hadamard", "none"}, default "hadamard"
        Seeded rotation before quantization. "none" keeps the axes.
    random_state : int, default 0
        Seed of the rotation, 0 <= seed < 2**64.

    Attributes
    ----------
    centroid_ : ndarray of float32, shape (dim,)
        Mean of the training vectors (of the normalised ones for cosine).
    dim_, bits_, random_state_ : int
    metric_, rotation_ : str
        What the model was fitted with; parameters that are set later wait for the next `fit`.
    n_trained_ : int
        Rows the centroid was taken from.

    References
    ----------
    Gao & Long, "RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound for Approximate
    Nearest Neighbor Search", SIGMOD 2024, equations 4, 8 and 14-16; Gao et al., "Practical and Asymptotically
    Optimal Quantization of High-Dimensional Vectors in Euclidean Space", SIGMOD 2025 (several bits).
    """

    codec: ClassVar[str] = "rabitq"
    idea: ClassVar[str] = "even bits over all coordinates, at the scale that fits each vector best"
    #: First bytes of what `save` writes.
    MAGIC: ClassVar[bytes] = b"BQMD"
    #: 4 is the fastest against 1-bit codes and costs a little recall there, more against wider codes; 8 loses
    #: next to nothing and is the default; 32 takes queries as they are and is slow.
    query_widths: ClassVar[tuple[int, ...]] = (4, 8, 32)
    gets_unit_rows: ClassVar[bool] = False  # the kernels scale rows, in Postgres too

    centroid_: Float32Array
    bits_: int
    rotation_: str
    random_state_: int

    def __init__(
        self,
        bits: int = 1,
        metric: str = "l2",
        rotation: str = "hadamard",
        random_state: int = 0,
    ) -> None:
        self.bits = bits
        self.metric = metric
        self.rotation = rotation
        self.random_state = random_state

    @classmethod
    def settings(cls, dim: int, n: int, nbytes: int) -> list[dict[str, Any]]:
        """Return the widest codes that fit, rotated and on the axes as they are."""
        widths = [bits for bits in BITS if -(-dim * bits // 8) + _kernels.FACTORS_DTYPE.itemsize <= nbytes]
        return (
            [{"bits": widths[-1], "rotation": rotation} for rotation in _kernels.ROTATIONS] if widths else []
        )

    def _fit(self, X: Float32Array) -> None:
        self.bits_ = check_bits(self.bits, BITS)
        self.random_state_ = check_random_state(self.random_state)
        if self.rotation not in _kernels.ROTATIONS:
            raise ValueError(
                f"rotation: expected one of {', '.join(_kernels.ROTATIONS)}, not {self.rotation!r}"
            )
        self.rotation_ = self.rotation
        self.centroid_ = X.mean(axis=0, dtype=np.float64).astype(np.float32)

    def _restore(self) -> None:
        self._model = _kernels.Model(
            bits=self.bits_,
            metric=self.metric_,
            rotation=self.rotation_,
            seed=self.random_state_,
            centroid=self.centroid_,
            n_trained=self.n_trained_,
        )

    def _hash(self) -> str:
        return hashlib.sha256(self._model.to_bytes()).hexdigest()[:16]

    @property
    def code_nbytes(self) -> int:
        """Bytes of one packed code: ceil(dim * bits / 8)."""
        return self._model.code_nbytes

    @property
    def factors_dtype(self) -> np.dtype[np.void]:
        """``f_add`` and ``f_rescale``, float32 in the unit of the metric."""
        return _kernels.FACTORS_DTYPE

    def _encode(self, X: Float32Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.void]]:
        return self._model.encode(X)

    def _prepare(self, queries: Float32Array, row: int, query_bits: int) -> _kernels.Query:
        try:
            return self._model.prepare(queries[row], query_bits)
        except ValueError as error:
            raise ValueError(f"Q: row {row}: {error}") from error

    def _estimate(self, codes: Codes, Q: Float32Array) -> Float32Array:
        return self._estimate_at(codes, Q, 8)

    def _estimate_at(self, codes: Codes, Q: Float32Array, query_bits: int) -> Float32Array:
        out = np.empty((len(Q), len(codes)), dtype=np.float32)
        for i in range(len(Q)):
            query = self._prepare(Q, i, query_bits)
            out[i] = self._model.estimate(query, codes.packed, codes.factors)
        return out

    def _decode(self, codes: Codes) -> Float32Array:
        m = self._model
        per_byte = 8 // self.bits_
        shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(self.bits_)
        levels = (codes.packed[:, :, np.newaxis] >> shifts) & np.uint8((1 << self.bits_) - 1)
        grid = levels.reshape(len(codes), -1)[:, : self.dim_].astype(np.float32)
        grid -= np.float32((1 << self.bits_) - 1) / 2
        # <level, query> counts with -2 f under l2 (|o - q|^2 = |o|^2 - 2 <o, q> + |q|^2), with -f otherwise
        scale = codes.factors["f_rescale"] * np.float32(-0.5 if self.metric_ == "l2" else -1)
        grid *= scale[:, np.newaxis]
        rows = m.rotate(np.eye(self.dim_, dtype=np.float32)) if self.rotation_ != "none" else None
        return (grid if rows is None else grid @ rows.T) + self.centroid_

    def error_bound(
        self, codes: Codes, Q: npt.ArrayLike, eps0: float = 1.9, query_bits: int = 8
    ) -> Float32Array:
        """Bound |estimate - distance|, in the unit of the metric.

        Parameters
        ----------
        codes : Codes
        Q : ndarray of float32, shape (n_queries, dim) or (dim,)
        eps0 : float, default 1.9
            Width in standard deviations: 1.9 covers 94.3 % of pairs, 3.0 covers 99.7 %.
        query_bits : {4, 8, 32}, default 8
            As given to `estimate`: the bound includes the rounding of queries.

        Returns
        -------
        ndarray of float32, shape (n_queries, n) or (n,)

        Raises
        ------
        ValueError
            As `estimate`; also if eps0 is negative or NaN.

        References
        ----------
        Gao & Long 2024, theorem 3.2. For ip the norm of the residual is not stored and taken at its
        expectation.
        """
        if not eps0 >= 0:
            raise ValueError(f"eps0: expected a number >= 0, not {eps0}")
        self.check_codes(codes)
        query_bits = check_bits(query_bits, self.query_widths, name="query_bits")
        queries, single = as_matrix_or_vector(Q, dim=self.dim_)
        out = np.empty((len(queries), len(codes)), dtype=np.float32)
        for i in range(len(queries)):
            query = self._prepare(queries, i, query_bits)
            out[i] = self._model.error(query, codes.packed, codes.factors)
        out *= np.float32(eps0)
        return out[0] if single else out

    def to_bytes(self) -> bytes:
        """Serialise the fitted model as databases store it; layout in docs/code-format.md."""
        self._check_fitted()
        return self._model.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Restore a model from `to_bytes` or from a Postgres index (``bqcore_index_model``).

        Raises
        ------
        ValueError
            If the bytes are foreign, truncated, damaged or of a newer version.
        """
        model = _kernels.Model.from_bytes(data)
        self = cls(bits=model.bits, metric=model.metric, rotation=model.rotation, random_state=model.seed)
        state = {
            "metric_": model.metric,
            "dim_": model.dim,
            "n_trained_": model.n_trained,
            "bits_": model.bits,
            "random_state_": model.seed,
            "rotation_": model.rotation,
            "centroid_": model.centroid,
        }
        self._set_state(state)
        return self

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fitted model to a file, as `to_bytes`."""
        Path(path).write_bytes(self.to_bytes())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is foreign, truncated, damaged or of a newer version; the text names the file.
        """
        try:
            return cls.from_bytes(Path(path).read_bytes())
        except _kernels.ModelFormatError as error:
            raise ValueError(f"{path}: {error}") from error
