"""VQ: the id of one codeword is the whole code; under ip and cosine score-aware."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from bqcore import _kernels
from bqcore._validation import Float32Array, check_int, check_random_state
from bqcore.anisotropic import loss, score_aware_eta, unit_directions, update_codewords
from bqcore.centroids import ROWS_PER_CENTROID, kmeans
from bqcore.codec import Codec
from bqcore.codes import Codes

# The kernel reads codewords in groups; copies of the first fill the last one and are never chosen.
_GROUP = 16
_ITERATIONS = 10
_TOLERANCE = 1e-3


class VQ(Codec):
    """Vector quantization: k-means, or its score-aware form of ScaNN under ip and cosine.

    Parameters
    ----------
    codewords : int, default 256
        1 to 65,536; a code has one byte up to 256, two beyond. Fewer where the rows are fewer.
    threshold : float, default 0.2
        Cosine below which an inner product is of no interest, in [0, 1): gives eta under ip and cosine. l2
        has no use for it: its errors count alike in all directions.
    eta : float, optional
        Weight of the error along a vector, at least 1, in place of `threshold`; 1 is k-means.
    metric : {"l2", "ip", "cosine"}, default "l2"
        Squared Euclidean distance, negative inner product, or 1 - cosine.
    random_state : int, default 0
        Seed of k-means.

    Attributes
    ----------
    codewords_ : ndarray of float32, shape (n_codewords, dim)
    eta_ : float

    References
    ----------
    Guo et al., "Accelerating Large-Scale Inference with Anisotropic Vector Quantization", ICML 2020, section
    4.1.
    """

    codec: ClassVar[str] = "vq"
    idea: ClassVar[str] = "one codebook for whole vectors"

    codewords_: Float32Array
    eta_: float

    def __init__(
        self,
        codewords: int = 256,
        threshold: float = 0.2,
        eta: float | None = None,
        metric: str = "l2",
        random_state: int = 0,
    ) -> None:
        self.codewords = codewords
        self.threshold = threshold
        self.eta = eta
        self.metric = metric
        self.random_state = random_state

    def _fit(self, X: Float32Array) -> None:
        n_codewords = check_int(self.codewords, name="codewords", low=1, high=1 << 16)
        seed = check_random_state(self.random_state)
        self.eta_ = score_aware_eta(self.eta, self.threshold, self.metric_, self.dim_)
        self.codewords_ = kmeans(X, n_codewords, seed)
        if self.eta_ == 1:
            return
        if len(X) > ROWS_PER_CENTROID * n_codewords:
            rows = np.random.default_rng(seed).choice(len(X), ROWS_PER_CENTROID * n_codewords, replace=False)
            X = X[np.sort(rows)]
        directions, weights, before = unit_directions(X), self._weights(X), np.inf
        for _ in range(_ITERATIONS):
            codes = self._assign(X)
            now = float(loss(X, directions, weights, self.codewords_[codes]).sum())
            if now >= before * (1 - _TOLERANCE):
                break
            before = now
            self.codewords_ = update_codewords(self.codewords_, X, directions, weights, codes)

    def _weights(self, X: Float32Array) -> Float32Array:
        return np.full(len(X), self.eta_ - 1, dtype=np.float32)

    def _assign(self, X: Float32Array) -> npt.NDArray[np.uint16]:
        n = len(self.codewords_)
        columns = np.minimum(np.arange(-(-n // _GROUP) * _GROUP), n - 1)
        codebook = np.ascontiguousarray(self.codewords_[columns].T)
        offsets = np.array([0, self.dim_], dtype=np.uint32)
        codes = _kernels.pq_assign(codebook, offsets, X, unit_directions(X), self._weights(X), max_sweeps=1)
        return codes[:, 0]

    @property
    def code_nbytes(self) -> int:
        """Bytes of one code: 1 for up to 256 codewords, else 2."""
        return 1 if len(self.codewords_) <= 256 else 2

    @property
    def factors_dtype(self) -> np.dtype[np.void]:
        """Nothing: no corrective factors."""
        return np.dtype([])

    def _encode(self, X: Float32Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.void]]:
        ids = self._assign(X).astype("u1" if self.code_nbytes == 1 else "<u2")
        packed = ids.view(np.uint8).reshape(len(X), self.code_nbytes)
        return packed, np.zeros(len(X), dtype=self.factors_dtype)

    def _ids(self, codes: Codes) -> npt.NDArray[np.int64]:
        dtype = "u1" if self.code_nbytes == 1 else "<u2"
        return np.ascontiguousarray(codes.packed).view(dtype)[:, 0].astype(np.int64)

    def _decode(self, codes: Codes) -> Float32Array:
        return self.codewords_[self._ids(codes)]

    def _estimate(self, codes: Codes, Q: Float32Array) -> Float32Array:
        if self.metric_ == "l2":
            mean = self.codewords_.mean(axis=0)
            centred, Q = self.codewords_ - mean, Q - mean
            distances = np.square(centred).sum(axis=1) - 2 * (Q @ centred.T)
            distances += np.square(Q).sum(axis=1, keepdims=True)
        else:
            distances = (1 if self.metric_ == "cosine" else 0) - Q @ self.codewords_.T
        return np.asarray(distances[:, self._ids(codes)], dtype=np.float32)
