"""Kernels of codebooks: codewords for rows, sums of what codes select."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore._ffi import Float32Array, _check_shape, _message, _pointer
from bqcore._native import lib


def pq_assign(
    codebooks: Float32Array,
    offsets: npt.NDArray[np.uint32],
    targets: Float32Array,
    directions: Float32Array,
    weights: Float32Array,
    *,
    start: npt.NDArray[np.uint16] | None = None,
    max_sweeps: int,
) -> npt.NDArray[np.uint16]:
    """Assign codes, shape (n, n_subspaces), by coordinate descent on ``|e|^2 + weight <e, direction>^2``.

    Parameters
    ----------
    codebooks : ndarray of float32, shape (dim, n_codewords)
        Rows offsets[m] to offsets[m + 1] - 1 hold the codewords of subspace m as columns.
    offsets : ndarray of uint32, shape (n_subspaces + 1,)
    targets, directions : ndarray of float32, shape (n, dim)
    weights : ndarray of float32, shape (n,)
    start : ndarray of uint16, shape (n, n_subspaces), optional
        Codes to start from; without them the nearest codeword of each subspace.
    max_sweeps : int
        Passes over the subspaces; a row stops when one changes nothing.
    """
    n, dim = targets.shape
    n_subspaces = len(offsets) - 1
    for name, array, shape, dtype in [
        ("codebooks", codebooks, (int(offsets[-1]), codebooks.shape[1]), np.float32),
        ("offsets", offsets, (n_subspaces + 1,), np.uint32),
        ("targets", targets, (n, int(offsets[-1])), np.float32),
        ("directions", directions, (n, dim), np.float32),
        ("weights", weights, (n,), np.float32),
    ]:
        _check_shape(name, array, shape, dtype)
    codes = np.zeros((n, n_subspaces), dtype=np.uint16)
    if start is not None:
        _check_shape("start", start, codes.shape, np.uint16)
        codes[:] = start
    if n:
        status = lib.bqk_pq_assign(
            _pointer("float", codebooks),
            _pointer("uint32_t", offsets),
            n_subspaces,
            codebooks.shape[1],
            _pointer("float", targets),
            _pointer("float", directions),
            _pointer("float", weights),
            n,
            start is not None,
            max_sweeps,
            _pointer("uint16_t", codes, writable=True),
        )
        if status != lib.BQK_OK:
            raise ValueError(_message(status))
    return codes


def lut_scan(
    codes: npt.NDArray[np.uint8], luts: npt.NDArray[np.uint8] | Float32Array
) -> npt.NDArray[np.uint32] | Float32Array:
    """Add the LUT entries that packed codes select: (n_queries, n) uint32 for uint8 entries, else float32.

    Parameters
    ----------
    codes : ndarray of uint8, shape (n, ceil(n_subspaces * code_bits / 8))
    luts : ndarray of uint8 or float32, shape (n_queries, n_subspaces, 2**code_bits), code_bits 4 or 8
    """
    n_queries, n_subspaces, n_codewords = luts.shape
    code_bits = 4 if n_codewords == 16 else 8
    exact = luts.dtype == np.uint8
    _check_shape("luts", luts, (n_queries, n_subspaces, 1 << code_bits), np.uint8 if exact else np.float32)
    _check_shape("codes", codes, (len(codes), -(-n_subspaces * code_bits // 8)), np.uint8)
    out: npt.NDArray[Any] = np.empty((n_queries, len(codes)), dtype=np.uint32 if exact else np.float32)
    if out.size:
        scan, entry, total = (
            (lib.bqk_lut_scan, "uint8_t", "uint32_t") if exact else (lib.bqk_lut_scan_float, "float", "float")
        )
        status = scan(
            code_bits,
            _pointer("uint8_t", codes),
            len(codes),
            n_subspaces,
            _pointer(entry, luts),
            n_queries,
            _pointer(total, out, writable=True),
        )
        if status != lib.BQK_OK:
            raise ValueError(_message(status))
    return out
