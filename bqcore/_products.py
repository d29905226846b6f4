"""Products whose rows do not depend on the rows beside them."""

from __future__ import annotations

import numpy as np

from bqcore._ffi import Float32Array, _check, _check_rows, _pointer
from bqcore._native import lib


def row_products(a: Float32Array, b: Float32Array) -> Float32Array:
    """Return products of rows, shape (n,); b may be one row."""
    return np.asarray(np.einsum("ij,j->i", a, b[0]) if len(b) == 1 else np.einsum("ij,ij->i", a, b))


def fixed_product(rows: Float32Array, matrix: Float32Array) -> Float32Array:
    """Return rows @ matrix, shapes (n, k) and (k, m), both contiguous.

    BLAS adds up in an order that depends on a row's place, the number of rows and the threads.
    """
    if rows.ndim != 2 or matrix.ndim != 2 or rows.shape[1] != matrix.shape[0]:
        raise ValueError(f"expected shapes (n, k) and (k, m), not {rows.shape} and {matrix.shape}")
    out = np.empty((len(rows), matrix.shape[1]), dtype=np.float32)
    lib.bqk_project(
        _pointer("float", np.ascontiguousarray(rows, dtype=np.float32)),
        len(rows),
        _pointer("float", np.ascontiguousarray(matrix, dtype=np.float32)),
        *matrix.shape,
        _pointer("float", out, writable=True),
    )
    return out


def matmul(X: Float32Array, matrix: Float32Array) -> Float32Array:
    """Return X @ matrix.T: sums in one order, on every instruction set and beside any other rows.

    Parameters
    ----------
    X : ndarray of float32, shape (n, dim), contiguous
    matrix : ndarray of float32, shape (rows, dim), contiguous

    Returns
    -------
    ndarray of float32, shape (n, rows)
    """
    _check_rows("X", X, matrix.shape[1], np.float32)
    _check_rows("matrix", matrix, X.shape[1], np.float32)
    out = np.empty((len(X), len(matrix)), dtype=np.float32)
    if len(X):
        arrays = _pointer("float", X), len(X), _pointer("float", matrix), len(matrix), X.shape[1]
        _check(lib.bqk_matmul(*arrays, _pointer("float", out, writable=True)))
    return out
