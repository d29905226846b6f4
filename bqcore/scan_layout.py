"""SEARCH: where codes lie in the blocks of a scan, and which of them a filter allows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bqcore._scan import BLOCK, NONE, SEGMENT_DTYPE, UInt8Array, UInt32Array

# Blocks to a segment: the limits of its factors decide which sums can matter, and threads take whole
# segments.
_SEGMENT_BLOCKS = 64

# Share of rows allowed by a filter below which they are estimated one by one. Such an estimate costs some 30
# times a row's share of a scan.
_LISTED_SHARE = 0.02


def as_filter(rows: npt.ArrayLike, n: int) -> tuple[UInt8Array | None, UInt32Array | None]:
    """Return a bitmap, or, where they are few, the sorted numbers of the rows that a filter allows.

    Raises
    ------
    TypeError
        If the filter is neither bool nor int.
    ValueError
        If a mask has not n entries, or numbers are not 0 to n - 1.
    """
    given = np.asarray(rows)
    if given.dtype == np.bool_:
        if given.shape != (n,):
            raise ValueError(f"filter: expected a mask of shape ({n},), not {given.shape}")
        mask = given
    elif given.dtype.kind in "iu" or given.size == 0:
        if given.ndim != 1:
            raise ValueError(f"filter: expected row numbers of shape (m,), not {given.shape}")
        if given.size and not (int(given.min()) >= 0 and int(given.max()) < n):
            raise ValueError(f"filter: expected rows 0 to {n - 1}, not {given.min()} to {given.max()}")
        if given.size <= _LISTED_SHARE * n:
            return None, np.unique(given).astype(np.uint32)
        mask = np.zeros(n, dtype=np.bool_)
        mask[given] = True
    else:
        raise TypeError(f"filter: expected bool or int, not {given.dtype}")
    if np.count_nonzero(mask) <= _LISTED_SHARE * n:
        return None, np.flatnonzero(mask).astype(np.uint32)
    return np.packbits(mask, bitorder="little"), None


def arrange(
    n: int, factors: npt.NDArray[np.void] | None, lists: npt.NDArray[np.uint16] | None
) -> tuple[UInt32Array, npt.NDArray[np.void]]:
    """Return which code lies where, and the segments: blocks of codes of one list."""
    order = np.arange(n, dtype=np.uint32)
    groups = [order]
    if lists is not None:
        order = np.argsort(lists, kind="stable").astype(np.uint32)
        groups = np.split(order, np.flatnonzero(np.diff(lists[order])) + 1)
    ids, rows = [], []
    block = 0
    for group in groups:
        padded = np.full(-(-len(group) // BLOCK) * BLOCK, NONE, dtype=np.uint32)
        padded[: len(group)] = group
        ids.append(padded)
        for start in range(0, len(group), _SEGMENT_BLOCKS * BLOCK):
            some = group[start : start + _SEGMENT_BLOCKS * BLOCK]
            n_blocks = -(-len(some) // BLOCK)
            f_add, scale = (np.zeros(1), np.ones(1))
            if factors is not None:
                f_add, scale = factors["f_add"][some], -factors["f_rescale"][some]
            at = 0 if lists is None else int(lists[some[0]])
            rows.append((block, n_blocks, at, f_add.min(), f_add.max(), scale.min(), scale.max()))
            block += n_blocks
    return np.concatenate(ids), np.array(rows, dtype=SEGMENT_DTYPE)
