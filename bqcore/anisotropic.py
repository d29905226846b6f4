"""TRAIN: score-aware loss, the weight eta of its parallel part, and updates of codebooks that lower it.

An error e of a vector with unit direction u costs ``|e|^2 + weight <e, u>^2`` with ``weight = eta - 1``: its
part along u, which moves the largest inner products, counts eta times. eta = 1 is k-means.

References
----------
Guo et al., "Accelerating Large-Scale Inference with Anisotropic Vector Quantization", ICML 2020: sections 3
(loss, eta and its limit) and 4 (codeword and codebook updates).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore._validation import Float32Array, check_int, unit_rows
from bqcore.centroids import need

# Forward recursion keeps 10 digits while sin^dim a stays above e^-12; below that its errors take over.
_FORWARD_LIMIT = 12.0
# The backward recursion starts where the error of its first value has shrunk by e^-40.
_BACKWARD_DECAY = 40.0

_COVARIANCE_ROWS = 1 << 14
_CG_ITERATIONS = 30
_CG_TOLERANCE = 1e-3


def _angle(threshold: float, dim: int, norm: float) -> float:
    check_int(dim, name="dim", low=2)
    if not 0 <= threshold < norm:
        raise ValueError(f"threshold: expected 0 <= threshold < norm = {norm}, not {threshold}")
    return math.acos(threshold / norm)


def _inverse_excess(dim: int, angle: float) -> float:
    """``I_dim / (cos a sin^(dim - 1) a) = 1 / (eta - 1)``, I_d the integral of sin^d from 0 to a < pi / 2."""
    sine, cosine = math.sin(angle), math.cos(angle)
    decay = -math.log(sine)
    if dim * decay < _FORWARD_LIMIT:
        integral = angle if dim % 2 == 0 else 1 - cosine
        for d in range(2 + dim % 2, dim + 1, 2):
            integral = ((d - 1) * integral - cosine * sine ** (d - 1)) / d
        return integral / (cosine * sine ** (dim - 1))
    last = dim + 2 * math.ceil(_BACKWARD_DECAY / (2 * decay))
    ratio = 0.0
    for d in range(last, dim, -2):
        ratio = sine * sine * (d * ratio + 1) / (d - 1)
    return ratio


def eta(threshold: float, dim: int, norm: float = 1.0) -> float:
    """Exact weight of the parallel error: h_parallel / h_perpendicular.

    With I_d the integral of sin^d over angles from 0 to a = arccos(threshold / norm) and the recursion
    ``I_d = ((d - 1) I_(d-2) - cos a sin^(d-1) a) / d``, the ratio ``(d - 1) (I_(d-2) - I_d) / I_d`` is
    ``1 + cos a sin^(d-1) a / I_d``.

    Parameters
    ----------
    threshold : float
        Inner products below it do not count; queries are uniform on the unit sphere. 0 gives 1.
    dim : int
        Dimensions.
    norm : float, default 1
        Length of the vector.

    Returns
    -------
    float
        At least 1.

    Raises
    ------
    ValueError
        Unless 0 <= threshold < norm and dim >= 2.
    """
    angle = _angle(threshold, dim, norm)
    return 1.0 if threshold == 0 else 1 + 1 / _inverse_excess(dim, angle)


def eta_limit(threshold: float, dim: int, norm: float = 1.0) -> float:
    """Weight of the parallel error for many dimensions, ``t^2 (dim - 1) / (1 - t^2)``, t = threshold / norm.

    Parameters and errors as `eta`. It is what the paper's experiments use; it lies below the exact weight
    and, for small thresholds, below 1.
    """
    t = math.cos(_angle(threshold, dim, norm))
    return t * t * (dim - 1) / (1 - t * t)


def penalties(threshold: float, dim: int, norm: float = 1.0) -> tuple[float, float]:
    """Weights h_parallel and h_perpendicular of the two parts of the squared error.

    Parameters and errors as `eta`. Both underflow to 0 in thousands of dimensions, their ratio
    `eta` does not.
    """
    angle = _angle(threshold, dim, norm)
    if threshold == 0:  # Wallis: the integral of sin^dim over a quarter turn
        h = math.sqrt(math.pi) / 2 * math.exp(math.lgamma((dim + 1) / 2) - math.lgamma(dim / 2 + 1))
        return h, h
    edge = math.cos(angle) * math.sin(angle) ** (dim - 1)
    perpendicular = _inverse_excess(dim, angle) * edge
    return perpendicular + edge, perpendicular


def query_metric(X: Float32Array, weight: float) -> npt.NDArray[np.float64]:
    """Root of the metric in which an error costs what queries see of it, shape (dim, dim), symmetric.

    The paper's queries are uniform on a sphere, and errors of all directions but the vector's own cost alike.
    Real queries lie where the vectors do, and an error e costs them e' M e, M = S + m m' with the vectors'
    covariance S and mean m. The metric is ``(1 - weight) I + weight M dim / tr S``: eigenvalues of at least
    1 - weight, and I for uniform vectors.

    Parameters
    ----------
    X : ndarray of float32, shape (n, dim)
        Training vectors, in place of queries.
    weight : float
        Share of M, in [0, 1).

    Raises
    ------
    ValueError
        If weight is out of range.
    """
    if not 0 <= weight < 1:
        raise ValueError(f"query_weight: expected 0 <= query_weight < 1, not {weight}")
    if len(X) > _COVARIANCE_ROWS:
        X = X[:: len(X) // _COVARIANCE_ROWS]
    wide = X.astype(np.float64)
    moment = wide.T @ wide / len(wide)
    variance = wide.var(axis=0).sum()
    # equal rows have no variance, only the rounding of their mean
    if variance <= 1e-20 * np.trace(moment):
        return np.eye(X.shape[1])
    values, vectors = np.linalg.eigh(moment)
    root = np.sqrt((1 - weight) + weight * values.clip(0) * (len(values) / variance))
    return np.asarray((vectors * root) @ vectors.T)


def score_aware_eta(given: float | None, threshold: float, metric: str, dim: int) -> float:
    """Return the weight of the parallel error that a codec's parameters `eta` and `threshold` ask for.

    Raises
    ------
    ValueError
        If eta is below 1 or not finite, if it is above 1 under l2, or if threshold is not in [0, 1).
    """
    if given is None:
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold: expected 0 <= threshold < 1, not {threshold}")
        return 1.0 if metric == "l2" or dim == 1 else eta(threshold, dim)
    if not 1 <= given < np.inf:
        raise ValueError(f"eta: expected a finite number >= 1, not {given}")
    if metric == "l2" and given != 1:
        raise ValueError(f"eta: expected 1 under l2, whose errors count alike in all directions, not {given}")
    return float(given)


def unit_directions(X: Float32Array) -> Float32Array:
    """Scale rows to unit length, shape (n, dim); zero rows stay zero."""
    out = np.zeros_like(X)
    some = X.any(axis=1)
    out[some] = unit_rows(X[some])
    return out


def loss(
    targets: Float32Array, directions: Float32Array, weights: Float32Array, decoded: Float32Array
) -> npt.NDArray[np.float64]:
    """``|e|^2 + weight <e, direction>^2`` of every row, e = target - decoded, shape (n,)."""
    error = targets - decoded
    squared = np.einsum("ij,ij->i", error, error, dtype=np.float64)
    along = np.einsum("ij,ij->i", error, directions, dtype=np.float64)
    return np.asarray(squared + weights * np.square(along))


def update_codewords(
    codewords: Float32Array,
    targets: Float32Array,
    directions: Float32Array,
    weights: Float32Array,
    codes: npt.NDArray[Any],
) -> Float32Array:
    """Best codewords of a vector quantizer for given codes, in closed form.

    Parameters
    ----------
    codewords : ndarray of float32, shape (k, dim)
        Those that no row chose are kept.
    targets, directions : ndarray of float32, shape (n, dim)
        Vectors (or residuals) and unit directions (of the vectors; zero for a zero vector).
    weights : ndarray of float32, shape (n,)
        eta - 1, at least 0.
    codes : ndarray of int, shape (n,)

    Returns
    -------
    ndarray of float32, shape (k, dim)
        ``(N I + sum weight u u^T)^-1 sum (x + weight <x, u> u)`` over the N rows of each codeword: positive
        definite, with eigenvalues of at least N, also where coordinates are dead.

    References
    ----------
    Guo et al. 2020, section 4.1.
    """
    out = codewords.copy()
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(codewords) + 1))
    for k in range(len(codewords)):
        rows = order[bounds[k] : bounds[k + 1]]
        if not len(rows):
            continue
        x, weight = targets[rows].astype(np.float64), weights[rows, np.newaxis].astype(np.float64)
        u = directions[rows].astype(np.float64)
        wu = weight * u
        rhs = x.sum(axis=0) + np.einsum("ij,ij->i", x, u) @ wu
        if len(rows) >= len(u.T):
            matrix = u.T @ wu
            matrix[np.diag_indices_from(matrix)] += len(rows)
            out[k] = np.linalg.solve(matrix, rhs)
        else:  # Woodbury: a system as small as the number of rows
            root = np.sqrt(weight) * u
            inner = root @ root.T
            inner[np.diag_indices_from(inner)] += len(rows)
            out[k] = (rhs - root.T @ np.linalg.solve(inner, root @ rhs)) / len(rows)
    return out


def update_codebooks(
    codebooks: Float32Array,
    offsets: npt.NDArray[np.uint32],
    targets: Float32Array,
    directions: Float32Array,
    weights: Float32Array,
    codes: npt.NDArray[np.uint16],
    decoded: Float32Array,
) -> Float32Array:
    """Better codebooks of a product quantizer for given codes: all subspaces at once.

    The codebooks that minimise the loss solve one positive definite system over all their entries in use.
    Conjugate gradients with the diagonal as preconditioner start from the present codebooks and lower the
    loss with every step, so that stopping early never raises it. Codewords that no row chose stay as they
    are; with weights of 0 the result is the mean of each codeword's rows.

    Parameters
    ----------
    codebooks : ndarray of float32, shape (dim, n_codewords)
        Rows offsets[m] to offsets[m + 1] - 1 hold the codewords of subspace m as columns.
    offsets : ndarray of uint32, shape (n_subspaces + 1,)
    targets, directions, weights
        As `update_codewords`.
    codes : ndarray of uint16, shape (n, n_subspaces)
    decoded : ndarray of float32, shape (n, dim)
        What the codes stand for under `codebooks`.

    Returns
    -------
    ndarray of float32, shape (dim, n_codewords)

    References
    ----------
    Guo et al. 2020, section 4.2.
    """
    csr_array = need("scipy.sparse").csr_array
    linalg = need("scipy.sparse.linalg")
    LinearOperator, cg = linalg.LinearOperator, linalg.cg

    n, dim = targets.shape
    size = codebooks.size
    sub = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    counts = np.stack([np.bincount(code, minlength=codebooks.shape[1]) for code in codes.T])[sub].ravel()
    columns = (codes[:, sub] + np.arange(dim, dtype=np.int32) * codebooks.shape[1]).astype(np.int32).ravel()
    starts = np.arange(n + 1, dtype=np.int64 if n * dim >= 2**31 else np.int32) * dim

    def selection(values: Float32Array) -> Any:
        """Sparse (n, size): row i holds its values where its codewords' entries lie."""
        return csr_array((values.ravel(), columns, starts), shape=(n, size))

    error = targets - decoded
    parallel = weights * np.einsum("ij,ij->i", error, directions)
    gradient = selection(error + parallel[:, np.newaxis] * directions).sum(axis=0)
    if not weights.any():
        return _moved(codebooks, gradient / np.maximum(counts, 1))
    along = selection(directions)
    across = along.T.tocsr()
    diagonal = counts + selection(weights[:, np.newaxis] * np.square(directions)).sum(axis=0)
    diagonal[counts == 0] = 1
    shape = (size, size)
    system = LinearOperator(
        shape, matvec=lambda v: counts * v + across @ (weights * (along @ v)), dtype=np.float32
    )
    inverse = LinearOperator(shape, matvec=lambda v: v / diagonal, dtype=np.float32)
    step, _ = cg(system, gradient, rtol=_CG_TOLERANCE, maxiter=_CG_ITERATIONS, M=inverse)
    return _moved(codebooks, step)


def _moved(codebooks: Float32Array, step: npt.NDArray[Any]) -> Float32Array:
    return np.asarray(codebooks + step.reshape(codebooks.shape), dtype=np.float32)
