"""What a search with corrective factors computes, for uploads, queries and predictions alike."""

from __future__ import annotations

import numpy as np

from bqcore._validation import Float32Array, Float64Array, unit_or_zero_rows
from bqcore_qdrant.transform import Transform

#: Share of the candidates by codes whose floats are read.
KEPT = 0.5


def factors(transform: Transform, X: Float32Array, stored: Float32Array) -> Float64Array:
    """Return f_rescale and f_add of vectors, shape (n, 2).

    Parameters
    ----------
    transform : Transform
    X, stored : ndarray of float32, shape (n, dim)
        Vectors as given, and `transform.apply` of them.
    """
    r = stored.astype(np.float64)
    squares, lengths = np.square(r).sum(axis=1), np.abs(r).sum(axis=1)
    rescale = np.divide(squares, lengths, out=np.zeros(len(r)), where=lengths > 0)
    if transform.metric == "l2":
        return np.stack([rescale, -squares / 2], axis=1)
    rows = unit_or_zero_rows(X) if transform.metric == "cosine" else X
    return np.stack([rescale, rows.astype(np.float64) @ transform.mean.astype(np.float64)], axis=1)
