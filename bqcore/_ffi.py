"""Crossing into C: pointers to arrays, what arrays must be, statuses turned into exceptions.

Arrays are checked by `bqcore._validation` before they get here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore._native import ffi, lib

Float32Array = npt.NDArray[np.float32]

METRICS: dict[str, int] = {"l2": lib.BQK_L2, "ip": lib.BQK_IP, "cosine": lib.BQK_COSINE}
ROTATIONS: dict[str, int] = {"none": lib.BQK_ROTATION_NONE, "hadamard": lib.BQK_ROTATION_HADAMARD}

#: f_add and f_rescale, as `bqk_factors` lays them out.
FACTORS_DTYPE = np.dtype([("f_add", "<f4"), ("f_rescale", "<f4")])


def _text(pointer: Any) -> str:
    return str(ffi.string(pointer).decode())


def _message(status: int) -> str:
    return _text(lib.bqk_strerror(status))


def _pointer(ctype: str, array: npt.NDArray[Any], *, writable: bool = False) -> Any:
    return ffi.from_buffer(f"{ctype}[]", array, require_writable=writable)


def _factors(array: npt.NDArray[np.void], *, writable: bool = False) -> Any:
    """Pointer to corrective factors, as C lays them out; valid while the caller holds the array."""
    return ffi.cast("bqk_factors *", _pointer("char", array.view(np.int8), writable=writable))


def _check(status: int) -> None:
    if status != lib.BQK_OK:
        raise ValueError(_message(status))


def _check_rows(name: str, array: npt.NDArray[Any], width: int, dtype: npt.DTypeLike) -> None:
    """C trusts types, widths and contiguity: refuse anything else here."""
    if array.ndim != 2 or array.shape[1] != width or array.dtype != dtype or not array.flags.c_contiguous:
        expected = f"contiguous rows of {width} {np.dtype(dtype)}"
        raise ValueError(f"{name}: expected {expected}, not {array.dtype} of shape {array.shape}")


def _check_shape(name: str, array: npt.NDArray[Any], shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
    """C trusts types, shapes and contiguity: refuse anything else here."""
    if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
        expected = f"contiguous {np.dtype(dtype)} of shape {shape}"
        raise ValueError(f"{name}: expected {expected}, not {array.dtype} of shape {array.shape}")
