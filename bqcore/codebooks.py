"""TRAIN: codebooks of a product quantizer, and the rotation that prepares vectors for them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore import _kernels
from bqcore._validation import Float32Array
from bqcore.anisotropic import loss, update_codebooks
from bqcore.centroids import kmeans, need

# Passes of coordinate descent over the subspaces of one vector at most; most vectors settle in three.
_MAX_SWEEPS = 10
_BLOCK_ROWS = 2048

# Rows per codeword that k-means starts the codebooks from; refinement sees all training rows.
_INITIAL_ROWS = 32
_INITIAL_ITERATIONS = 10
_ITERATIONS = 6
_TOLERANCE = 1e-3
# Twice as many change recall by .001, less than seeds do (.004).
_ROTATION_ITERATIONS = 8
_ROTATION_ROWS = 16_384


def split(dim: int, n_subspaces: int) -> npt.NDArray[np.uint32]:
    """First coordinate of every subspace and, last, dim: sizes differ by one at most, larger ones first."""
    size, more = divmod(dim, n_subspaces)
    return np.cumsum([0] + [size + 1] * more + [size] * (n_subspaces - more), dtype=np.uint32)


def initial_codebooks(
    X: Float32Array, offsets: npt.NDArray[np.uint32], n_codewords: int, random_state: int
) -> Float32Array:
    """K-means of each subspace, shape (dim, n_codewords).

    Where a subspace has fewer distinct rows than codewords, its first codeword is repeated; no code selects
    the copies, because ties go to the first.
    """
    threadpool_limits = need("threadpoolctl").threadpool_limits
    rng = np.random.default_rng(random_state)
    if len(X) > _INITIAL_ROWS * n_codewords:
        X = X[np.sort(rng.choice(len(X), _INITIAL_ROWS * n_codewords, replace=False))]
    codebooks = np.empty((X.shape[1], n_codewords), dtype=np.float32)
    with threadpool_limits(1):  # the work inside one subspace is too small to share out
        for first, last in pairwise(offsets):
            part = np.ascontiguousarray(X[:, first:last])
            found = kmeans(
                part, n_codewords, int(rng.integers(2**32)), iterations=_INITIAL_ITERATIONS, chosen=False
            )
            codebooks[first:last, : len(found)] = found.T
            codebooks[first:last, len(found) :] = found[0][:, np.newaxis]
    return codebooks


def assign_codes(
    codebooks: Float32Array,
    offsets: npt.NDArray[np.uint32],
    targets: Float32Array,
    directions: Float32Array,
    weight: float,
    start: npt.NDArray[np.uint16] | None = None,
) -> npt.NDArray[np.uint16]:
    """Codes of least score-aware loss by coordinate descent, shape (n, n_subspaces), on all processors.

    Parameters
    ----------
    codebooks : ndarray of float32, shape (dim, n_codewords)
    offsets : ndarray of uint32, shape (n_subspaces + 1,)
    targets, directions : ndarray of float32, shape (n, dim)
    weight : float
        eta - 1; at 0 the nearest codeword of each subspace.
    start : ndarray of uint16, shape (n, n_subspaces), optional
        Codes to improve on.
    """

    def part(first: int) -> npt.NDArray[np.uint16]:
        rows = slice(first, first + _BLOCK_ROWS)
        return _kernels.pq_assign(
            codebooks,
            offsets,
            targets[rows],
            directions[rows],
            np.full(len(targets[rows]), weight, dtype=np.float32),
            start=None if start is None or weight == 0 else start[rows],
            max_sweeps=_MAX_SWEEPS,
        )

    firsts = range(0, max(1, len(targets)), _BLOCK_ROWS)
    if len(firsts) == 1:
        return part(0)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.concatenate(list(pool.map(part, firsts)))


def decode(codebooks: Float32Array, offsets: npt.NDArray[np.uint32], codes: npt.NDArray[Any]) -> Float32Array:
    """Concatenate the codewords that codes, shape (n, n_subspaces), stand for: shape (n, dim)."""
    out = np.empty((len(codes), len(codebooks)), dtype=np.float32)
    for m, (first, last) in enumerate(pairwise(offsets)):
        out[:, first:last] = codebooks[first:last].T[codes[:, m]]
    return out


def refine(
    codebooks: Float32Array,
    offsets: npt.NDArray[np.uint32],
    targets: Float32Array,
    directions: Float32Array,
    weight: float,
    iterations: int = _ITERATIONS,
) -> Float32Array:
    """Alternate assignment and codebook update until the score-aware loss settles; neither raises it.

    Parameters
    ----------
    codebooks : ndarray of float32, shape (dim, n_codewords)
    offsets : ndarray of uint32, shape (n_subspaces + 1,)
    targets, directions : ndarray of float32, shape (n, dim)
    weight : float
        eta - 1; 0 is Lloyd's algorithm in every subspace.
    iterations : int, default 6

    Returns
    -------
    ndarray of float32, shape (dim, n_codewords)
    """
    weights = np.full(len(targets), weight, dtype=np.float32)
    codes, before = None, np.inf
    for _ in range(iterations):
        codes = assign_codes(codebooks, offsets, targets, directions, weight, codes)
        decoded = decode(codebooks, offsets, codes)
        now = float(loss(targets, directions, weights, decoded).sum())
        if now >= before * (1 - _TOLERANCE):
            break
        before = now
        codebooks = update_codebooks(codebooks, offsets, targets, directions, weights, codes, decoded)
    return codebooks


def _balanced_axes(X: Float32Array, offsets: npt.NDArray[np.uint32]) -> Float32Array:
    """Principal axes, dealt to subspaces so that their products of variances are alike; shape (dim, dim)."""
    values, vectors = np.linalg.eigh(np.cov(X, rowvar=False, dtype=np.float64).reshape(X.shape[1], -1))
    floor = max(float(values[-1]) * 1e-9, np.finfo(np.float64).tiny)
    room = np.diff(offsets).astype(np.int64)
    volume = np.zeros(len(room))
    axes: list[list[int]] = [[] for _ in room]
    for axis in np.argsort(-values, kind="stable"):
        m = int(np.argmin(np.where(room > 0, volume, np.inf)))
        axes[m].append(int(axis))
        volume[m] += np.log(max(float(values[axis]), floor) / floor)
        room[m] -= 1
    return np.asarray(vectors[:, np.concatenate(axes).astype(np.int64)], dtype=np.float32)


def learn_rotation(
    X: Float32Array, offsets: npt.NDArray[np.uint32], n_codewords: int, random_state: int
) -> tuple[Float32Array, Float32Array]:
    """Learn the rotation that lowers the error of product quantization (OPQ).

    It starts from principal axes dealt to subspaces by variance, then alternates codes, codebooks and the
    orthogonal Procrustes problem.

    Parameters
    ----------
    X : ndarray of float32, shape (n, dim)
    offsets : ndarray of uint32, shape (n_subspaces + 1,)
    n_codewords : int
    random_state : int

    Returns
    -------
    rotation : ndarray of float32, shape (dim, dim)
        Orthogonal; rotated rows are X @ rotation.
    codebooks : ndarray of float32, shape (dim, n_codewords)
        Of the rotated rows.

    References
    ----------
    Ge et al., "Optimized Product Quantization", PAMI 2014: section 3.2 (alternation), 3.3 (eigenvalue
    allocation).
    """
    rows = max(_INITIAL_ROWS * n_codewords, _ROTATION_ROWS)
    if len(X) > rows:
        X = X[np.sort(np.random.default_rng(random_state).choice(len(X), rows, replace=False))]
    rotation = _balanced_axes(X, offsets) if len(X) > 1 else np.eye(X.shape[1], dtype=np.float32)
    codebooks = initial_codebooks(X @ rotation, offsets, n_codewords, random_state)
    flat = np.zeros(len(X), dtype=np.float32)
    for _ in range(_ROTATION_ITERATIONS):
        rotated = X @ rotation
        codes = assign_codes(codebooks, offsets, rotated, rotated, 0)
        decoded = decode(codebooks, offsets, codes)
        codebooks = update_codebooks(codebooks, offsets, rotated, rotated, flat, codes, decoded)
        decoded = decode(codebooks, offsets, codes)
        left, _, right = np.linalg.svd((X.T @ decoded).astype(np.float64))
        rotation = np.asarray(left @ right, dtype=np.float32)
    return rotation, codebooks
