"""Products whose rows do not depend on the rows beside them."""

from __future__ import annotations

import numpy as np

from bqcore._ffi import Float32Array, _check, _check_rows, _pointer
from bqcore._native import ffi, lib


class Columns:
    """A matrix as integers of 16 bits; its products with a row depend neither on other rows nor on the CPU.

    BLAS adds up in an order that depends on a row's place, the number of rows and the threads. Rounding
    errors are 1.25e-5 of the product of the two lengths, as a root mean square (native/src/products.h).

    Parameters
    ----------
    matrix : ndarray of float32, shape (dim, m), contiguous
    """

    def __init__(self, matrix: Float32Array) -> None:
        self.dim, self.m = matrix.shape
        _check_rows("matrix", matrix, self.m, np.float32)
        values = np.empty(lib.bqk_columns_count(self.dim, self.m), dtype=np.int16)
        scale = np.empty(self.m, dtype=np.float32)
        self.struct = ffi.new("bqk_columns *")
        self.struct.dim, self.struct.m = self.dim, self.m
        # The struct borrows the arrays; holding the buffers keeps them alive with it.
        self._held = _pointer("int16_t", values, writable=True), _pointer("float", scale, writable=True)
        self.struct.values, self.struct.scale = self._held
        lib.bqk_columns_pack(_pointer("float", matrix), self.dim, self.m, *self._held)

    def product(self, X: Float32Array) -> Float32Array:
        """Return X @ matrix, shape (n, m), of rows of shape (n, dim), contiguous."""
        _check_rows("X", X, self.dim, np.float32)
        out = np.empty((len(X), self.m), dtype=np.float32)
        if len(X):
            work = np.empty(lib.bqk_rounded_work(self.dim, self.m), dtype=np.float32)
            rows, results = _pointer("float", X), _pointer("float", out, writable=True)
            lib.bqk_project(rows, len(X), self.struct, results, _pointer("float", work, writable=True))
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
