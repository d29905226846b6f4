"""RaBitQ-Library: RaBitQ codes of 1 to 9 bits in an IVF index whose lists are all searched."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bqcore._validation import Float32Array, IdArray, check_bits, check_int
from bqcore.peers import Peer, list_id_bytes, shuffled


class RabitqLib(Peer):
    """``rabitqlib(bits=1)``.

    Under cosine unit vectors are ranked by L2. The library draws its rotation itself: results of one seed
    differ from run to run.

    Parameters
    ----------
    bits : int
        1 to 9.
    centroids : int, default 1
        Lists: the mean alone, or its own k-means.
    metric : {"l2", "ip", "cosine"}
    """

    module: ClassVar[str] = "rabitqlib"
    package: ClassVar[str] = "rabitqlib"

    def __init__(self, bits: int, centroids: int = 1, *, metric: str) -> None:
        super().__init__(metric)
        self.bits = check_bits(bits, range(1, 10))
        self.n_centroids = check_int(centroids, name="rabitqlib: centroids", low=1)
        self.measure = "ip" if metric == "ip" else "l2"
        self._index: Any = None
        self._centroids: Any = None
        self._lists: Any = None

    def check(self, n: int, dim: int) -> None:
        """Raise ValueError if the library refuses the dimensions, or there are fewer rows than centroids."""
        try:
            self.library.IvfIndex(dim, 1, 1, self.bits, self.measure)
        except ValueError as error:
            raise ValueError(
                f"rabitqlib: expected dimensions it has a rotation for, not {dim}: {error}"
            ) from error
        if n < self.n_centroids:
            raise ValueError(f"rabitqlib: expected at most {n} centroids, not {self.n_centroids}")

    def fit(self, X: Float32Array, random_state: int) -> None:
        """Take the mean or run its k-means; the seed is that of k-means and the order of the rows."""
        if self.n_centroids == 1:
            self._centroids = X.mean(axis=0, dtype=np.float64, keepdims=True).astype(np.float32)
            self._lists = np.zeros(len(X), dtype=np.uint32)
            return
        clustering = self.library.RaBitQKMeans(X.shape[1], self.n_centroids, seed=random_state % 2**31)
        order = shuffled(len(X), random_state)
        clustering.train(X[order])
        self._centroids = clustering.centroids
        self._lists = np.empty(len(X), dtype=np.uint32)
        self._lists[order] = clustering.assignments

    def encode(self, X: Float32Array) -> None:
        """Encode, on one thread."""
        n, dim = X.shape
        self._index = self.library.IvfIndex(dim, n, self.n_centroids, self.bits, self.measure)
        self._index.build(X, self._centroids, self._lists, num_threads=1)

    def nearest(self, Q: Float32Array, k: int) -> IdArray:
        """Search all lists, on one thread."""
        ids = np.asarray(self._index.search(Q, k, self.n_centroids, num_threads=1)[0])
        # an unfilled place holds the largest uint32
        return np.where(ids < self._index.num_points, ids.astype(np.int64), -1)

    @property
    def bytes_per_vector(self) -> float:
        """Code of dimensions padded to 32; 3 float32 factors, 2 more beyond one bit; the list id."""
        padded = -(-self._index.dim // 32) * 32
        factors = 12 if self.bits == 1 else 20
        return float(padded * self.bits / 8 + factors + list_id_bytes(self.n_centroids))

    @property
    def library_bytes_per_vector(self) -> float:
        """Size of its file, row ids included, over the number of vectors."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "index"
            self._index.save(str(path))
            return float(round(path.stat().st_size / self._index.num_points, 2))
