"""Storage tiers: float16, int8 and float8 per coordinate, of all dimensions or of the principal ones."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bqcore import float8
from bqcore._validation import Float32Array, check_factors, check_int, row_blocks
from bqcore.codec import Codec
from bqcore.codes import Codes
from bqcore.projection import less_centroid
from bqcore.rotation import multiply, principal_axes

#: Bytes per coordinate.
FORMATS = {"float16": 2, "int8": 1, "float8": 1}
CALIBRATIONS = ("per_dimension", "overall")

_INT8_STEPS = 255


class Scalar(Codec):
    """Every coordinate on its own in 16 or 8 bits: precise enough to rescore from (`bqcore.Tier`).

    Parameters
    ----------
    format : {"float16", "int8", "float8"}, default "float16"
        IEEE half precision; 256 equal steps over the training rows' range; or float8 e4m3 (`bqcore.float8`),
        whose precision is relative: it suits coordinates whose magnitudes differ widely, int8 all others.
    dims : int, optional
        Principal dimensions kept, at most all there are; without it coordinates are stored as they are. With
        it 4 bytes more hold the norm of the whole vector: what is left out counts for the norms and is taken
        as orthogonal between query and row.
    calibration : {"per_dimension", "overall"}, default "per_dimension"
        Range of int8 and float8: of each dimension, or one for all. Coordinates outside of it saturate.
    metric : {"l2", "ip", "cosine"}, default "l2"

    Attributes
    ----------
    mean_ : ndarray of float32, shape (dim,)
    axes_ : ndarray of float32, shape (dims, dim)
        Principal axes, with `dims` only.
    offset_, scale_ : ndarray of float32, shape (dims,)
        A stored value t stands for the coordinate ``offset_ + scale_ * t``; 0 and 1 for float16.
    format_ : str

    References
    ----------
    PCA and float8 as storage: Huerga-Pérez et al., "Optimization of embeddings storage for RAG systems using
    quantization and dimensionality reduction techniques", 2025.
    """

    codec: ClassVar[str] = "scalar"
    idea: ClassVar[str] = "each coordinate at reduced precision"

    mean_: Float32Array
    axes_: Float32Array
    offset_: Float32Array
    scale_: Float32Array
    format_: str

    def __init__(
        self,
        format: str = "float16",
        dims: int | None = None,
        calibration: str = "per_dimension",
        metric: str = "l2",
    ) -> None:
        self.format = format
        self.dims = dims
        self.calibration = calibration
        self.metric = metric

    @classmethod
    def settings(cls, dim: int, n: int, nbytes: int) -> list[dict[str, Any]]:
        """Return the widest format that fits all coordinates, or as many principal ones as fit at 8 bits."""
        if nbytes >= dim:
            return [{"format": "float16" if nbytes >= 2 * dim else "int8"}] if nbytes <= 3 * dim else []
        return [{"format": "int8", "dims": nbytes - 4}] if nbytes > 4 else []

    def _fit(self, X: Float32Array) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format: expected one of {', '.join(FORMATS)}, not {self.format!r}")
        if self.calibration not in CALIBRATIONS:
            raise ValueError(
                f"calibration: expected one of {', '.join(CALIBRATIONS)}, not {self.calibration!r}"
            )
        self.format_ = self.format
        self.mean_ = X.mean(axis=0, dtype=np.float64).astype(np.float32)
        if self.dims is not None:
            dims = check_int(self.dims, name="dims", low=1)
            self.axes_ = principal_axes(X)[0][:dims].astype(np.float32)
        kept = self._kept(X)
        low, high, middle = kept.min(axis=0), kept.max(axis=0), kept.mean(axis=0, dtype=np.float64)
        if self.calibration == "overall":
            low, high, middle = (np.full_like(low, v) for v in (low.min(), high.max(), middle.mean()))
        self.offset_, self.scale_ = np.zeros_like(low), np.ones_like(low)
        if self.format_ == "int8":
            self.offset_, self.scale_ = low, high / _INT8_STEPS - low / _INT8_STEPS
        elif self.format_ == "float8":
            self.offset_ = middle.astype(np.float32)
            self.scale_ = np.maximum(high - self.offset_, self.offset_ - low) / np.float32(float8.MAX)
        # a dead dimension, or one whose step float32 cannot hold, is its offset
        self.scale_[self.scale_ < np.finfo(np.float32).tiny] = 1

    @property
    def _truncates(self) -> bool:
        return hasattr(self, "axes_")

    @property
    def code_nbytes(self) -> int:
        """Bytes of one packed code: 2 or 1 for every dimension kept."""
        return FORMATS[self.format_] * len(self.scale_)

    @property
    def factors_dtype(self) -> np.dtype[np.void]:
        """Nothing; with `dims` ``f_add``, float32 in the unit of the metric, of the whole vector."""
        return np.dtype([("f_add", "<f4")] if self._truncates else [])

    def _kept(self, X: Float32Array) -> Float32Array:
        """Return what is stored of rows: the principal coordinates about the mean, or all as they are."""
        return multiply(X - self.mean_, self.axes_.T) if self._truncates else X

    def _encode(self, X: Float32Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.void]]:
        packed = np.empty((len(X), self.code_nbytes), dtype=np.uint8)
        factors = np.empty(len(X), dtype=self.factors_dtype)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows saturates or is refused
            if self._truncates:
                for rows in row_blocks(X):
                    wide = X[rows].astype(np.float64) - self.mean_
                    if self.metric_ == "ip":
                        factors["f_add"][rows] = -(wide * self.mean_).sum(axis=1)
                    else:
                        squares = np.square(wide).sum(axis=1)
                        factors["f_add"][rows] = squares / 2 if self.metric_ == "cosine" else squares
                check_factors(factors)
            for rows in row_blocks(X):
                packed[rows] = self._store((self._kept(X[rows]) - self.offset_) / self.scale_, rows.start)
        return packed, factors

    def _store(self, values: Float32Array, first_row: int) -> npt.NDArray[np.uint8]:
        if self.format_ == "int8":
            return np.clip(np.rint(values), 0, _INT8_STEPS).astype(np.uint8)
        if self.format_ == "float8":
            return float8.encode(values)
        halves = values.astype("<f2")
        if not np.isfinite(halves).all():
            row, column = (int(i) for i in np.argwhere(~np.isfinite(halves))[0])
            largest = np.finfo(np.float16).max
            raise ValueError(
                f"X: expected magnitudes up to {largest} (float16), not {values[row, column]} "
                f"at row {first_row + row}, coordinate {column}"
            )
        return halves.view(np.uint8)

    def _stored(self, packed: npt.NDArray[np.uint8]) -> Float32Array:
        """Return what `_store` stored, in units of `scale_` about `offset_`, shape (n, dims)."""
        if self.format_ == "float8":
            return float8.decode(packed)
        if self.format_ == "float16":
            return np.ascontiguousarray(packed).view("<f2").astype(np.float32)
        return packed.astype(np.float32)

    def _coordinates(self, packed: npt.NDArray[np.uint8]) -> Float32Array:
        return self._stored(packed) * self.scale_ + self.offset_

    def _estimate(self, codes: Codes, Q: Float32Array) -> Float32Array:
        out = np.empty((len(Q), len(codes)), dtype=np.float32)
        # About the mean, where vectors are shortest and squares lose least; halved under cosine, where
        # 1 - cos of unit vectors is half their squared distance.
        if self.metric_ == "ip":
            g_add = -(Q.astype(np.float64) @ self.mean_)
            rest, s = less_centroid(Q, self.mean_, self.metric_)
            centred = rest.astype(np.float64)
        else:
            centred, s = Q.astype(np.float64) - self.mean_, np.ones(len(Q), dtype=np.float32)
            g_add = np.square(centred).sum(axis=1) / (2 if self.metric_ == "cosine" else 1)
        q = (
            multiply(centred.astype(np.float32), self.axes_.T)
            if self._truncates
            else centred.astype(np.float32)
        )
        weight = np.float32(-2 if self.metric_ == "l2" else -1)
        for rows in row_blocks(codes.packed):
            y = self._coordinates(codes.packed[rows])
            if self._truncates:
                f_add = codes.factors["f_add"][rows]
            else:
                y -= self.mean_
                if self.metric_ == "ip":
                    f_add = -(y @ self.mean_)
                else:
                    f_add = np.square(y).sum(axis=1) / np.float32(2 if self.metric_ == "cosine" else 1)
            out[:, rows] = weight * (q @ y.T) + s[:, np.newaxis] * f_add
            out[:, rows] += g_add[:, np.newaxis].astype(np.float32)
        return out

    def _decode(self, codes: Codes) -> Float32Array:
        y = self._coordinates(codes.packed)
        return multiply(y, self.axes_) + self.mean_ if self._truncates else y
