"""The protocol every codec follows; a new one subclasses `bqcore.codec.Codec`."""

from __future__ import annotations

from os import PathLike
from typing import Protocol, Self, runtime_checkable

import numpy.typing as npt

from bqcore._validation import Float32Array
from bqcore.codes import Codes


@runtime_checkable
class Quantizer(Protocol):
    """Trains on vectors, turns vectors into codes, and estimates distances from codes.

    The constructor stores its parameters as given; fitted attributes end in ``_``.
    """

    def fit(self, X: npt.ArrayLike) -> Self:
        """Train on X, shape (n, dim), and return self."""
        ...

    def encode(self, X: npt.ArrayLike) -> Codes:
        """Encode X, shape (n, dim)."""
        ...

    def decode(self, codes: Codes) -> Float32Array:
        """Return the vectors that codes stand for, shape (n, dim)."""
        ...

    def estimate(self, codes: Codes, Q: npt.ArrayLike) -> Float32Array:
        """Estimate distances, shape (n_queries, n), in the unit of the metric."""
        ...

    @property
    def bytes_per_vector(self) -> int:
        """Stored bytes of one vector, corrective factors included."""
        ...

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fitted model to a file."""
        ...
