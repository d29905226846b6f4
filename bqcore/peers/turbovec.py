"""turbovec: rotated Lloyd-Max codes of 2 to 4 bits with a length factor (TurboQuant)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from bqcore._validation import Float32Array, IdArray, check_bits
from bqcore.peers import Peer, shuffled

# Rows that its documentation calls sufficient.
_CALIBRATION_ROWS = 2048


class Turbovec(Peer):
    """``turbovec(bits=2)``.

    Parameters
    ----------
    bits : {2, 3, 4}
        3 are stored in 4.
    calibrate : bool, default True
        Fit shift and scale per coordinate on 2,048 random rows.
    metric : {"ip", "cosine"}
        It has no l2.
    """

    module: ClassVar[str] = "turbovec"
    package: ClassVar[str] = "turbovec"

    def __init__(self, bits: int, calibrate: bool = True, *, metric: str) -> None:
        super().__init__(metric)
        self.bits = check_bits(bits, (2, 3, 4))
        self.calibrate = calibrate
        self._index: Any = None
        self._model_bytes = 0

    def check(self, n: int, dim: int) -> None:
        """Raise ValueError under l2, and if the dimensions are not a multiple of 8."""
        if self.metric == "l2":
            raise ValueError("turbovec: expected metric ip or cosine, not l2")
        if dim % 8:
            raise ValueError(f"turbovec: expected a multiple of 8 dimensions, not {dim}")

    def fit(self, X: Float32Array, random_state: int) -> None:
        """Calibrate; the rotation is fixed by turbovec."""
        self._index = self.library.TurboQuantIndex(X.shape[1], self.bits)
        if self.calibrate:
            self._index.calibrate(X[np.sort(shuffled(len(X), random_state)[:_CALIBRATION_ROWS])])
        self._model_bytes = len(self._index.to_bytes())

    def encode(self, X: Float32Array) -> None:
        """Encode."""
        self._index.add(X)
        self._index.prepare()  # what a search would else do first

    def nearest(self, Q: Float32Array, k: int) -> IdArray:
        """Scan all codes."""
        return np.asarray(self._index.search(Q, k)[1], dtype=np.int64)

    @property
    def bytes_per_vector(self) -> float:
        """Code and a float32 scale."""
        return float(self._index.dim * (2 if self.bits == 2 else 4) / 8 + 4)

    @property
    def library_bytes_per_vector(self) -> float:
        """Growth of the serialised index, which pads to blocks of 32 vectors."""
        grown = len(self._index.to_bytes()) - self._model_bytes
        return float(round(grown / len(self._index), 2))

    @property
    def model_bytes(self) -> int:
        """The serialised index before vectors are added."""
        return self._model_bytes
