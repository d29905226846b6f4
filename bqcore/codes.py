"""STORE: packed codes with their corrective factors."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore import _archive
from bqcore._validation import InputTypeError

FORMAT = "bqcore codes"
FORMAT_VERSION = 2


@dataclass(frozen=True, eq=False)
class Codes:
    """Codes of n vectors under one model.

    Parameters
    ----------
    packed : ndarray of uint8, shape (n, code_nbytes)
        Packed codes; their layout is the codec's (docs/code-format.md).
    factors : structured ndarray, shape (n,)
        What is stored beside each code: corrective factors (``f_add``, ``f_rescale``) in the unit of the
        metric, and the id of its list (``list``) where the model has several centroids; no fields where a
        codec needs none.
    dim : int
        Dimensions of the vectors.
    codec, model_id : str
        The codec's name and the hash of its model; codes are only comparable under the model that made them.
    """

    packed: npt.NDArray[np.uint8]
    factors: npt.NDArray[np.void]
    dim: int
    codec: str
    model_id: str

    def __post_init__(self) -> None:
        if self.packed.ndim != 2 or self.packed.dtype != np.uint8:
            found = f"{self.packed.dtype} of {self.packed.shape}"
            raise ValueError(f"packed: expected uint8 of shape (n, code_nbytes), not {found}")
        if self.factors.shape != (len(self.packed),) or self.factors.dtype.names is None:
            raise ValueError(
                f"factors: expected a structured array of shape {(len(self.packed),)}, "
                f"not {self.factors.dtype} of {self.factors.shape}"
            )

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, rows: slice | npt.NDArray[Any]) -> Codes:
        if isinstance(rows, int | np.integer):
            raise InputTypeError(
                f"codes: expected a slice or an array of rows, not {rows}: codes[i : i + 1] is one"
            )
        packed, factors = np.ascontiguousarray(self.packed[rows]), np.ascontiguousarray(self.factors[rows])
        return Codes(packed, factors, self.dim, self.codec, self.model_id)

    def __repr__(self) -> str:
        size = f"{self.dim} d, {self.bytes_per_vector} bytes each"
        return f"Codes({len(self):,} x {self.codec}, {size}, model {self.model_id})"

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of one code with what is stored beside it."""
        return int(self.packed.shape[1]) + self.factors.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all codes with what is stored beside them."""
        return len(self) * self.bytes_per_vector

    def save(self, path: str | PathLike[str]) -> None:
        """Write to a .npz file (readable by numpy alone)."""
        header = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "dim": self.dim,
            "code_nbytes": self.packed.shape[1],
            "codec": self.codec,
            "model_id": self.model_id,
        }
        arrays: dict[str, npt.NDArray[Any]] = {"packed": self.packed}
        if self.factors.dtype.names:  # numpy has no file format for a dtype without fields
            arrays["factors"] = self.factors
        header["has_factors"] = "factors" in arrays
        _archive.write(Path(path), header, arrays)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Codes:
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is foreign, truncated, damaged or of a newer version.
        """
        with _archive.reading(Path(path), "codes"):
            header, arrays = _archive.read(Path(path), FORMAT, FORMAT_VERSION)
            dim, packed = header["dim"], arrays["packed"]
            if header["version"] == 1:  # RaBitQ's alone
                codec, code_nbytes = "rabitq", -(-dim * header["bits"] // 8)
            else:
                codec, code_nbytes = header["codec"], header["code_nbytes"]
            has_factors = header.get("has_factors", True)
            factors = arrays["factors"] if has_factors else np.empty(len(packed), dtype=np.dtype([]))
            codes = cls(packed, factors, dim, codec, header["model_id"])
            if packed.shape[1] != code_nbytes:
                raise ValueError(f"packed: expected {code_nbytes} bytes per code, not {packed.shape[1]}")
            return codes
