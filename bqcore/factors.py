"""STORE: a number per vector in 4, 2 or 1 bytes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore._validation import Float32Array, Float64Array

#: How a factor is stored, by name: float32; bfloat16, the upper half of a float32, rounded to even; uint8,
#: equal steps of the number or of its logarithm within limits that training rows set.
FORMS: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "bfloat16": np.dtype("<u2"),
    "uint8": np.dtype("u1"),
}
SPACINGS = ("linear", "log")


def check_form(form: object, forms: Collection[str] = tuple(FORMS)) -> str:
    """Return the name of a form.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if form not in forms:
        raise ValueError(f"factors: expected one of {', '.join(forms)}, not {form!r}")
    return str(form)


@dataclass(frozen=True)
class Factor:
    """How one factor is stored.

    Parameters
    ----------
    form : {"float32", "bfloat16", "uint8"}
    spacing : {"linear", "log"}
        Spacing of the values at uint8. "log" is for numbers >= 0: byte 0 stands for 0, and relative errors
        are alike.
    low, high : float
        Limits at uint8; numbers beyond them are stored as the limit.
    """

    form: str
    spacing: str
    low: float
    high: float

    @classmethod
    def fit(cls, values: npt.NDArray[np.floating[Any]], form: str, spacing: str) -> Factor:
        """Take the limits from the values of training rows, shape (n,)."""
        values = values[values > 0] if spacing == "log" else values
        if len(values) == 0:
            return cls(form, spacing, 1.0, 1.0)
        return cls(form, spacing, float(np.float32(values.min())), float(np.float32(values.max())))

    @property
    def dtype(self) -> np.dtype[Any]:
        """What is stored."""
        return FORMS[self.form]

    def _table(self) -> Float32Array:
        if self.spacing == "linear":
            return np.linspace(self.low, self.high, 256).astype(np.float32)
        return np.append(0.0, np.geomspace(self.low, self.high, 255)).astype(np.float32)

    def pack(self, values: Float32Array) -> npt.NDArray[Any]:
        """Return what is stored for finite float32 values, shape (n,)."""
        if self.form == "float32":
            return values.astype(self.dtype)
        if self.form == "bfloat16":
            word = values.astype("<f4").view("<u4").astype(np.uint64)
            return ((word + 0x7FFF + (word >> 16 & 1)) >> 16).astype(self.dtype)
        top, wide = 255, values.astype(np.float64)
        if self.spacing == "linear":
            return self._steps(wide - self.low, self.high - self.low, top)
        with np.errstate(divide="ignore"):
            logs = np.log(np.maximum(wide, 0) / self.low)
        steps = self._steps(logs, float(np.log(self.high / self.low)), top - 1)
        return np.where(values > 0, steps + np.uint8(1), np.uint8(0))

    @staticmethod
    def _steps(values: Float64Array, width: float, n: int) -> npt.NDArray[np.uint8]:
        """Return the number of the nearest of n + 1 equal steps from 0 to width."""
        with np.errstate(over="ignore"):
            scaled = values * (n / width) if width > 0 else np.where(values > 0, n, 0)
        return np.asarray(np.rint(np.clip(scaled, 0, n)), dtype=np.uint8)

    def unpack(self, stored: npt.NDArray[Any]) -> Float32Array:
        """Return the numbers that stored values stand for, shape (n,)."""
        if self.form == "float32":
            return stored.astype(np.float32)
        if self.form == "bfloat16":
            return (stored.astype("<u4") << 16).view("<f4").astype(np.float32)
        return np.asarray(self._table()[stored])
