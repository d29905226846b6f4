"""The trellis kernels: arrays in, arrays out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bqcore._ffi import Float32Array, _check, _check_rows, _pointer
from bqcore._native import ffi, lib


class Trellis:
    """Trellis-coded quantization of the axes of a model.

    Parameters
    ----------
    bits : ndarray of uint8, shape (n_axes,)
        1 to 8, descending.
    deviation : ndarray of float32, shape (n_axes,)
        Of an axis' coordinates, above 0.
    code_nbytes : int
        At least sum(bits) / 8.
    """

    def __init__(self, bits: npt.NDArray[np.uint8], deviation: Float32Array, code_nbytes: int) -> None:
        self.n_axes, self.code_nbytes = len(bits), code_nbytes
        self.struct = ffi.new("bqk_trellis *")
        self.struct.dim, self.struct.code_nbytes = len(bits), code_nbytes
        # The struct borrows the arrays; holding the buffers keeps them alive with it.
        self._held = [
            _pointer("uint8_t", np.ascontiguousarray(bits, dtype=np.uint8)),
            _pointer("float", np.ascontiguousarray(deviation, dtype=np.float32)),
        ]
        self.struct.bits, self.struct.deviation = self._held

    def encode(
        self, o: Float32Array, rounds: int
    ) -> tuple[npt.NDArray[np.uint8], Float32Array, Float32Array]:
        """Encode rows, shape (n, n_axes).

        Returns
        -------
        codes : ndarray of uint8, shape (n, code_nbytes)
        levels : ndarray of float32, shape (n, n_axes)
            What `decode` gives.
        rescale : ndarray of float32, shape (n,)
            ``|o| / |levels|``.
        """
        _check_rows("o", o, self.n_axes, np.float32)
        codes = np.empty((len(o), self.code_nbytes), dtype=np.uint8)
        levels = np.empty((len(o), self.n_axes), dtype=np.float32)
        rescale = np.empty(len(o), dtype=np.float32)
        work = np.empty(lib.bqk_trellis_work(self.n_axes), dtype=np.float32)
        if len(o):
            _check(
                lib.bqk_trellis_encode(
                    self.struct,
                    _pointer("float", o),
                    len(o),
                    rounds,
                    _pointer("uint8_t", codes, writable=True),
                    _pointer("float", rescale, writable=True),
                    _pointer("float", levels, writable=True),
                    _pointer("float", work, writable=True),
                )
            )
        return codes, levels, rescale

    def decode(self, codes: npt.NDArray[np.uint8]) -> Float32Array:
        """Return levels of codes, shape (n, n_axes)."""
        _check_rows("codes", codes, self.code_nbytes, np.uint8)
        levels = np.empty((len(codes), self.n_axes), dtype=np.float32)
        if len(codes):
            _check(
                lib.bqk_trellis_decode(
                    self.struct,
                    _pointer("uint8_t", codes),
                    len(codes),
                    _pointer("float", levels, writable=True),
                )
            )
        return levels


def levels_of(bits: int) -> Float32Array:
    """Return the levels of an axis of 1 to 8 bits and deviation 1, shape (2^(bits + 1),), ascending."""
    levels = np.empty(2 << bits, dtype=np.float32)
    _check(lib.bqk_trellis_levels(bits, _pointer("float", levels, writable=True)))
    return levels
