"""STORE: float8 e4m3 ("fn": no infinities), rounded to nearest even and saturating.

1 sign bit, 4 exponent bits with bias 7, 3 mantissa bits; subnormals are multiples of 2**-9.

References
----------
Micikevicius et al., "FP8 Formats for Deep Learning", 2022, section 3.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bqcore._validation import Float32Array

#: Largest magnitude; what lies beyond is stored as this.
MAX = 448.0
_MAX_CODE = 0x7E  # 0x7F is NaN
_SMALLEST_NORMAL = 2.0**-6
_DROPPED_BITS = 23 - 3
_BIAS_DIFFERENCE = 127 - 7


def encode(x: Float32Array) -> npt.NDArray[np.uint8]:
    """Round float32 values to float8 e4m3.

    Parameters
    ----------
    x : ndarray of float32
        Of any shape; infinities saturate too.

    Returns
    -------
    ndarray of uint8, same shape

    Raises
    ------
    ValueError
        If a value is NaN.
    """
    if np.isnan(x).any():
        raise ValueError("x: expected numbers, not nan")
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    magnitude = bits & np.uint32(0x7FFFFFFF)
    # Adding half a unit, less one where the kept part is even, carries exactly when rounding to even goes up.
    odd = (magnitude >> _DROPPED_BITS) & np.uint32(1)
    rounded = (magnitude + np.uint32((1 << (_DROPPED_BITS - 1)) - 1) + odd) >> _DROPPED_BITS
    normal = rounded.astype(np.int32) - (_BIAS_DIFFERENCE << 3)
    small = magnitude.view(np.float32) < _SMALLEST_NORMAL
    # The scaled value is exact; rint rounds to even, and 8 of these steps are the smallest normal's code.
    subnormal = np.rint(np.where(small, magnitude.view(np.float32), 0) * np.float32(2.0**9)).astype(np.int32)
    code = np.minimum(np.where(small, subnormal, normal), _MAX_CODE).astype(np.uint8)
    return code | (bits >> np.uint32(24)).astype(np.uint8) & np.uint8(0x80)


def _values() -> Float32Array:
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    magnitude = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    magnitude[code & 0x7F == 0x7F] = np.nan
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.float32)


#: Value of each of the 256 codes.
VALUES = _values()


def decode(codes: npt.NDArray[np.uint8]) -> Float32Array:
    """Return the float32 values of float8 e4m3 codes, same shape; 0x7F and 0xFF are NaN."""
    values: Float32Array = VALUES[codes]
    return values
