"""usearch: exact search over binary, 8-bit or half-precision vectors."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bqcore._validation import Float32Array, IdArray
from bqcore.peers import Peer

DTYPES = ("b1", "i8", "f16")


class Usearch(Peer):
    """``usearch(b1)``.

    Parameters
    ----------
    dtype : {"b1", "i8", "f16"}
        Signs of the centred coordinates under Hamming; coordinates in steps of the largest magnitude / 127;
        halves.
    metric : {"l2", "ip", "cosine"}
    """

    module: ClassVar[str] = "usearch.index"
    package: ClassVar[str] = "usearch"

    def __init__(self, dtype: str, *, metric: str) -> None:
        super().__init__(metric)
        if dtype not in DTYPES:
            raise ValueError(f"usearch: expected one of {', '.join(DTYPES)}, not {dtype!r}")
        self.dtype = dtype
        self._mean: Any = None
        self._step = 1.0
        self._rows: npt.NDArray[Any] = np.empty((0, 0))

    def check(self, n: int, dim: int) -> None:
        """Take anything."""

    def fit(self, X: Float32Array, random_state: int) -> None:
        """Take the mean and the largest magnitude; there is no chance in it."""
        self._mean = X.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._step = float(np.abs(X).max()) / 127 or 1.0

    def _stored(self, X: Float32Array) -> npt.NDArray[Any]:
        if self.dtype == "b1":
            return np.packbits(np.asarray(self._mean < X), axis=1)
        if self.dtype == "i8":
            return np.asarray(np.clip(np.rint(X / self._step), -127, 127), dtype=np.int8)
        return X.astype(np.float16)

    def encode(self, X: Float32Array) -> None:
        """Keep the vectors as they are stored."""
        self._rows = self._stored(X)

    def nearest(self, Q: Float32Array, k: int) -> IdArray:
        """Compare with every row, on one thread."""
        kinds = self.library.MetricKind
        measure = {"l2": kinds.L2sq, "ip": kinds.IP, "cosine": kinds.Cos}[self.metric]
        if self.dtype == "b1":
            measure = kinds.Hamming
        found = self.library.search(self._rows, self._stored(Q), k, measure, exact=True, threads=1)
        return np.asarray(found.keys, dtype=np.int64).reshape(len(Q), -1)

    @property
    def bytes_per_vector(self) -> float:
        """Bytes of a stored row."""
        return float(self._rows.shape[1] * self._rows.itemsize)
