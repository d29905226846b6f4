"""How many rows bqhnsw rescores: the only mirror of the extension's scan (`set_window` of scan.c)."""

from __future__ import annotations

#: Bits that an index can have, and the most dimensions at each: a code has to fit a page.
MAX_DIM = {1: 16_000, 2: 16_000, 4: 16_000, 8: 8_064}
#: Rows that are rescored before the first is returned, and further ones for each that follows; None: all that
#: the walk kept.
_AHEAD = {1: (None, 1), 2: (40, 3), 4: (12, 2), 8: (10, 1)}


def rescored(bits: int, ef_search: int, k: int) -> int:
    """Return how many rows have an exact distance by the time that the k-th is returned.

    Parameters
    ----------
    bits : {1, 2, 4, 8}
        Of the index.
    ef_search : int
        ``hnsw.ef_search``: candidates that the walk keeps.
    k : int
        The query's LIMIT.

    Returns
    -------
    int
        a + s (k - 1) of docs/postgres.md, at most what the walk kept; `k` where that is more, although the
        scan then ends before it.
    """
    kept = ef_search
    ahead, slope = _AHEAD[bits]
    first = kept if ahead is None else ahead
    return max(k, min(kept, first + slope * (k - 1)))
