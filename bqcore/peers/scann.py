"""ScaNN: asymmetric hashing (anisotropic product quantization), every code scanned, no reordering."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from bqcore._validation import Float32Array, IdArray, check_int
from bqcore.peers import Peer, list_id_bytes, shuffled

_CENTRES_BITS = {"lut16": 4, "lut256": 8}


class Scann(Peer):
    """``scann(dims_per_block=4)``.

    Under cosine unit vectors are ranked by L2 where there is neither threshold nor leaves: ScaNN's inner
    product without them is worse on every set tried.

    Parameters
    ----------
    dims_per_block : int, default 4
        Dimensions that share a code word.
    threshold : float, optional
        Anisotropic quantization threshold, 0 to 1; for inner products only.
    hash : {"lut16", "lut256"}, default "lut16"
        16 or 256 code words per block.
    leaves : int, default 1
        Partitions, all of them searched. ScaNN codes residuals for inner products only.
    metric : {"l2", "ip", "cosine"}
    """

    module: ClassVar[str] = "scann"
    package: ClassVar[str] = "scann"
    fits_and_encodes: ClassVar[bool] = True

    def __init__(
        self,
        dims_per_block: int = 4,
        threshold: float | None = None,
        hash: str = "lut16",
        leaves: int = 1,
        *,
        metric: str,
    ) -> None:
        super().__init__(metric)
        if hash not in _CENTRES_BITS:
            raise ValueError(f"scann: hash: expected lut16 or lut256, not {hash!r}")
        if threshold is not None and not 0 <= threshold < 1:
            raise ValueError(f"scann: threshold: expected a number in [0, 1), not {threshold}")
        self.dims_per_block = check_int(dims_per_block, name="scann: dims_per_block", low=1)
        self.threshold, self.hash = threshold, hash
        self.leaves = check_int(leaves, name="scann: leaves", low=1)
        by_ip = metric == "ip" or (metric == "cosine" and (threshold is not None or self.leaves > 1))
        self.measure = "dot_product" if by_ip else "squared_l2"
        self._searcher: Any = None
        self._order = np.empty(0, dtype=np.int64)
        self._dim = 0

    def check(self, n: int, dim: int) -> None:
        """Raise ValueError for what ScaNN has for inner products only, and for too few rows."""
        if self.measure == "squared_l2" and (self.threshold is not None or self.leaves > 1):
            raise ValueError(f"scann: threshold and leaves expect metric ip or cosine, not {self.metric}")
        if self.dims_per_block > dim:
            raise ValueError(f"scann: expected at most {dim} dims_per_block, not {self.dims_per_block}")
        if n < self.leaves:
            raise ValueError(f"scann: expected at most {n} leaves, one per vector, not {self.leaves}")

    def fit(self, X: Float32Array, random_state: int) -> None:
        """Train and encode, which ScaNN does in one call; the seed is the order of the rows."""
        self._order = shuffled(len(X), random_state)
        self._dim = X.shape[1]
        builder = self.library.scann_ops_pybind.builder(X[self._order], 10, self.measure)
        if self.leaves > 1:
            builder = builder.tree(
                self.leaves, self.leaves, training_sample_size=len(X), min_partition_size=1
            )
        self._searcher = builder.score_ah(
            self.dims_per_block,
            anisotropic_quantization_threshold=float("nan") if self.threshold is None else self.threshold,
            training_sample_size=len(X),
            hash_type=self.hash,
        ).build()

    def encode(self, X: Float32Array) -> None:
        """Do nothing: `fit` has encoded the rows."""

    def nearest(self, Q: Float32Array, k: int) -> IdArray:
        """Scan all codes, on one thread."""
        ids, distances = self._searcher.search_batched(
            Q, final_num_neighbors=k, pre_reorder_num_neighbors=k, leaves_to_search=self.leaves
        )
        missing = np.isnan(np.asarray(distances))
        return np.where(missing, -1, self._order[np.asarray(ids, dtype=np.int64)])

    @property
    def bytes_per_vector(self) -> float:
        """4 or 8 bits per block, and the list id if there are leaves."""
        blocks = -(-self._dim // self.dims_per_block)
        return -(-blocks * _CENTRES_BITS[self.hash] // 8) + list_id_bytes(self.leaves)
