"""Other libraries' quantizers behind one interface, to be measured beside bqcore's: one file per library.

The libraries are imported when a peer is made (extra ``bqcore[peers]``).
"""

from __future__ import annotations

import abc
import inspect
from importlib import import_module, metadata
from typing import Any, ClassVar

import numpy as np

from bqcore._validation import Float32Array, IdArray

#: Name in specs -> module and class.
PEERS = {
    "faiss": ("bqcore.peers.faiss", "Faiss"),
    "scann": ("bqcore.peers.scann", "Scann"),
    "turbovec": ("bqcore.peers.turbovec", "Turbovec"),
    "rabitqlib": ("bqcore.peers.rabitqlib", "RabitqLib"),
    "usearch": ("bqcore.peers.usearch", "Usearch"),
}


class Peer(abc.ABC):
    """A quantizer of another library, scanned exhaustively.

    Vectors and queries arrive as unit rows under cosine; a peer ranks these by l2 or ip, whichever serves it
    better.

    Parameters
    ----------
    metric : {"l2", "ip", "cosine"}
    """

    #: Importable module and package on the index.
    module: ClassVar[str]
    package: ClassVar[str]

    def __init__(self, metric: str) -> None:
        self.metric = metric
        try:
            self.library: Any = import_module(self.module)
        except ImportError as error:
            raise ImportError(
                f"{self.module} is not installed: pip install 'bqcore[peers]' or {self.package} ({error})"
            ) from error

    @property
    def version(self) -> str:
        """Package and version."""
        return f"{self.package} {metadata.version(self.package)}"

    @abc.abstractmethod
    def check(self, n: int, dim: int) -> None:
        """Raise ValueError if n vectors of `dim` dimensions, these parameters or the metric cannot be had."""

    @abc.abstractmethod
    def fit(self, X: Float32Array, random_state: int) -> None:
        """Train on X, shape (n, dim)."""

    @abc.abstractmethod
    def encode(self, X: Float32Array) -> None:
        """Encode and keep X."""

    @abc.abstractmethod
    def nearest(self, Q: Float32Array, k: int) -> IdArray:
        """Return the rows of the k best estimates per query, best first, shape (n_queries, k); -1 is none."""

    @property
    @abc.abstractmethod
    def bytes_per_vector(self) -> float:
        """Code, factors and list id; without row ids, which no bqcore codec counts either."""

    @property
    def library_bytes_per_vector(self) -> float | None:
        """What the library itself stores, row ids included; None where it does not tell."""
        return None

    @property
    def model_bytes(self) -> int | None:
        """Bytes that do not grow with the vectors; None where the library does not tell."""
        return None

    #: Whether `fit` also encodes, so that the two times cannot be told apart.
    fits_and_encodes: ClassVar[bool] = False


def make_peer(name: str, positional: list[Any], named: dict[str, Any], metric: str) -> Peer:
    """Make a peer from a parsed spec.

    Raises
    ------
    ImportError
        If its library is not installed.
    ValueError
        If a parameter is unknown or missing.
    """
    module, attribute = PEERS[name]
    cls: Any = getattr(import_module(module), attribute)
    signature = inspect.signature(cls)
    known = ", ".join(parameter for parameter in signature.parameters if parameter != "metric")
    if "metric" in named:
        raise ValueError(f"{name}: the metric is the data's ({metric}), not {named['metric']!r}")
    try:
        signature.bind(*positional, metric=metric, **named)
    except TypeError as error:
        given = ", ".join([*map(str, positional), *(f"{key}={value}" for key, value in named.items())])
        raise ValueError(f"{name}: expected {known}, not ({given}): {error}") from error
    peer: Peer = cls(*positional, metric=metric, **named)
    return peer


def list_id_bytes(n_lists: int) -> int:
    """Bytes of a list id, as bqcore's codecs count it."""
    return 0 if n_lists == 1 else 1 if n_lists <= 256 else 2 if n_lists <= 65_536 else 4


def shuffled(n: int, random_state: int) -> IdArray:
    """Return row numbers in an order that differs by seed, for libraries that sample by position."""
    return np.random.default_rng(random_state).permutation(n)
