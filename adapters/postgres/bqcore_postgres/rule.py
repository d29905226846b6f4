"""How many rows bqhnsw rescores: the only mirror of the extension's rule (`budget.c`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

#: Bits that an index can have, and the most dimensions at each: a code has to fit a page.
MAX_DIM = {1: 16_000, 2: 16_000, 4: 16_000, 8: 8_064}
#: Without iterative scans a walk ends with this times hnsw.ef_search.
_WALK_LIMIT = 10
#: Share of the wanted rows whose lower bound, bqcore.epsilon = 1.25 deviations below the estimate, is below
#: the k-th distance: text embeddings, word vectors and SIFT descriptors, k = 10, 20 and 40, means.
_BOUND_HOLDS = {1: 0.97, 2: 0.985, 4: 0.995, 8: 0.999}


def rescored(bits: int, ef_search: int, k: int, ranks: npt.NDArray[Any]) -> int:
    """Return how many rows have an exact distance when k rows are returned.

    Parameters
    ----------
    bits : {1, 2, 4, 8}
        Of the index.
    ef_search : int
        ``hnsw.ef_search``.
    k : int
        The query's LIMIT.
    ranks : ndarray, shape (n_queries, at least k)
        Rank by estimate, from 1 on, of each true neighbour.

    Returns
    -------
    int
        At least k and ef_search / bits, at most ten times ef_search; between them as many as the bounds of
        the k nearest need.
    """
    needed = float(np.quantile(ranks[:, :k], _BOUND_HOLDS[bits], method="higher"))
    return max(k, ef_search // bits, int(min(needed, _WALK_LIMIT * ef_search)))
