"""Measure codecs, peers and the Gaussian bound alike: exhaustive scan, no rescoring, recall and bytes."""

from __future__ import annotations

import abc
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bqcore._validation import Float32Array, IdArray, check_int, check_random_state, normalize, unit_rows
from bqcore.codec import Codec
from bqcore.codes import Codes
from bqcore.datasets import Dataset
from bqcore.evaluation import exact_search, recall
from bqcore.peers import PEERS, Peer, make_peer
from bqcore.rate_distortion import GaussianBound
from bqcore.registry import CODECS, make_codec, parse_spec
from bqcore.search import search

BOUND = "gaussian_bound"
#: recall of the k nearest is taken in this many times k candidates too.
OVERSAMPLING = 10
# Rows and queries that a codec is tried on before the long work starts.
_TRIAL_ROWS, _TRIAL_QUERIES = 300, 2
_BLOCK_ESTIMATES = 1 << 24

Kind = Literal["codec", "peer", "bound"]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class CodecResult:
    """One spec on one data set: means over seeds.

    Parameters
    ----------
    codec : str
        The spec as given.
    kind : {"codec", "peer", "bound"}
    version : str or None
        Package and version of a peer.
    seeds : tuple of int
    k : int
    recall_at_k, recall_at_k_sd : float
        Share of the k nearest among the first k estimates; standard deviation over seeds (None for one).
    recall_in_candidates : float
        Share of the k nearest among the first ``10 k`` estimates.
    bytes_per_vector : float
        Code, corrective factors and list id.
    library_bytes_per_vector : float or None
        What a peer itself stores, row ids included.
    model_bytes : float or None
        Bytes that do not grow with the vectors.
    encode_us_per_vector : float or None
        CPU time, microseconds; None for the bound and where training and encoding are one call.
    scan_ns_per_vector : float or None
        CPU time of estimating and selecting, nanoseconds per query and vector.
    train_s, train_cpu_s : float
        Wall and CPU time of training, seconds.
    """

    codec: str
    kind: Kind
    version: str | None
    seeds: tuple[int, ...]
    k: int
    recall_at_k: float
    recall_at_k_sd: float | None
    recall_in_candidates: float
    bytes_per_vector: float
    library_bytes_per_vector: float | None
    model_bytes: float | None
    encode_us_per_vector: float | None
    scan_ns_per_vector: float | None
    train_s: float
    train_cpu_s: float

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON shows; the keys of recall carry k."""
        k = self.k
        return {
            "codec": self.codec,
            "kind": self.kind,
            "version": self.version,
            f"recall_at_{k}": self.recall_at_k,
            f"recall_at_{k}_sd": self.recall_at_k_sd,
            f"recall_{k}_in_{OVERSAMPLING * k}": self.recall_in_candidates,
            "bytes_per_vector": self.bytes_per_vector,
            "library_bytes_per_vector": self.library_bytes_per_vector,
            "model_bytes": self.model_bytes,
            "encode_us_per_vector": self.encode_us_per_vector,
            "scan_ns_per_vector": self.scan_ns_per_vector,
            "train_s": self.train_s,
            "train_cpu_s": self.train_cpu_s,
            "seeds": list(self.seeds),
        }


class _Entry(abc.ABC):
    """A spec on a data set: what one run of it needs."""

    kind: Kind
    version: str | None = None
    is_encoding_apart = True

    @abc.abstractmethod
    def check(self) -> None: ...

    @abc.abstractmethod
    def fit(self, random_state: int) -> None: ...

    @abc.abstractmethod
    def encode(self) -> None: ...

    @abc.abstractmethod
    def nearest(self, k: int) -> IdArray: ...

    @abc.abstractmethod
    def sizes(self) -> tuple[float, float | None, float | None]:
        """Bytes per vector, bytes the library stores per vector, bytes of the model."""


class _CodecEntry(_Entry):
    kind = "codec"

    def __init__(self, spec: str, data: Dataset) -> None:
        self._spec, self._data = spec, data
        self._codec = self._make(0)
        self._codes: Codes | None = None

    def _make(self, random_state: int) -> Codec:
        codec = make_codec(self._spec, metric=self._data.metric, random_state=random_state)
        if codec.metric != self._data.metric:
            raise ValueError(f"metric: expected the data's {self._data.metric!r}, not {codec.metric!r}")
        return codec

    def check(self) -> None:
        rows = self._data.base[:_TRIAL_ROWS]
        codec = self._make(0).fit(rows)
        codec.estimate(codec.encode(rows), self._data.queries[:_TRIAL_QUERIES])

    def fit(self, random_state: int) -> None:
        self._codec = self._make(random_state).fit(self._data.base)

    def encode(self) -> None:
        self._codes = self._codec.encode(self._data.base)

    def nearest(self, k: int) -> IdArray:
        assert self._codes is not None
        return search(self._codec, self._codes, self._data.queries, k).ids

    def sizes(self) -> tuple[float, float | None, float | None]:
        assert self._codes is not None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            self._codec.save(path)
            return self._codes.nbytes / len(self._codes), None, path.stat().st_size


class _PeerEntry(_Entry):
    kind = "peer"

    def __init__(self, peer: Peer, data: Dataset) -> None:
        self._peer = peer
        self.version = peer.version
        self.is_encoding_apart = not peer.fits_and_encodes
        self._base, self._queries = data.base, data.queries
        if data.metric == "cosine":
            self._base = normalize(data.base)
            self._queries = unit_rows(data.queries).astype(np.float32)

    def check(self) -> None:
        self._peer.check(*self._base.shape)

    def fit(self, random_state: int) -> None:
        self._peer.fit(self._base, random_state)

    def encode(self) -> None:
        self._peer.encode(self._base)

    def nearest(self, k: int) -> IdArray:
        return self._peer.nearest(self._queries, k)

    def sizes(self) -> tuple[float, float | None, float | None]:
        peer = self._peer
        return peer.bytes_per_vector, peer.library_bytes_per_vector, peer.model_bytes


class _BoundEntry(_Entry):
    kind = "bound"
    is_encoding_apart = False

    def __init__(self, data: Dataset, nbytes: float) -> None:
        self._data, self._nbytes = data, nbytes
        self._bound = GaussianBound(nbytes, data.metric)
        self._received: tuple[Float32Array, Float32Array] | None = None

    def check(self) -> None:
        """Nothing is left to check."""

    def fit(self, random_state: int) -> None:
        self._bound = GaussianBound(self._nbytes, self._data.metric, random_state).fit(self._data.base)

    def encode(self) -> None:
        self._received = self._bound.encode(self._data.base)

    def nearest(self, k: int) -> IdArray:
        assert self._received is not None
        found = np.empty((len(self._data.queries), k), dtype=np.int64)
        step = max(1, _BLOCK_ESTIMATES // self._data.n)
        for start in range(0, len(found), step):
            estimates = self._bound.estimate(self._received, self._data.queries[start : start + step])
            best = np.argpartition(estimates, k - 1, axis=1)[:, :k]
            order = np.argsort(np.take_along_axis(estimates, best, axis=1), axis=1)
            found[start : start + step] = np.take_along_axis(best, order, axis=1)
        return found

    def sizes(self) -> tuple[float, float | None, float | None]:
        return self._nbytes, None, None


def _entry(spec: str, data: Dataset) -> _Entry:
    name, positional, named = parse_spec(spec)
    if name in CODECS:
        return _CodecEntry(spec, data)
    if name in PEERS:
        return _PeerEntry(make_peer(name, positional, named, data.metric), data)
    if name == BOUND:
        if positional or set(named) != {"bytes"}:
            raise ValueError(f"expected {BOUND}(bytes=48), not {spec}")
        return _BoundEntry(data, named["bytes"])
    raise ValueError(f"codec: expected one of {', '.join([*CODECS, *PEERS, BOUND])}, not {name!r}")


def _ready(spec: str, data: Dataset) -> _Entry:
    """Make an entry and find out at once what would otherwise fail after minutes."""
    try:
        entry = _entry(spec, data)
        entry.check()
    except (ImportError, TypeError, ValueError, RuntimeError) as error:
        raise type(error)(f"{spec}: {error}") from error
    return entry


def check_specs(specs: Sequence[str], data: Dataset) -> dict[str, str]:
    """Find the specs that cannot be measured on a data set, without the long work.

    Parameters
    ----------
    specs : sequence of str
    data : Dataset

    Returns
    -------
    dict of str to str
        Spec -> reason, for those that cannot.
    """
    reasons = {}
    for spec in specs:
        try:
            _ready(spec, data)
        except (ImportError, TypeError, ValueError, RuntimeError) as error:
            reasons[spec] = str(error).removeprefix(f"{spec}: ")
    return reasons


def evaluate(
    data: Dataset,
    specs: Sequence[str],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    k: int = 10,
    bound: bool = True,
    progress: Progress | None = None,
) -> list[CodecResult]:
    """Train, encode and search by every spec and seed.

    Parameters
    ----------
    data : Dataset
        Its ground truth is computed where it is missing or narrower than `k`. Training sees all base vectors.
    specs : sequence of str
        Codecs (``rabitq(bits=1)``), peers (``faiss(OPQ48,PQ48x8)``, ``scann(dims_per_block=4)``,
        ``turbovec(bits=2)``, ``rabitqlib(bits=1)``) and ``gaussian_bound(bytes=48)``.
    seeds : sequence of int, default (0, 1, 2)
        `random_state` of each run; a spec that fixes its own keeps it.
    k : int, default 10
    bound : bool, default True
        Add the Gaussian bound at every number of bytes per vector that occurs, rounded to hundredths.
    progress : callable, optional
        Called with a line before every run.

    Returns
    -------
    list of CodecResult
        In the order of the specs, then the bounds by bytes.

    Raises
    ------
    ImportError
        If a peer's library is missing.
    TypeError, ValueError, RuntimeError
        If a spec is wrong or cannot be had with this metric, these dimensions or so few vectors; the text
        starts with the spec. Found before anything long runs.
    """
    k = check_int(k, name="k", low=1, high=data.n)
    runs = tuple(check_random_state(seed) for seed in seeds)
    if not specs or not runs:
        raise ValueError(f"expected at least 1 spec and 1 seed, not {len(specs)} and {len(runs)}")
    if data.metric == "cosine":
        for name, vectors in (("base", data.base), ("queries", data.queries)):
            normalize(vectors, name=f"{data.name}: {name}")
    for spec in specs:
        _ready(spec, data)
    truth = data.ground_truth
    if truth is None or truth.shape[1] < k:
        truth, _ = exact_search(data.base, data.queries, k, data.metric)
    say = progress or (lambda text: None)
    results = [_measure(spec, data, truth, runs, k, say) for spec in specs]
    if bound:
        given = {one.bytes_per_vector for one in results if one.kind == "bound"}
        wanted = {round(one.bytes_per_vector, 2) for one in results if one.kind != "bound"} - given
        for nbytes in sorted(wanted):
            results.append(_measure(f"{BOUND}(bytes={nbytes:g})", data, truth, runs, k, say))
    return results


def _measure(
    spec: str, data: Dataset, truth: IdArray, seeds: tuple[int, ...], k: int, say: Progress
) -> CodecResult:
    n_candidates = min(OVERSAMPLING * k, data.n)
    columns: list[tuple[float, ...]] = []
    entry = _entry(spec, data)
    for number, seed in enumerate(seeds):
        say(f"{spec}, seed {number + 1} of {len(seeds)}")
        wall, start = time.perf_counter(), time.process_time()
        try:
            entry.fit(seed)
            train_s, fitted = time.perf_counter() - wall, time.process_time()
            entry.encode()
            encoded = time.process_time()
            ids = entry.nearest(n_candidates)
        except (TypeError, ValueError, RuntimeError) as error:
            raise RuntimeError(f"{spec}: {error}") from error
        searched = time.process_time()
        columns.append(
            (
                recall(ids[:, :k], truth, k, X=data.base, Q=data.queries, metric=data.metric),
                recall(ids, truth, k, X=data.base, Q=data.queries, metric=data.metric),
                entry.sizes()[0],
                (encoded - fitted) / data.n * 1e6,
                (searched - encoded) / data.n / len(data.queries) * 1e9,
                train_s,
                fitted - start,
            )
        )
    at_k, in_candidates, nbytes, encode_us, scan_ns, train_s, train_cpu_s = (
        statistics.fmean(column) for column in zip(*columns, strict=True)
    )
    _, library_bytes, model_bytes = entry.sizes()
    is_bound = entry.kind == "bound"
    return CodecResult(
        codec=spec,
        kind=entry.kind,
        version=entry.version,
        seeds=seeds,
        k=k,
        recall_at_k=at_k,
        recall_at_k_sd=statistics.stdev(row[0] for row in columns) if len(seeds) > 1 else None,
        recall_in_candidates=in_candidates,
        bytes_per_vector=int(nbytes) if nbytes == int(nbytes) else nbytes,
        library_bytes_per_vector=library_bytes,
        model_bytes=model_bytes,
        encode_us_per_vector=encode_us if entry.is_encoding_apart else None,
        scan_ns_per_vector=None if is_bound else scan_ns,
        train_s=train_s,
        train_cpu_s=train_cpu_s,
    )
