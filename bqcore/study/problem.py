"""What the parts of a study share: data, sample, goal, clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bqcore.advisor import Prepared
from bqcore.study.source import Source

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Problem:
    """A data set with what is wanted of it.

    Parameters
    ----------
    source : Source
    prepared : Prepared
        Diagnosis, and the sample that recall is predicted from.
    k : int
    target_recall : float
        recall@k of answers after exact rescoring.
    bytes_per_vector : int or None
        A budget that takes the place of the target.
    rescored : int
        Candidates per wanted row that are rescored at most.
    seconds : float
        After so many, nothing further is started that the advice can do without.
    say : callable
        Takes a line before every step; from several threads.
    """

    source: Source
    prepared: Prepared
    k: int
    target_recall: float
    bytes_per_vector: int | None
    rescored: int
    seconds: float
    say: Say
    started: float = field(default_factory=time.monotonic)

    @property
    def n(self) -> int:
        """Rows that recall is predicted for."""
        return len(self.prepared.sample.vectors)

    @property
    def dim(self) -> int:
        """Dimensions."""
        return int(self.source.base.shape[1])

    @property
    def is_late(self) -> bool:
        """Whether the time is used up."""
        return time.monotonic() - self.started > self.seconds
