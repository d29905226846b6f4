"""STORE: packed codes with their corrective factors."""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore._kernels import FACTORS_DTYPE

FORMAT = "bqcore codes"
FORMAT_VERSION = 1

# What zipfile raises for damaged headers: a wrong magic, a password flag, an unknown method or version.
_ZIP_ERRORS = (zipfile.BadZipFile, RuntimeError, NotImplementedError, zlib.error)


@dataclass(frozen=True, eq=False)
class Codes:
    """Codes of n vectors under one model.

    Parameters
    ----------
    packed : ndarray of uint8, shape (n, ceil(dim * bits / 8))
        Level indices, coordinate 0 in the lowest bits of byte 0; spare bits are zero.
    factors : structured ndarray, shape (n,)
        Fields ``f_add`` and ``f_rescale`` (float32), in the unit of the metric.
    dim, bits : int
        Dimensions, and bits per dimension.
    model_id : str
        Identifies the model; codes are only comparable under the model that made them.
    """

    packed: npt.NDArray[np.uint8]
    factors: npt.NDArray[np.void]
    dim: int
    bits: int
    model_id: str

    def __post_init__(self) -> None:
        expected = (len(self.factors), -(-self.dim * self.bits // 8))
        if self.packed.shape != expected or self.packed.dtype != np.uint8:
            raise ValueError(
                f"packed: expected uint8 of shape {expected}, not {self.packed.dtype} of {self.packed.shape}"
            )
        if self.factors.dtype != FACTORS_DTYPE:
            raise ValueError(f"factors: expected dtype {FACTORS_DTYPE}, not {self.factors.dtype}")

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, rows: slice | npt.NDArray[Any]) -> Codes:
        return Codes(
            np.ascontiguousarray(self.packed[rows]),
            np.ascontiguousarray(self.factors[rows]),
            self.dim,
            self.bits,
            self.model_id,
        )

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of one code with its corrective factors."""
        return int(self.packed.shape[1]) + FACTORS_DTYPE.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all codes with their corrective factors."""
        return len(self) * self.bytes_per_vector

    def save(self, path: str | PathLike[str]) -> None:
        """Write to a .npz file (readable by numpy alone)."""
        header = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "dim": self.dim,
            "bits": self.bits,
            "model_id": self.model_id,
        }
        with Path(path).open("wb") as file:
            np.savez(file, header=np.array(json.dumps(header)), packed=self.packed, factors=self.factors)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Codes:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            If the file is foreign, truncated, damaged or of a newer version.
        """
        try:
            with Path(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                header = json.loads(str(file["header"]))
                if header.get("format") != FORMAT:
                    raise ValueError(f"expected format {FORMAT!r}, not {header.get('format')!r}")
                if header["version"] > FORMAT_VERSION:
                    raise ValueError(f"expected version <= {FORMAT_VERSION}, not {header['version']}")
                return cls(file["packed"], file["factors"], header["dim"], header["bits"], header["model_id"])
        except FileNotFoundError:
            raise
        except (OSError, EOFError, LookupError, TypeError, AttributeError, ValueError, *_ZIP_ERRORS) as error:
            raise ValueError(f"{path}: not a readable file of bqcore codes: {error}") from error
