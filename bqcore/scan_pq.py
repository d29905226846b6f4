"""SEARCH: 4-bit PQ codes for the scan kernels: the look-up tables are the codebooks' own."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bqcore._ffi import FACTORS_DTYPE, Float32Array, _check, _pointer
from bqcore._native import ffi, lib
from bqcore._scan import NONE, Stage
from bqcore._scan_queries import Queries
from bqcore.codes import Codes
from bqcore.pq import PQ, _product
from bqcore.scan_stages import StagePlan
from bqcore.scan_view import View


class PQView(View):
    """Sums of look-ups over all subspaces; what passes is summed again in float32.

    Parameters
    ----------
    codec : PQ
        At 4 bits.

    Raises
    ------
    ValueError
        If the codec has codes of 8 bits: a register holds no table of 256 entries.
    """

    kind = "lut4"
    bits = 4

    def __init__(self, codec: PQ) -> None:
        if codec.code_bits_ != 4:
            raise ValueError(f"expected pq with code_bits 4, not {codec.code_bits_}")
        self.codec, self.dim, self.n_lists = codec, codec._n_codes, len(codec.centroids_)
        l2 = codec.metric_ == "l2"
        self._origin = codec.centroids_.mean(axis=0) if l2 else np.zeros(codec.dim_, np.float32)
        self._centroids = codec.centroids_ - self._origin
        self.z_nbytes = -(-self.dim // 2) * 128

    def plans(self, codes: Codes) -> list[StagePlan]:
        """Take the whole code. Its bits have no axes: `prepare` fills the tables."""
        n_bits = 8 * codes.packed.shape[1]
        zero = np.zeros(1, dtype=np.float32)
        nothing = np.full(n_bits, NONE, dtype=np.uint32), np.zeros(n_bits, dtype=np.float32)
        stage = Stage(n_bits // 8, 0, *nothing, zero, zero, zero)
        return [StagePlan(np.arange(n_bits, dtype=np.uint32), 0, stage, 0.0)]

    def factors(self, codes: Codes) -> npt.NDArray[np.void] | None:
        """Return 2 <c, r> of code residuals r and their centroids under l2, where there are several."""
        codec = self.codec
        if codec.metric_ != "l2" or self.n_lists == 1:
            return None
        out = np.empty(len(codes), dtype=FACTORS_DTYPE)
        out["f_rescale"] = -1
        transformed, lists = _product(self._centroids, codec._query_transform), codec._lists(codes)
        for start in range(0, len(codes), 1 << 13):
            rows = slice(start, start + (1 << 13))
            residuals = codec._transformed_residuals(codes[rows])
            out["f_add"][rows] = 2 * np.einsum("ij,ij->i", transformed[lists[rows]], residuals)
        return out

    def prepare(self, queries: Queries, Q: Float32Array, stage: Stage, eps0: float) -> None:
        """Fill tables and terms; rounding is off by delta / 2 in each look-up."""
        codec = self.codec
        Q = codec.as_coded(Q) - self._origin
        if codec.metric_ == "l2":
            for i, q in enumerate(Q):
                difference = self._centroids - q
                np.einsum("ij,ij->i", difference, difference, out=queries.g_add[i])
        else:
            queries.g_add[: len(Q)] = (1 if codec.metric_ == "cosine" else 0) - Q @ self._centroids.T
        luts = codec._luts(_product(Q, codec._query_transform))
        n = stage.n_lookups
        values = np.zeros((n, 16), dtype=np.float32)
        for i in range(len(Q)):
            np.negative(luts[i], out=values[: self.dim])
            one, pointer = queries.structs[i], _pointer("float", values)
            delta, top = queries.terms[i]
            _check(lib.bqk_scan_lut(pointer, stage.n_rows, 0, one.luts, delta, top))
            ffi.memmove(queries.z[i], values, n * 64)
            one.top += one.delta * min(eps0 * np.sqrt(n / 12), 0.5 * n) + 1e-5 * abs(one.top)
