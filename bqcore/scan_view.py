"""SEARCH: what a codec tells the scan kernels about its codes."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore._ffi import Float32Array
from bqcore._scan import Stage
from bqcore._scan_queries import Model, Queries
from bqcore.codes import Codes
from bqcore.scan_stages import StagePlan


class View(abc.ABC):
    """Codes of one codec as the scan kernels take them.

    Attributes
    ----------
    kind : str
        How a whole code's product is had: a key of `bqcore._scan.KINDS`.
    bits, dim : int
        As `bqcore._scan.Blocks` takes them.
    n_lists : int
    z_nbytes : int
        Bytes of a query for the estimate of whole codes.
    trellis : bqk_trellis *, optional
        Of kind "trellis".
    shifted : bool
        Whether f_add is not the codec's own: under ip, where each of several lists takes another share off a
        query.
    model : Model, optional
        How the kernels prepare queries; without it `prepare` does.
    """

    kind: str
    bits: int
    dim: int
    n_lists: int
    z_nbytes: int
    trellis: Any = None
    shifted: bool = False
    model: Model | None = None

    @abc.abstractmethod
    def plans(self, codes: Codes) -> list[StagePlan]:
        """Return choices for the bits of the first stage; the same codes give the same choices."""

    @abc.abstractmethod
    def factors(self, codes: Codes) -> npt.NDArray[np.void] | None:
        """Return f_add and f_rescale of codes, shape (n,)."""

    def prepare(self, queries: Queries, Q: Float32Array, stage: Stage, eps0: float) -> None:
        """Prepare queries, shape (n_queries <= capacity, dim), contiguous, where there is no `model`."""
        # not abstract: kernels prepare the queries of a view that has a model, and this is not called
        raise NotImplementedError
