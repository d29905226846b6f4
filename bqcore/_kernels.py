"""The only file that touches cffi: arrays in, arrays out, statuses turned into exceptions.

Arrays are checked by `bqcore._validation` before they get here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore._native import ffi, lib

Float32Array = npt.NDArray[np.float32]

METRICS: dict[str, int] = {"l2": lib.BQK_L2, "ip": lib.BQK_IP, "cosine": lib.BQK_COSINE}
ROTATIONS: dict[str, int] = {"none": lib.BQK_ROTATION_NONE, "hadamard": lib.BQK_ROTATION_HADAMARD}

#: f_add and f_rescale, as `bqk_factors` lays them out.
FACTORS_DTYPE = np.dtype([("f_add", "<f4"), ("f_rescale", "<f4")])


class ModelFormatError(ValueError):
    """Bytes that are not a model this version can read."""


def _text(pointer: Any) -> str:
    return str(ffi.string(pointer).decode())


def _isas() -> Iterator[str]:
    i = 0
    while name := lib.bqk_isa_name(i):
        yield _text(name)
        i += 1


#: Instruction sets of this build in rising order: scalar, then avx2 and avx512, or neon.
ISAS = tuple(_isas())


def _message(status: int) -> str:
    return _text(lib.bqk_strerror(status))


def supported_isas() -> list[str]:
    """Instruction sets this machine can run."""
    return [isa for isa in ISAS if lib.bqk_isa_supported(isa.encode())]


def active_isa() -> str:
    """Name of the instruction set in use."""
    return _text(lib.bqk_isa_active())


def select_isa(name: str | None) -> None:
    """Force an instruction set; None selects the best one this machine has.

    Raises
    ------
    ValueError
        If the name is unknown or the machine lacks it.
    """
    status = lib.bqk_isa_select(ffi.NULL if name is None else name.encode())
    if status == lib.BQK_EINVAL:
        raise ValueError(f"isa: expected one of {', '.join(ISAS)}, not {name!r}")
    if status != lib.BQK_OK:
        raise ValueError(f"isa: expected one of {', '.join(supported_isas())} on this machine, not {name!r}")


def _pointer(ctype: str, array: npt.NDArray[Any], *, writable: bool = False) -> Any:
    return ffi.from_buffer(f"{ctype}[]", array, require_writable=writable)


def _factors(array: npt.NDArray[np.void], *, writable: bool = False) -> Any:
    """Pointer to corrective factors, as C lays them out; valid while the caller holds the array."""
    return ffi.cast("bqk_factors *", _pointer("char", array.view(np.int8), writable=writable))


def _check(status: int) -> None:
    if status != lib.BQK_OK:
        raise ValueError(_message(status))


def _check_rows(name: str, array: npt.NDArray[Any], width: int, dtype: npt.DTypeLike) -> None:
    """C trusts types, widths and contiguity: refuse anything else here."""
    if array.ndim != 2 or array.shape[1] != width or array.dtype != dtype or not array.flags.c_contiguous:
        expected = f"contiguous rows of {width} {np.dtype(dtype)}"
        raise ValueError(f"{name}: expected {expected}, not {array.dtype} of shape {array.shape}")


def _check_shape(name: str, array: npt.NDArray[Any], shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
    """C trusts types, shapes and contiguity: refuse anything else here."""
    if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
        expected = f"contiguous {np.dtype(dtype)} of shape {shape}"
        raise ValueError(f"{name}: expected {expected}, not {array.dtype} of shape {array.shape}")


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


def matmul(X: Float32Array, matrix: Float32Array) -> Float32Array:
    """Return X @ matrix.T: sums in one order, on every instruction set and beside any other rows.

    Parameters
    ----------
    X : ndarray of float32, shape (n, dim), contiguous
    matrix : ndarray of float32, shape (rows, dim), contiguous

    Returns
    -------
    ndarray of float32, shape (n, rows)
    """
    _check_rows("X", X, matrix.shape[1], np.float32)
    _check_rows("matrix", matrix, X.shape[1], np.float32)
    out = np.empty((len(X), len(matrix)), dtype=np.float32)
    if len(X):
        arrays = _pointer("float", X), len(X), _pointer("float", matrix), len(matrix), X.shape[1]
        _check(lib.bqk_matmul(*arrays, _pointer("float", out, writable=True)))
    return out


def flip(
    gram: Float32Array, g: Float32Array, signs: npt.NDArray[np.int8], max_sweeps: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Flip signs in place while <g,s>^2 / s'Gs grows.

    Parameters
    ----------
    gram : ndarray of float32, shape (n_bits, n_bits), contiguous
        G, symmetric.
    g : ndarray of float32, shape (n, n_bits), contiguous
    signs : ndarray of int8, shape (n, n_bits), contiguous
        +1 and -1.
    max_sweeps : int
        Passes over all signs at most.

    Returns
    -------
    gs, sgs : ndarray of float64, shape (n,)
        <g,s> and s'Gs.
    """
    n_bits = len(gram)
    _check_rows("gram", gram, n_bits, np.float32)
    _check_rows("g", g, n_bits, np.float32)
    _check_rows("signs", signs, n_bits, np.int8)
    if len(signs) != len(g):
        raise ValueError(f"signs: expected {len(g)} rows, not {len(signs)}")
    work = np.empty(n_bits, dtype=np.float32)
    gs, sgs = np.empty(len(g)), np.empty(len(g))
    if len(g):
        _check(
            lib.bqk_flip(
                _pointer("float", gram),
                _pointer("float", g),
                len(g),
                n_bits,
                max_sweeps,
                _pointer("int8_t", signs, writable=True),
                _pointer("float", work, writable=True),
                _pointer("double", gs, writable=True),
                _pointer("double", sgs, writable=True),
            )
        )
    return gs, sgs


def sign_magnitude_sym(
    dim: int, codes: npt.NDArray[np.uint8], code: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int32]:
    """Sum of +-1 (signs agree or not) times 1, 2 or 4 (neither, one, both strong), shape (n,).

    Parameters
    ----------
    dim : int
    codes : ndarray of uint8, shape (n, 2 ceil(dim / 8)), contiguous
        Sign plane and strong plane.
    code : ndarray of uint8, shape (2 ceil(dim / 8),)
    """
    nbytes = 2 * -(-dim // 8)
    code = np.ascontiguousarray(code)
    _check_rows("codes", codes, nbytes, np.uint8)
    _check_rows("code", code[np.newaxis], nbytes, np.uint8)
    out = np.empty(len(codes), dtype=np.int32)
    if len(codes):
        planes = _pointer("uint8_t", codes), len(codes), _pointer("uint8_t", code)
        _check(lib.bqk_sign_magnitude_sym(dim, *planes, _pointer("int32_t", out, writable=True)))
    return out


def pq_assign(
    codebooks: Float32Array,
    offsets: npt.NDArray[np.uint32],
    targets: Float32Array,
    directions: Float32Array,
    weights: Float32Array,
    *,
    start: npt.NDArray[np.uint16] | None = None,
    max_sweeps: int,
) -> npt.NDArray[np.uint16]:
    """Assign codes, shape (n, n_subspaces), by coordinate descent on ``|e|^2 + weight <e, direction>^2``.

    Parameters
    ----------
    codebooks : ndarray of float32, shape (dim, n_codewords)
        Rows offsets[m] to offsets[m + 1] - 1 hold the codewords of subspace m as columns.
    offsets : ndarray of uint32, shape (n_subspaces + 1,)
    targets, directions : ndarray of float32, shape (n, dim)
    weights : ndarray of float32, shape (n,)
    start : ndarray of uint16, shape (n, n_subspaces), optional
        Codes to start from; without them the nearest codeword of each subspace.
    max_sweeps : int
        Passes over the subspaces; a row stops when one changes nothing.
    """
    n, dim = targets.shape
    n_subspaces = len(offsets) - 1
    for name, array, shape, dtype in [
        ("codebooks", codebooks, (int(offsets[-1]), codebooks.shape[1]), np.float32),
        ("offsets", offsets, (n_subspaces + 1,), np.uint32),
        ("targets", targets, (n, int(offsets[-1])), np.float32),
        ("directions", directions, (n, dim), np.float32),
        ("weights", weights, (n,), np.float32),
    ]:
        _check_shape(name, array, shape, dtype)
    codes = np.zeros((n, n_subspaces), dtype=np.uint16)
    if start is not None:
        _check_shape("start", start, codes.shape, np.uint16)
        codes[:] = start
    if n:
        status = lib.bqk_pq_assign(
            _pointer("float", codebooks),
            _pointer("uint32_t", offsets),
            n_subspaces,
            codebooks.shape[1],
            _pointer("float", targets),
            _pointer("float", directions),
            _pointer("float", weights),
            n,
            start is not None,
            max_sweeps,
            _pointer("uint16_t", codes, writable=True),
        )
        if status != lib.BQK_OK:
            raise ValueError(_message(status))
    return codes


def lut_scan(
    codes: npt.NDArray[np.uint8], luts: npt.NDArray[np.uint8] | Float32Array
) -> npt.NDArray[np.uint32] | Float32Array:
    """Add the LUT entries that packed codes select: (n_queries, n) uint32 for uint8 entries, else float32.

    Parameters
    ----------
    codes : ndarray of uint8, shape (n, ceil(n_subspaces * code_bits / 8))
    luts : ndarray of uint8 or float32, shape (n_queries, n_subspaces, 2**code_bits), code_bits 4 or 8
    """
    n_queries, n_subspaces, n_codewords = luts.shape
    code_bits = 4 if n_codewords == 16 else 8
    exact = luts.dtype == np.uint8
    _check_shape("luts", luts, (n_queries, n_subspaces, 1 << code_bits), np.uint8 if exact else np.float32)
    _check_shape("codes", codes, (len(codes), -(-n_subspaces * code_bits // 8)), np.uint8)
    out: npt.NDArray[Any] = np.empty((n_queries, len(codes)), dtype=np.uint32 if exact else np.float32)
    if out.size:
        scan, entry, total = (
            (lib.bqk_lut_scan, "uint8_t", "uint32_t") if exact else (lib.bqk_lut_scan_float, "float", "float")
        )
        status = scan(
            code_bits,
            _pointer("uint8_t", codes),
            len(codes),
            n_subspaces,
            _pointer(entry, luts),
            n_queries,
            _pointer(total, out, writable=True),
        )
        if status != lib.BQK_OK:
            raise ValueError(_message(status))
    return out


if os.environ.get("BQCORE_ISA"):
    select_isa(os.environ["BQCORE_ISA"])
