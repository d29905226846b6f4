"""TRAIN: axes in which errors of equal size cost a ranking the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bqcore._validation import Float32Array, Float64Array
from bqcore.allocation import allocate

# Pairs of near rows: this many rows stand for queries, each with so many neighbours among this many rows.
_QUERIES, _ROWS, _NEIGHBOURS = 2_000, 20_000, 20
_BLOCK = 200
# Weights below this share of the largest are noise of float32, and so are variances 1,000 times smaller.
_FLOOR = 1e-6
_REST = 1e-4


@dataclass(frozen=True)
class Pairs:
    """Rows that stand for queries, and near rows of each.

    Attributes
    ----------
    rows : ndarray of float32, shape (n, dim)
        The first of them are the queries.
    near : ndarray of int64, shape (n_queries, k)
        Row numbers; k is 0 where there is one row only.
    """

    rows: Float32Array
    near: npt.NDArray[np.int64]


def near_pairs(X: Float32Array, metric: str, rng: np.random.Generator) -> Pairs:
    """Draw rows of X, shape (n, dim), and find neighbours among them under the metric."""
    rows = X[rng.choice(len(X), min(len(X), _ROWS), replace=False)]
    queries = rows[:_QUERIES]
    k = min(len(rows) - 1, _NEIGHBOURS)
    near = np.empty((len(queries), k), dtype=np.int64)
    half = np.einsum("ij,ij->i", rows, rows) / 2 if metric != "ip" else np.zeros(len(rows), np.float32)
    for start in range(0, len(queries) if k else 0, _BLOCK):
        block = queries[start : start + _BLOCK]
        distances = half - block @ rows.T
        distances[np.arange(len(block)), start + np.arange(len(block))] = np.inf
        near[start : start + len(block)] = np.argpartition(distances, k - 1, axis=1)[:, :k]
    return Pairs(rows, near)


@dataclass(frozen=True)
class Axes:
    """A linear map whose coordinates are quantized, and the one back.

    Attributes
    ----------
    forward : ndarray of float32, shape (dim, n_axes)
        Coordinates are residual @ forward. A squared error counts the same on every one of them.
    back : ndarray of float32, shape (n_axes, dim)
        back @ forward is the identity.
    bits : ndarray of uint8, shape (n_axes,)
        1 to 8, descending.
    deviation : ndarray of float32, shape (n_axes,)
        Of a coordinate, above 0.
    """

    forward: Float32Array
    back: Float32Array
    bits: npt.NDArray[np.uint8]
    deviation: Float32Array


def fit_axes(
    residuals: Float32Array,
    pairs: Pairs,
    pair_centroids: Float32Array,
    budget: int,
    segment: int,
    rng: np.random.Generator,
) -> Axes:
    """Choose axes and their bits.

    A decoded vector's error e changes the estimate for a query by <q - E[q | x], e>, x a row near the query.
    On the principal axes of the residuals an error counts by the mean square of q - E[q | x] there over near
    pairs, E[q - c | x] taken as linear axis by axis. Axes that make the whole second moment of q - E[q | x]
    and the covariance diagonal at once were tried: they gain less than .005 of recall on text and lose .2 on
    image patches, whose moments are far from full rank.

    Parameters
    ----------
    residuals : ndarray of float32, shape (n, dim)
        Training rows less their centroids.
    pairs : Pairs
    pair_centroids : ndarray of float32, shape (n_rows, dim)
        Centroids of pairs.rows.
    budget : int
        Bits of a code.
    segment : int
        Axes that share their bits and are rotated together.
    rng : numpy.random.Generator

    References
    ----------
    Goyal, "Theoretical Foundations of Transform Coding", IEEE Signal Processing Magazine 2001.
    """
    dim = residuals.shape[1]
    moments = (residuals.T @ residuals).astype(np.float64) / len(residuals)
    variance, principal = np.linalg.eigh(moments)
    variance = np.where(variance > 1e-9 * max(variance[-1], 0.0), variance, 0.0)
    weight = _unexplained(pairs, pair_centroids, principal)
    order = np.argsort(-variance * weight, kind="stable")
    variance, weight, principal = variance[order], weight[order], principal[:, order]

    starts = np.arange(0, dim, segment)
    sizes = np.diff(np.append(starts, dim))
    # equal weights within a segment keep its axes orthogonal when they are rotated
    weight = np.repeat(np.add.reduceat(weight, starts) / sizes, sizes)
    sums = np.add.reduceat(variance * weight, starts)
    if not sums.any():  # all rows lie on centroids: any one segment will do
        sums[0] = 1.0
    axis_bits = np.repeat(allocate(sums, sizes, budget), sizes)
    for start, size in zip(starts, sizes, strict=True):
        principal[:, start : start + size] @= _orthogonal(rng, int(size))
    # a few segments may have got more bits than ones before them, where variances are nearly equal
    kept = np.argsort(-axis_bits.astype(np.int64), kind="stable")[: np.count_nonzero(axis_bits)]
    deviation = np.sqrt(np.repeat(sums / sizes, sizes))[kept]
    scale = np.sqrt(weight[kept]) / deviation.max()  # float32 squares stay in range, whatever the data's unit
    return Axes(
        np.ascontiguousarray(principal[:, kept] * scale, dtype=np.float32),
        np.ascontiguousarray((principal[:, kept] / scale).T, dtype=np.float32),
        axis_bits[kept],
        (deviation / deviation.max()).astype(np.float32),
    )


def _unexplained(pairs: Pairs, centroids: Float32Array, principal: Float64Array) -> Float64Array:
    """Mean squares of q - E[q | x] on the principal axes, shape (dim,), the largest 1."""
    dim = len(principal)
    n_queries, k = pairs.near.shape
    if k == 0:
        return np.ones(dim)
    axes = principal.astype(np.float32)
    rows, origins = pairs.rows @ axes, centroids @ axes
    square, product, query = np.zeros(dim), np.zeros(dim), np.zeros(dim)
    for start in range(0, n_queries, _BLOCK):
        at = pairs.near[start : start + _BLOCK]
        o, q = rows[at] - origins[at], rows[start : start + len(at), np.newaxis] - origins[at]
        square += np.einsum("ijk,ijk->k", o, o)
        product += np.einsum("ijk,ijk->k", o, q)
        query += np.einsum("ijk,ijk->k", q, q)
    explained = np.divide(np.square(product), square, out=np.zeros(dim), where=square > 0)
    rest = np.maximum(query - explained, 0.0)
    most = rest.max()
    return np.maximum(rest / most, _FLOOR) if most > 0 else np.ones(dim)


@dataclass(frozen=True)
class Expectation:
    """What a query near a row has in common with it: E<q - c, v> for v a residual or a decoded one.

    The expected error of an estimate, E<q - c, decoded o - o>, follows from it when a row is encoded.

    Attributes
    ----------
    share : ndarray of float32, shape (n_axes,)
        E[(q - c) on an axis] = share * (residual's coordinate).
    lengths : ndarray of float32, shape (n_axes,)
        Squared lengths of the axes' vectors back.
    dropped : float
        E<q - c, what no axis holds> = dropped * (its squared length).
    """

    share: Float32Array
    lengths: Float32Array
    dropped: float


def expectation(pairs: Pairs, centroids: Float32Array, axes: Axes) -> Expectation:
    """Fit an Expectation to near pairs by least squares; `centroids` as for `fit_axes`."""
    n_axes = len(axes.bits)
    lengths = np.einsum("ij,ij->i", axes.back, axes.back)
    n_queries, k = pairs.near.shape
    if k == 0:
        return Expectation(np.zeros(n_axes, np.float32), lengths, 0.0)
    residuals = pairs.rows - centroids
    forward, back = residuals @ axes.forward, axes.back.T
    rows, origins = pairs.rows @ back, centroids @ back
    square, product = np.zeros(n_axes), np.zeros(n_axes)
    for start in range(0, n_queries, _BLOCK):
        at = pairs.near[start : start + _BLOCK]
        q = rows[start : start + len(at), np.newaxis] - origins[at]
        square += np.einsum("ijk,ijk->k", forward[at], forward[at])
        product += np.einsum("ijk,ijk->k", forward[at], q)
    share = np.divide(product, square, out=np.zeros(n_axes), where=square > 0).astype(np.float32)
    norms = np.einsum("ij,ij->i", residuals, residuals)
    rest = norms - np.square(forward) @ lengths
    known = np.square(forward) @ share
    above = below = 0.0
    for start in range(0, n_queries, _BLOCK):
        at = pairs.near[start : start + _BLOCK]
        queries = pairs.rows[start : start + len(at), np.newaxis] - centroids[at]
        whole = np.einsum("ijk,ijk->ij", queries, residuals[at])
        above += float(np.sum(whole - known[at], dtype=np.float64))
        below += float(np.sum(rest[at], dtype=np.float64))
    # below that share of the rows' squared length the rest is rounding errors
    known_rest = below > _REST * float(norms[pairs.near].sum(dtype=np.float64))
    return Expectation(share, lengths, above / below if known_rest else 0.0)


def _orthogonal(rng: np.random.Generator, size: int) -> Float64Array:
    """Random rotation, uniform over the orthogonal group."""
    q, r = np.linalg.qr(rng.normal(size=(size, size)))
    return np.asarray(q * np.where(np.diagonal(r) < 0, -1.0, 1.0))
