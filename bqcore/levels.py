"""STORE: level indices in and out of packed codes; layout in docs/code-format.md."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bqcore import _kernels
from bqcore._kernels import Float32Array

#: Widths whose levels lie side by side in bytes; the others are stored as bit planes.
PACKED_BITS = (1, 2, 4, 8)

UInt8Array = npt.NDArray[np.uint8]


def code_nbytes(dim: int, bits: int) -> int:
    """Bytes of one packed code: ceil(dim * bits / 8), or bits * ceil(dim / 8) of bit planes."""
    return -(-dim * bits // 8) if bits in PACKED_BITS else bits * -(-dim // 8)


def planes(packed: UInt8Array, bits: int) -> list[UInt8Array]:
    """Return the bit planes of codes, lowest first, each of shape (n, ceil(dim / 8)): codes of 1 bit."""
    nbytes = packed.shape[1] // bits
    return [np.ascontiguousarray(packed[:, p * nbytes : (p + 1) * nbytes]) for p in range(bits)]


def unpack(packed: UInt8Array, dim: int, bits: int) -> UInt8Array:
    """Return level indices, 0 to 2**bits - 1, shape (n, dim)."""
    if bits in PACKED_BITS:
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        levels = (packed[:, :, np.newaxis] >> shifts) & np.uint8((1 << bits) - 1)
        return np.ascontiguousarray(levels.reshape(len(packed), -1)[:, :dim])
    out = np.zeros((len(packed), dim), dtype=np.uint8)
    for p, plane in enumerate(planes(packed, bits)):
        out |= np.unpackbits(plane, axis=1, count=dim, bitorder="little") << np.uint8(p)
    return out


def pack(levels: UInt8Array, bits: int) -> UInt8Array:
    """Return packed codes, shape (n, code_nbytes), of level indices, shape (n, dim)."""
    n, dim = levels.shape
    if bits in PACKED_BITS:
        per_byte = 8 // bits
        padded = np.zeros((n, code_nbytes(dim, bits) * per_byte), dtype=np.uint8)
        padded[:, :dim] = levels
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        packed = np.bitwise_or.reduce(padded.reshape(n, -1, per_byte) << shifts, axis=2)
        return np.asarray(packed, dtype=np.uint8)
    bit_planes = [
        np.packbits(levels >> np.uint8(p) & np.uint8(1), axis=1, bitorder="little") for p in range(bits)
    ]
    return np.ascontiguousarray(np.concatenate(bit_planes, axis=1))


def prepare(model: _kernels.Model, Q: Float32Array, row: int, query_bits: int = 8) -> _kernels.Query:
    """Prepare the query in one row of Q; errors name the row."""
    try:
        return model.prepare(Q[row], query_bits)
    except ValueError as error:
        raise ValueError(f"Q: row {row}: {error}") from error


class Scan:
    """Codes of any width, ready for queries.

    The sum over planes of 2^p (bit - 1/2) is u - M/2: a plane is a code of 1 bit with factors of its own.

    Parameters
    ----------
    packed : ndarray of uint8, shape (n, code_nbytes)
    bits : int
    f_add, f_rescale : ndarray of float32, shape (n,)
    """

    def __init__(self, packed: UInt8Array, bits: int, f_add: Float32Array, f_rescale: Float32Array) -> None:
        parts = [packed] if bits in PACKED_BITS else planes(packed, bits)
        self._parts = []
        for p, part in enumerate(parts):
            factors = np.zeros(len(packed), dtype=_kernels.FACTORS_DTYPE)
            factors["f_add"] = f_add if p == 0 else 0
            factors["f_rescale"] = f_rescale * np.float32(1 << p)
            self._parts.append((part, factors))

    def estimate(self, model: _kernels.Model, query: _kernels.Query) -> Float32Array:
        """Return f_add + g_add + f_rescale <k, q>, shape (n,); for planes the model has 1 bit."""
        (packed, factors), *rest = self._parts
        out = model.estimate(query, packed, factors)
        query.struct.g_add = 0
        for packed, factors in rest:
            out += model.estimate(query, packed, factors)
        return out
