"""What every codec shares: parameters, input checks, the model's hash and its file."""

from __future__ import annotations

import abc
import hashlib
import inspect
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from bqcore import _archive
from bqcore._validation import (
    Float32Array,
    InputTypeError,
    as_matrix_or_vector,
    as_vectors,
    check_bits,
    check_metric,
    normalize,
    unit_or_zero_rows,
)
from bqcore.codes import Codes

FORMAT = "bqcore model"
FORMAT_VERSION = 1

# Queries whose estimates are computed together hold at most this many float32 values.
_BLOCK_ESTIMATES = 1 << 25


class Codec(abc.ABC):
    """Base of the codecs.

    A subclass names itself (`codec`), stores its constructor's parameters as given, among them `metric`,
    and implements `_fit`, `_encode`, `_estimate` and `_decode` on checked arrays. Its fitted state is every
    attribute whose name ends in ``_``: arrays, numbers, strings and lists of these. Files, hashes and pickles
    hold exactly these; what is derived from them is rebuilt in `_restore`.

    Attributes
    ----------
    dim_ : int
    metric_ : str
        What the model was fitted with; parameters that are set later wait for the next `fit`.
    n_trained_ : int
        Training rows.
    """

    #: Name in specs and files.
    codec: ClassVar[str]
    #: What it does, in a few words: the beginning of the advisor's reason.
    idea: ClassVar[str]
    #: Whether rows and queries reach the methods below as unit vectors under cosine, or as given.
    gets_unit_rows: ClassVar[bool] = True
    #: Whether training takes tens of seconds on tens of thousands of rows, where others take one.
    trains_slowly: ClassVar[bool] = False
    #: Bits per coordinate that queries may be rounded to; empty where they are taken in one way only.
    query_widths: ClassVar[tuple[int, ...]] = ()

    metric: str
    dim_: int
    metric_: str
    n_trained_: int

    # ---- what a codec implements ----

    @abc.abstractmethod
    def _fit(self, X: Float32Array) -> None:
        """Check parameters, train on X, shape (n, dim), unit rows under cosine, and set the fitted state."""

    @abc.abstractmethod
    def _encode(self, X: Float32Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.void]]:
        """Return packed codes, shape (n, code_nbytes), and factors, shape (n,), of `factors_dtype`."""

    @abc.abstractmethod
    def _estimate(self, codes: Codes, Q: Float32Array) -> Float32Array:
        """Estimate distances in the unit of the metric, shape (n_queries, n)."""

    def _estimate_at(self, codes: Codes, Q: Float32Array, query_bits: int) -> Float32Array:
        """`_estimate` with queries rounded to one of `query_widths`."""
        raise NotImplementedError

    @abc.abstractmethod
    def _decode(self, codes: Codes) -> Float32Array:
        """Return the vectors that the codes stand for, shape (n, dim)."""

    @property
    @abc.abstractmethod
    def code_nbytes(self) -> int:
        """Bytes of one packed code, without corrective factors."""

    @property
    @abc.abstractmethod
    def factors_dtype(self) -> np.dtype[np.void]:
        """Structured dtype of what is stored beside a code: corrective factors and the list id, if any."""

    @classmethod
    def settings(cls, dim: int, n: int, nbytes: int) -> list[dict[str, Any]]:
        """Return parameters that the advisor tries for n vectors in at most `nbytes` bytes each."""
        return []

    @classmethod
    def needs_clustering(cls, settings: Mapping[str, Any]) -> bool:
        """Tell whether training with these settings takes k-means, which an extra brings."""
        return bool(settings.get("centroids", 1) > 1)

    def _restore(self) -> None:  # noqa: B027
        """Rebuild what is derived from the fitted state; called after `fit` and after reading a file."""

    # ---- parameters ----

    @classmethod
    def _parameter_names(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return constructor parameters by name (scikit-learn's convention)."""
        return {name: getattr(self, name) for name in self._parameter_names()}

    def set_params(self, **params: Any) -> Self:
        """Set constructor parameters by name and return self.

        Raises
        ------
        ValueError
            If a name is unknown.
        """
        known = self._parameter_names()
        for name, value in params.items():
            if name not in known:
                raise ValueError(f"expected one of {', '.join(known)}, not {name!r}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.get_params().items())})"

    # ---- fitted state ----

    def _state(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in vars(self).items()
            if name.endswith("_") and not name.startswith("_")
        }

    def _set_state(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self._restore()
        self._model_id = self._hash()

    def _hash(self) -> str:
        digest = hashlib.sha256(self.codec.encode())
        for name, value in sorted(self._state().items()):
            if isinstance(value, np.ndarray):
                digest.update(f"{name}{value.dtype.str}{value.shape}".encode())
                digest.update(np.ascontiguousarray(value).tobytes())
            else:
                digest.update(f"{name}{json.dumps(value)}".encode())
        return digest.hexdigest()[:16]

    def _check_fitted(self) -> None:
        if not hasattr(self, "_model_id"):
            raise ValueError(f"{self!r} is not fitted: call fit(X) first")

    @property
    def model_id(self) -> str:
        """Hash of the fitted state, which ties codes to the model that made them."""
        self._check_fitted()
        return self._model_id

    @property
    def bytes_per_vector(self) -> int:
        """Stored bytes of one vector: code, corrective factors, list id."""
        self._check_fitted()
        return self.code_nbytes + self.factors_dtype.itemsize

    def as_coded(self, X: Float32Array) -> Float32Array:
        """Return X, shape (n, dim), as `decode` approximates it: unit rows under cosine, else unchanged."""
        return unit_or_zero_rows(X) if self.metric_ == "cosine" else X

    def check_codes(self, codes: Codes) -> None:
        """Check that codes were made by this model.

        Raises
        ------
        ValueError
            If this codec is not fitted, or the codes are of another model or another width.
        """
        self._check_fitted()
        if codes.model_id != self._model_id:
            raise ValueError(
                f"codes: expected codes of model {self._model_id}, not of model {codes.model_id}"
            )
        if codes.packed.shape[1] != self.code_nbytes:
            raise ValueError(
                f"codes: expected {self.code_nbytes} bytes per code, not {codes.packed.shape[1]}"
            )
        if codes.factors.dtype != self.factors_dtype:
            raise ValueError(f"codes: expected factors of {self.factors_dtype}, not {codes.factors.dtype}")

    # ---- train, encode, estimate, decode ----

    def fit(self, X: npt.ArrayLike, y: object = None) -> Self:
        """Train on X.

        Parameters
        ----------
        X : ndarray of float32, shape (n, dim)
            Training vectors.
        y : ignored
            For scikit-learn's pipelines, which pass labels; a text is refused, because it would be meant as
            the metric, which is a parameter of the constructor.

        Returns
        -------
        Codec
            self.

        Raises
        ------
        TypeError
            If X is not numeric or a parameter has the wrong type.
        ValueError
            If a parameter is out of range; if X is empty, not 2-d, or holds NaN or inf; under cosine, if a
            row is zero.
        """
        if isinstance(y, str):
            raise InputTypeError(
                f"fit: expected the metric in the constructor, {type(self).__name__}(metric={y!r}), "
                f"not as an argument of fit, {y!r}"
            )
        metric = check_metric(self.metric)
        vectors = as_vectors(X)
        if metric == "cosine":
            vectors = normalize(vectors)
        for name in self._state():
            delattr(self, name)
        self.metric_, self.dim_, self.n_trained_ = metric, vectors.shape[1], len(vectors)
        self._fit(vectors)
        self._set_state({})
        return self

    def encode(self, X: npt.ArrayLike) -> Codes:
        """Encode vectors.

        Parameters
        ----------
        X : ndarray of float32, shape (n, dim)

        Returns
        -------
        Codes
            Packed codes and what is stored beside them.

        Raises
        ------
        ValueError
            If the codec is not fitted, dims differ, values are not finite, or a row is zero under cosine.
        """
        self._check_fitted()
        vectors = as_vectors(X, dim=self.dim_, allow_empty=True)
        if self.metric_ == "cosine" and self.gets_unit_rows and len(vectors):
            vectors = normalize(vectors)
        packed, factors = self._encode(vectors)
        return Codes(packed, factors, self.dim_, self.codec, self._model_id)

    def estimate(self, codes: Codes, Q: npt.ArrayLike, query_bits: int | None = None) -> Float32Array:
        """Estimate the distances of queries to codes.

        Parameters
        ----------
        codes : Codes
            Made by this model.
        Q : ndarray of float32, shape (n_queries, dim) or (dim,)
            A zero query is allowed; under cosine its estimates mean nothing.
        query_bits : int, optional
            Bits per coordinate that queries are rounded to, of `query_widths`; by default the codec's own.

        Returns
        -------
        ndarray of float32, shape (n_queries, n) or (n,)
            In the unit of the metric: squared L2, negative inner product, or 1 - cosine.

        Raises
        ------
        ValueError
            If the codes are of another model, dims differ, values are not finite, or the codec does not have
            this query_bits.
        """
        self.check_codes(codes)
        if query_bits is not None:
            if not self.query_widths:
                raise ValueError(
                    f"query_bits: {self.codec} takes queries in one way only, not at {query_bits}"
                )
            query_bits = check_bits(query_bits, self.query_widths, name="query_bits")
        queries, single = as_matrix_or_vector(Q, dim=self.dim_)
        if self.gets_unit_rows:
            queries = self.as_coded(queries)
        out = np.empty((len(queries), len(codes)), dtype=np.float32)
        step = max(1, _BLOCK_ESTIMATES // max(1, len(codes)))
        for start in range(0, len(queries), step):
            block = queries[start : start + step]
            if query_bits is None:
                out[start : start + step] = self._estimate(codes, block)
            else:
                out[start : start + step] = self._estimate_at(codes, block, query_bits)
        return out[0] if single else out

    def decode(self, codes: Codes) -> Float32Array:
        """Return the vectors that codes stand for.

        Parameters
        ----------
        codes : Codes
            Made by this model.

        Returns
        -------
        ndarray of float32, shape (n, dim)
            Under cosine, approximations of the unit vectors.

        Raises
        ------
        ValueError
            If the codes are of another model.
        """
        self.check_codes(codes)
        return self._decode(codes)

    # ---- files ----

    def __getstate__(self) -> dict[str, Any]:
        return {"params": self.get_params(), "state": self._state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.set_params(**state["params"])
        if state["state"]:
            self._set_state(state["state"])

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fitted model to a .npz file (readable by numpy alone)."""
        self._check_fitted()
        state = self._state()
        arrays = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
        header = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "codec": self.codec,
            "params": self.get_params(),
            "scalars": {name: value for name, value in state.items() if name not in arrays},
            "model_id": self._model_id,
        }
        _archive.write(Path(path), header, arrays)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is foreign, truncated, damaged, of a newer version or of another codec; the text names
            the file.
        """
        with _archive.reading(Path(path), "model"):
            header, arrays = _archive.read(Path(path), FORMAT, FORMAT_VERSION)
            if header["codec"] != cls.codec:
                raise ValueError(f"expected codec {cls.codec!r}, not {header['codec']!r}")
            self = cls(**header["params"])
            self._set_state({**header["scalars"], **arrays})
            if self._model_id != header["model_id"]:
                raise ValueError(f"expected model {header['model_id']}, but its content is {self._model_id}")
        return self
