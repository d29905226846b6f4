"""Which of the measured settings of a live index or collection to take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: Times that differ by less are the same: of these the setting of least cost is taken.
SAME_TIME = 1.2


def quickest(
    recalls: Sequence[float], times: Sequence[float], costs: Sequence[Any], target_recall: float | None
) -> tuple[int, bool]:
    """Return the number of the quickest setting that reaches a recall, and whether one does.

    Where none does, or without a target, it is the setting of best recall, of these the quickest.

    Parameters
    ----------
    recalls, times : sequence of float
        Of each setting; times in any unit.
    costs : sequence
        What decides between equal times, least first: candidates looked at.
    target_recall : float or None
    """
    every = range(len(recalls))
    reaching = [i for i in every if target_recall is not None and recalls[i] >= target_recall]
    if not reaching:
        return max(every, key=lambda i: (recalls[i], -times[i])), target_recall is None
    limit = SAME_TIME * min(times[i] for i in reaching)
    return min((i for i in reaching if times[i] <= limit), key=lambda i: costs[i]), True
