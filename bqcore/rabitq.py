"""RaBitQ: centroids, rotation, levels per dimension, two corrective factors."""

from __future__ import annotations

import hashlib
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from bqcore import _kernels, levels
from bqcore._kernels import Float32Array
from bqcore._validation import (
    Float64Array,
    as_matrix_or_vector,
    check_bits,
    check_factors,
    check_int,
    check_random_state,
    normalize,
    row_blocks,
    unit_or_zero_rows,
)
from bqcore.centroids import assign, kmeans
from bqcore.codec import Codec
from bqcore.codes import Codes
from bqcore.factors import check_form
from bqcore.projection import less_centroid, shares
from bqcore.rotation import MAX_DENSE_DIM, dense_rotation, multiply
from bqcore.stored_factors import LIMIT_ROWS, StoredFactors

BITS = range(1, 9)
ROTATIONS = (*_kernels.ROTATIONS, "dense")
MAX_CENTROIDS = 4096


class RaBitQ(Codec):
    """RaBitQ codes of 1 to 8 bits per dimension: unbiased distance estimates with an error bound.

    Parameters
    ----------
    bits : int, default 1
        Bits per dimension, 1 to 8.
    metric : {"l2", "ip", "cosine"}, default "l2"
        Squared Euclidean distance, negative inner product, or 1 - cosine.
    rotation : {"hadamard", "dense", "none"}, default "hadamard"
        Seeded rotation before quantization: by fast Hadamard transforms; by an orthogonal matrix, which the
        model stores (up to 1,024 dimensions); "none" keeps the axes.
    random_state : int, default 0
        Seed of the rotation and of k-means, 0 <= seed < 2**64.
    centroids : int, default 1
        Codes are those of residuals to the nearest of so many centroids, up to 4,096; k-means finds fewer
        where there are fewer distinct rows. One is the mean.
    factors : {"float32", "bfloat16", "uint8"}, default "float32"
        How each of the two factors is stored.

    Attributes
    ----------
    centroid_ : ndarray of float32, shape (dim,)
        Mean of the training vectors (of the normalised ones for cosine).
    centroids_ : ndarray of float32, shape (n_centroids, dim)
    rotation_matrix_ : ndarray of float32, shape (dim, dim)
        Under "dense" only: rotated rows are ``X @ rotation_matrix_``.
    factor_limits_ : ndarray of float64, shape (2, 2)
        Least and largest f_add and -f_rescale that factors of "uint8" can store; with these factors only.
    dim_, bits_, random_state_ : int
    metric_, rotation_, factors_ : str
        What the model was fitted with; parameters that are set later wait for the next `fit`.
    n_trained_ : int
        Rows the centroids were taken from.

    Notes
    -----
    With the reference point m (the mean) and a code's own centroid c, <k, R(q - c)> = <k, R(q - m)> -
    <k, R(c - m)>. The second term is the code's and lies in ``f_add``, so a query is rotated and rounded once
    and not for every list. Under ip, q - s c with s = <q, c> / |c|^2 takes the place of q - c, and ``f_add``
    counts s times: estimates are linear in the query. With several centroids s is the list's, and the query
    is rotated and rounded as it is.

    References
    ----------
    Gao & Long, "RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound for Approximate
    Nearest Neighbor Search", SIGMOD 2024, equations 4, 8 and 14-16; Gao et al., "Practical and Asymptotically
    Optimal Quantization of High-Dimensional Vectors in Euclidean Space", SIGMOD 2025 (several bits).
    """

    codec: ClassVar[str] = "rabitq"
    idea: ClassVar[str] = "even bits over all coordinates, at the scale that fits each vector best"
    #: 4 is the fastest against 1-bit codes and costs a little recall there, more against wider codes; 8 loses
    #: next to nothing and is the default; 32 takes queries as they are and is slow.
    query_widths: ClassVar[tuple[int, ...]] = (4, 8, 32)
    #: First bytes of what `to_bytes` returns.
    MAGIC: ClassVar[bytes] = b"BQMD"
    gets_unit_rows: ClassVar[bool] = False  # the kernels scale rows, in Postgres too

    centroid_: Float32Array
    centroids_: Float32Array
    rotation_matrix_: Float32Array
    bits_: int
    rotation_: str
    random_state_: int
    #: Set in models that store them in another way: the hash of others does not depend on it.
    factors_: str = "float32"
    factor_limits_: Float64Array

    def __init__(
        self,
        bits: int = 1,
        metric: str = "l2",
        rotation: str = "hadamard",
        random_state: int = 0,
        centroids: int = 1,
        factors: str = "float32",
    ) -> None:
        self.bits = bits
        self.metric = metric
        self.rotation = rotation
        self.random_state = random_state
        self.centroids = centroids
        self.factors = factors

    @classmethod
    def settings(cls, dim: int, n: int, nbytes: int) -> list[dict[str, Any]]:
        """Return the widest codes that fit: rotated, on the axes as they are, residuals to 256 lists."""
        found: list[dict[str, Any]] = []
        for lists in (1, 256):
            room = nbytes - _kernels.FACTORS_DTYPE.itemsize - (lists > 1)
            widths = [bits for bits in BITS if levels.code_nbytes(dim, bits) <= room]
            if not widths or n < 30 * lists:
                continue
            for rotation in ("hadamard", "none") if lists == 1 else ("hadamard",):
                found.append({"bits": widths[-1], "rotation": rotation, "centroids": lists})
        return found

    def _fit(self, X: Float32Array) -> None:
        self.bits_ = check_bits(self.bits, BITS)
        self.random_state_ = check_random_state(self.random_state)
        if self.rotation not in ROTATIONS:
            raise ValueError(f"rotation: expected one of {', '.join(ROTATIONS)}, not {self.rotation!r}")
        if self.rotation == "dense":
            if self.dim_ > MAX_DENSE_DIM:
                raise ValueError(
                    f"rotation: expected at most {MAX_DENSE_DIM} dimensions for 'dense', not {self.dim_}"
                )
            self.rotation_matrix_ = dense_rotation(self.dim_, self.random_state_)
        self.rotation_ = self.rotation
        n_centroids = check_int(self.centroids, name="centroids", low=1, high=MAX_CENTROIDS)
        self.centroid_ = kmeans(X, 1, self.random_state_)[0]
        self.centroids_ = self.centroid_[np.newaxis]
        if n_centroids > 1:
            self.centroids_ = kmeans(X, n_centroids, self.random_state_)
        if check_form(self.factors) != "float32":
            self.factors_, self.factor_limits_ = self.factors, np.ones((2, 2))
            self._restore()
            rows = np.random.default_rng(self.random_state_).permutation(len(X))[:LIMIT_ROWS]
            self.factor_limits_ = StoredFactors.limits(self._encode_floats(X[rows])[1])

    def _kernel_model(self, bits: int, metric: str, centroid: Float32Array) -> _kernels.Model:
        return _kernels.Model(
            bits=bits,
            metric=metric,
            rotation="none" if self.rotation_ == "dense" else self.rotation_,
            seed=self.random_state_,
            centroid=centroid,
            n_trained=self.n_trained_,
        )

    def _restore(self) -> None:
        self._model = self._kernel_model(self.bits_, self.metric_, self.centroid_)
        self._stored = StoredFactors(self.factors_, getattr(self, "factor_limits_", np.ones((2, 2))))
        if self._beyond_format():
            # Residuals are taken and rotated by matrices here; what the kernels see has its centroid at zero.
            zero = np.zeros_like(self.centroid_)
            self._residuals = self._kernel_model(self.bits_, "l2", zero)
            query_bits = self.bits_ if self.bits_ in levels.PACKED_BITS else 1
            self._queries = self._kernel_model(query_bits, "l2", zero)
            self._offsets = self._residuals.rotate(self._turn(self.centroids_ - self.centroid_))

    def _beyond_format(self) -> str:
        """Name what the model format of databases cannot express, if anything."""
        beyond = []
        if self.bits_ not in levels.PACKED_BITS:
            beyond.append(f"{self.bits_} bits")
        if self.rotation_ == "dense":
            beyond.append("rotation 'dense'")
        if len(self.centroids_) > 1:
            beyond.append(f"{len(self.centroids_)} centroids")
        if self.factors_ != "float32":
            beyond.append(f"{self.factors_} factors")
        return " and ".join(beyond)

    def _hash(self) -> str:
        if self._beyond_format():
            return super()._hash()
        return hashlib.sha256(self._model.to_bytes()).hexdigest()[:16]

    @property
    def code_nbytes(self) -> int:
        """Bytes of one packed code: ceil(dim * bits / 8); bits * ceil(dim / 8) with 3, 5, 6 and 7 bits."""
        return self._model.code_nbytes

    @property
    def factors_dtype(self) -> np.dtype[np.void]:
        """``f_add`` and ``f_rescale`` in the unit of the metric; with several centroids ``list``."""
        return np.dtype([*self._stored.fields(), *self._float_dtype.descr[2:]])

    @property
    def _float_dtype(self) -> np.dtype[np.void]:
        n_lists = len(self.centroids_)
        list_id = [] if n_lists == 1 else [("list", "<u1" if n_lists <= 256 else "<u2")]
        return np.dtype([*_kernels.FACTORS_DTYPE.descr, *list_id])

    def _floats(self, codes: Codes) -> npt.NDArray[np.void]:
        """Return corrective factors in float32, and lists."""
        return self._stored.unpack(codes.factors, self._float_dtype)

    # ---- encode ----

    def _turn(self, X: Float32Array) -> Float32Array:
        """Apply the dense rotation, if it is one; the kernels know the others."""
        return multiply(X, self.rotation_matrix_) if self.rotation_ == "dense" else X

    def _lists(self, codes: Codes) -> npt.NDArray[np.int64]:
        if len(self.centroids_) == 1:
            return np.zeros(len(codes), dtype=np.int64)
        return codes.factors["list"].astype(np.int64)

    def _encode(self, X: Float32Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.void]]:
        if not self._beyond_format():
            return self._model.encode(X)
        packed, floats = self._encode_floats(X)
        return packed, self._stored.pack(floats, self.factors_dtype)

    def _encode_floats(self, X: Float32Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.void]]:
        """Return codes, and factors before they are rounded to their form."""
        if self.metric_ == "cosine" and len(X):
            X = normalize(X)
        with np.errstate(over="ignore", invalid="ignore"):  # the kernels refuse such residuals with their row
            lists = assign(X, self.centroids_)
            residuals = X - self.centroids_[lists]
        packed, found = self._residuals.encode(self._turn(residuals))
        factors = np.zeros(len(X), dtype=self._float_dtype)
        f_add, f_rescale = (found[name].astype(np.float64) for name in ("f_add", "f_rescale"))
        if self.metric_ != "l2":
            f_rescale /= 2
            f_add /= 2
        if self.metric_ == "ip":
            for rows in row_blocks(X):
                products = residuals[rows].astype(np.float64) * self.centroids_[lists[rows]]
                f_add[rows] = -products.sum(axis=1)
        f_add -= self._offset_terms(packed, f_rescale, lists)
        with np.errstate(over="ignore"):
            factors["f_add"], factors["f_rescale"] = f_add, f_rescale
        check_factors(factors)
        if len(self.centroids_) > 1:
            factors["list"] = lists
        return packed, factors

    def _offset_terms(
        self, packed: npt.NDArray[np.uint8], f_rescale: npt.NDArray[np.floating], lists: npt.NDArray[np.int64]
    ) -> Float64Array:
        """Return f_rescale <k, R(c - m)> of codes, shape (n,)."""
        out = np.zeros(len(packed))
        if len(self.centroids_) == 1:
            return out
        for rows in row_blocks(np.broadcast_to(np.float32(0), (len(packed), self.dim_))):
            out[rows] = (self._levels(packed[rows]) * self._offsets[lists[rows]]).sum(
                axis=1, dtype=np.float64
            )
        return out * f_rescale

    def _levels(self, packed: npt.NDArray[np.uint8]) -> Float32Array:
        """Levels k = u - M/2, shape (n, dim)."""
        middle = np.float32((1 << self.bits_) - 1) / 2
        return levels.unpack(packed, self.dim_, self.bits_).astype(np.float32) - middle

    # ---- estimate ----

    def _estimate(self, codes: Codes, Q: Float32Array) -> Float32Array:
        return self._estimate_at(codes, Q, 8)

    def _estimate_at(self, codes: Codes, Q: Float32Array, query_bits: int) -> Float32Array:
        out = np.empty((len(Q), len(codes)), dtype=np.float32)
        if not self._beyond_format():
            for i in range(len(Q)):
                out[i] = self._model.estimate(
                    levels.prepare(self._model, Q, i, query_bits), codes.packed, codes.factors
                )
            return out
        Q = self._unit(Q)
        with np.errstate(over="ignore"):  # the kernels refuse such queries with their row
            centred, s = self._centred(Q)
            g_add = self._list_distances(Q)
        lists = self._lists(codes)
        floats = self.factors_for_queries(codes)
        scan = levels.Scan(codes.packed, self.bits_, floats["f_add"], floats["f_rescale"])
        for i in range(len(Q)):
            query = levels.prepare(self._queries, centred, i, query_bits)
            query.struct.g_add, query.struct.g_weight = 0, 0 if self.shifted else s[i, 0]
            out[i] = scan.estimate(self._queries, query) + g_add[i, lists]
            if self.shifted:
                out[i] += s[i, lists] * floats["f_add"]
        return out

    @property
    def shifted(self) -> bool:
        """Whether queries keep the mean: under ip each of several lists takes another share of it off."""
        return self.metric_ == "ip" and len(self.centroids_) > 1

    def _centred(self, Q: Float32Array) -> tuple[Float32Array, Float32Array]:
        """Return what is rotated of queries, and how often f_add counts, shape (n_queries, 1 or n_lists)."""
        if self.shifted:
            return self._turn(Q), shares(Q, self.centroids_)
        rest, s = less_centroid(Q, self.centroid_, self.metric_)
        return self._turn(rest), s[:, np.newaxis]

    def factors_for_queries(self, codes: Codes) -> npt.NDArray[np.void]:
        """Return factors in float32, shape (n,), for queries as `_centred` has them.

        Where queries keep the mean m, f_add is less by f_rescale <k, R m>.
        """
        floats = self._floats(codes)
        out = np.empty(len(codes), dtype=_kernels.FACTORS_DTYPE)
        out["f_add"], out["f_rescale"] = floats["f_add"], floats["f_rescale"]
        if self.shifted:
            query = levels.prepare(self._queries, self._turn(self.centroid_[np.newaxis]), 0, 32)
            query.struct.g_add = 0
            none = np.zeros(len(codes), dtype=np.float32)
            out["f_add"] -= levels.Scan(codes.packed, self.bits_, none, floats["f_rescale"]).estimate(
                self._queries, query
            )
        return out

    def _unit(self, Q: Float32Array) -> Float32Array:
        return unit_or_zero_rows(Q) if self.metric_ == "cosine" else Q

    def _list_distances(self, Q: Float32Array) -> Float32Array:
        """Return g_add of every list, shape (n_queries, n_centroids)."""
        wide, centroids = Q.astype(np.float64), self.centroids_.astype(np.float64)
        products = wide @ centroids.T
        if self.metric_ == "ip":
            return (-products).astype(np.float32)
        squared = np.square(wide).sum(axis=1)[:, np.newaxis] + np.square(centroids).sum(axis=1) - 2 * products
        if self.metric_ == "cosine":
            squared /= 2
        nearest: Float64Array = np.maximum(squared, 0)
        return nearest.astype(np.float32)

    def _decode(self, codes: Codes) -> Float32Array:
        out = np.empty((len(codes), self.dim_), dtype=np.float32)
        lists = self._lists(codes)
        # <level, query> counts with -2 f under l2 (|o - q|^2 = |o|^2 - 2 <o, q> + |q|^2), with -f otherwise
        scale = self._floats(codes)["f_rescale"] * np.float32(-0.5 if self.metric_ == "l2" else -1)
        for rows in row_blocks(out):
            rotated = self._levels(codes.packed[rows]) * scale[rows, np.newaxis]
            residuals = self._model.unrotate(rotated)
            if self.rotation_ == "dense":
                residuals = multiply(residuals, self.rotation_matrix_.T)
            out[rows] = residuals + self.centroids_[lists[rows]]
        return out

    def error_bound(
        self, codes: Codes, Q: npt.ArrayLike, eps0: float = 1.9, query_bits: int = 8
    ) -> Float32Array:
        """Bound |estimate - distance|, in the unit of the metric.

        Parameters
        ----------
        codes : Codes
        Q : ndarray of float32, shape (n_queries, dim) or (dim,)
        eps0 : float, default 1.9
            Width in standard deviations: 1.9 covers 94.3 % of pairs, 3.0 covers 99.7 %, inf all.
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
        self.check_codes(codes)
        query_bits = check_bits(query_bits, self.query_widths, name="query_bits")
        queries, single = as_matrix_or_vector(Q, dim=self.dim_)
        if eps0 == np.inf:
            out = np.full((len(queries), len(codes)), np.inf, dtype=np.float32)
            return out[0] if single else out
        queries = self._unit(queries)
        lists = self._lists(codes)
        factors = np.empty(len(codes), dtype=_kernels.FACTORS_DTYPE)
        floats = self._floats(codes)
        f_rescale = floats["f_rescale"]
        factors["f_add"] = floats["f_add"] + self._offset_terms(codes.packed, f_rescale, lists)
        factors["f_rescale"] = f_rescale
        per_length, per_step = self._model.error_parts(codes.packed, factors)
        lengths = self._lengths(queries)
        model, centred = self._model, queries
        if self._beyond_format():
            model, centred = self._queries, self._centred(queries)[0]
        out = np.empty((len(queries), len(codes)), dtype=np.float32)
        for i in range(len(queries)):
            delta = levels.prepare(model, centred, i, query_bits).struct.delta
            out[i] = np.hypot(per_length * lengths[i, lists], per_step * np.float32(delta))
        out *= np.float32(eps0)
        return out[0] if single else out

    def _lengths(self, Q: Float32Array) -> Float32Array:
        """Return |q - c|, under ip |q - s c|, for every centroid, shape (n_queries, n_centroids)."""
        out = np.empty((len(Q), len(self.centroids_)), dtype=np.float32)
        s = shares(Q, self.centroids_) if self.metric_ == "ip" else np.ones(out.shape, dtype=np.float32)
        for i, q in enumerate(Q):
            less = s[i, :, np.newaxis].astype(np.float64) * self.centroids_
            out[i] = np.sqrt(np.square(less - q).sum(axis=1))
        return out

    def to_bytes(self) -> bytes:
        """Serialise the fitted model as databases store it; layout in docs/code-format.md.

        Raises
        ------
        ValueError
            If the model is not fitted or the format cannot express it; `save` writes such models too.
        """
        self._check_fitted()
        if beyond := self._beyond_format():
            raise ValueError(
                "expected what the databases' model format holds (1, 2, 4 or 8 bits, rotation 'hadamard' or "
                f"'none', 1 centroid), not {beyond}: use save(path)"
            )
        return self._model.to_bytes()

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
        state = {
            "metric_": model.metric,
            "dim_": model.dim,
            "n_trained_": model.n_trained,
            "bits_": model.bits,
            "random_state_": model.seed,
            "rotation_": model.rotation,
            "centroid_": model.centroid,
            "centroids_": model.centroid[np.newaxis],
        }
        self._set_state(state)
        return self

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fitted model to a file.

        Parameters
        ----------
        path : path-like
            With the suffix .npz it becomes such a file, as that of other codecs, and where the databases'
            format cannot express the model; else it holds what `to_bytes` returns.
        """
        self._check_fitted()
        if self._beyond_format() or Path(path).suffix.lower() == ".npz":
            super().save(path)
        else:
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
        data = Path(path).read_bytes()
        if data[:4] == b"PK\x03\x04":
            return super().load(path)
        try:
            return cls.from_bytes(data)
        except _kernels.ModelFormatError as error:
            raise ValueError(f"{path}: {error}") from error
