"""faiss: any `index_factory` string whose codes can all be scanned."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from bqcore._validation import Float32Array, IdArray
from bqcore.peers import Peer, shuffled

_NOT_SCANNED = ("HNSW", "NSG", "NNDescent", "Refine")


class Faiss(Peer):
    """``faiss(OPQ48,PQ48x8)``.

    IVF factories probe every list. Polysemous training, which only permutes code words for a filter that is
    not used here, is switched off. Under cosine unit vectors are ranked by L2, which is at least as good as
    faiss's inner product for all of its codes that were tried.

    Parameters
    ----------
    *factory : str
        The factory string, at its commas or quoted as a whole.
    metric : {"l2", "ip", "cosine"}
    """

    module: ClassVar[str] = "faiss"
    package: ClassVar[str] = "faiss-cpu"

    def __init__(self, *factory: str, metric: str) -> None:
        super().__init__(metric)
        if not factory:
            raise ValueError("faiss: expected an index_factory string such as faiss(PQ48x8), not nothing")
        self.factory = ",".join(map(str, factory))
        self._index: Any = None
        self._model_bytes = self._stored = 0

    def _make(self, dim: int) -> Any:
        faiss = self.library
        measure = faiss.METRIC_INNER_PRODUCT if self.metric == "ip" else faiss.METRIC_L2
        try:
            index = faiss.index_factory(dim, self.factory, measure)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).strip().rpartition(": ")[2]
            raise ValueError(
                f"faiss: expected an index_factory string for {dim} dimensions, "
                f"not {self.factory!r}: {reason}"
            ) from error
        inner = index
        while True:
            kind = type(inner).__name__
            if any(name in kind for name in _NOT_SCANNED):
                raise ValueError(
                    f"faiss: expected a factory whose codes are scanned without graph and rescoring, "
                    f"not {self.factory!r} ({kind})"
                )
            if hasattr(inner, "do_polysemous_training"):
                inner.do_polysemous_training = False
            for part in (inner, getattr(inner, "pq", inner)):
                if hasattr(part, "cp"):  # below it, faiss warns once per subspace
                    part.cp.min_points_per_centroid = 1
            if hasattr(inner, "nprobe"):
                inner.nprobe = inner.nlist
            if not hasattr(inner, "chain"):  # IndexPreTransform's
                return index
            inner = faiss.downcast_index(inner.index)

    def check(self, n: int, dim: int) -> None:
        """Raise ValueError if the factory does not fit, or there are fewer rows than centroids."""
        index = self._make(dim)
        inner = self.library.downcast_index(index.index) if hasattr(index, "chain") else index
        pq = getattr(inner, "pq", None)
        needed = max(getattr(inner, "nlist", 1), pq.ksub if pq is not None else 1)
        if n < needed:
            raise ValueError(f"faiss: {self.factory} expects at least {needed} vectors, not {n}")

    def fit(self, X: Float32Array, random_state: int) -> None:
        """Train; the seed is the order of the rows, which faiss samples and initialises by."""
        self._index = self._make(X.shape[1])
        self._index.train(X[shuffled(len(X), random_state)])
        self._model_bytes = len(self.library.serialize_index(self._index))

    def encode(self, X: Float32Array) -> None:
        """Encode, on one thread."""
        threads = self.library.omp_get_max_threads()
        self.library.omp_set_num_threads(1)
        try:
            self._index.add(X)
        finally:
            self.library.omp_set_num_threads(threads)

    def nearest(self, Q: Float32Array, k: int) -> IdArray:
        """Scan all codes, on one thread."""
        threads = self.library.omp_get_max_threads()
        self.library.omp_set_num_threads(1)
        try:
            return np.asarray(self._index.search(Q, k)[1], dtype=np.int64)
        finally:
            self.library.omp_set_num_threads(threads)

    @property
    def bytes_per_vector(self) -> float:
        """What faiss calls the size of the standalone code: code, factors, list number."""
        return float(self._index.sa_code_size())

    @property
    def library_bytes_per_vector(self) -> float:
        """Growth of the serialised index."""
        grown = len(self.library.serialize_index(self._index)) - self._model_bytes
        return float(round(grown / self._index.ntotal, 2))

    @property
    def model_bytes(self) -> int:
        """The serialised index before vectors are added."""
        return self._model_bytes
