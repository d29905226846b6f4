"""The scan kernels: codes in blocks, queries as look-up tables, top-k; arrays in, arrays out."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore._ffi import FACTORS_DTYPE, Float32Array, _check, _check_shape, _factors, _pointer
from bqcore._native import ffi, lib
from bqcore._scan_queries import Model, Queries, UInt8Array, aligned

UInt32Array = npt.NDArray[np.uint32]

# looked up once: a search of few codes takes microseconds
_FLOATS, _DOUBLES, _INTS = (ffi.typeof(name) for name in ("float[]", "double[]", "int64_t[]"))
_NULL, _buffer = ffi.NULL, ffi.from_buffer

#: Codes to a block.
BLOCK: int = lib.BQK_SCAN_BLOCK
#: No id, no bit, no axis.
NONE: int = lib.BQK_SCAN_NONE

KINDS: dict[str, int] = {
    "levels": lib.BQK_SCAN_LEVELS,
    "planes": lib.BQK_SCAN_PLANES,
    "trellis": lib.BQK_SCAN_TRELLIS,
    "lut4": lib.BQK_SCAN_LUT4,
}

#: `bqk_segment`.
SEGMENT_DTYPE = np.dtype(
    [
        ("block", "<u4"),
        ("n_blocks", "<u4"),
        ("list", "<u4"),
        ("f_add_min", "<f4"),
        ("f_add_max", "<f4"),
        ("scale_min", "<f4"),
        ("scale_max", "<f4"),
    ]
)


def n_lookups(n_rows: int, n_trellis: int) -> int:
    """Look-ups per code: two to a row, two more where a derived plane comes with it."""
    return 2 * n_rows + 2 * n_trellis


def pack(codes: UInt8Array, ids: UInt32Array, source_bits: UInt32Array) -> UInt8Array:
    """Copy bits of codes into blocks, shape (n_blocks, n_rows, `BLOCK`).

    Parameters
    ----------
    codes : ndarray of uint8, shape (n, code_nbytes)
    ids : ndarray of uint32, shape (n_blocks * BLOCK,)
        Which code lies where, `NONE` for none.
    source_bits : ndarray of uint32, shape (n_rows * 8,)
        Number of the code's bit that becomes a row's bit, or `NONE`.
    """
    n_blocks, n_rows = len(ids) // BLOCK, len(source_bits) // 8
    _check_shape("codes", codes, (len(codes), codes.shape[1]), np.uint8)
    _check_shape("ids", ids, (n_blocks * BLOCK,), np.uint32)
    _check_shape("source_bits", source_bits, (n_rows * 8,), np.uint32)
    used = ids[ids != NONE]
    if len(used) and used.max() >= len(codes):
        raise ValueError(f"ids: expected ids below {len(codes)}, not {used.max()}")
    blocks = aligned((n_blocks, n_rows, BLOCK))
    _check(
        lib.bqk_scan_pack(
            _pointer("uint8_t", codes),
            codes.shape[1],
            _pointer("uint32_t", ids),
            n_blocks,
            _pointer("uint32_t", source_bits),
            n_rows,
            _pointer("uint8_t", blocks, writable=True),
        )
    )
    return blocks


class Stage:
    """What the bits in the blocks say about a whole code's product with a query: `bqk_scan_stage`.

    Parameters
    ----------
    n_rows, n_trellis : int
    axis : ndarray of uint32, shape (n_lookups * 4,)
        Axis of each bit, `NONE` for none.
    coef : ndarray of float32, shape (n_lookups * 4,)
    base, variance, reach : ndarray of float32, shape (dim,)
    """

    def __init__(
        self,
        n_rows: int,
        n_trellis: int,
        axis: UInt32Array,
        coef: Float32Array,
        base: Float32Array,
        variance: Float32Array,
        reach: Float32Array,
    ) -> None:
        self.n_rows, self.n_trellis, self.dim = n_rows, n_trellis, len(base)
        self.n_lookups = n_lookups(n_rows, n_trellis)
        _check_shape("axis", axis, (self.n_lookups * 4,), np.uint32)
        _check_shape("coef", coef, (self.n_lookups * 4,), np.float32)
        for name, array in (("base", base), ("variance", variance), ("reach", reach)):
            _check_shape(name, array, (self.dim,), np.float32)
        used = axis[axis != NONE]
        if len(used) and used.max() >= self.dim:
            raise ValueError(f"axis: expected axes below {self.dim}, not {used.max()}")
        self.struct = ffi.new("bqk_scan_stage *")
        self.struct.n_rows, self.struct.n_trellis, self.struct.dim = n_rows, n_trellis, self.dim
        self._held = [_pointer("uint32_t", axis)]
        self._held += [_pointer("float", array) for array in (coef, base, variance, reach)]
        self.struct.axis, self.struct.coef = self._held[0], self._held[1]
        self.struct.base, self.struct.variance, self.struct.reach = self._held[2:]


class Blocks:
    """What is searched: `bqk_scan`, with the arrays that it borrows.

    Parameters
    ----------
    kind : {"levels", "planes", "trellis", "lut4"}
        How the product of a whole code with a query is had.
    bits, dim : int
        Of "levels" and "planes"; under "trellis" the bits of a code and its axes; under "lut4" dim is the
        number of look-ups.
    codes : ndarray of uint8, shape (n, code_nbytes)
    factors : ndarray of `FACTORS_DTYPE`, shape (n,), or None
        f_rescale <= 0; None stands for 0 and -1.
    lists : ndarray of uint16, shape (n,), or None
    ids : ndarray of uint32, shape (n_blocks * BLOCK,)
    segments : ndarray of `SEGMENT_DTYPE`
    blocks : ndarray of uint8, shape (n_blocks, n_rows, BLOCK)
        With one more row where there are factor_bins.
    n_trellis, n_lists : int
    factor_bins : ndarray of float32, shape (4, 16), optional
        Limits of the bins in the blocks' last row.
    trellis : bqk_trellis *, optional
        Of codes of kind "trellis"; borrowed.
    """

    def __init__(
        self,
        *,
        kind: str,
        bits: int,
        dim: int,
        codes: UInt8Array,
        factors: npt.NDArray[np.void] | None,
        lists: npt.NDArray[np.uint16] | None,
        ids: UInt32Array,
        segments: npt.NDArray[np.void],
        blocks: UInt8Array,
        n_trellis: int,
        n_lists: int,
        factor_bins: Float32Array | None = None,
        trellis: Any = None,
    ) -> None:
        n, n_blocks, n_rows = len(codes), blocks.shape[0], blocks.shape[1] - (factor_bins is not None)
        _check_shape("codes", codes, (n, codes.shape[1]), np.uint8)
        _check_shape("blocks", blocks, (n_blocks, blocks.shape[1], BLOCK), np.uint8)
        if factor_bins is not None:
            _check_shape("factor_bins", factor_bins, (4, 16), np.float32)
        _check_shape("ids", ids, (n_blocks * BLOCK,), np.uint32)
        _check_shape("segments", segments, (len(segments),), SEGMENT_DTYPE)
        if factors is not None:
            _check_shape("factors", factors, (n,), FACTORS_DTYPE)
        if lists is not None:
            _check_shape("lists", lists, (n,), np.uint16)
        ends = segments["block"].astype(np.int64) + segments["n_blocks"]
        if len(segments) == 0 or ends.max() > n_blocks or segments["list"].max() >= n_lists:
            raise ValueError(f"segments: expected blocks below {n_blocks} and lists below {n_lists}")
        if lists is not None and n and lists.max() >= n_lists:
            raise ValueError(f"lists: expected lists below {n_lists}, not {lists.max()}")
        self.n, self.segments, self.n_lists = n, segments, n_lists
        one = self.struct = ffi.new("bqk_scan *")
        self._held = [
            _pointer("uint8_t", blocks),
            _pointer("uint32_t", ids),
            ffi.from_buffer(segments.view(np.uint8)),
            _pointer("uint8_t", codes),
            None if factors is None else _factors(factors),
            factors,
            None if lists is None else _pointer("uint16_t", lists),
        ]
        one.trellis = ffi.NULL if trellis is None else trellis
        one.levels = one.factor_bins = ffi.NULL
        if factor_bins is not None:
            self._held.append(_pointer("float", factor_bins))
            one.factor_bins = self._held[-1]
        if trellis is not None:
            self._held.append(ffi.new("float[]", lib.bqk_scan_levels_count(trellis)))
            lib.bqk_scan_levels(trellis, self._held[-1])
            one.levels = self._held[-1]
        one.n, one.n_rows, one.n_trellis = n, n_rows, n_trellis
        one.blocks = self._held[0]
        in_order = len(blocks) == 0 or bool(np.array_equal(ids[:n], np.arange(n, dtype=np.uint32)))
        one.ids = ffi.NULL if in_order else self._held[1]
        one.segments, one.n_segments = ffi.cast("bqk_segment *", self._held[2]), len(segments)
        one.codes, one.code_nbytes = self._held[3], codes.shape[1]
        one.factors = ffi.NULL if factors is None else self._held[4]
        one.lists = ffi.NULL if lists is None else self._held[6]
        one.kind, one.bits, one.dim = KINDS[kind], bits, dim

    def search(
        self,
        queries: Queries,
        n: int,
        k: int,
        segments: tuple[int, int],
        bitmap: UInt8Array | None = None,
    ) -> tuple[Float32Array, UInt32Array, npt.NDArray[np.uint64]]:
        """Return distances and ids of the k best codes, (n, k) each, and counts of full estimates.

        Parameters
        ----------
        queries : Queries
            The first n of which are prepared.
        n, k : int
        segments : (int, int)
            First segment and number of them.
        bitmap : ndarray of uint8, shape (ceil(n_codes / 8),), optional
            Bit i % 8 of byte i / 8 is set where id i may be found.
        """
        distances, ids = np.empty((n, k), dtype=np.float32), np.empty((n, k), dtype=np.uint32)
        n_full = np.empty(n, dtype=np.uint64)
        _check(
            lib.bqk_scan_search(
                self.struct,
                *segments,
                queries.structs,
                n,
                k,
                self._bitmap(bitmap),
                queries.of(k).search,
                _pointer("float", distances, writable=True),
                _pointer("uint32_t", ids, writable=True),
                _pointer("uint64_t", n_full, writable=True),
            )
        )
        return distances, ids, n_full

    def search_listed(
        self, queries: Queries, k: int, listed: UInt32Array
    ) -> tuple[Float32Array, UInt32Array]:
        """Return distances and ids, (1, k) each, of the k best of the listed ids for the first query."""
        _check_shape("listed", listed, (len(listed),), np.uint32)
        distances, ids = np.empty((1, k), dtype=np.float32), np.empty((1, k), dtype=np.uint32)
        _check(
            lib.bqk_scan_listed(
                self.struct,
                _pointer("uint32_t", listed),
                len(listed),
                queries.structs,
                1,
                k,
                queries.of(k).search,
                _pointer("float", distances, writable=True),
                _pointer("uint32_t", ids, writable=True),
            )
        )
        return distances, ids

    def _bitmap(self, bitmap: UInt8Array | None) -> Any:
        if bitmap is None:
            return ffi.NULL
        _check_shape("bitmap", bitmap, (-(-self.n // 8),), np.uint8)
        return _pointer("uint8_t", bitmap)


class Index:
    """Blocks, stage and model together: `bqk_scan_index`.

    Parameters
    ----------
    blocks : Blocks
    stage : Stage or None
        None for a tier, of which no bits are scanned.
    model : Model or None
        None where queries are prepared elsewhere.
    """

    def __init__(self, blocks: Blocks, stage: Stage | None, model: Model | None) -> None:
        self.blocks, self.model, self._held = blocks, model, (stage, model)
        self.struct = ffi.new("bqk_scan_index *")
        self.struct.scan = blocks.struct
        self.struct.stage = ffi.NULL if stage is None else stage.struct
        self.struct.model = ffi.NULL if model is None else model.struct
        self.n_lookups = 0 if stage is None else stage.n_lookups

    def room(self, capacity: int, z_nbytes: int) -> Queries:
        """Return memory for searches of so many queries at a time."""
        n_work = 0 if self.model is None else int(lib.bqk_scan_queries_work(self.struct))
        return Queries(capacity, self.blocks.n_lists, z_nbytes, self.n_lookups, n_work)

    def prepare(self, queries: Queries, Q: Float32Array, eps0: float) -> int:
        """Prepare queries, shape (n <= capacity, dim), contiguous; return a status."""
        return int(
            lib.bqk_scan_queries(
                self.struct, _pointer("float", Q), len(Q), eps0, queries.structs, queries.work
            )
        )

    def find(
        self,
        queries: Queries,
        tier: tuple[Index, Queries] | None,
        Q: Float32Array,
        eps0: float,
        n_candidates: int,
        prepared: bool,
        bitmap: UInt8Array | None,
        listed: UInt32Array | None,
        distances: npt.NDArray[np.float64],
        ids: npt.NDArray[np.int64],
        n_full: npt.NDArray[np.int64],
    ) -> int:
        """Search and rescore; fill distances and ids, (n, k) each, and counts; return a status.

        Parameters
        ----------
        queries : Queries
            Prepared here unless `prepared`.
        tier : (Index, Queries), optional
            What rescores, and room for one query.
        Q : ndarray of float32, shape (n, dim), contiguous
        eps0 : float
        n_candidates : int
        prepared : bool
        bitmap, listed : optional
            As for `Blocks.search`; ids that are compared, ascending.
        distances, ids, n_full : ndarray
        """
        n, k = ids.shape
        if listed is not None:
            _check_shape("listed", listed, (len(listed),), np.uint32)
        return int(
            lib.bqk_scan_find(
                self.struct,
                queries.of(n_candidates),
                _NULL if tier is None else tier[0].struct,
                _NULL if tier is None else tier[1].of(k),
                _buffer(_FLOATS, Q),
                n,
                eps0,
                prepared,
                n_candidates,
                k,
                _NULL if bitmap is None else self.blocks._bitmap(bitmap),
                _NULL if listed is None else _pointer("uint32_t", listed),
                0 if listed is None else len(listed),
                _buffer(_DOUBLES, distances),
                _buffer(_INTS, ids),
                _buffer(_INTS, n_full),
            )
        )
