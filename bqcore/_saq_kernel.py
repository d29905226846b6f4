"""The SAQ encoder: arrays in, arrays out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bqcore._ffi import METRICS, Float32Array, _check, _check_rows, _check_shape, _pointer
from bqcore._native import ffi, lib
from bqcore._products import Columns
from bqcore._trellis import Trellis


class SAQEncoder:
    """What `bqk_saq_encode` reads.

    Parameters
    ----------
    metric : {"l2", "ip", "cosine"}
    centroids : ndarray of float32, shape (n_lists, dim)
    forward : ndarray of float32, shape (dim, n_axes)
    trellis : Trellis
        Of n_axes.
    share, length : ndarray of float32, shape (n_axes,)
    dropped : float
        `bqcore.axes.Expectation`.
    centroid_back : ndarray of float32, shape (n_lists, n_axes)
        Products of the centroids with the axes' vectors back.
    """

    def __init__(
        self,
        metric: str,
        centroids: Float32Array,
        forward: Float32Array,
        trellis: Trellis,
        share: Float32Array,
        length: Float32Array,
        dropped: float,
        centroid_back: Float32Array,
    ) -> None:
        n_lists, self.dim = centroids.shape
        self.trellis, axes = trellis, Columns(forward)
        for name, array, shape in [
            ("forward", forward, (self.dim, trellis.n_axes)),
            ("share", share, (trellis.n_axes,)),
            ("length", length, (trellis.n_axes,)),
            ("centroid_back", centroid_back, (n_lists, trellis.n_axes)),
        ]:
            _check_shape(name, array, shape, np.float32)
        half: Float32Array = np.einsum("ij,ij->i", centroids, centroids) / np.float32(2)
        self.struct = ffi.new("bqk_saq *")
        self.struct.dim, self.struct.n_lists = self.dim, n_lists
        self.struct.metric, self.struct.dropped = METRICS[metric], dropped
        self.struct.axes, self.struct.trellis = axes.struct, trellis.struct
        floats = {
            "centroids": np.ascontiguousarray(centroids),
            "half_norms": half,
            "share": share,
            "length": length,
            "centroid_back": centroid_back,
        }
        # The struct borrows all of these; holding them keeps them alive with it.
        self._held: list[object] = [axes]
        for name, array in floats.items():
            pointer = _pointer("float", array)
            self._held.append(pointer)
            setattr(self.struct, name, pointer)
        if n_lists > 1:
            lists = Columns(np.ascontiguousarray(centroids.T))
            self._held.append(lists)
            self.struct.lists = lists.struct

    def encode(
        self, X: Float32Array, rounds: int
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16], Float32Array, Float32Array]:
        """Encode rows, shape (n, dim).

        Returns
        -------
        codes : ndarray of uint8, shape (n, code_nbytes)
        lists : ndarray of uint16, shape (n,)
        f_add, f_rescale : ndarray of float32, shape (n,)
        """
        _check_rows("X", X, self.dim, np.float32)
        n = len(X)
        codes = np.empty((n, self.trellis.code_nbytes), dtype=np.uint8)
        lists = np.empty(n, dtype=np.uint16)
        f_add, f_rescale = np.empty(n, dtype=np.float32), np.empty(n, dtype=np.float32)
        work = np.empty(lib.bqk_saq_work(self.struct), dtype=np.float32)
        if n:
            _check(
                lib.bqk_saq_encode(
                    self.struct,
                    _pointer("float", X),
                    n,
                    rounds,
                    _pointer("uint8_t", codes, writable=True),
                    _pointer("uint16_t", lists, writable=True),
                    _pointer("float", f_add, writable=True),
                    _pointer("float", f_rescale, writable=True),
                    _pointer("float", work, writable=True),
                )
            )
        return codes, lists, f_add, f_rescale
