"""Kernels of codes whose levels are signs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bqcore._ffi import Float32Array, _check, _check_rows, _pointer
from bqcore._native import lib


def flip(
    gram: Float32Array, g: Float32Array, signs: npt.NDArray[np.int8], max_sweeps: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Flip signs in place while <g,s>^2 / s'Gs grows.

    Parameters
    ----------
    gram : ndarray of float32, shape (n_bits, n_bits), contiguous
        G, symmetric.
    g : ndarray of float32, shape (n, n_bits), contiguous
    signs : ndarray of int8, shape (n, n_bits), contiguous
        +1 and -1.
    max_sweeps : int
        Passes over all signs at most.

    Returns
    -------
    gs, sgs : ndarray of float64, shape (n,)
        <g,s> and s'Gs.
    """
    n_bits = len(gram)
    _check_rows("gram", gram, n_bits, np.float32)
    _check_rows("g", g, n_bits, np.float32)
    _check_rows("signs", signs, n_bits, np.int8)
    if len(signs) != len(g):
        raise ValueError(f"signs: expected {len(g)} rows, not {len(signs)}")
    work = np.empty(n_bits, dtype=np.float32)
    gs, sgs = np.empty(len(g)), np.empty(len(g))
    if len(g):
        _check(
            lib.bqk_flip(
                _pointer("float", gram),
                _pointer("float", g),
                len(g),
                n_bits,
                max_sweeps,
                _pointer("int8_t", signs, writable=True),
                _pointer("float", work, writable=True),
                _pointer("double", gs, writable=True),
                _pointer("double", sgs, writable=True),
            )
        )
    return gs, sgs


def sign_magnitude_sym(
    dim: int, codes: npt.NDArray[np.uint8], code: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int32]:
    """Sum of +-1 (signs agree or not) times 1, 2 or 4 (neither, one, both strong), shape (n,).

    Parameters
    ----------
    dim : int
    codes : ndarray of uint8, shape (n, 2 ceil(dim / 8)), contiguous
        Sign plane and strong plane.
    code : ndarray of uint8, shape (2 ceil(dim / 8),)
    """
    nbytes = 2 * -(-dim // 8)
    code = np.ascontiguousarray(code)
    _check_rows("codes", codes, nbytes, np.uint8)
    _check_rows("code", code[np.newaxis], nbytes, np.uint8)
    out = np.empty(len(codes), dtype=np.int32)
    if len(codes):
        planes = _pointer("uint8_t", codes), len(codes), _pointer("uint8_t", code)
        _check(lib.bqk_sign_magnitude_sym(dim, *planes, _pointer("int32_t", out, writable=True)))
    return out
