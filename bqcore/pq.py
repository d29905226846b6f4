"""PQ: one codeword per subspace, no corrective factors; score-aware codebooks and codes, learned rotation."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bqcore import _kernels
from bqcore._validation import Float32Array, check_int, check_random_state, row_blocks
from bqcore.anisotropic import query_metric, score_aware_eta, unit_directions
from bqcore.centroids import assign, kmeans
from bqcore.codebooks import assign_codes, decode, initial_codebooks, learn_rotation, refine, split
from bqcore.codec import Codec
from bqcore.codes import Codes

CODE_BITS = (4, 8)
ROTATIONS = ("opq", "none")
LUTS = ("float32", "uint8")

# Training rows for each codeword of a subspace, and at least _MIN_TRAINED_ROWS.
_ROWS_PER_CODEWORD = 192
_MIN_TRAINED_ROWS = 1 << 14
_QUERY_WEIGHT = 0.8
# Codebooks come near to their end on a third of the rows, where that is enough of them.
_EARLY_PART, _EARLY_ROWS_PER_CODEWORD = 3, 48
_ITERATIONS, _LAST_ITERATIONS = 6, 2


class PQ(Codec):
    """Product quantization; under ip and cosine score-aware (anisotropic), as in ScaNN.

    Parameters
    ----------
    bits : float, default 1
        Code bits per dimension, at most `code_bits`: a code has ceil(dim * bits / 8) bytes. Not used when
        `subspaces` is given.
    subspaces : int, optional
        Number of subspaces, 1 to dim. They need not divide dim.
    code_bits : {8, 4}, default 8
        Bits per subspace: 256 or 16 codewords.
    threshold : float, default 0.2
        Cosine below which an inner product is of no interest, in [0, 1): gives eta under ip and cosine. l2
        has no use for it: its errors count alike in all directions.
    eta : float, optional
        Weight of the error along a vector, at least 1, in place of `threshold`.
    query_weight : float, optional
        Share of the vectors' second moment in the metric of errors under ip and cosine, in [0, 1); see
        `bqcore.anisotropic.query_metric`. By default 0.8 with a learned rotation and 0 without: the metric
        mixes coordinates, and what belonged to one subspace has to be gathered again. With 0 and eta = 1,
        quantization is plain.
    rotation : {"opq", "none"}, default "opq"
        Learned rotation before the split, or none.
    centroids : int, default 1
        Codes hold residuals to that many k-means centroids; beyond 1 a code has a list id of 1 or 2 bytes.
    lut : {"float32", "uint8"}, default "float32"
        Entries of a query's look-up tables. uint8 entries of one query have a common step: an estimate is
        off by at most half a step per subspace, and sums are exact.
    metric : {"l2", "ip", "cosine"}, default "l2"
        Squared Euclidean distance, negative inner product, or 1 - cosine.
    random_state : int, default 0
        Seed of sampling and k-means.

    Attributes
    ----------
    codebooks_ : ndarray of float32, shape (dim, 2**code_bits)
        Rows offsets_[m] to offsets_[m + 1] - 1 hold the codewords of subspace m as columns.
    offsets_ : ndarray of uint32, shape (n_subspaces + 1,)
    transform_ : ndarray of float32, shape (dim, dim)
        What residuals are multiplied with before the split: root of the query metric, then rotation.
    centroids_ : ndarray of float32, shape (n_centroids, dim)
    eta_ : float
    code_bits_ : int
    lut_ : str

    References
    ----------
    Jegou et al., "Product Quantization for Nearest Neighbor Search", PAMI 2011; Guo et al., "Accelerating
    Large-Scale Inference with Anisotropic Vector Quantization", ICML 2020; Ge et al., "Optimized Product
    Quantization", PAMI 2014.
    """

    codec: ClassVar[str] = "pq"
    idea: ClassVar[str] = "a codebook per subspace, rotated to balance them"
    trains_slowly: ClassVar[bool] = True

    codebooks_: Float32Array
    offsets_: npt.NDArray[np.uint32]
    transform_: Float32Array
    centroids_: Float32Array
    eta_: float
    code_bits_: int
    lut_: str

    def __init__(
        self,
        bits: float = 1,
        subspaces: int | None = None,
        code_bits: int = 8,
        threshold: float = 0.2,
        eta: float | None = None,
        query_weight: float | None = None,
        rotation: str = "opq",
        centroids: int = 1,
        lut: str = "float32",
        metric: str = "l2",
        random_state: int = 0,
    ) -> None:
        self.bits = bits
        self.subspaces = subspaces
        self.code_bits = code_bits
        self.threshold = threshold
        self.eta = eta
        self.query_weight = query_weight
        self.rotation = rotation
        self.centroids = centroids
        self.lut = lut
        self.metric = metric
        self.random_state = random_state

    def _n_subspaces(self, dim: int) -> int:
        if self.subspaces is not None:
            return check_int(self.subspaces, name="subspaces", low=1, high=dim)
        if not 0 < self.bits <= self.code_bits:
            raise ValueError(f"bits: expected 0 < bits <= code_bits = {self.code_bits}, not {self.bits}")
        return min(dim, int(np.ceil(dim * self.bits / 8)) * (8 // self.code_bits))

    @classmethod
    def settings(cls, dim: int, n: int, nbytes: int) -> list[dict[str, Any]]:
        """Return as many subspaces as there are bytes, on the vectors and on residuals to 256 lists."""
        found: list[dict[str, Any]] = []
        for lists in (1, 256):
            subspaces = nbytes - (lists > 1)
            if 1 <= subspaces <= dim // 2 and n >= 16 * lists:
                found.append({"subspaces": subspaces, "centroids": lists})
        return found

    @classmethod
    def needs_clustering(cls, settings: Mapping[str, Any]) -> bool:
        """Every codebook is k-means of a subspace."""
        return True

    def _fit(self, X: Float32Array) -> None:
        if self.code_bits not in CODE_BITS:
            raise ValueError(f"code_bits: expected 4 or 8, not {self.code_bits!r}")
        for name, value, known in [("rotation", self.rotation, ROTATIONS), ("lut", self.lut, LUTS)]:
            if value not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, not {value!r}")
        self.code_bits_, self.lut_ = self.code_bits, self.lut
        self.eta_ = score_aware_eta(self.eta, self.threshold, self.metric_, self.dim_)
        self.offsets_ = split(self.dim_, self._n_subspaces(self.dim_))
        n_centroids = check_int(self.centroids, name="centroids", low=1, high=1 << 16)
        seed = check_random_state(self.random_state)
        n_codewords = 1 << self.code_bits

        self.centroids_ = kmeans(X, n_centroids, seed)
        rows = max(_ROWS_PER_CODEWORD * n_codewords, _MIN_TRAINED_ROWS)
        if len(X) > rows:
            X = X[np.sort(np.random.default_rng(seed).choice(len(X), rows, replace=False))]
        targets, _ = self._residuals(X)
        weight = self.query_weight
        if weight is None:
            weight = _QUERY_WEIGHT if self.rotation == "opq" else 0.0
        transform = query_metric(X, 0 if self.metric_ == "l2" else weight)
        targets = _product(targets, transform)
        if self.rotation == "opq":
            rotation, codebooks = learn_rotation(targets, self.offsets_, n_codewords, seed)
            transform, targets = transform @ rotation, _product(targets, rotation)
        else:
            codebooks = initial_codebooks(targets, self.offsets_, n_codewords, seed)
        self.transform_ = transform.astype(np.float32)
        directions = _product(unit_directions(X), np.linalg.inv(transform).T)
        few = len(targets) // _EARLY_PART
        if few >= _EARLY_ROWS_PER_CODEWORD * n_codewords:
            part = np.random.default_rng(seed).choice(len(targets), few, replace=False)
            codebooks = refine(codebooks, self.offsets_, targets[part], directions[part], self.eta_ - 1)
            last = _LAST_ITERATIONS
        else:
            last = _ITERATIONS
        self.codebooks_ = refine(codebooks, self.offsets_, targets, directions, self.eta_ - 1, last)

    def _restore(self) -> None:
        # a transformed vector and a query times this have the inner product of vector and query
        self._query_transform = np.linalg.inv(self.transform_.astype(np.float64)).T

    def _residuals(self, X: Float32Array) -> tuple[Float32Array, npt.NDArray[np.int64]]:
        lists = assign(X, self.centroids_)
        return X - self.centroids_[lists], lists

    @property
    def _n_codes(self) -> int:
        return len(self.offsets_) - 1

    @property
    def code_nbytes(self) -> int:
        """Bytes of one packed code: ceil(subspaces * code_bits / 8)."""
        return -(-self._n_codes * self.code_bits_ // 8)

    @property
    def factors_dtype(self) -> np.dtype[np.void]:
        """``list``, where there are several centroids; no corrective factors."""
        n = len(self.centroids_)
        return np.dtype([] if n == 1 else [("list", "u1" if n <= 256 else "<u2")])

    def _encode(self, X: Float32Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.void]]:
        residuals, lists = self._residuals(X)
        codes = assign_codes(
            self.codebooks_,
            self.offsets_,
            _product(residuals, self.transform_),
            _product(unit_directions(X), self._query_transform),
            self.eta_ - 1,
        ).astype(np.uint8)
        if self.code_bits_ == 4:
            low, high = codes[:, ::2].copy(), codes[:, 1::2]
            low[:, : high.shape[1]] |= high << 4
            codes = low
        factors = np.zeros(len(X), dtype=self.factors_dtype)
        if factors.dtype.names:
            factors["list"] = lists
        return codes, factors

    def _lists(self, codes: Codes) -> npt.NDArray[np.int64]:
        if not codes.factors.dtype.names:
            return np.zeros(len(codes), dtype=np.int64)
        return codes.factors["list"].astype(np.int64)

    def _transformed_residuals(self, codes: Codes) -> Float32Array:
        packed = codes.packed
        if self.code_bits_ == 4:
            packed = np.stack([packed & 15, packed >> 4], axis=2).reshape(len(packed), -1)[:, : self._n_codes]
        return decode(self.codebooks_, self.offsets_, packed)

    def _decode(self, codes: Codes) -> Float32Array:
        residuals = _product(self._transformed_residuals(codes), self._query_transform.T)
        return np.asarray(residuals + self.centroids_[self._lists(codes)], dtype=np.float32)

    def _luts(self, Q: Float32Array) -> Float32Array:
        """Look-up tables, shape (n_queries, n_subspaces, 2**code_bits), of queries in the codebooks' basis.

        l2: ``|c|^2 - 2 <q, c>``; otherwise ``-<q, c>``.
        """
        luts = np.empty((len(Q), self._n_codes, self.codebooks_.shape[1]), dtype=np.float32)
        for m, (first, last) in enumerate(pairwise(self.offsets_)):
            codewords = self.codebooks_[first:last]
            np.matmul(Q[:, first:last], codewords, out=luts[:, m])
            luts[:, m] *= -2 if self.metric_ == "l2" else -1
            if self.metric_ == "l2":
                luts[:, m] += np.square(codewords).sum(axis=0)
        return luts

    def _estimate(self, codes: Codes, Q: Float32Array) -> Float32Array:
        lists, centroids = self._lists(codes), self.centroids_
        if self.metric_ == "l2":
            # |q - c - r|^2 = |q - c|^2 + |r|^2 - 2 <q, r> + 2 <c, r>, with q and c relative to a mean
            mean = centroids.mean(axis=0)
            centroids, Q = centroids - mean, Q - mean
            per_list = np.stack([np.square(Q - centroid).sum(axis=1) for centroid in centroids], axis=1)
        else:
            per_list = -(Q @ centroids.T) + (1 if self.metric_ == "cosine" else 0)
        out = self._scan(codes.packed, self._luts(_product(Q, self._query_transform)))
        out += per_list[:, lists]
        if self.metric_ == "l2" and len(centroids) > 1:
            transformed = _product(centroids, self._query_transform)
            out += 2 * np.einsum("ij,ij->i", transformed[lists], self._transformed_residuals(codes))
        return out

    def _scan(self, packed: npt.NDArray[np.uint8], luts: Float32Array) -> Float32Array:
        if self.lut_ == "float32":
            return _kernels.lut_scan(packed, luts).astype(np.float32, copy=False)
        low = luts.min(axis=2, keepdims=True)
        luts = luts - low
        step = luts.max(axis=(1, 2), keepdims=True) / 255
        step[step == 0] = 1
        sums = _kernels.lut_scan(packed, np.rint(luts / step).astype(np.uint8))
        return np.asarray(sums * step[:, :, 0] + low.sum(axis=1), dtype=np.float32)


def _product(X: Float32Array, matrix: npt.NDArray[Any]) -> Float32Array:
    """X @ matrix, shape (n, dim), with sums in float64: a row's result hardly depends on its neighbours."""
    wide, out = matrix.astype(np.float64), np.empty_like(X)
    for rows in row_blocks(X):
        out[rows] = X[rows].astype(np.float64) @ wide
    return out
