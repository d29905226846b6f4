"""What benchmarks/scan.py measures: bqcore's indexes, other libraries' and numpy, behind one interface."""

from __future__ import annotations

import abc
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bqcore import RaBitQ, ScanIndex, Tier
from bqcore._validation import Float32Array, IdArray
from bqcore.peers import Peer, make_peer
from bqcore.saq import SAQ
from bqcore.scan import EPS0


@dataclass(frozen=True)
class Entry:
    """One system of the table."""

    name: str
    make: Any


class System(abc.ABC):
    """Vectors in, nearest rows out."""

    bytes_per_vector: float
    version: str = ""
    #: Bytes that a scan reads of every vector, where that is known to be fewer.
    scanned_bytes: float | None = None

    @abc.abstractmethod
    def build(self, train: Float32Array, X: Float32Array) -> None:
        """Train on the set, encode and keep X."""

    @abc.abstractmethod
    def nearest(self, Q: Float32Array, k: int) -> IdArray:
        """Return rows, shape (n_queries, k)."""


class Ours(System):
    """A bqcore codec in a ScanIndex, rescored from 8-bit RaBitQ codes where oversampling is given."""

    def __init__(self, codec: Any, oversampling: float | None = None, eps0: float = EPS0) -> None:
        self.codec, self.oversampling, self.eps0 = codec, oversampling, eps0

    def build(self, train: Float32Array, X: Float32Array) -> None:
        """Train, encode in parts that fit in memory, lay out."""
        self.codec.fit(train)
        codes, tier = self.codec.encode(X), None
        self.bytes_per_vector = codes.bytes_per_vector
        if self.oversampling is not None:
            fine = RaBitQ(bits=8, metric=self.codec.metric).fit(train)
            tier = Tier(fine, fine.encode(X))
            self.bytes_per_vector += tier.codes.bytes_per_vector
        self.index = ScanIndex(self.codec, codes, tier)
        self.scanned_bytes = self.index.scanned_bytes_per_vector

    def nearest(self, Q: Float32Array, k: int) -> IdArray:
        """Search."""
        options = {} if self.oversampling is None else {"oversampling": self.oversampling}
        return self.index.search(Q, k, eps0=self.eps0, **options).ids

    @property
    def version(self) -> str:  # type: ignore[override]
        """Version of the package."""
        import bqcore

        return f"bqcore {bqcore.__version__}"


class Theirs(System):
    """A peer, rescored from half-precision vectors where oversampling is given."""

    def __init__(
        self, name: str, arguments: list[Any], metric: str, oversampling: float | None = None
    ) -> None:
        self.peer: Peer = make_peer(name, arguments, {}, metric)
        self.oversampling = oversampling
        self.version = self.peer.version

    def build(self, train: Float32Array, X: Float32Array) -> None:
        """Train and add. ScaNN does both at once, and rabitqlib's lists are those of what it is to search."""
        self.peer.check(*X.shape)
        whole = self.peer.fits_and_encodes or self.peer.module == "rabitqlib"
        self.peer.fit(X if whole else train, 0)
        self.peer.encode(X)
        self.bytes_per_vector = self.peer.bytes_per_vector
        if self.oversampling is not None:
            self.halves = X.astype(np.float16)
            self.bytes_per_vector += self.halves.shape[1] * 2

    def nearest(self, Q: Float32Array, k: int) -> IdArray:
        """Search."""
        if self.oversampling is None:
            return self.peer.nearest(Q, k)
        candidates = self.peer.nearest(Q, int(np.ceil(k * self.oversampling)))
        out = np.empty((len(Q), k), dtype=np.int64)
        for i, (q, rows) in enumerate(zip(Q, candidates, strict=True)):
            best = np.argsort(-(self.halves[rows].astype(np.float32) @ q), kind="stable")[:k]
            out[i] = rows[best]
        return out


class Numpy(System):
    """The vectors themselves, by matrix product."""

    version = f"numpy {np.__version__}"

    def build(self, train: Float32Array, X: Float32Array) -> None:
        """Keep X."""
        self.X, self.bytes_per_vector = X, float(X.shape[1] * 4)

    def nearest(self, Q: Float32Array, k: int) -> IdArray:
        """Multiply, then partition."""
        scores = Q @ self.X.T
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
        return np.take_along_axis(best, order, axis=1).astype(np.int64)


def systems(dim: int, metric: str) -> Iterator[Entry]:
    """Every system: bqcore's, then the peers'."""
    total = dim // 8
    yield Entry("bqcore:saq(bits=1)", lambda: Ours(SAQ(bits=1, metric=metric)))
    yield Entry(
        f"bqcore:saq({total}B)",
        lambda: Ours(SAQ(bits=8 * (total - 2) / dim, metric=metric)),
    )
    for bits in (1, 2, 4):
        yield Entry(f"bqcore:rabitq(bits={bits})", lambda bits=bits: Ours(RaBitQ(bits=bits, metric=metric)))
    # as many true neighbours as turbovec's 4 bits
    yield Entry("bqcore:rabitq(bits=4) eps0=3", lambda: Ours(RaBitQ(bits=4, metric=metric), eps0=3))
    yield Entry("bqcore:saq(bits=4)", lambda: Ours(SAQ(bits=4, metric=metric)))
    for name, arguments in (
        (f"PQ{dim // 4}x4fs", [f"PQ{dim // 4}x4fs"]),
        ("RaBitQfs", [f"RR{dim}", "RaBitQfs"]),
    ):
        yield Entry(f"faiss:{name}", lambda arguments=arguments: Theirs("faiss", arguments, metric))
    for bits in (2, 4):
        yield Entry(f"turbovec:{bits}", lambda bits=bits: Theirs("turbovec", [bits], metric))
    for bits in (1, 4):
        yield Entry(f"rabitqlib:{bits}", lambda bits=bits: Theirs("rabitqlib", [bits], metric))
    yield Entry(f"scann:{total}B", lambda: Theirs("scann", [4], metric))
    for dtype in ("b1", "i8"):
        yield Entry(f"usearch:{dtype}", lambda dtype=dtype: Theirs("usearch", [dtype], metric))
    yield Entry("numpy:float32", Numpy)


def rescored(dim: int, metric: str) -> Iterator[tuple[str, Any]]:
    """Systems whose candidates are rescored, as functions of oversampling."""
    yield "bqcore:saq(bits=1)+8bit", lambda o: Ours(SAQ(bits=1, metric=metric), o)
    yield "bqcore:rabitq(bits=1)+8bit", lambda o: Ours(RaBitQ(bits=1, metric=metric), o)
    yield "turbovec:4+float16", lambda o: Theirs("turbovec", [4], metric, o)
    yield f"faiss:PQ{dim // 4}x4fs+float16", lambda o: Theirs("faiss", [f"PQ{dim // 4}x4fs"], metric, o)
    yield "faiss:RaBitQfs+float16", lambda o: Theirs("faiss", [f"RR{dim}", "RaBitQfs"], metric, o)
    yield "usearch:b1+float16", lambda o: Theirs("usearch", ["b1"], metric, o)
    yield "usearch:i8+float16", lambda o: Theirs("usearch", ["i8"], metric, o)


def bandwidth(nbytes: int = 1 << 28, rounds: int = 5) -> float:
    """Bytes per second that one thread reads from memory, by its CPU time: the best of some products."""
    a, b = (np.ones(nbytes // 8, dtype=np.float32) for _ in range(2))
    best = np.inf
    for _ in range(rounds):
        start = time.process_time()
        np.dot(a, b)
        best = min(best, time.process_time() - start)
    return nbytes / best
