"""SEARCH: an exhaustive index in memory over codes, scanned in stages by the kernels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from math import ceil
from os import PathLike
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from bqcore import _sections
from bqcore._ffi import Float32Array, _check
from bqcore._scan import NONE, Index, UInt32Array
from bqcore._scan_queries import Queries, UInt8Array
from bqcore._validation import Float64Array, IdArray, as_matrix_or_vector, check_int
from bqcore.codec import Codec
from bqcore.codes import Codes
from bqcore.rescore import Tier
from bqcore.scan_codecs import view
from bqcore.scan_layout import as_filter, blocks_of, lay_out, with_largest
from bqcore.scan_plan import choose_plan
from bqcore.scan_stages import StagePlan
from bqcore.scan_tier import ScanTier
from bqcore.scan_view import View

#: Default width of the first stage's bound in standard deviations.
EPS0 = 2.0

# Neighbours that the first stage is chosen for where a tier rescores: ten, at the default oversampling.
_TIER_CANDIDATES = 50

#: Queries that share a pass over the codes.
BATCH = 64

# Least blocks of a thread's range: to hand one to a thread takes .5 to 1 ms, as long as 300,000 to 700,000
# codes.
_RANGE_BLOCKS = 1 << 13

_FLOAT32 = np.dtype(np.float32)

_KIND = "bqcore scan index"
#: 2: limits of bins on both sides, and f_add of several lists under ip for queries as they are.
_LAYOUT = 2


_T = TypeVar("_T")
_Found = tuple[Float32Array, UInt32Array, npt.NDArray[np.uint64]]


@cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    """Return threads that wait for searches as long as the process lives."""
    return ThreadPoolExecutor(n_threads, thread_name_prefix="bqcore-scan")


if hasattr(os, "register_at_fork"):  # a forked process has none of the threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


@dataclass(frozen=True)
class ScanResult:
    """Best rows per query, best first.

    Parameters
    ----------
    ids : ndarray of int64, shape (n_queries, k)
        -1 where a filter allows fewer than k rows.
    distances : ndarray of float64, shape (n_queries, k)
        Estimates in the unit of the metric, of the tier where there is one; inf beside id -1.
    n_estimated : ndarray of int64, shape (n_queries,)
        Codes that were read in whole, twice where a query was searched again.
    """

    ids: IdArray
    distances: Float64Array
    n_estimated: IdArray

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        """Yield ids and distances: ``ids, distances = index.search(...)``."""
        return iter((self.ids, self.distances))

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.ids)

    def __repr__(self) -> str:
        n, k = self.ids.shape
        return f"ScanResult({n:,} queries, k = {k}, {int(self.n_estimated.sum()):,} codes estimated)"


class ScanIndex:
    """Codes laid out for exhaustive search.

    A search sums query look-ups over some bits of every code, which bound its distance from below, and reads
    whole only the codes whose bound is not above the k-th best distance so far. The result is that of an
    exhaustive scan over max(estimate, bound), whatever the order of the scan and the number of threads.

    Parameters
    ----------
    quantizer : Codec
        A fitted `RaBitQ`, `SAQ`, or `PQ` at 4 bits.
    codes : Codes
        What it made, at least 1 code; the index keeps a reference, so they may be mapped from a file.
    tier : Tier, optional
        The same rows with more precision, such as `RaBitQ` at 8 bits, to rescore candidates from.

    Raises
    ------
    ValueError
        If codes are none, of another model or of another codec, or the tier has another metric or number of
        rows.

    References
    ----------
    Andre, Kermarrec & Le Scouarnec, "Quicker ADC: Unlocking the Hidden Potential of Product Quantization with
    SIMD", PAMI 2021.
    """

    def __init__(self, quantizer: Codec, codes: Codes, tier: Tier | None = None) -> None:
        quantizer.check_codes(codes)
        if len(codes) == 0:
            raise ValueError("codes: expected at least 1 code, not 0")
        codec_view = view(quantizer)
        plans = codec_view.plans(codes)
        trial = partial(type(self)._trial, quantizer, codec_view, plans)
        plan = choose_plan(quantizer, codes, plans, trial, 10 if tier is None else _TIER_CANDIDATES)
        self._init(quantizer, codes, codec_view, plan, plans)
        self._set_tier(tier)

    _tier: ScanTier | None

    def _set_tier(self, tier: Tier | None) -> None:
        if tier is None:
            return
        if tier.codec.metric_ != self.quantizer.metric_:
            raise ValueError(f"tier: expected metric {self.quantizer.metric_!r}, not {tier.codec.metric_!r}")
        if len(tier.codes) != len(self):
            raise ValueError(f"tier: expected {len(self)} rows, one per code, not {len(tier.codes)}")
        self._tier = ScanTier(tier)

    def _init(
        self,
        quantizer: Codec,
        codes: Codes,
        codec_view: View,
        plan: int,
        plans: list[StagePlan],
        laid_out: dict[str, npt.NDArray[Any]] | None = None,
    ) -> None:
        self.quantizer, self.codes, self._tier = quantizer, codes, None
        self._view, self._plan_number, self._plan = codec_view, plan, plans[plan]
        if laid_out is None:
            laid_out = lay_out(codec_view, codes, self._plan)
        self._laid_out = laid_out
        blocks = blocks_of(codec_view, codes, laid_out, self._plan.n_trellis)
        self._index = Index(blocks, self._plan.stage, self._view.model)
        # rooms that no thread is in; lists are popped and appended to in one step
        self._rooms: dict[int, list[Queries]] = {1: [], BATCH: []}

    @classmethod
    def _trial(
        cls,
        quantizer: Codec,
        codec_view: View,
        plans: list[StagePlan],
        codes: Codes,
        plan: int,
        Q: Float32Array,
        k: int,
    ) -> float:
        """Return how many of the codes a search reads whole with this plan, on average."""
        self = cls.__new__(cls)
        self._init(quantizer, codes, codec_view, plan, plans)
        return float(self.search(Q, k).n_estimated.mean())

    def save(self, path: str | PathLike[str]) -> None:
        """Write codes and layout to a file that `open` maps; the tier is not written.

        The file is replaced at once, or not at all.
        """
        codes = self.codes
        meta = {
            "dim": codes.dim,
            "codec": codes.codec,
            "model_id": codes.model_id,
            "plan": self._plan_number,
            "layout": _LAYOUT,
        }
        arrays = {"packed": codes.packed, "factors": codes.factors, "source_bits": self._plan.source_bits}
        sections = {name: [array] for name, array in (arrays | self._laid_out).items()}
        _sections.write(Path(path), _KIND, meta, sections)

    @classmethod
    def open(
        cls, path: str | PathLike[str], quantizer: Codec, tier: Tier | None = None, *, verify: bool = False
    ) -> Self:
        """Map what `save` wrote: nothing but a sample of the codes is read before the first search.

        Parameters
        ----------
        path : path-like
        quantizer : Codec
            The model that made the codes.
        tier : Tier, optional
            As for a new index.
        verify : bool, default False
            Whether to read it all and compare checksums. The header's, and the file's length, always are.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is foreign, truncated, overlong, damaged, of a newer version or of another model.
        """
        meta, found = _sections.map_file(Path(path), _KIND, verify=verify)
        try:
            packed, factors = found.pop("packed"), found.pop("factors")
            codes = Codes(packed, factors, meta["dim"], meta["codec"], meta["model_id"])
            quantizer.check_codes(codes)
            source_bits = found.pop("source_bits")
            self = cls.__new__(cls)
            codec_view = view(quantizer)
            plans, layout = codec_view.plans(codes), int(meta.get("layout", 1))
            if layout > _LAYOUT:
                raise ValueError(f"expected layout {_LAYOUT} or less, not {layout}")
            laid_out = found if layout == _LAYOUT else _of_layout_1(codec_view, found)
            self._init(quantizer, codes, codec_view, int(meta["plan"]), plans, laid_out)
        except (LookupError, TypeError, ValueError) as error:
            raise _sections.SectionsError(f"{path}: {error}") from error
        if not np.array_equal(source_bits, self._plan.source_bits):
            raise _sections.SectionsError(f"{path}: expected this version's layout: save the index anew")
        self._set_tier(tier)
        return self

    @property
    def nbytes(self) -> int:
        """Bytes of codes, factors and layout."""
        return int(self.codes.packed.nbytes + sum(array.nbytes for array in self._laid_out.values()))

    def __len__(self) -> int:
        return len(self.codes)

    def __repr__(self) -> str:
        tier = "" if self._tier is None else ", with a tier"
        read = f"{self.scanned_bytes_per_vector:g} of {self.codes.bytes_per_vector} bytes scanned per code"
        return f"ScanIndex({len(self):,} x {self.quantizer.codec}, {self.quantizer.dim_} d, {read}{tier})"

    @property
    def scanned_bytes_per_vector(self) -> int:
        """Bytes of a code that the first stage reads."""
        return int(self._laid_out["blocks"].shape[1])

    def search(
        self,
        Q: npt.ArrayLike,
        k: int = 10,
        *,
        eps0: float = EPS0,
        filter: npt.ArrayLike | None = None,
        oversampling: float = 5.0,
        n_threads: int = 1,
    ) -> ScanResult:
        """Find the k best rows of every query.

        Parameters
        ----------
        Q : ndarray of float32, shape (n_queries, dim) or (dim,)
        k : int, default 10
            At most ``len(index)``.
        eps0 : float, default 2.0
            Width of the bound in standard deviations of what the first stage does not read. The default
            loses up to .016 of recall@10 on real sets, 2.5 up to .008 (docs/scan.md), inf nothing.
        filter : ndarray of bool, shape (n,), or of int, shape (m,), optional
            Rows that may be found: a mask, or their numbers.
        oversampling : float, default 5.0
            Candidates per wanted row that are rescored from the tier, if there is one.
        n_threads : int, default 1
            Threads share the queries, or where there are fewer than two each the codes, if these are so many
            (524,288 to a thread) that it pays.

        Returns
        -------
        ScanResult
            A single query gives arrays with one row.

        Raises
        ------
        TypeError
            If k, n_threads or the filter have another type.
        ValueError
            If dims differ, values are not finite, k or n_threads are out of range, eps0 is negative or
            oversampling below 1, or the filter has another length or numbers out of range.
        """
        queries = Q
        dim, n = self.quantizer.dim_, self._index.blocks.n
        if not (
            type(queries) is np.ndarray
            and queries.dtype is _FLOAT32
            and queries.flags.c_contiguous
            and 1 <= queries.ndim <= 2
            and queries.shape[-1] == dim
            and queries.size
        ):
            queries, _ = as_matrix_or_vector(Q, dim=dim)
        if queries.ndim == 1:
            queries = queries.reshape(1, dim)
        if not (type(k) is int and 1 <= k <= n and n_threads == 1):
            k = check_int(k, name="k", low=1, high=n)
            n_threads = check_int(n_threads, name="n_threads", low=1)
        if not eps0 >= 0:
            raise ValueError(f"eps0: expected a number >= 0, not {eps0}")
        if not oversampling >= 1:
            raise ValueError(f"oversampling: expected at least 1, not {oversampling}")
        wanted = _Wanted(k, k, float(eps0))
        if self._tier is not None:
            wanted.n_candidates = n if oversampling * k >= n else ceil(k * oversampling)
        if filter is not None:
            wanted.bitmap, wanted.listed = as_filter(filter, n)
        n_queries = len(queries)
        found = ScanResult(
            np.empty((n_queries, k), dtype=np.int64),
            np.empty((n_queries, k), dtype=np.float64),
            np.empty(n_queries, dtype=np.int64),
        )
        few = n_queries < 2 * n_threads and wanted.listed is None
        if few and n_threads > 1:
            n_threads = self._ranges(n_threads)
        if n_threads == 1:
            for start in range(0, n_queries, BATCH):
                self._whole(queries, found, wanted, start, BATCH)
        elif few:
            self._by_range(queries, found, wanted, n_threads)
        else:
            step = min(BATCH, -(-n_queries // n_threads))
            work = partial(self._whole, queries, found, wanted, step=step)
            pool = _pool(n_threads)
            _wait([pool.submit(work, start) for start in range(0, n_queries, step)])
        return found

    def _whole(self, Q: Float32Array, found: ScanResult, wanted: _Wanted, start: int, step: int) -> None:
        """Search some of the queries in all codes, and write what is found."""
        if len(Q) > step:
            end = start + step
            Q = Q[start:end]
            found = ScanResult(found.ids[start:end], found.distances[start:end], found.n_estimated[start:end])
        room = self._room(len(Q))
        tier = self._tier
        pair = None if tier is None else (tier.index, tier.room())
        try:
            prepared = self._index.model is None
            if prepared:
                self._view.prepare(room, Q, self._plan.stage, wanted.eps0)
            status = self._index.find(
                room,
                pair,
                Q,
                wanted.eps0,
                wanted.n_candidates,
                prepared,
                wanted.bitmap,
                wanted.listed,
                found.distances,
                found.ids,
                found.n_estimated,
            )
        finally:
            self._rooms[room.capacity].append(room)
            if tier is not None and pair is not None:
                tier.rooms.append(pair[1])
        if status:
            as_matrix_or_vector(Q, dim=self.quantizer.dim_)  # names what is not finite
            _check(status)

    def _room(self, n_queries: int) -> Queries:
        capacity = 1 if n_queries == 1 else BATCH
        try:
            return self._rooms[capacity].pop()
        except IndexError:
            return self._index.room(capacity, self._view.z_nbytes)

    def _ranges(self, n_threads: int) -> int:
        """Return how many ranges of codes are worth a thread each, at most so many."""
        n_blocks = len(self._laid_out["blocks"])
        return max(1, min(n_threads, len(self._index.blocks.segments), n_blocks // _RANGE_BLOCKS))

    def _by_range(self, Q: Float32Array, found: ScanResult, wanted: _Wanted, n_threads: int) -> None:
        """Search few queries, each thread a range of the segments."""
        pool, segments = _pool(n_threads), self._index.blocks.segments
        cuts = np.linspace(0, len(segments), n_threads + 1).astype(int).tolist()
        part = partial(self._part, Q, wanted)
        parts = _wait([pool.submit(part, (first, last - first)) for first, last in pairwise(cuts)])
        distances, ids, found.n_estimated[:] = _merge(parts, wanted.n_candidates)
        if self._tier is not None:
            distances, ids = self._tier.rescored(Q, ids, wanted.k)
        found.distances[:] = distances
        found.ids[:] = np.where(ids == NONE, -1, ids.astype(np.int64))

    def _part(self, Q: Float32Array, wanted: _Wanted, segments: tuple[int, int]) -> _Found:
        """Search a range of segments for a few queries."""
        room = self._room(len(Q))
        try:
            if self._index.model is None:
                self._view.prepare(room, Q, self._plan.stage, wanted.eps0)
            elif status := self._index.prepare(room, Q, wanted.eps0):
                as_matrix_or_vector(Q, dim=self.quantizer.dim_)
                _check(status)
            return self._index.blocks.search(room, len(Q), wanted.n_candidates, segments, wanted.bitmap)
        finally:
            self._rooms[room.capacity].append(room)


def _of_layout_1(codec_view: View, found: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]] | None:
    """Return what a file of layout 1 holds as this one's; None where codes have to be laid out anew."""
    if codec_view.shifted:
        return None
    if "factor_bins" in found:
        found["factor_bins"] = with_largest(found["factor_bins"], found["segments"])
    return found


@dataclass(slots=True)
class _Wanted:
    """Arguments of a search."""

    k: int
    n_candidates: int
    eps0: float
    bitmap: UInt8Array | None = None
    listed: UInt32Array | None = None


def _wait(futures: list[Future[_T]]) -> list[_T]:
    """Return results in order; rooms and results are written to until all threads are done."""
    for one in futures:
        one.exception()
    return [one.result() for one in futures]


def _merge(parts: list[_Found], k: int) -> _Found:
    """Return the k best of what threads found in their ranges, ties by id."""
    distances, ids = (np.concatenate([part[i] for part in parts], axis=1) for i in (0, 1))
    order = np.lexsort((ids, distances), axis=1)[:, :k]
    n_full = np.asarray(np.sum([part[2] for part in parts], axis=0), dtype=np.uint64)
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(ids, order, axis=1), n_full
