"""STORE: level indices in and out of packed codes; layout in docs/code-format.md."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

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
