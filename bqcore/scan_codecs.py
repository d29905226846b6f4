"""SEARCH: how the scan sees each codec's codes: distance = w[list] f_add + g_add[list] + f_rescale <k, q>."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bqcore import levels
from bqcore._ffi import FACTORS_DTYPE
from bqcore._native import lib
from bqcore._scan_queries import Model
from bqcore.codec import Codec
from bqcore.codes import Codes
from bqcore.pq import PQ
from bqcore.rabitq import RaBitQ
from bqcore.saq import SAQ
from bqcore.scan_pq import PQView
from bqcore.scan_stages import StagePlan, fit_level, plain_stage, trellis_stage
from bqcore.scan_view import View

# Codes whose levels are looked at to fit the first stage.
_SAMPLE = 2000

# A first stage that leaves more open, in parts of the codes' mean square, is not tried.
_OPEN_SHARE = 0.5


def sample_rows(n: int) -> npt.NDArray[np.int64]:
    """Rows spread evenly over n, at most `_SAMPLE`."""
    return np.unique(np.linspace(0, n - 1, min(n, _SAMPLE)).astype(np.int64))


class RaBitQView(View):
    """Levels k = u - M/2 of rotated coordinates; the highest bits come first."""

    def __init__(self, codec: RaBitQ) -> None:
        self.codec, self.bits, self.dim = codec, codec.bits_, codec.dim_
        self.kind = "levels" if codec.bits_ in levels.PACKED_BITS else "planes"
        self.n_lists = len(codec.centroids_)
        self.z_nbytes = lib.bqk_query_nbytes(self.dim, 8)
        half = ((1 << self.bits) - 1) / 2
        # the codec may be fitted again: what the kernels point into stays as it was
        self._kept = (codec._model, getattr(codec, "_queries", None))
        if not codec._beyond_format():
            self.model = Model(self.dim, self.dim, rabitq=codec._model._struct, half=half)
            return
        self.shifted = codec.shifted
        self.model = Model(
            self.dim,
            self.dim,
            unit=codec.metric_ == "cosine",
            centroids=codec.centroids_,
            square={"l2": 1.0, "cosine": 0.5, "ip": 0.0}[codec.metric_],
            linear=codec.metric_ == "ip",
            origin=None if self.shifted else codec.centroid_,
            matrix=codec.rotation_matrix_.T if codec.rotation_ == "dense" else None,
            rabitq=codec._queries._struct,
            half=half,
        )

    def plans(self, codes: Codes) -> list[StagePlan]:
        """Take the highest planes of all dimensions, at 1 bit the only plane of a part of them."""
        known = self.codec._levels(codes.packed[sample_rows(len(codes))]).astype(np.float64)
        if self.bits == 1:
            # of many dimensions whole fours of rows of 8: kernels take 4 at a time
            step = 96 if self.dim >= 384 else 8
            taken = [max(step, round(self.dim * share / step) * step) for share in (1 / 2, 3 / 4)]
            return [self._plan(known, 1, n) for n in sorted({min(self.dim, n) for n in (*taken, self.dim)})]
        return [self._plan(known, planes, self.dim) for planes in range(1, min(self.bits, 3) + 1)]

    def _plan(self, known: npt.NDArray[np.float64], planes: int, n: int) -> StagePlan:
        """Take the highest planes of the first n dimensions."""
        bits, dim, top = self.bits, self.dim, ((1 << self.bits) - 1) / 2
        every = np.arange(1 << bits)

        def highest(u: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
            return np.stack([u >> (bits - 1 - p) & 1 for p in range(planes)], axis=-1).astype(np.float64)

        u = np.rint(known + top).astype(np.int64)
        fit = fit_level(known.ravel(), highest(u).reshape(-1, planes))
        estimate = fit.base + highest(u) @ fit.coefs
        square, along = float(np.square(known).mean()), float((known * estimate).mean())
        rho = square * dim / (along * n) if along > 0 else 1.0
        inside = float(np.square(known - rho * estimate).mean())
        far = float(np.abs(every - top - rho * (fit.base + highest(every) @ fit.coefs)).max())
        taken = np.arange(dim) < n
        source: list[int] = []
        for p in range(planes):
            b = bits - 1 - p
            packed = bits in levels.PACKED_BITS
            source += [i * bits + b if packed else b * 8 * -(-dim // 8) + i for i in range(n)]
        variance = np.where(taken, inside, square).astype(np.float32)
        return plain_stage(
            source,
            list(range(n)) * planes,
            [float(rho * c) for c in fit.coefs for _ in range(n)],
            np.where(taken, rho * fit.base, 0.0).astype(np.float32),
            variance,
            np.where(taken, far, top).astype(np.float32),
            float(variance.mean() / square) if square > 0 else 0.0,
        )

    def factors(self, codes: Codes) -> npt.NDArray[np.void]:
        """Return the codec's, for queries as it centres them."""
        return self.codec.factors_for_queries(codes)


class SAQView(View):
    """Trellis-coded levels of principal axes: the free bits are a level's highest."""

    kind = "trellis"

    def __init__(self, codec: SAQ) -> None:
        self.codec, self.dim, self.bits = codec, len(codec.axis_bits_), int(codec.axis_bits_.sum())
        self.n_lists = len(codec.centroids_)
        self.trellis = codec._trellis.struct
        self._kept = codec._trellis  # the codec may be fitted again
        self.z_nbytes = lib.bqk_scan_trellis_nbytes(self.trellis)
        self._l2 = codec.metric_ == "l2"
        # l2 does not depend on the origin, and squares lose fewest digits about the mean
        self._origin = codec.centroids_.mean(axis=0) if self._l2 else None
        self.model = Model(
            codec.dim_,
            self.dim,
            unit=codec.metric_ == "cosine",
            centroids=codec.centroids_,
            square=float(self._l2),
            constant=float(codec.metric_ == "cosine"),
            linear=codec.metric_ == "ip",
            origin=self._origin,
            matrix=codec.back_,
            trellis=self.trellis,
        )

    def plans(self, codes: Codes) -> list[StagePlan]:
        """Take the highest free bits, then those of the trellis too."""
        codec, rates = self.codec, self.codec.axis_bits_.astype(np.int64)
        step = codec.axis_deviation_.astype(np.float64)
        sample = codec._trellis.decode(np.ascontiguousarray(codes.packed[sample_rows(len(codes))])) / step
        top = int(rates[0]) - 1
        choices: list[tuple[int, int | None]] = [(planes, None) for planes in range(1, top + 1)]
        choices += [(top, int(np.count_nonzero(rates > 1))), (top, 0)]
        found = [
            trellis_stage(rates, step, sample, free_planes=planes, trellis_from=first)
            for planes, first in choices
        ]
        # those that leave next to nothing to the trellis, or most of the code, are not worth a trial
        return [plan for plan in found[:-1] if 0.05 < plan.open_share < _OPEN_SHARE] + found[-1:]

    def factors(self, codes: Codes) -> npt.NDArray[np.void]:
        """Return the codec's own; in l2 f_add gains the squared length of the levels."""
        codec = self.codec
        out = np.empty(len(codes), dtype=FACTORS_DTYPE)
        f_add, scale = codec.factors_of(codes)
        out["f_rescale"] = -2 * scale if self._l2 else -scale
        out["f_add"] = f_add
        if self._origin is None:
            return out
        lists = codec._lists(codes)
        axes = (codec.centroids_ - self._origin) @ codec.back_.T
        for start in range(0, len(codes), 1 << 13):
            rows = slice(start, start + (1 << 13))
            found = codec._levels(codes[rows])
            square = np.einsum("ij,ij->i", found * codec.axis_length_, found)
            if self.n_lists > 1:
                square += 2 * np.einsum("ij,ij->i", found, axes[lists[rows]])
            out["f_add"][rows] += square
        return out


def view(codec: Codec) -> View:
    """Return how the scan sees a codec's codes.

    Raises
    ------
    ValueError
        If it has no view of this codec.
    """
    if isinstance(codec, RaBitQ):
        return RaBitQView(codec)
    if isinstance(codec, SAQ):
        return SAQView(codec)
    if isinstance(codec, PQ):
        return PQView(codec)
    raise ValueError(f"expected codes of rabitq, saq or pq at 4 bits, not of {codec.codec}")
