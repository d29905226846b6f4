"""SEARCH: an exhaustive index in memory over codes, scanned in stages by the kernels."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from bqcore import _sections
from bqcore._kernels import Float32Array
from bqcore._scan import NONE, Blocks, Queries, UInt8Array, UInt32Array, pack
from bqcore._validation import Float64Array, IdArray, as_matrix_or_vector, check_int
from bqcore.codec import Codec
from bqcore.codes import Codes
from bqcore.rescore import Tier
from bqcore.scan_codecs import view
from bqcore.scan_layout import arrange, as_filter
from bqcore.scan_view import View

#: Default width of the first stage's bound in standard deviations.
EPS0 = 2.5

#: Queries that share a pass over the codes.
BATCH = 64

# Norms whose squares are normal numbers of float32.
_SMALLEST_NORM = 1e-15

_KIND = "bqcore scan index"

# Rows and queries of the trial that chooses the first stage. Reading a code whole takes as long as
# 4,000 look-ups of a scan: 40 ns beside 1 ns for 96 look-ups, with AVX2 at 384 dimensions.
_TRIAL_ROWS = 1 << 14
_TRIAL_MIN_ROWS = 1 << 12
_TRIAL_QUERIES = 16
_WHOLE_LOOKUPS = 4000

_Found = tuple[Float32Array, UInt32Array, npt.NDArray[np.uint64]]


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
        Codes that were read in whole.
    """

    ids: IdArray
    distances: Float64Array
    n_estimated: IdArray


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
        self._init(quantizer, codes, view(quantizer), choose_plan(quantizer, codes))
        self._set_tier(tier)

    _tier: ScanIndex | None

    def _set_tier(self, tier: Tier | None) -> None:
        if tier is None:
            return
        if tier.codec.metric_ != self.quantizer.metric_:
            raise ValueError(f"tier: expected metric {self.quantizer.metric_!r}, not {tier.codec.metric_!r}")
        if len(tier.codes) != len(self):
            raise ValueError(f"tier: expected {len(self)} rows, one per code, not {len(tier.codes)}")
        self._tier = ScanIndex(tier.codec, tier.codes)

    def _init(
        self,
        quantizer: Codec,
        codes: Codes,
        codec_view: View,
        plan: int,
        laid_out: dict[str, npt.NDArray[Any]] | None = None,
    ) -> None:
        self.quantizer, self.codes, self._tier = quantizer, codes, None
        self._view, self._plan_number, self._plan = codec_view, plan, codec_view.plans(codes)[plan]
        lists = codes.factors["list"].astype(np.uint16) if self._view.n_lists > 1 else None
        if laid_out is None:
            factors = self._view.factors(codes)
            ids, segments = arrange(len(codes), factors, lists)
            blocks = pack(np.ascontiguousarray(codes.packed), ids, self._plan.source_bits)
            laid_out = {"ids": ids, "segments": segments, "blocks": blocks}
            if factors is not None:
                laid_out["kernel_factors"] = factors
        self._laid_out = laid_out
        self._blocks = Blocks(
            kind=self._view.kind,
            bits=self._view.bits,
            dim=self._view.dim,
            codes=np.ascontiguousarray(codes.packed),
            factors=laid_out.get("kernel_factors"),
            lists=lists,
            ids=laid_out["ids"],
            segments=laid_out["segments"],
            blocks=laid_out["blocks"],
            n_trellis=self._plan.n_trellis,
            n_lists=self._view.n_lists,
            trellis=self._view.trellis,
        )
        # rooms that no thread is in; lists are popped and appended to in one step
        self._rooms: dict[int, list[Queries]] = {1: [], BATCH: []}

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
            self._init(quantizer, codes, view(quantizer), int(meta["plan"]), found)
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

    @property
    def scanned_bytes_per_vector(self) -> int:
        """Bytes of a code that the first stage reads."""
        return self._plan.stage.n_rows

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
        eps0 : float, default 2.5
            Width of the bound in standard deviations of what the first stage does not read; inf loses
            nothing.
        filter : ndarray of bool, shape (n,), or of int, shape (m,), optional
            Rows that may be found: a mask, or their numbers.
        oversampling : float, default 5.0
            Candidates per wanted row that are rescored from the tier, if there is one.
        n_threads : int, default 1
            Threads share the queries, or where there are fewer queries the codes.

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
        queries = self._checked(Q)
        n = self._blocks.n
        if not (type(k) is int and 1 <= k <= n and n_threads == 1):
            k = check_int(k, name="k", low=1, high=n)
            n_threads = check_int(n_threads, name="n_threads", low=1)
        if not eps0 >= 0:
            raise ValueError(f"eps0: expected a number >= 0, not {eps0}")
        if not oversampling >= 1:
            raise ValueError(f"oversampling: expected at least 1, not {oversampling}")
        bitmap, listed = (None, None) if filter is None else as_filter(filter, n)
        wanted = k if self._tier is None else int(min(n, np.ceil(k * oversampling)))
        parts = self._parts(queries, wanted, float(eps0), bitmap, listed, n_threads)
        distances, ids, n_full = parts[0]
        if len(parts) > 1:
            distances, ids, n_full = (np.concatenate(one) for one in zip(*parts, strict=True))
        if self._tier is not None:
            distances, ids = self._tier._rescored(queries, ids, k)
        found = ids.astype(np.int64)
        if found[:, -1].max() == NONE:  # empty places come last
            found[ids == NONE] = -1
        return ScanResult(found, distances.astype(np.float64), n_full.astype(np.int64))

    def _checked(self, Q: npt.ArrayLike) -> Float32Array:
        """Return queries as the view takes them; the time for it counts beside a scan of few codes."""
        dim = self.quantizer.dim_
        queries: Float32Array | None = None
        if isinstance(Q, np.ndarray) and Q.dtype == np.float32 and Q.flags.c_contiguous:
            fits = Q.ndim in (1, 2) and Q.shape[-1] == dim and Q.size > 0
            # a finite sum of squares has finite terms; others are looked at by the slower check
            if fits and isfinite(np.vdot(Q, Q)):
                queries = Q.reshape(-1, dim)
        if queries is None:
            queries, _ = as_matrix_or_vector(Q, dim=dim)
        if not (self._view.takes_unit_rows and self.quantizer.metric_ == "cosine"):
            return queries
        norms = np.sqrt(np.einsum("ij,ij->i", queries, queries, dtype=np.float64))
        if norms.min() < _SMALLEST_NORM or norms.max() > 1 / _SMALLEST_NORM:
            return self.quantizer.as_coded(queries)
        unit: Float32Array = (queries / norms[:, np.newaxis]).astype(np.float32)
        return unit

    def _parts(
        self,
        queries: Float32Array,
        k: int,
        eps0: float,
        bitmap: UInt8Array | None,
        listed: UInt32Array | None,
        n_threads: int,
    ) -> list[_Found]:
        """Search in batches; return distances, ids and counts of each."""
        by_query = n_threads > 1 and len(queries) >= 2 * n_threads
        step = min(BATCH, -(-len(queries) // n_threads)) if by_query else BATCH
        batches = [queries[start : start + step] for start in range(0, len(queries), step)]

        def whole(batch: Float32Array) -> _Found:
            return self._on(batch, eps0, lambda room: self._one(room, k, None, bitmap, listed))

        if n_threads == 1 or (listed is not None and not by_query):
            return [whole(batch) for batch in batches]
        cuts = np.linspace(0, len(self._blocks.segments), n_threads + 1).astype(int).tolist()
        ranges = [(first, last - first) for first, last in pairwise(cuts) if last > first]
        with ThreadPoolExecutor(n_threads) as pool:
            if by_query:
                return list(pool.map(whole, batches))

            def part(batch: Float32Array, one: tuple[int, int]) -> _Found:
                return self._on(batch, eps0, lambda room: self._one(room, k, one, bitmap, None))

            return [_merge(list(pool.map(partial(part, batch), ranges)), k) for batch in batches]

    def _one(
        self,
        room: Queries,
        k: int,
        segments: tuple[int, int] | None,
        bitmap: UInt8Array | None,
        listed: UInt32Array | None,
    ) -> _Found:
        if listed is None:
            return self._blocks.search(room, k, segments, bitmap)
        distances, ids = self._blocks.search_listed(room, k, listed)
        return distances, ids, np.full(room.n, len(listed), dtype=np.uint64)

    def _on(self, queries: Float32Array, eps0: float, run: Callable[[Queries], _Found]) -> _Found:
        """Run something on prepared queries, in a room that no other thread is in."""
        capacity = 1 if len(queries) == 1 else BATCH
        rooms = self._rooms[capacity]
        try:
            room = rooms.pop()
        except IndexError:
            room = self._view.room(capacity, self._plan.stage)
        try:
            self._view.prepare(room, queries, self._plan.stage, eps0)
            return run(room)
        finally:
            rooms.append(room)

    def _rescored(
        self, queries: Float32Array, candidates: UInt32Array, k: int
    ) -> tuple[Float32Array, UInt32Array]:
        """Return distances and ids of the k best candidates, shape (n_queries, k)."""

        def run(room: Queries, start: int) -> _Found:
            parts = []
            for i in range(room.n):
                listed = candidates[start + i]
                listed = np.ascontiguousarray(listed[listed != NONE])
                parts.append(self._blocks.search_listed(room, k, listed, row=i))
            distances, ids = (np.concatenate(one) for one in zip(*parts, strict=True))
            return distances, ids, np.empty(0, dtype=np.uint64)

        found = [
            self._on(queries[start : start + BATCH], np.inf, partial(run, start=start))
            for start in range(0, len(queries), BATCH)
        ]
        return np.concatenate([one[0] for one in found]), np.concatenate([one[1] for one in found])


def choose_plan(quantizer: Codec, codes: Codes) -> int:
    """Return the number of the first stage that takes least, on a sample of the codes.

    Rows decoded from codes stand for queries. Reading a code whole counts as the look-ups that take its time:
    where neighbours are hardly nearer than other rows, many codes pass a short first stage.
    """
    codec_view = view(quantizer)
    plans = codec_view.plans(codes)
    if len(plans) == 1 or len(codes) < _TRIAL_MIN_ROWS:
        return len(plans) - 1
    n = min(len(codes), _TRIAL_ROWS)
    some = codes[np.linspace(0, len(codes) - 1, n).astype(np.int64)]
    queries = quantizer.decode(some[np.linspace(0, n - 1, _TRIAL_QUERIES).astype(np.int64)])
    costs = []
    for number, plan in enumerate(plans):
        found = []
        for part in (some, some[::4]):
            trial = ScanIndex.__new__(ScanIndex)
            trial._init(quantizer, part, codec_view, number)
            # ten neighbours, and the row that the query came from
            found.append(float(trial.search(queries, 11).n_estimated.mean()))
        # the number read grows as a power of the number of codes: most are read while the threshold falls
        power = float(np.clip(np.log(found[0] / found[1]) / np.log(4), 0, 1))
        whole = found[0] * (len(codes) / n) ** power
        costs.append(plan.stage.n_lookups + _WHOLE_LOOKUPS * whole / len(codes))
    return int(np.argmin(costs))


def _merge(parts: list[_Found], k: int) -> _Found:
    """Return the k best of what threads found in their ranges, ties by id."""
    distances, ids = (np.concatenate([part[i] for part in parts], axis=1) for i in (0, 1))
    order = np.lexsort((ids, distances), axis=1)[:, :k]
    n_full = np.asarray(np.sum([part[2] for part in parts], axis=0), dtype=np.uint64)
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(ids, order, axis=1), n_full
