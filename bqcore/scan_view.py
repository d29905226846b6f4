"""SEARCH: what a codec tells the scan kernels about its codes."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bqcore._kernels import Float32Array
from bqcore._scan import Queries, Stage
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
    trellis : bqk_trellis *, optional
        Of kind "trellis".
    takes_unit_rows : bool
        Whether queries are scaled under cosine before they get here.
    """

    kind: ClassVar[str]
    takes_unit_rows: bool = True
    bits: int
    dim: int
    n_lists: int
    trellis: Any = None

    @abc.abstractmethod
    def plans(self, codes: Codes) -> list[StagePlan]:
        """Return choices for the bits of the first stage; the same codes give the same choices."""

    @abc.abstractmethod
    def factors(self, codes: Codes) -> npt.NDArray[np.void] | None:
        """Return f_add and f_rescale of codes, shape (n,)."""

    @abc.abstractmethod
    def room(self, capacity: int, stage: Stage) -> Queries:
        """Return room for so many queries."""

    @abc.abstractmethod
    def prepare(self, queries: Queries, Q: Float32Array, stage: Stage, eps0: float) -> None:
        """Prepare queries, shape (n_queries <= capacity, dim), contiguous."""
