"""TRAIN: the mean, and k-means through scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore._validation import Float32Array

#: Rows per centroid that k-means is trained on at most; more do not move the centroids.
ROWS_PER_CENTROID = 256
_ITERATIONS = 25


def _sklearn_cluster() -> Any:
    try:
        import sklearn.cluster
    except ImportError as error:
        raise ImportError("k-means needs scikit-learn: pip install 'bqcore[train]'") from error
    return sklearn.cluster


def kmeans(X: Float32Array, n_centroids: int, random_state: int) -> Float32Array:
    """Return centroids of X, as many as asked for and as there are distinct rows.

    Parameters
    ----------
    X : ndarray of float32, shape (n, dim)
    n_centroids : int
        At least 1.
    random_state : int

    Returns
    -------
    ndarray of float32, shape (min(n_centroids, n_distinct), dim)
    """
    if n_centroids == 1:
        return np.asarray(X.mean(axis=0, dtype=np.float64, keepdims=True), dtype=np.float32)
    rng = np.random.default_rng(random_state)
    if len(X) > ROWS_PER_CENTROID * n_centroids:
        X = X[np.sort(rng.choice(len(X), ROWS_PER_CENTROID * n_centroids, replace=False))]
    # duplicates beyond what k-means++ copes with show among the first rows, or all rows are looked at
    if len(np.unique(X[: 4 * n_centroids], axis=0)) <= n_centroids:
        distinct = np.unique(X, axis=0)
        if len(distinct) <= n_centroids:
            return np.asarray(distinct, dtype=np.float32)
    model = _sklearn_cluster().KMeans(
        n_centroids,
        init="k-means++" if n_centroids <= 512 else "random",
        n_init=1,
        max_iter=_ITERATIONS,
        random_state=int(rng.integers(2**32)),
        algorithm="lloyd",
    )
    return np.asarray(model.fit(X).cluster_centers_, dtype=np.float32)


def assign(X: Float32Array, centroids: Float32Array) -> npt.NDArray[np.int64]:
    """Return the row of the nearest centroid (squared L2) for each row of X, shape (n,); ties by row."""
    half = np.einsum("ij,ij->i", centroids, centroids) / 2
    out = np.empty(len(X), dtype=np.int64)
    step = max(1, (1 << 24) // len(centroids))
    for start in range(0, len(X), step):
        out[start : start + step] = np.argmin(half - X[start : start + step] @ centroids.T, axis=1)
    return out
