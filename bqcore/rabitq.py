"""RaBitQ: centroid, rotation, levels per dimension, two corrective factors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from bqcore import _kernels
from bqcore._kernels import Float32Array
from bqcore._validation import (
    as_matrix_or_vector,
    as_vectors,
    check_bits,
    check_metric,
    check_random_state,
    normalize,
)
from bqcore.codes import Codes

BITS = (1, 2, 4, 8)
QUERY_BITS = (4, 8, 32)


class RaBitQ:
    """RaBitQ codes of 1, 2, 4 or 8 bits per dimension: unbiased distance estimates with an error bound.

    Parameters
    ----------
    bits : {1, 2, 4, 8}, default 1
        Bits per dimension.
    metric : {"l2", "ip", "cosine"}, default "l2"
        Squared Euclidean distance, negative inner product, or 1 - cosine.
    rotation : {"hadamard", "none"}, default "hadamard"
        Seeded rotation before quantization. "none" keeps the axes.
    random_state : int, default 0
        Seed of the rotation, 0 <= seed < 2**64.

    Attributes
    ----------
    centroid_ : ndarray of float32, shape (dim,)
        Mean of the training vectors (of the normalised ones for cosine).
    dim_, bits_ : int
    metric_ : str
        What the model was fitted with; parameters that are set later wait for the next `fit`.
    n_trained_ : int
        Rows the centroid was taken from.

    References
    ----------
    Gao & Long, "RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound for Approximate
    Nearest Neighbor Search", SIGMOD 2024, equations 4, 8 and 14-16; Gao et al., "Practical and Asymptotically
    Optimal Quantization of High-Dimensional Vectors in Euclidean Space", SIGMOD 2025 (several bits).
    """

    centroid_: Float32Array
    dim_: int
    bits_: int
    metric_: str
    n_trained_: int

    def __init__(
        self,
        bits: int = 1,
        metric: str = "l2",
        rotation: str = "hadamard",
        random_state: int = 0,
    ) -> None:
        self.bits = bits
        self.metric = metric
        self.rotation = rotation
        self.random_state = random_state

    def __repr__(self) -> str:
        parameters = ", ".join(f"{k}={v!r}" for k, v in self.get_params().items())
        return f"RaBitQ({parameters})"

    def __getstate__(self) -> dict[str, Any]:
        model: _kernels.Model | None = getattr(self, "_model", None)
        return {"params": self.get_params(), "model": None if model is None else model.to_bytes()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.set_params(**state["params"])
        if state["model"] is not None:
            self._set_model(_kernels.Model.from_bytes(state["model"]))

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return constructor parameters by name (scikit-learn's convention)."""
        return {
            "bits": self.bits,
            "metric": self.metric,
            "rotation": self.rotation,
            "random_state": self.random_state,
        }

    def set_params(self, **params: Any) -> Self:
        """Set constructor parameters by name and return self.

        Raises
        ------
        ValueError
            If a name is unknown.
        """
        known = ("bits", "metric", "rotation", "random_state")
        for name, value in params.items():
            if name not in known:
                raise ValueError(f"expected one of {', '.join(known)}, not {name!r}")
            setattr(self, name, value)
        return self

    def fit(self, X: npt.ArrayLike, y: object = None) -> Self:
        """Take the centroid of X.

        Parameters
        ----------
        X : ndarray of float32, shape (n, dim)
            Training vectors; a sample of ten thousand rows is enough.
        y : ignored

        Returns
        -------
        RaBitQ
            self.

        Raises
        ------
        TypeError
            If X is not numeric.
        ValueError
            If a parameter is out of range; if X is empty, not 2-d, or holds NaN or inf; under cosine, if a
            row is zero.
        """
        metric = check_metric(self.metric)
        bits = check_bits(self.bits, BITS)
        seed = check_random_state(self.random_state)
        if self.rotation not in _kernels.ROTATIONS:
            raise ValueError(
                f"rotation: expected one of {', '.join(_kernels.ROTATIONS)}, not {self.rotation!r}"
            )
        vectors = as_vectors(X)
        if metric == "cosine":
            vectors = normalize(vectors)
        centroid = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._set_model(
            _kernels.Model(
                bits=bits,
                metric=metric,
                rotation=self.rotation,
                seed=seed,
                centroid=centroid,
                n_trained=len(vectors),
            )
        )
        return self

    def _set_model(self, model: _kernels.Model) -> None:
        self._model = model
        self.centroid_ = model.centroid
        self.dim_ = model.dim
        self.bits_ = model.bits
        self.metric_ = model.metric
        self.n_trained_ = model.n_trained
        self._model_id = hashlib.sha256(model.to_bytes()).hexdigest()[:16]

    def _fitted(self) -> _kernels.Model:
        model: _kernels.Model | None = getattr(self, "_model", None)
        if model is None:
            raise ValueError(f"{self!r} is not fitted: call fit(X) first")
        return model

    def check_codes(self, codes: Codes) -> None:
        """Check that codes were made by this model.

        Raises
        ------
        ValueError
            If this quantizer is not fitted, or the codes are of another model.
        """
        self._check_codes(codes)

    def _check_codes(self, codes: Codes) -> _kernels.Model:
        model = self._fitted()
        if codes.model_id != self._model_id:
            raise ValueError(
                f"codes: expected codes of model {self._model_id}, not of model {codes.model_id}"
            )
        return model

    def _each_query(
        self, codes: Codes, Q: npt.ArrayLike, query_bits: int, kernel: Callable[..., Float32Array]
    ) -> Float32Array:
        """One row of `kernel` for every query, or the row of a single query."""
        model = self._check_codes(codes)
        query_bits = check_bits(query_bits, QUERY_BITS, name="query_bits")
        queries, single = as_matrix_or_vector(Q, dim=self.dim_)
        out = np.empty((len(queries), len(codes)), dtype=np.float32)
        for row in range(len(queries)):
            try:
                query = model.prepare(queries[row], query_bits)
            except ValueError as error:
                raise ValueError(f"Q: row {row}: {error}") from error
            out[row] = kernel(model, query, codes.packed, codes.factors)
        return out[0] if single else out

    @property
    def model_id(self) -> str:
        """Hash that ties codes to the model that made them."""
        self._fitted()
        return self._model_id

    @property
    def bytes_per_vector(self) -> int:
        """Stored bytes of one vector: ceil(dim * bits / 8) + 8."""
        return self._fitted().code_nbytes + _kernels.FACTORS_DTYPE.itemsize

    def encode(self, X: npt.ArrayLike) -> Codes:
        """Encode vectors.

        Parameters
        ----------
        X : ndarray of float32, shape (n, dim)

        Returns
        -------
        Codes
            Packed codes, shape (n, ceil(dim * bits / 8)), and factors ``f_add`` (unit of the metric) and
            ``f_rescale``.

        Raises
        ------
        ValueError
            If the model is not fitted, dims differ, values are not finite, a row is zero under cosine, or
            its squared distance to the centroid overflows float32.
        """
        model = self._fitted()
        packed, factors = model.encode(as_vectors(X, dim=model.dim, allow_empty=True))
        return Codes(packed, factors, self.dim_, self.bits_, self._model_id)

    def estimate(self, codes: Codes, Q: npt.ArrayLike, query_bits: int = 8) -> Float32Array:
        """Estimate the distances of queries to codes.

        Parameters
        ----------
        codes : Codes
            Made by this model.
        Q : ndarray of float32, shape (n_queries, dim) or (dim,)
        query_bits : {4, 8, 32}, default 8
            Bits per coordinate that queries are rounded to. 4 is the fastest against 1-bit codes and costs a
            little recall there, more against wider codes; 8 loses next to nothing; 32 takes queries as they
            are and is slow.

        Returns
        -------
        ndarray of float32, shape (n_queries, n) or (n,)
            In the unit of the metric: squared L2, negative inner product, or 1 - cosine.

        Raises
        ------
        ValueError
            If the codes are of another model, dims differ, values are not finite, or query_bits is unknown.
        """
        return self._each_query(codes, Q, query_bits, _kernels.Model.estimate)

    def error_bound(
        self, codes: Codes, Q: npt.ArrayLike, eps0: float = 1.9, query_bits: int = 8
    ) -> Float32Array:
        """Bound |estimate - distance|, in the unit of the metric.

        Parameters
        ----------
        codes : Codes
        Q : ndarray of float32, shape (n_queries, dim) or (dim,)
        eps0 : float, default 1.9
            Width in standard deviations: 1.9 covers 94.3 % of pairs, 3.0 covers 99.7 %.
        query_bits : {4, 8, 32}, default 8
            As given to `estimate`: the bound includes the rounding of queries.

        Returns
        -------
        ndarray of float32, shape (n_queries, n) or (n,)

        Raises
        ------
        ValueError
            As `estimate`; also if eps0 is negative or NaN.

        References
        ----------
        Gao & Long 2024, theorem 3.2. For ip the norm of the residual is not stored and taken at its
        expectation.
        """
        if not eps0 >= 0:
            raise ValueError(f"eps0: expected a number >= 0, not {eps0}")
        out = self._each_query(codes, Q, query_bits, _kernels.Model.error)
        out *= np.float32(eps0)
        return out

    def to_bytes(self) -> bytes:
        """Serialise the fitted model; layout in docs/code-format.md."""
        return self._fitted().to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Restore a model from `to_bytes` or from a Postgres index (``bqcore_index_model``).

        Raises
        ------
        ValueError
            If the bytes are foreign, truncated, damaged or of a newer version.
        """
        model = _kernels.Model.from_bytes(data)
        self = cls(bits=model.bits, metric=model.metric, rotation=model.rotation, random_state=model.seed)
        self._set_model(model)
        return self

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fitted model to a file."""
        Path(path).write_bytes(self.to_bytes())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is foreign, truncated, damaged or of a newer version; the text names the file.
        """
        try:
            return cls.from_bytes(Path(path).read_bytes())
        except _kernels.ModelFormatError as error:
            raise ValueError(f"{path}: {error}") from error
