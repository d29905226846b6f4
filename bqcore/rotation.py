"""TRAIN: dense orthogonal matrices. The Hadamard rotation is the kernels' own (`_kernels.Model.rotate`)."""

from __future__ import annotations

import numpy as np

from bqcore._validation import Float32Array, Float64Array

#: Dimensions up to which a dense rotation is offered: its matrix takes 4 dim**2 bytes.
MAX_DENSE_DIM = 1024


def dense_rotation(dim: int, random_state: int) -> Float32Array:
    """Return a random orthogonal matrix, uniform over all of them, shape (dim, dim).

    Parameters
    ----------
    dim : int
    random_state : int

    References
    ----------
    Mezzadri, "How to generate random matrices from the classical compact groups", Notices of the AMS 54,
    2007: QR of a Gaussian matrix, with the signs of R's diagonal moved into Q.
    """
    gaussian = np.random.default_rng(random_state).standard_normal((dim, dim))
    q, r = np.linalg.qr(gaussian)
    return np.asarray(q * np.where(np.diagonal(r) < 0, -1.0, 1.0), dtype=np.float32)


def principal_axes(X: Float32Array) -> tuple[Float64Array, Float64Array]:
    """Return the principal axes of X about its mean and the variances along them.

    Parameters
    ----------
    X : ndarray of float32, shape (n, dim)

    Returns
    -------
    axes : ndarray of float64, shape (dim, dim)
        Rows are orthonormal, by falling variance; the largest component of each is positive.
    variances : ndarray of float64, shape (dim,)
        Not negative.
    """
    mean = X.mean(axis=0, dtype=np.float64)
    dim = X.shape[1]
    scatter = np.zeros((dim, dim))
    step = max(1, (1 << 22) // dim)
    for start in range(0, len(X), step):
        centred = X[start : start + step] - mean
        scatter += centred.T @ centred
    variances, vectors = np.linalg.eigh(scatter / len(X))
    axes = vectors.T[::-1]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, np.newaxis], axis=1)
    return axes * np.where(largest < 0, -1.0, 1.0), np.maximum(variances[::-1], 0)


def multiply(X: Float32Array, matrix: Float32Array | Float64Array) -> Float32Array:
    """Return X @ matrix, summed in float64: BLAS's order of summation then all but never shows in float32.

    In float32 a row's product would depend on the rows beside it, and with it the row's code.
    """
    out = np.empty((len(X), matrix.shape[1]), dtype=np.float32)
    wide = np.asarray(matrix, dtype=np.float64)
    step = max(1, (1 << 22) // max(X.shape[1], out.shape[1]))
    for start in range(0, len(X), step):
        out[start : start + step] = X[start : start + step].astype(np.float64) @ wide
    return out
