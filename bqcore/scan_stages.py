"""SEARCH: which bits of a code the first stage of a scan reads, and what they say about the whole code.

A code's product with a query is a sum over axes of level times coordinate. The bits that the first stage
reads give every level an estimate, linear in the bits; the products of the estimates are scaled to be
unbiased for queries along the code, <L, rho L1> = <L, L>, as RaBitQ's are: near vectors are what a search is
for. What is left open is a sum over axes, whose variance and largest value per axis bound the error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bqcore._kernels import Float32Array
from bqcore._scan import NONE, Stage, UInt32Array, n_lookups
from bqcore._trellis import levels_of


@dataclass(frozen=True)
class StagePlan:
    """Bits of the first stage.

    Parameters
    ----------
    source_bits : ndarray of uint32, shape (n_rows * 8,)
        Number of the code's bit that each bit of a row is, or `NONE`.
    n_trellis : int
        Leading rows that are bits of a trellis.
    stage : Stage
        What they say.
    open_share : float
        Mean square of what they leave open, per unit of the codes' mean square: 0 where they are the whole
        code.
    """

    source_bits: UInt32Array
    n_trellis: int
    stage: Stage
    open_share: float


@dataclass(frozen=True)
class AxisFit:
    """Estimate of one kind of axis' level from its bits: base + sum of coefs.

    Parameters
    ----------
    base : float
    coefs : ndarray of float64, shape (n_bits,)
    """

    base: float
    coefs: npt.NDArray[np.float64]


def fit_level(levels: npt.NDArray[np.float64], bits: npt.NDArray[np.float64]) -> AxisFit:
    """Fit levels, shape (n,), by bits, shape (n, n_bits), with least squares."""
    design = np.column_stack([np.ones(len(levels)), bits])
    solution = np.linalg.lstsq(design, levels, rcond=None)[0]
    return AxisFit(float(solution[0]), np.asarray(solution[1:], dtype=np.float64))


def pad_rows(bits: list[int]) -> list[int]:
    """Pad bits to whole rows of 8 with `NONE`."""
    return bits + [NONE] * (-len(bits) % 8)


def plain_stage(
    source_bits: list[int],
    axis: list[int],
    coef: list[float],
    base: Float32Array,
    variance: Float32Array,
    reach: Float32Array,
    open_share: float,
) -> StagePlan:
    """Lay out bits without a trellis: bit j of the rows is bit j % 4 of look-up j / 4."""
    sources = np.array(pad_rows(source_bits), dtype=np.uint32)
    n_rows = len(sources) // 8
    axes = np.array(pad_rows(axis), dtype=np.uint32)
    coefs = np.zeros(len(sources), dtype=np.float32)
    coefs[: len(coef)] = coef
    assert len(axes) == n_lookups(n_rows, 0) * 4
    return StagePlan(sources, 0, Stage(n_rows, 0, axes, coefs, base, variance, reach), open_share)


def trellis_stage(
    rates: npt.NDArray[np.int64],
    step: npt.NDArray[np.float64],
    sample: npt.NDArray[np.float64],
    *,
    free_planes: int,
    trellis_from: int | None,
) -> StagePlan:
    """Lay out bits of trellis codes (native/src/trellis.h): stored bits from an axis on, then free planes.

    Parameters
    ----------
    rates : ndarray of int64, shape (n_axes,)
        Bits per axis, descending.
    step : ndarray of float64, shape (n_axes,)
    sample : ndarray of float64, shape (n_sample, n_axes)
        Levels of codes, in units of step.
    free_planes : int
        Highest planes taken of the free bits.
    trellis_from : int, optional
        First axis whose trellis bits are taken; None for none.
    """
    m, tables = len(rates), {rate: levels_of(rate).astype(np.float64) for rate in set(rates.tolist())}
    start = m if trellis_from is None or m - trellis_from < 3 else trellis_from
    height = -(-(m - start) // 8)  # rows of the trellis: axis start + i is bit i / height of row i % height
    if 0 < height < 3:
        start, height = max(0, m - 24), 3
    # what is known of each axis: its highest `kept` free bits, and z1 and z0 or neither
    kept = np.minimum(rates - 1, free_planes)
    whole = (np.arange(m) >= start) & (kept == rates - 1)
    base, coefs = np.zeros(m), np.zeros((m, max(1, int(kept.max(initial=0)))))
    tail = np.zeros((m, 2))
    estimate = np.zeros_like(sample)
    for rate, known in sorted({(int(r), bool(w)) for r, w in zip(rates, whole, strict=True)}):
        axes = np.flatnonzero((rates == rate) & (whole == known))
        n = int(kept[axes[0]])
        table = tables[rate]
        u = np.searchsorted((table[1:] + table[:-1]) / 2, sample[:, axes])
        places = [rate - p for p in range(n)] + ([1, 0] if known else [])
        bits = np.array([(u >> place & 1).ravel() for place in places], dtype=np.float64)
        bits = bits.reshape(len(places), u.size).T
        fit = fit_level(sample[:, axes].ravel(), bits)
        base[axes], coefs[axes, :n] = fit.base, fit.coefs[:n]
        if known:
            tail[axes] = fit.coefs[n:]
        estimate[:, axes] = (fit.base + bits @ fit.coefs).reshape(u.shape)
    weighted = np.square(step)
    square = np.einsum("ij,ij,j->", sample, sample, weighted)
    along = np.einsum("ij,ij,j->", sample, estimate, weighted)
    rho = square / along if along > 0 else 1.0
    base, coefs, tail, estimate = base * rho, coefs * rho, tail * rho, estimate * rho
    missing = np.square(sample - estimate).mean(axis=0)
    reach = np.array(
        [
            _reach(tables[int(r)], b, c[:n], t)
            for r, b, c, n, t in zip(rates, base, coefs, kept, tail, strict=True)
        ]
    )

    source: list[int] = []
    axis: list[int] = []
    coef: list[float] = []
    for i in range(8 * height):  # bit i % 8 of row i / 8
        at = start + i // 8 + i % 8 * height
        source.append(at if at < m else NONE)
    derived_axis, derived_coef = [NONE] * len(source), [0.0] * len(source)
    for i, at in enumerate(source):
        # a stored bit is z0 of the axis two before it
        before = at - 2 if at != NONE and at - 2 >= start else NONE
        axis.append(before)
        coef.append(0.0 if before == NONE else tail[before, 1] * step[before])
        if at != NONE:
            derived_axis[i], derived_coef[i] = at, tail[at, 0] * step[at]
    # a row's stored bits, then its derived ones
    axis = [a for r in range(height) for a in (*axis[8 * r : 8 * r + 8], *derived_axis[8 * r : 8 * r + 8])]
    coef = [c for r in range(height) for c in (*coef[8 * r : 8 * r + 8], *derived_coef[8 * r : 8 * r + 8])]
    offset = m
    free: list[tuple[float, int, int, float]] = []  # expected magnitude, bit, axis, coef
    spread = step * np.sqrt(np.square(sample).mean(axis=0))
    for p in range(int(rates[0]) - 1):
        size = int(np.count_nonzero(rates > p + 1))
        if p < free_planes:
            weights = coefs[:size, p] * step[:size]
            free += [(-abs(w) * spread[i], offset + i, i, w) for i, w in enumerate(weights.tolist())]
        offset += size
    # look-ups of like range waste least of the 8 bits: the largest weights are dealt out one to each, and so
    # on
    free.sort()
    n_nibbles = 2 * -(-len(free) // 8)
    dealt = [[*free[j::n_nibbles]] for j in range(n_nibbles)]
    for nibble in dealt:
        nibble += [(0.0, NONE, NONE, 0.0)] * (4 - len(nibble))
    source += [bit for nibble in dealt for _, bit, _, _ in nibble]
    axis += [i for nibble in dealt for _, _, i, _ in nibble]
    coef += [w for nibble in dealt for _, _, _, w in nibble]
    coef += [0.0] * (len(axis) - len(coef))
    n_rows = len(source) // 8
    stage = Stage(
        n_rows,
        height,
        np.array(axis, dtype=np.uint32),
        np.array(coef, dtype=np.float32),
        (base * step).astype(np.float32),
        (missing * weighted).astype(np.float32),
        (reach * step).astype(np.float32),
    )
    share = float(np.sum(missing * weighted) * len(sample) / square)
    return StagePlan(np.array(source, dtype=np.uint32), height, stage, share)


def _reach(
    table: npt.NDArray[np.float64],
    base: float,
    coefs: npt.NDArray[np.float64],
    tail: npt.NDArray[np.float64],
) -> float:
    """Largest difference between a level and its estimate, over all levels of an axis."""
    u, rate = np.arange(len(table)), len(table).bit_length() - 2
    estimate = base + tail[0] * (u >> 1 & 1) + tail[1] * (u & 1)
    for p, c in enumerate(coefs):
        estimate = estimate + c * (u >> (rate - p) & 1)
    return float(np.abs(table - estimate).max())
