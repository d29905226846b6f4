"""Which rows of a source are read: a random part, and none that are not finite."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore._validation import IdArray, row_blocks

# The largest float32; beyond it a double becomes inf.
_LARGEST = float(np.finfo(np.float32).max)
# Seed of `random_rows`: the same part of the same file every time.
_SEED = 0


@dataclass(frozen=True)
class Part:
    """Rows to leave out.

    Parameters
    ----------
    sample : int, optional
        Read so many random base vectors. Files that can be mapped (npy, fvecs, bvecs) are read no further.
    drop_invalid : bool, default False
        Leave out rows with NaN, inf or what float32 cannot hold, and count them.
    hold_out : bool, default True
        Make queries of some rows where a source has none.
    """

    sample: int | None = None
    drop_invalid: bool = False
    hold_out: bool = True


WHOLE = Part()


def random_rows(n: int, size: int) -> IdArray:
    """Return `size` of n row numbers, ascending; the same for the same n and size."""
    return np.sort(np.random.default_rng(_SEED).choice(n, size, replace=False)).astype(np.int64)


def chosen_texts(texts: Sequence[str] | None, rows: IdArray) -> list[str] | None:
    """Return the texts of some rows."""
    return None if texts is None else [texts[i] for i in rows]


def invalid_rows(X: npt.NDArray[Any]) -> IdArray:
    """Return the numbers of rows that float32 cannot hold as finite numbers.

    Parameters
    ----------
    X : ndarray, shape (n, dim)

    Returns
    -------
    ndarray of int64
        Ascending.
    """
    if X.dtype.kind != "f" or X.ndim != 2 or not X.shape[1]:
        return np.empty(0, dtype=np.int64)
    found = []
    for rows in row_blocks(X):
        block = X[rows]
        # min and max: a NaN in either is one in both
        with np.errstate(invalid="ignore"):
            high, low = (np.asarray(one, dtype=np.float64) for one in (block.max(axis=1), block.min(axis=1)))
        good = (high <= _LARGEST) & (low >= -_LARGEST)
        found.append(np.flatnonzero(~good) + rows.start)
    return np.concatenate(found).astype(np.int64) if found else np.empty(0, dtype=np.int64)


def check_memory(shape: tuple[int, ...], name: str) -> None:
    """Refuse what does not fit this machine, before anything is allocated.

    Raises
    ------
    ValueError
        If so many float32 take more bytes than the machine has.
    """
    needed = 4
    for axis in shape:
        needed *= int(axis)
    try:
        present = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not every system tells
        return
    if needed > present:
        size = " x ".join(f"{axis:,}" for axis in shape)
        raise ValueError(
            f"{name}: base: {size} float32 take {needed:,} bytes, and this machine has {present:,}; "
            "read fewer rows, or a random sample of them"
        )
