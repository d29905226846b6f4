"""What no other point beats, the choice among it, and recall at more rows than were measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bqcore.tune.measure import Point

# Sizes that a line is drawn through at least, and how many times the largest it is carried at most.
_SIZES, FARTHEST = 3, 20
# Below so many standard errors, what recall lacks of 1 says nothing about how it falls.
_CEILING = 3
# Times of two measurements that differ by less are the same: the clock's own noise on a shared machine.
_SAME_TIME = 1.05


@dataclass(frozen=True)
class Extrapolation:
    """Recall of one way at another number of rows.

    Parameters
    ----------
    rows : int
    recall : float
        On the line of recall against the logarithm of rows, within [0, 1].
    plus_minus : float
        Two standard errors of the largest measurement and of the line's slope, or what the line through the
        smaller sizes missed the largest one by, carried as far: whichever is more.
    missed : float
        That miss, as measured.
    sizes : tuple of int
        Rows measured.
    """

    rows: int
    recall: float
    plus_minus: float
    missed: float
    sizes: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return {**asdict(self), "sizes": list(self.sizes)}


def frontier(points: Sequence[Point]) -> list[Point]:
    """Return the points that none beats in recall, memory, disk and time together, by memory and recall.

    Parameters
    ----------
    points : sequence of Point
        Over the same rows.
    """

    def beats(one: Point, other: Point) -> bool:
        as_good = (
            one.recall >= other.recall
            and one.ram_bytes <= other.ram_bytes
            and one.disk_bytes <= other.disk_bytes
            and one.ms <= other.ms * _SAME_TIME
        )
        better = (
            one.recall > other.recall or one.ram_bytes < other.ram_bytes or one.disk_bytes < other.disk_bytes
        )
        return as_good and better

    kept = [one for one in points if not any(beats(other, one) for other in points)]
    return sorted(kept, key=lambda one: (one.ram_bytes, one.disk_bytes, -one.recall))


def choose(
    points: Sequence[Point], *, target_recall: float | None, max_bytes: int | None
) -> tuple[Point, bool]:
    """Take the least memory (then disk, then time) that reaches a recall, or the best recall.

    Parameters
    ----------
    points : sequence of Point
    target_recall : float, optional
    max_bytes : int, optional
        Most bytes of memory.

    Returns
    -------
    point : Point
    reaches : bool
        Whether the target is met; True where there is none.

    Raises
    ------
    ValueError
        If nothing is that small.
    """
    small = [one for one in points if max_bytes is None or one.ram_bytes <= max_bytes]
    if not small:
        least = min((one.ram_bytes for one in points), default=0)
        raise ValueError(f"max_bytes: expected at least {least}, not {max_bytes}")
    if target_recall is not None:
        reaching = [one for one in small if one.recall >= target_recall]
        if reaching:
            return min(reaching, key=lambda one: (one.ram_bytes, one.disk_bytes, one.ms)), True
    return max(small, key=lambda one: (one.recall, -one.ram_bytes, -one.ms)), target_recall is None


def extrapolate(measured: Sequence[Point], rows: int) -> Extrapolation | None:
    """Carry the recall of one way to another number of rows.

    Recall falls with the logarithm of the rows nearly on a line: a k-th neighbour comes nearer by a constant
    factor each time rows double.

    Parameters
    ----------
    measured : sequence of Point
        The same way at several numbers of rows.
    rows : int

    Returns
    -------
    Extrapolation or None
        None from fewer than three sizes, beyond 20 times the largest one, and where recall is so near 1 that
        its fall cannot be seen.
    """
    points = sorted(measured, key=lambda one: one.rows)
    if len({one.rows for one in points}) < _SIZES:
        return None
    x = np.log([one.rows for one in points])
    y = np.array([one.recall for one in points])
    last = points[-1]
    if rows > FARTHEST * last.rows or 1 - last.recall < _CEILING * last.standard_error:
        return None
    slope = float(np.polyfit(x, y, 1)[0])
    earlier = np.polyfit(x[:-1], y[:-1], 1)
    missed = float(np.polyval(earlier, x[-1]) - y[-1])
    # The line is laid through the largest size, which has the least to be carried.
    far = math.log(rows / last.rows)
    recall = y[-1] + slope * far
    reach = abs(far) / (x[-1] - x[-2])
    noise = 2 * last.standard_error * math.sqrt(1 + (far / (x[-1] - x[0])) ** 2)
    return Extrapolation(
        rows,
        round(min(1.0, max(0.0, recall)), 4),
        round(max(noise, abs(missed) * max(1.0, reach)), 4),
        round(missed, 4),
        tuple(one.rows for one in points),
    )
