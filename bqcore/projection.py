"""How much of a centroid a query holds: what makes estimates of inner products linear in the query."""

from __future__ import annotations

import numpy as np

from bqcore._validation import Float32Array

# Squared lengths below this are zero for every purpose, as those of residuals are (native/src/encode.c).
_ZERO = 1e-30


def shares(Q: Float32Array, centroids: Float32Array) -> Float32Array:
    """Return s = <q, c> / |c|^2 of every query and centroid, 0 for centroids of no length.

    With the residual o = x - c, and e(q) an estimate of <o, q>,

        <q, x> = <q, c> + s <o, c> + <o, q - s c>  ~  <q, c> + s <o, c> + e(q - s c).

    This holds for any s; the projection leaves the least error, which grows with |q - s c|, and a sum that is
    linear in q: the order of estimates does not depend on the length of a query. Products and quotients are
    exact where q is multiplied by a power of two or by -1. The kernels do the same (native/src/encode.c).

    Parameters
    ----------
    Q : ndarray of float32, shape (n_queries, dim)
    centroids : ndarray of float32, shape (n_centroids, dim)

    Returns
    -------
    ndarray of float32, shape (n_queries, n_centroids)
    """
    wide = centroids.astype(np.float64)
    squares = np.square(wide).sum(axis=1)
    products = Q.astype(np.float64) @ wide.T
    out = np.divide(products, squares, out=np.zeros_like(products), where=squares >= _ZERO)
    # a share beyond float32 is of a query that is refused by its length
    with np.errstate(over="ignore"):
        return np.asarray(out, dtype=np.float32)


def less_centroid(Q: Float32Array, centroid: Float32Array, metric: str) -> tuple[Float32Array, Float32Array]:
    """Return q - s c of queries, and s, which is 1 but under ip.

    Parameters
    ----------
    Q : ndarray of float32, shape (n_queries, dim)
    centroid : ndarray of float32, shape (dim,)
    metric : {"l2", "ip", "cosine"}

    Returns
    -------
    rest : ndarray of float32, shape (n_queries, dim)
    s : ndarray of float32, shape (n_queries,)
    """
    if metric != "ip":
        return Q - centroid, np.ones(len(Q), dtype=np.float32)
    s = shares(Q, centroid[np.newaxis])[:, 0]
    return Q - s[:, np.newaxis] * centroid, s
