"""STORE: the two corrective factors of a code, each in 4, 2 or 1 bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore._validation import Float64Array
from bqcore.factors import FORMS, Factor

#: Training rows whose factors set the limits of the byte form, at most.
LIMIT_ROWS = 4096
# Rows that were not seen go beyond the limits of those that were: so much of the range is added on each side.
_SLACK = 0.05


class StoredFactors:
    """How ``f_add`` and ``f_rescale``, which is never positive, are stored.

    Parameters
    ----------
    form : {"float32", "bfloat16", "uint8"}
        uint8: equal steps of f_add, and of the logarithm of -f_rescale.
    limits : ndarray of float64, shape (2, 2)
        Least and largest f_add and -f_rescale at uint8.
    """

    def __init__(self, form: str, limits: Float64Array) -> None:
        (low, high), (least, most) = limits.tolist()
        self._add = Factor(form, "linear", low, high)
        self._rescale = Factor(form, "log", least, most)
        self._form = form

    @staticmethod
    def limits(floats: npt.NDArray[np.void]) -> Float64Array:
        """Return the limits for factors of training rows, shape (2, 2)."""
        add, rescale = floats["f_add"].astype(np.float64), -floats["f_rescale"].astype(np.float64)
        rescale = rescale[rescale > 0]
        out = np.ones((2, 2))
        if len(add):
            slack = _SLACK * np.ptp(add)
            out[0] = add.min() - slack, add.max() + slack
        if len(rescale):
            slack = (rescale.max() / rescale.min()) ** _SLACK
            out[1] = rescale.min() / slack, rescale.max() * slack
        return out

    def fields(self) -> list[tuple[str, Any]]:
        """Return the stored fields, for a structured dtype."""
        return [("f_add", FORMS[self._form]), ("f_rescale", FORMS[self._form])]

    def pack(self, floats: npt.NDArray[np.void], dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
        """Return factors of float32, shape (n,), as stored; other fields are copied."""
        out = np.zeros(len(floats), dtype=dtype)
        for name in dtype.names or ():
            out[name] = floats[name]
        if self._form != "float32":
            out["f_add"] = self._add.pack(floats["f_add"])
            out["f_rescale"] = self._rescale.pack(-floats["f_rescale"])
        return out

    def unpack(self, stored: npt.NDArray[np.void], dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
        """Return factors of float32, shape (n,)."""
        if self._form == "float32":
            return stored
        out = np.zeros(len(stored), dtype=dtype)
        for name in dtype.names or ():
            out[name] = stored[name]
        out["f_add"] = self._add.unpack(stored["f_add"])
        out["f_rescale"] = -self._rescale.unpack(stored["f_rescale"])
        return out
