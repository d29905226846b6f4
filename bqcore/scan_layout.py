"""SEARCH: where codes lie in the blocks of a scan, and which of them a filter allows."""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore._ffi import Float32Array
from bqcore._scan import BLOCK, NONE, SEGMENT_DTYPE, Blocks, UInt32Array, pack
from bqcore._scan_queries import UInt8Array
from bqcore._validation import Float64Array, InputTypeError
from bqcore.codes import Codes
from bqcore.scan_stages import StagePlan
from bqcore.scan_view import View

# Blocks to a segment: the limits of its factors decide which sums can matter, a run of the scan ends with it,
# and threads take whole segments.
_SEGMENT_BLOCKS = 128

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
        raise InputTypeError(f"filter: expected bool or int, not {given.dtype}")
    if np.count_nonzero(mask) <= _LISTED_SHARE * n:
        return None, np.flatnonzero(mask).astype(np.uint32)
    return np.packbits(mask, bitorder="little"), None


def _edges(values: Float64Array, n_bins: int) -> Float64Array:
    """Return n_bins - 1 limits between bins of least mean squared width.

    Bins lie as densely as the cube root of the values (Panter & Dite, "Quantization Distortion in Pulse-Count
    Modulation with Nonuniform Spacing of Levels", 1951): bins of as many values each are wide at the ends.
    """
    grid = np.quantile(values, np.linspace(0, 1, 1025))
    # in a step of width w that has a set share of the values their density is in proportion to 1 / w
    share = np.concatenate([[0.0], np.cumsum(np.diff(grid) ** (2 / 3))])
    return np.asarray(np.interp(np.arange(1, n_bins) / n_bins * share[-1], share, grid))


def bins_of(factors: npt.NDArray[np.void]) -> tuple[UInt8Array, Float32Array] | None:
    """Sort codes into 16 bins by 1 / scale and into 16 by f_add / scale, with scale = -f_rescale.

    Returns
    -------
    bins : ndarray of uint8, shape (n,)
        Number of the bin of 1 / scale, and 16 times that of f_add / scale.
    limits : ndarray of float32, shape (4, 16)
        Least and largest 1 / scale and f_add / scale in each bin, rounded outwards; another's in empty ones.
        None where a scale is so small that its quotients are none.
    """
    scale = -factors["f_rescale"].astype(np.float64)
    if scale.min() <= 1e-30:
        return None
    limits, bins = np.zeros((4, 16)), np.zeros(len(scale), dtype=np.uint8)
    for part, values in enumerate((1 / scale, factors["f_add"] / scale)):
        edges = _edges(values, 16)
        number = np.searchsorted(edges, values, side="right")
        bins |= (number << 4 * part).astype(np.uint8)
        for i in np.unique(number):
            found = values[number == i]
            limits[2 * part : 2 * part + 2, i] = found.min(), found.max()
        empty = np.setdiff1d(np.arange(16), number)
        for row in (2 * part, 2 * part + 1):
            limits[row, empty] = limits[row, number[0]]
    # a float32 is within 2^-24 of what it stands for
    slack = np.abs(limits) * 2.0**-22
    outwards = np.array([[-1.0], [1.0], [-1.0], [1.0]])
    return bins, (limits + outwards * slack).astype(np.float32)


def with_largest(bins: Float32Array, segments: npt.NDArray[np.void]) -> Float32Array:
    """Return limits of bins, shape (4, 16), from those of files of layout 1, shape (3, 16).

    A bin ends where the next one begins, and the last at what the segments' limits allow.
    """
    least, scale_min = bins[2].astype(np.float64), segments["scale_min"].astype(np.float64)
    f_add = segments["f_add_max"].astype(np.float64)
    most = np.max(f_add / np.where(f_add < 0, segments["scale_max"], scale_min))
    later = np.where(least > least[:, np.newaxis], least, np.inf).min(axis=1)
    largest = np.where(np.isinf(later), most, later)
    return np.vstack([bins, (largest + np.abs(largest) * 2.0**-20).astype(np.float32)])


def _spread(n: int) -> UInt32Array:
    """Return the numbers below n in an order that has any share of the rows spread over all of them.

    Multiples of the golden ratio, modulo n (Weyl): wherever a search is, what it has seen is a fair sample,
    from which it forecasts what it will find, even if rows beside each other are alike.
    """
    step = round(n * 0.6180339887498949)
    while gcd(step, n) > 1:
        step += 1
    return (np.arange(n, dtype=np.uint64) * np.uint64(step) % np.uint64(max(1, n))).astype(np.uint32)


def arrange(
    n: int, factors: npt.NDArray[np.void] | None, lists: npt.NDArray[np.uint16] | None
) -> tuple[UInt32Array, npt.NDArray[np.void]]:
    """Return which code lies where, and the segments: blocks of codes of one list."""
    if lists is None:
        groups = [_spread(n)]
    else:
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


def lay_out(codec_view: View, codes: Codes, plan: StagePlan) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of an index by the names that files know them by."""
    lists = codes.factors["list"].astype(np.uint16) if codec_view.n_lists > 1 else None
    factors = codec_view.factors(codes)
    ids, segments = arrange(len(codes), factors, lists)
    out: dict[str, npt.NDArray[Any]] = {"ids": ids, "segments": segments}
    sources, bins = plan.source_bits, None if factors is None else bins_of(factors)
    if bins is not None:
        sources = np.concatenate([sources, np.full(8, NONE, dtype=np.uint32)])
        out["factor_bins"] = bins[1]
    out["blocks"] = pack(np.ascontiguousarray(codes.packed), ids, sources)
    if bins is not None:
        row = np.where(ids == NONE, 0, bins[0][np.minimum(ids, len(codes) - 1)])
        out["blocks"][:, -1] = row.reshape(-1, BLOCK)
    if factors is not None:
        out["kernel_factors"] = factors
    return out


def tier_layout(codec_view: View, codes: Codes) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of an index of which nothing is scanned."""
    out: dict[str, npt.NDArray[Any]] = {
        "ids": np.empty(0, dtype=np.uint32),
        "segments": np.zeros(1, dtype=SEGMENT_DTYPE),
        "blocks": np.empty((0, 1, BLOCK), dtype=np.uint8),
    }
    factors = codec_view.factors(codes)
    return out if factors is None else out | {"kernel_factors": factors}


def blocks_of(
    codec_view: View, codes: Codes, laid_out: dict[str, npt.NDArray[Any]], n_trellis: int
) -> Blocks:
    """Return what the kernels search, over arrays of an index."""
    return Blocks(
        kind=codec_view.kind,
        bits=codec_view.bits,
        dim=codec_view.dim,
        codes=np.ascontiguousarray(codes.packed),
        factors=laid_out.get("kernel_factors"),
        lists=codes.factors["list"].astype(np.uint16) if codec_view.n_lists > 1 else None,
        ids=laid_out["ids"],
        segments=laid_out["segments"],
        blocks=laid_out["blocks"],
        factor_bins=laid_out.get("factor_bins"),
        n_trellis=n_trellis,
        n_lists=codec_view.n_lists,
        trellis=codec_view.trellis,
    )
