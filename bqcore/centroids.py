"""TRAIN: the mean, and k-means through scikit-learn."""

from __future__ import annotations

import contextlib
import importlib
import threading
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore._validation import Float32Array

#: Rows per centroid that k-means is trained on at most; more do not move the centroids.
ROWS_PER_CENTROID = 256
_ITERATIONS = 25
# Where centroids start from is chosen among so many rows per centroid (k-means++), and at random beyond
# _CHOSEN centroids. To choose among all rows takes three times as long as Lloyd's iterations, for the same
# error.
_START_ROWS = 16
_CHOSEN = 512


def need(module: str) -> Any:
    """Import a module of the extra ``train``.

    Raises
    ------
    ImportError
        If it is not installed; the text names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"k-means needs scikit-learn: pip install 'bqcore[train]' ({error})") from error


def _sklearn() -> Any:
    need("sklearn.cluster")
    need("sklearn.exceptions")
    return need("sklearn")


def can_cluster() -> bool:
    """Whether k-means, and what codebooks need beside it, can be had here."""
    try:
        _sklearn()
        need("threadpoolctl")
        need("scipy.sparse.linalg")
    except ImportError:
        return False
    return True


def preload() -> None:
    """Import scikit-learn, which takes seconds, in a thread of its own; an error waits for who needs it."""

    def load() -> None:
        with contextlib.suppress(ImportError):
            _sklearn()

    threading.Thread(target=load, daemon=True).start()


def kmeans(
    X: Float32Array,
    n_centroids: int,
    random_state: int,
    *,
    iterations: int = _ITERATIONS,
    chosen: bool = True,
) -> Float32Array:
    """Return centroids of X, as many as asked for and as there are distinct rows.

    Parameters
    ----------
    X : ndarray of float32, shape (n, dim)
    n_centroids : int
        At least 1.
    random_state : int
    iterations : int, default 25
        Lloyd iterations at most.
    chosen : bool, default True
        Whether up to 512 centroids start from rows far from each other (k-means++), not from any: what finds
        separate clusters, and more than half of the time in few dimensions.

    Returns
    -------
    ndarray of float32, shape (min(n_centroids, n_distinct), dim)
    """
    if n_centroids == 1:
        return np.asarray(X.mean(axis=0, dtype=np.float64, keepdims=True), dtype=np.float32)
    rng = np.random.default_rng(random_state)
    if len(X) > ROWS_PER_CENTROID * n_centroids:
        X = X[np.sort(rng.choice(len(X), ROWS_PER_CENTROID * n_centroids, replace=False))]
    distinct: dict[bytes, int] = {}
    for row, x in enumerate(X):
        distinct.setdefault((x + np.float32(0)).tobytes(), row)  # + 0: one zero, not two
        if len(distinct) > n_centroids:
            break
    else:
        return np.unique(X[list(distinct.values())], axis=0)
    sklearn = _sklearn()
    model = sklearn.cluster.KMeans(
        n_centroids,
        init=_start(X, n_centroids, rng, chosen and n_centroids <= _CHOSEN),
        n_init=1,
        max_iter=iterations,
        random_state=int(rng.integers(2**32)),
        algorithm="lloyd",
    )
    with warnings.catch_warnings():
        # What it warns of, fewer distinct rows than centroids, is handled: centroids of no row are left out.
        warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
        model.fit(X)
    return np.asarray(model.cluster_centers_[np.unique(model.labels_)], dtype=np.float32)


def _start(X: Float32Array, n_centroids: int, rng: np.random.Generator, chosen: bool) -> Float32Array:
    """Return the rows of X that k-means starts from, shape (n_centroids, dim)."""
    if not chosen:
        return X[rng.choice(len(X), n_centroids, replace=False)]
    threadpool_limits = need("threadpoolctl").threadpool_limits
    if len(X) > _START_ROWS * n_centroids:
        X = X[rng.choice(len(X), _START_ROWS * n_centroids, replace=False)]
    with threadpool_limits(1):  # each of its many steps is too small to share out
        found, _ = _sklearn().cluster.kmeans_plusplus(X, n_centroids, random_state=int(rng.integers(2**32)))
    return np.asarray(found, dtype=np.float32)


def assign(X: Float32Array, centroids: Float32Array) -> npt.NDArray[np.int64]:
    """Return the row of the nearest centroid (squared L2) for each row of X, shape (n,); ties by row."""
    half = np.einsum("ij,ij->i", centroids, centroids) / 2
    out = np.empty(len(X), dtype=np.int64)
    step = max(1, (1 << 24) // len(centroids))
    for start in range(0, len(X), step):
        out[start : start + step] = np.argmin(half - X[start : start + step] @ centroids.T, axis=1)
    return out
