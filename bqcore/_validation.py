"""Shape, dtype and finiteness: every array enters the package here."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator
from typing import Any, Literal, cast, overload

import numpy as np
import numpy.typing as npt

from bqcore._ffi import _pointer
from bqcore._native import lib

Metric = Literal["l2", "ip", "cosine"]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
IdArray = npt.NDArray[np.int64]

METRICS: tuple[Metric, ...] = ("l2", "ip", "cosine")

#: What other libraries call the metrics; upper and lower case, "-", "_" and spaces are the same.
METRIC_NAMES: dict[str, Metric] = {
    "l2": "l2",
    "l2sq": "l2",
    "euclid": "l2",
    "euclidean": "l2",
    "sqeuclidean": "l2",
    "squaredeuclidean": "l2",
    "squaredl2": "l2",
    "ip": "ip",
    "dot": "ip",
    "dotproduct": "ip",
    "inner": "ip",
    "innerproduct": "ip",
    "maxinnerproduct": "ip",
    "cos": "cosine",
    "cosine": "cosine",
    "cosinesimilarity": "cosine",
    "cosinedistance": "cosine",
    "angular": "cosine",
}

#: The limit of pgvector's ``vector`` type; a row that no column can hold is refused at the door.
MAX_DIM = 16_000

# Temporaries (masks, float64 copies) are made for this many coordinates at a time, not for the whole set.
_BLOCK_COORDINATES = 1 << 22


class InputTypeError(TypeError):
    """A value of the caller's has the wrong type; any other TypeError is a fault of this package."""


def row_blocks(X: npt.NDArray[Any]) -> Iterator[slice]:
    """Yield slices of rows that keep a temporary of the same shape small.

    Parameters
    ----------
    X : ndarray, shape (n, dim)
        Only its shape is used.

    Yields
    ------
    slice
        Consecutive rows, together all of them.
    """
    step = max(1, _BLOCK_COORDINATES // max(1, X.shape[1]))
    for start in range(0, X.shape[0], step):
        yield slice(start, min(start + step, X.shape[0]))


def _as_array(X: npt.ArrayLike, name: str) -> npt.NDArray[Any]:
    if np.ma.isMaskedArray(X):
        raise InputTypeError(
            f"{name}: expected a plain array, not a masked one; fill the masked values first"
        )
    try:
        array = np.asarray(X)
    except ValueError as error:
        raise ValueError(f"{name}: expected rows of equal length: {error}") from error
    if array.dtype == object:
        array = _stacked(array, name)
    if array.dtype.kind not in "fiu":
        raise InputTypeError(f"{name}: expected real numbers (float or integer), not dtype {array.dtype}")
    return array


def _stacked(rows: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """Return the array of a column whose elements are vectors, as pandas, polars and Arrow have them."""
    if rows.ndim != 1:
        if rows.ndim == 2 and any(isinstance(one, list | tuple | np.ndarray) for one in rows[:1].ravel()):
            raise InputTypeError(
                f"{name}: expected vectors, not a table of {rows.shape[1]} columns: give its vectors' column"
            )
        return rows
    if not len(rows):
        return rows
    parts: list[npt.NDArray[Any]] = []
    for row, one in enumerate(rows):
        if one is None or (isinstance(one, float) and one != one):
            raise ValueError(f"{name}: expected a vector in every row, not {one} in row {row}")
        if isinstance(one, str | bytes) or not hasattr(one, "__len__"):
            return rows  # numbers of a type that arrays do not know
        part = np.asarray(one)
        if part.ndim != 1 or part.shape != (parts[0].shape if parts else part.shape):
            shape = parts[0].shape if parts else "(dim,)"
            raise ValueError(
                f"{name}: expected rows of equal length: shape {shape}, not {part.shape} in row {row}"
            )
        if part.dtype.kind not in "fiu":
            raise InputTypeError(
                f"{name}: expected real numbers (float or integer), not dtype {part.dtype} in row {row}"
            )
        parts.append(part)
    return np.stack(parts)


def _check_finite(out: npt.NDArray[Any], given: npt.NDArray[Any], name: str) -> None:
    for rows in row_blocks(out):
        finite = np.isfinite(out[rows])
        if finite.all():
            continue
        row, coordinate = (int(i) for i in np.argwhere(~finite)[0])
        value = given[rows][row, coordinate]
        where = f"row {rows.start + row}, coordinate {coordinate}"
        if np.isfinite(value):
            largest = np.finfo(out.dtype).max
            raise ValueError(
                f"{name}: expected magnitudes up to {largest:.8g} ({out.dtype}), not {value!s} at {where}"
            )
        raise ValueError(f"{name}: expected finite values, not {value!s} at {where}")


@overload
def as_vectors(
    X: npt.ArrayLike, *, name: str = ..., dim: int | None = ..., allow_empty: bool = ...
) -> Float32Array: ...
@overload
def as_vectors(
    X: npt.ArrayLike,
    *,
    name: str = ...,
    dim: int | None = ...,
    allow_empty: bool = ...,
    dtype: type[np.float32] | type[np.float64],
) -> npt.NDArray[Any]: ...
def as_vectors(
    X: npt.ArrayLike,
    *,
    name: str = "X",
    dim: int | None = None,
    allow_empty: bool = False,
    dtype: type[np.float32] | type[np.float64] = np.float32,
) -> npt.NDArray[Any]:
    """Check a set of vectors and return it in the layout the kernels read.

    Parameters
    ----------
    X : array-like of float or integer, shape (n, dim)
        One vector per row. It is not copied when it already has the returned layout.
    name : str, default "X"
        What error texts call it.
    dim : int, optional
        The number of dimensions it must have.
    allow_empty : bool, default False
        Whether n = 0 is accepted.
    dtype : {numpy.float32, numpy.float64}
        Element type of the result.

    Returns
    -------
    ndarray of `dtype`, shape (n, dim)
        C-contiguous, aligned, native byte order, finite.

    Raises
    ------
    TypeError
        If the elements are not real numbers (bool, object, complex, str) or the array is masked.
    ValueError
        If it is not 2-d, is empty, has 0, more than 16,000 or other than `dim` dimensions, or holds NaN, inf
        or a value that `dtype` cannot represent.
    """
    given = _as_array(X, name)
    if given.ndim != 2:
        raise ValueError(
            f"{name}: expected a 2-d array (n, dim), not {given.ndim}-d of shape {tuple(given.shape)}"
        )
    n, found = given.shape
    if dim is not None and found != dim:
        raise ValueError(f"{name}: expected {dim} dimensions, not {found}")
    if found == 0:
        raise ValueError(f"{name}: expected at least 1 dimension, not 0")
    if found > MAX_DIM:
        raise ValueError(f"{name}: expected at most {MAX_DIM} dimensions, not {found}")
    if n == 0 and not allow_empty:
        raise ValueError(f"{name}: expected at least 1 row, not 0")
    with np.errstate(over="ignore", invalid="ignore"):
        out: npt.NDArray[Any] = np.require(given, dtype=dtype, requirements=["C", "A"])
    _check_finite(out, given, name)
    return out


def as_matrix_or_vector(
    X: npt.ArrayLike, *, name: str = "Q", dim: int | None = None
) -> tuple[Float32Array, bool]:
    """Check one vector or a set of them.

    Parameters
    ----------
    X : array-like of float or integer, shape (dim,) or (n, dim)
        A single query or several.
    name : str, default "Q"
        What error texts call it.
    dim : int, optional
        The number of dimensions it must have.

    Returns
    -------
    vectors : ndarray of float32, shape (n, dim)
        As `as_vectors` returns it; n = 1 for a single vector.
    was_1d : bool
        Whether `X` was a single vector, so that the caller can drop the first axis of its answer.

    Raises
    ------
    TypeError, ValueError
        Under the conditions of `as_vectors`.
    """
    given = _as_array(X, name)
    if given.ndim not in (1, 2):
        raise ValueError(
            f"{name}: expected a vector (dim,) or a 2-d array (n, dim), "
            f"not {given.ndim}-d of shape {tuple(given.shape)}"
        )
    was_1d = given.ndim == 1
    return as_vectors(given[np.newaxis] if was_1d else given, name=name, dim=dim), was_1d


def check_int(value: object, *, name: str, low: int, high: int | None = None) -> int:
    """Check a whole number.

    Parameters
    ----------
    value : int or numpy integer
        The argument; bool and float are refused.
    name : str
        What error texts call it.
    low, high : int
        Smallest and largest accepted value; without `high` there is no upper limit.

    Returns
    -------
    int
        The value as a Python int.

    Raises
    ------
    TypeError
        If it is not a whole number.
    ValueError
        If it is out of range.
    """
    if isinstance(value, bool | np.bool_):
        raise InputTypeError(f"{name}: expected an int, not {value!r}")
    try:
        number = operator.index(cast(Any, value))
    except TypeError:
        raise InputTypeError(f"{name}: expected an int, not {value!r} ({type(value).__name__})") from None
    if high is None and number < low:
        raise ValueError(f"{name}: expected at least {low}, not {number}")
    if high is not None and not low <= number <= high:
        raise ValueError(f"{name}: expected {low} to {high}, not {number}")
    return number


def check_metric(metric: object) -> Metric:
    """Check the name of a metric.

    Parameters
    ----------
    metric : str
        One of "l2" (squared Euclidean), "ip" (negative inner product) and "cosine" (1 - cosine), or a name
        that other libraries give them (`METRIC_NAMES`), such as "euclidean", "dot" and "cos".

    Returns
    -------
    {"l2", "ip", "cosine"}

    Raises
    ------
    TypeError
        If it is not a string.
    ValueError
        If it is another string.
    """
    if not isinstance(metric, str):
        raise InputTypeError(f"metric: expected a str, not {metric!r} ({type(metric).__name__})")
    plain = metric.lower().replace("-", "").replace("_", "").replace(" ", "")
    if plain not in METRIC_NAMES:
        raise ValueError(f"metric: expected 'l2', 'ip' or 'cosine', not {metric!r}")
    return METRIC_NAMES[plain]


def check_bits(bits: object, allowed: Collection[int], *, name: str = "bits") -> int:
    """Check a number of bits per dimension.

    Parameters
    ----------
    bits : int
        Bits per dimension.
    allowed : collection of int
        The values there are.
    name : str, default "bits"
        What error texts call it.

    Returns
    -------
    int
        The value as a Python int.

    Raises
    ------
    TypeError
        If it is not a whole number.
    ValueError
        If it is not one of `allowed`.
    """
    number = check_int(bits, name=name, low=1)
    if number not in allowed:
        choices = ", ".join(str(b) for b in sorted(allowed))
        raise ValueError(f"{name}: expected one of {choices}, not {number}")
    return number


def check_random_state(seed: object) -> int:
    """Check a seed.

    Parameters
    ----------
    seed : int
        In [0, 2**64): what the seeded rotation stores in eight bytes.

    Returns
    -------
    int
        The seed as a Python int.

    Raises
    ------
    TypeError
        If it is not a whole number (None included: a codec must be reproducible).
    ValueError
        If it is out of range.
    """
    number = check_int(seed, name="random_state", low=-(2**200))
    if not 0 <= number < 2**64:
        raise ValueError(f"random_state: expected an int in [0, 2**64), not {number}")
    return number


def zero_rows(X: npt.NDArray[Any]) -> IdArray:
    """Find the rows that have no direction, hence no cosine.

    Parameters
    ----------
    X : ndarray, shape (n, dim)
        Vectors.

    Returns
    -------
    ndarray of int64, shape (n_zero,)
        Ascending row numbers.
    """
    found = [rows.start + np.flatnonzero(~X[rows].any(axis=1)) for rows in row_blocks(X)]
    return np.concatenate(found).astype(np.int64) if found else np.empty(0, dtype=np.int64)


def normalize(X: npt.ArrayLike, *, name: str = "X") -> Float32Array:
    """Scale every row to unit length.

    Parameters
    ----------
    X : array-like of float or integer, shape (n, dim)
        Vectors; they are not changed.
    name : str, default "X"
        What error texts call it.

    Returns
    -------
    ndarray of float32, shape (n, dim)
        A new array. Norms and quotients are computed in float64, where the square of no float32 overflows or
        underflows, and rounded once.

    Raises
    ------
    TypeError, ValueError
        Under the conditions of `as_vectors`, and if a row is zero.
    """
    vectors = as_vectors(X, name=name)
    out = np.empty_like(vectors)
    rows, results = _pointer("float", vectors), _pointer("float", out, writable=True)
    if lib.bqk_normalize(rows, *vectors.shape, results) == lib.BQK_EZERO:
        zeros = zero_rows(vectors)
        raise ValueError(
            f"{name}: expected rows with a direction, but row {zeros[0]} is a zero vector "
            f"({zeros.size} of {len(vectors)} rows are)"
        )
    return out


def unit_rows(X: Float32Array) -> Float64Array:
    """Scale non-zero rows to unit length in float64.

    Parameters
    ----------
    X : ndarray of float32, shape (n, dim)
        Checked vectors without zero rows.

    Returns
    -------
    ndarray of float64, shape (n, dim)
        Unit rows.
    """
    wide = X.astype(np.float64)
    wide /= np.sqrt(np.square(wide).sum(axis=1, keepdims=True))
    return wide


def unit_or_zero_rows(X: Float32Array) -> Float32Array:
    """Scale rows to unit length and leave zero rows as they are: queries may be zero.

    Parameters
    ----------
    X : ndarray of float32, shape (n, dim)
        Checked vectors.

    Returns
    -------
    ndarray of float32, shape (n, dim)
        A new array.
    """
    some = X.any(axis=1)
    out = np.zeros_like(X)
    out[some] = unit_rows(X[some])
    return out


def check_factors(factors: npt.NDArray[np.void]) -> None:
    """Check that corrective factors of encoded rows are finite.

    Parameters
    ----------
    factors : structured ndarray, shape (n,)

    Raises
    ------
    ValueError
        If a factor of a row overflowed float32.
    """
    for name in factors.dtype.names or ():
        finite = np.isfinite(factors[name])
        if not finite.all():
            row = int(np.flatnonzero(~finite)[0])
            raise ValueError(f"X: row {row}: vector too large: {name} overflows float32")
