"""RaBitQ's model and queries: the C structs over arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore._ffi import (
    FACTORS_DTYPE,
    METRICS,
    ROTATIONS,
    Float32Array,
    _check,
    _check_rows,
    _factors,
    _message,
    _pointer,
)
from bqcore._native import ffi, lib


class ModelFormatError(ValueError):
    """Bytes that are not a model this version can read."""


@dataclass(frozen=True)
class Query:
    """One prepared query: corrective terms, and its coordinates in kernel order.

    `z` holds int8 levels; bit planes at 4 bits against 1-bit codes; float32 at 32 bits.
    """

    struct: Any
    z: npt.NDArray[Any]


class Model:
    """What encodes a vector: dim, bits, metric, rotation seed and centroid, with the C struct over them.

    Parameters
    ----------
    bits : int
        1 to 8; models of 3, 5, 6 and 7 bits encode, but take no queries.
    metric : {"l2", "ip", "cosine"}
    rotation : {"hadamard", "none"}
    seed : int
        Seed of the rotation, 64 bits.
    centroid : ndarray of float32, shape (dim,)
    n_trained : int
        Rows the centroid was taken from.
    """

    def __init__(
        self, *, bits: int, metric: str, rotation: str, seed: int, centroid: Float32Array, n_trained: int
    ) -> None:
        self.bits, self.metric, self.rotation, self.seed = bits, metric, rotation, seed
        self.n_trained = n_trained
        self.centroid: Float32Array = np.ascontiguousarray(centroid, dtype=np.float32)
        self.dim = len(self.centroid)
        self.signs: Float32Array | None = None
        if rotation != "none":
            self.signs = np.empty(lib.bqk_signs_count(self.dim), dtype=np.float32)
            _check(lib.bqk_signs_init(self.dim, seed, _pointer("float", self.signs, writable=True)))
        self._struct = ffi.new("bqk_model *")
        self._struct.dim, self._struct.bits = self.dim, bits
        self._struct.metric, self._struct.rotation = METRICS[metric], ROTATIONS[rotation]
        self._struct.seed, self._struct.n_trained = seed, n_trained
        # The struct borrows both arrays; holding the buffers keeps them alive with it.
        self._held = [_pointer("float", self.centroid)]
        self._struct.centroid = self._held[0]
        self._struct.signs = ffi.NULL
        if self.signs is not None:
            self._held.append(_pointer("float", self.signs))
            self._struct.signs = self._held[1]

    @property
    def code_nbytes(self) -> int:
        """Bytes of one packed code, without corrective factors."""
        return int(lib.bqk_code_nbytes(self.dim, self.bits))

    def rotate(self, X: Float32Array) -> Float32Array:
        """Rotate rows, shape (n, dim)."""
        _check_rows("X", X, self.dim, np.float32)
        out = np.empty_like(X)
        _check(
            lib.bqk_rotate(self._struct, _pointer("float", X), len(X), _pointer("float", out, writable=True))
        )
        return out

    def unrotate(self, X: Float32Array) -> Float32Array:
        """Undo `rotate`, shape (n, dim)."""
        _check_rows("X", X, self.dim, np.float32)
        out = np.empty_like(X)
        arrays = _pointer("float", X), len(X), _pointer("float", out, writable=True)
        _check(lib.bqk_unrotate(self._struct, *arrays))
        return out

    def _check_codes(self, codes: npt.NDArray[np.uint8], factors: npt.NDArray[np.void]) -> None:
        _check_rows("codes", codes, self.code_nbytes, np.uint8)
        contiguous = factors.flags.c_contiguous
        if factors.shape != (len(codes),) or factors.dtype != FACTORS_DTYPE or not contiguous:
            expected = f"contiguous {FACTORS_DTYPE} of shape {(len(codes),)}"
            raise ValueError(f"factors: expected {expected}, not {factors.dtype} of shape {factors.shape}")

    def encode(self, X: Float32Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.void]]:
        """Encode rows, shape (n, dim), to packed codes (n, code_nbytes) and factors (n,)."""
        _check_rows("X", X, self.dim, np.float32)
        n = len(X)
        codes = np.empty((n, self.code_nbytes), dtype=np.uint8)
        factors = np.empty(n, dtype=FACTORS_DTYPE)
        work = np.empty(self.dim, dtype=np.float32)
        bad = ffi.new("size_t *")
        if n == 0:
            return codes, factors
        status = lib.bqk_encode(
            self._struct,
            _pointer("float", X),
            n,
            _pointer("uint8_t", codes, writable=True),
            _factors(factors, writable=True),
            _pointer("float", work, writable=True),
            bad,
        )
        if status in (lib.BQK_EZERO, lib.BQK_ERANGE):
            raise ValueError(f"X: row {bad[0]}: {_message(status)}")
        _check(status)
        return codes, factors

    def prepare(self, q: Float32Array, query_bits: int = 8) -> Query:
        """Prepare one query, shape (dim,), at 4, 8 or 32 bits."""
        _check_rows("q", q[np.newaxis], self.dim, np.float32)
        struct = ffi.new("bqk_query *")
        z = np.empty(lib.bqk_query_nbytes(self.dim, query_bits), dtype=np.int8)
        work = np.empty(self.dim, dtype=np.float32)
        status = lib.bqk_query_prepare(
            self._struct,
            _pointer("float", q),
            query_bits,
            struct,
            _pointer("char", z, writable=True),
            _pointer("float", work, writable=True),
        )
        _check(status)
        return Query(struct, z.view(np.float32) if query_bits == 32 else z)

    def estimate(
        self, query: Query, codes: npt.NDArray[np.uint8], factors: npt.NDArray[np.void]
    ) -> Float32Array:
        """Estimated distances of codes to a query, shape (n,)."""
        self._check_codes(codes, factors)
        out = np.empty(len(codes), dtype=np.float32)
        if len(codes):
            _check(
                lib.bqk_estimate_n(
                    self._struct,
                    query.struct,
                    _pointer("char", query.z),
                    _pointer("uint8_t", codes),
                    _factors(factors),
                    len(codes),
                    _pointer("float", out, writable=True),
                )
            )
        return out

    def error(
        self, query: Query, codes: npt.NDArray[np.uint8], factors: npt.NDArray[np.void]
    ) -> Float32Array:
        """Half widths of the error bound per unit of eps0, shape (n,)."""
        self._check_codes(codes, factors)
        out = np.empty(len(codes), dtype=np.float32)
        if len(codes):
            _check(
                lib.bqk_error_n(
                    self._struct,
                    query.struct,
                    _pointer("uint8_t", codes),
                    _factors(factors),
                    len(codes),
                    _pointer("float", out, writable=True),
                )
            )
        return out

    def error_parts(
        self, codes: npt.NDArray[np.uint8], factors: npt.NDArray[np.void]
    ) -> tuple[Float32Array, Float32Array]:
        """Error bounds of codes, shape (n,) each: per unit of the query's length, and of its step delta."""
        length = Query(ffi.new("bqk_query *", {"g_error": 1.0}), np.empty(0, dtype=np.int8))
        step = Query(ffi.new("bqk_query *", {"delta": 1.0}), length.z)
        return self.error(length, codes, factors), self.error(step, codes, factors)

    def estimate_sym(
        self, codes: npt.NDArray[np.uint8], factors: npt.NDArray[np.void], row: int
    ) -> Float32Array:
        """Estimated distances of codes to the code in `row`, shape (n,): what a graph build compares."""
        self._check_codes(codes, factors)
        n = len(codes)
        if not 0 <= row < n:
            raise ValueError(f"row: expected 0 to {n - 1}, not {row}")
        sym = self.sym(codes, codes[row])
        f = _factors(factors)
        metric = METRICS[self.metric]
        out = [
            lib.bqk_estimate_sym(self.bits, metric, self.dim, int(sym[i]), f + i, f + row) for i in range(n)
        ]
        return np.array(out, dtype=np.float32)

    def dot(self, codes: npt.NDArray[np.uint8], z: npt.NDArray[np.int8]) -> npt.NDArray[np.int32]:
        """Sum of level index times query coordinate, shape (n,)."""
        _check_rows("codes", codes, self.code_nbytes, np.uint8)
        _check_rows("z", z[np.newaxis], lib.bqk_query_nbytes(self.dim, 8), np.int8)
        out = np.empty(len(codes), dtype=np.int32)
        _check(
            lib.bqk_dot(
                self.bits,
                self.dim,
                _pointer("uint8_t", codes),
                codes.strides[0],
                len(codes),
                _pointer("int8_t", z),
                _pointer("int32_t", out, writable=True),
            )
        )
        return out

    def sym(self, codes: npt.NDArray[np.uint8], code: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
        """Sum of (2 ua - M)(2 ub - M), shape (n,)."""
        _check_rows("codes", codes, self.code_nbytes, np.uint8)
        _check_rows("code", code[np.newaxis], self.code_nbytes, np.uint8)
        out = np.empty(len(codes), dtype=np.int32)
        _check(
            lib.bqk_sym(
                self.bits,
                self.dim,
                _pointer("uint8_t", codes),
                codes.strides[0],
                len(codes),
                _pointer("uint8_t", np.ascontiguousarray(code)),
                _pointer("int32_t", out, writable=True),
            )
        )
        return out

    def to_bytes(self) -> bytes:
        """Serialise: layout in docs/code-format.md."""
        out = np.empty(lib.bqk_model_nbytes(self._struct), dtype=np.uint8)
        _check(lib.bqk_model_write(self._struct, _pointer("uint8_t", out, writable=True), len(out)))
        return out.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Model:
        """Read what `to_bytes` wrote.

        Raises
        ------
        ModelFormatError
            If the bytes are foreign, truncated, damaged or of a newer version.
        """
        # float32 storage keeps the centroid that points into it aligned
        padded = np.zeros(-(-len(data) // 4), dtype=np.float32)
        buffer = padded.view(np.uint8)
        buffer[: len(data)] = np.frombuffer(data, dtype=np.uint8)
        struct = ffi.new("bqk_model *")
        pointer = _pointer("uint8_t", buffer)
        announced = lib.bqk_model_announced(pointer, len(data))
        if announced == 0:
            raise ModelFormatError(f"expected a bqcore model, not {len(data)} bytes starting {data[:8]!r}")
        if announced != len(data):
            what = "truncated" if len(data) < announced else "overlong"
            raise ModelFormatError(f"{what} model: expected {announced} bytes, not {len(data)}")
        status = lib.bqk_model_read(pointer, len(data), struct)
        if status != lib.BQK_OK:
            version = int.from_bytes(data[4:6], "little")
            raise ModelFormatError(f"{_message(status)} (format version {version}, {len(data)} bytes)")
        centroid = np.frombuffer(ffi.buffer(struct.centroid, struct.dim * 4), dtype=np.float32).copy()
        return cls(
            bits=struct.bits,
            metric={v: k for k, v in METRICS.items()}[struct.metric],
            rotation={v: k for k, v in ROTATIONS.items()}[struct.rotation],
            seed=struct.seed,
            centroid=centroid,
            n_trained=struct.n_trained,
        )
