"""Queries of the scan kernels: how they are prepared, and the memory of a search."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore._ffi import Float32Array, _check_shape, _pointer
from bqcore._native import ffi, lib

UInt8Array = npt.NDArray[np.uint8]


def aligned(shape: tuple[int, ...]) -> UInt8Array:
    """Return bytes that begin at a cache line, so that a row of a block is one."""
    n = int(np.prod(shape))
    raw = np.empty(n + 63, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + n].reshape(shape)


class Model:
    """How a query becomes what the kernels take: `bqk_scan_model`.

    Parameters
    ----------
    dim, n_axes : int
        Coordinates of a query and of what the stage sees.
    unit : bool
        Whether queries are scaled to unit length.
    centroids : ndarray of float32, shape (n_lists, dim), optional
        g_add of each is its squared distance times `square`, or, where that is 0, constant - <q, c>. Without
        centroids `rabitq` has one of its own.
    square, constant : float
    linear : bool
        With centroids, whether f_add counts <q, c> / |c|^2 times, and the origin, the one centroid, likewise.
    origin : ndarray of float32, shape (dim,), optional
        Taken from queries.
    matrix : ndarray of float32, shape (n_axes, dim), optional
        Its rows times what is left are the axes.
    rabitq : bqk_model *, optional
    half : float
        Half the largest level, with `rabitq`.
    trellis : bqk_trellis *, optional
    """

    def __init__(
        self,
        dim: int,
        n_axes: int,
        *,
        unit: bool = False,
        centroids: Float32Array | None = None,
        square: float = 0.0,
        constant: float = 0.0,
        linear: bool = False,
        origin: Float32Array | None = None,
        matrix: Float32Array | None = None,
        rabitq: Any = None,
        half: float = 0.0,
        trellis: Any = None,
    ) -> None:
        one = self.struct = ffi.new("bqk_scan_model *")
        self._held = [rabitq, trellis]
        one.dim, one.n_axes, one.unit = dim, n_axes, unit
        one.square, one.constant, one.linear, one.half = square, constant, linear, half
        for name, array, shape in (
            ("centroids", centroids, (-1, dim)),
            ("origin", origin, (dim,)),
            ("matrix", matrix, (n_axes, dim)),
        ):
            if array is None:
                setattr(one, name, ffi.NULL)
                continue
            fixed = np.ascontiguousarray(array, dtype=np.float32).reshape(shape)
            _check_shape(name, fixed, fixed.shape if shape[0] < 0 else shape, np.float32)
            self._held.append(_pointer("float", fixed))
            setattr(one, name, self._held[-1])
        one.n_lists = 1 if centroids is None else len(centroids)
        one.rabitq = ffi.NULL if rabitq is None else rabitq
        one.trellis = ffi.NULL if trellis is None else trellis


class Queries:
    """Memory of one search: `bqk_scan_room` and the queries in it.

    Parameters
    ----------
    capacity : int
    n_lists : int
    z_nbytes : int
        Bytes of a query for the estimate of whole codes.
    n_lookups : int
    n_work : int
        Floats of scratch that preparing a query takes.
    """

    def __init__(self, capacity: int, n_lists: int, z_nbytes: int, n_lookups: int, n_work: int) -> None:
        self.capacity, self._n_candidates = capacity, 0
        self.g_add = np.zeros((capacity, n_lists), dtype=np.float32)
        g_weight = np.ones_like(self.g_add)
        self.structs = ffi.new("bqk_scan_query[]", capacity)
        self.work = ffi.new("float[]", max(1, n_work))
        self._n_full = ffi.new("uint64_t[]", capacity)
        lut_nbytes, z_step = n_lookups * 16, -(-z_nbytes // 64) * 64
        luts, z = aligned((capacity, lut_nbytes)), aligned((capacity, z_step))
        z[:] = 0
        self._held = [
            _pointer("uint8_t", luts, writable=True),
            _pointer("char", z, writable=True),
            _pointer("float", self.g_add),
            _pointer("float", g_weight, writable=True),
        ]
        self.z = [ffi.cast("char *", self._held[1]) + i * z_step for i in range(capacity)]
        self.terms = []
        for i in range(capacity):
            one = self.structs[i]
            one.luts = ffi.cast("uint8_t *", self._held[0]) + i * lut_nbytes
            one.g_add = ffi.cast("float *", self._held[2]) + i * n_lists
            one.g_weight = ffi.cast("float *", self._held[3]) + i * n_lists
            one.z = self.z[i]
            self.terms.append((ffi.addressof(one, "delta"), ffi.addressof(one, "top")))
        self.room = ffi.new("bqk_scan_room *")
        self.room.queries, self.room.work, self.room.n_full = self.structs, self.work, self._n_full

    def of(self, n_candidates: int) -> Any:
        """Return the room with memory for so many candidates of each query."""
        if self._n_candidates < n_candidates:
            nbytes = int(lib.bqk_scan_work(self.capacity, n_candidates))
            self._found = (
                ffi.new("uint64_t[]", -(-nbytes // 8)),
                ffi.new("float[]", self.capacity * n_candidates),
                ffi.new("uint32_t[]", self.capacity * n_candidates),
            )
            self.room.search, self.room.distances, self.room.ids = self._found
            self._n_candidates = n_candidates
        return self.room
