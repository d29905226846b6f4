"""The search: screen everything, measure what is left on growing parts of the rows, within a time."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import bqcore
from bqcore._validation import Float32Array, IdArray, check_int, zero_rows
from bqcore.advisor import candidate_specs
from bqcore.codec_sample import Sample
from bqcore.study.result import frame
from bqcore.study.source import Source
from bqcore.tune.frontier import choose, extrapolate, frontier
from bqcore.tune.measure import Point, Rows
from bqcore.tune.state import State

Say = Callable[[str, int, int], None]

# Bytes per dimension of the budgets that codecs make proposals for; eight bytes of factors are added.
_BUDGETS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
_FACTORS = 8
# Of each budget so many go on to be measured, as far as what they leave unexplained (1 - local fidelity) is
# less than so many times the best one's.
_KEPT, _MARGIN = 4, 2.5
# Parts of the rows that are measured in turn; extrapolation needs three.
_PARTS = (1 / 4, 1 / 2, 1)
# Codebooks of 256 codewords know fewer rows by heart.
_FEWEST = 1000
# After the first part: a way whose recall is so much below another's of no more bytes goes no further.
_BEHIND = 0.03
_QUERIES = 300
#: Rows that are measured at most; beyond them recall is extrapolated.
MAX_ROWS = 50_000


class Tuning:
    """What a search found.

    Parameters
    ----------
    document : dict
        As JSON has it.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    @property
    def chosen(self) -> dict[str, Any]:
        """The chosen point."""
        found: dict[str, Any] = self.document["chosen"]
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return the document."""
        return self.document

    def to_frame(self, library: str | None = None) -> Any:
        """Return the frontier as a data frame; arguments and errors as `bqcore.study.Study.to_frame`."""
        return frame([dict(one) for one in self.document["frontier"]], library)

    def _repr_html_(self) -> str:
        names = ("codec", "tier", "oversampling", "recall", "ram_bytes", "disk_bytes", "ms")
        head = "".join(f"<th>{name}</th>" for name in names)
        rows = "".join(
            "<tr>" + "".join(f"<td>{one[name]}</td>" for name in names) + "</tr>"
            for one in self.document["frontier"]
        )
        return f"<table><tr>{head}</tr>{rows}</table>"

    def __repr__(self) -> str:
        best = self.chosen
        return (
            f"Tuning({best['codec']}, {best['tier']} x{best['oversampling']:g}, {best['ram_bytes']} bytes, "
            f"recall {best['recall']})"
        )


def tune(
    source: Source,
    *,
    k: int = 10,
    target_recall: float | None = None,
    max_bytes: int | None = None,
    seconds: float = 300.0,
    max_rows: int = MAX_ROWS,
    total_rows: int | None = None,
    state: Path | None = None,
    codecs: Sequence[str] | None = None,
    random_state: int = 0,
    progress: Say | None = None,
) -> Tuning:
    """Measure which codec, at how many bits, rescored from what and from how many candidates, is worth it.

    What codecs propose for five budgets of bytes (bits, basis and centroids differ) is screened by local
    fidelity on few rows. The best of each budget are measured on a quarter of the rows; what is not clearly
    behind goes on to half of them and to all. Each measurement gives a point per rescoring tier and number of
    candidates. Recall at more rows is extrapolated from the three sizes, with what the extrapolation from two
    of them to the third missed.

    Parameters
    ----------
    source : Source
        Its queries, up to 300, are asked; without any, rows are, each without itself.
    k : int, default 10
    target_recall : float, optional
        The least memory that reaches it is chosen; without it the best recall.
    max_bytes : int, optional
        Most bytes of memory per vector.
    seconds : float, default 300
        Nothing is begun that would probably end later; the first measurement is always made.
    max_rows : int, default 50,000
        Rows that are measured; of more a random sample.
    total_rows : int, optional
        Rows to extrapolate to; by default those of the source.
    state : Path, optional
        File that keeps what is measured: the same call goes on there after an interruption.
    codecs : sequence of str, optional
        Specs to choose from in place of what codecs propose; all are measured.
    random_state : int, default 0
    progress : callable, optional
        Called with a text, steps done, steps in all.

    Returns
    -------
    Tuning

    Raises
    ------
    TypeError, ValueError
        If a parameter is out of range, there are too few rows, the state is of other data or settings, or
        nothing fits `max_bytes`.
    """
    started = time.monotonic()
    k = check_int(k, name="k", low=1)
    if target_recall is not None and not 0 < target_recall <= 1:
        raise ValueError(f"target_recall: expected a number in (0, 1], not {target_recall}")
    if max_bytes is not None:
        max_bytes = check_int(max_bytes, name="max_bytes", low=1, high=1 << 20)
    max_rows = check_int(max_rows, name="max_rows", low=4 * max(100, k + 1))
    source.check(4 * k)
    say = progress or (lambda text, done, total: None)
    vectors, queries, own = _sampled(source, max_rows, random_state)
    total = total_rows if total_rows is not None else max(source.n_source, len(vectors))
    total = check_int(total, name="total_rows", low=1, high=1 << 40)
    key = {
        "data": _fingerprint(vectors, queries),
        "metric": source.metric,
        "k": k,
        "random_state": random_state,
    }
    known = State(state, key)
    clock = _Clock(started, seconds)
    dim = vectors.shape[1]

    if codecs is not None:
        kept = list(dict.fromkeys(codecs))
    else:
        groups = _groups(dim, len(vectors), max_bytes)
        kept = _screened(groups, source, vectors, queries, own, k, random_state, known, clock, say)
    least = min(len(vectors), max(_FEWEST, 4 * k))
    sizes = [max(least, round(len(vectors) * part)) for part in _PARTS]
    final, skipped = _measured(
        kept, sizes, source.metric, vectors, queries, own, k, random_state, known, clock, say, codecs is None
    )
    if max_bytes is not None:
        final = [point for point in final if point.ram_bytes <= max_bytes]
    best, reaches = choose(final, target_recall=target_recall, max_bytes=max_bytes)
    best_front = frontier(final)
    everything = known.all_points()

    def described(point: Point) -> dict[str, Any]:
        line = extrapolate([one for one in everything if one.way == point.way], total)
        return {**point.as_dict(), "at_total": None if line is None else line.as_dict()}

    return Tuning(
        {
            "bqcore": bqcore.__version__,
            "data": {
                "name": source.origin.name,
                "rows_in_source": source.n_source,
                "rows_measured": max(point.rows for point in final),
                "total_rows": total,
                "dim": dim,
                "metric": source.metric,
                "queries": len(queries),
                "queries_are": "given" if own is None else "rows, each without itself",
            },
            "goal": {"k": k, "target_recall": target_recall, "max_bytes": max_bytes, "seconds": seconds},
            "chosen": described(best),
            "reaches_target": reaches,
            "frontier": [described(point) for point in best_front],
            "measured": [point.as_dict() for point in everything],
            "n_screened": len(known.screened),
            "not_measured": skipped,
            "resumed_steps": known.n_resumed,
            "seconds": round(time.monotonic() - started, 2),
        }
    )


class _Clock:
    def __init__(self, started: float, seconds: float) -> None:
        self._started, self._seconds = started, seconds

    def has(self, more: float = 0.0) -> bool:
        """Tell whether so many more seconds are left."""
        return time.monotonic() - self._started + more <= self._seconds


def _sampled(
    source: Source, max_rows: int, random_state: int
) -> tuple[Float32Array, Float32Array, IdArray | None]:
    """Return rows in random order, queries, and which rows these are if none were given."""
    rng = np.random.default_rng(random_state)
    base = source.base
    if source.metric == "cosine":
        base = np.delete(base, zero_rows(base), axis=0)
    vectors = np.ascontiguousarray(base[rng.permutation(len(base))[:max_rows]])
    if source.queries is None:
        own = np.arange(min(_QUERIES, len(vectors) // 8))
        return vectors, vectors[own], own
    queries = source.queries
    if source.metric == "cosine":
        queries = np.delete(queries, zero_rows(queries), axis=0)
    if not len(queries):
        raise ValueError("queries: expected at least 1 with a direction, not 0")
    return vectors, queries[np.sort(rng.permutation(len(queries))[:_QUERIES])], None


def _fingerprint(vectors: Float32Array, queries: Float32Array) -> str:
    digest = hashlib.sha256()
    for part in (vectors, queries):
        digest.update(str(part.shape).encode())
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()[:32]


def _groups(dim: int, n: int, max_bytes: int | None) -> list[list[str]]:
    """Specs by the budget that they were proposed for, each once."""
    budgets = [-(-dim * round(16 * share) // 16) + _FACTORS for share in _BUDGETS]
    if max_bytes is not None:
        budgets = [*(one for one in budgets if one < max_bytes), max_bytes]
    seen: set[str] = set()
    groups = []
    for budget in budgets:
        group = [spec for spec in candidate_specs(dim, n, budget) if spec not in seen]
        seen.update(group)
        groups.append(group)
    return groups


def _screened(
    groups: Sequence[Sequence[str]],
    source: Source,
    vectors: Float32Array,
    queries: Float32Array,
    own: IdArray | None,
    k: int,
    random_state: int,
    known: State,
    clock: _Clock,
    say: Say,
) -> list[str]:
    """Return the specs to measure, the best of every group first."""
    total = sum(len(group) for group in groups)
    sample: Sample | None = None
    done = 0
    ranked: list[list[str]] = []
    for group in groups:
        for spec in group:
            say(f"screening {spec}", done, total)
            done += 1
            if spec in known.screened or not clock.has():
                continue
            if sample is None:
                sample = Sample(vectors, None if own is not None else queries, source.metric, k, random_state)
            try:
                one = sample.screen(spec)
            except ValueError:  # not with so few rows or dimensions
                known.add_screened(spec, None)
                continue
            known.add_screened(spec, (one.bytes_per_vector, one.local_fidelity))
        found = {spec: known.screened[spec] for spec in group if known.screened.get(spec)}
        order = sorted(found, key=lambda spec: -found[spec][1])  # type: ignore[index]
        left = [1 - found[spec][1] for spec in order]  # type: ignore[index]
        ranked.append(
            [spec for spec, one in zip(order, left, strict=True) if one <= _MARGIN * left[0]][:_KEPT]
        )
    depth = max((len(group) for group in ranked), default=0)
    kept = [group[place] for place in range(depth) for group in ranked if place < len(group)]
    if not kept:
        kept = [spec for group in groups for spec in group][:1]
    return kept


def _measured(
    specs: Sequence[str],
    sizes: Sequence[int],
    metric: str,
    vectors: Float32Array,
    queries: Float32Array,
    own: IdArray | None,
    k: int,
    random_state: int,
    known: State,
    clock: _Clock,
    say: Say,
    prunes: bool,
) -> tuple[list[Point], list[str]]:
    """Measure specs on growing parts; return the points of the largest finished one, and what is missing.

    A codec takes about twice as long on twice as many rows.
    """
    left = list(specs)
    took: dict[str, float] = {}
    final: list[Point] = []
    missing: list[str] = []
    done, total = 0, len(specs) * len(sizes)
    for size in dict.fromkeys(sizes):
        part: Rows | None = None
        points: list[Point] = []
        for spec in left:
            say(f"{size:,} rows: {spec}", done, total)
            done += 1
            found = known.measured(spec, size)
            if found is None:
                if (points or final) and not clock.has(2.2 * took.get(spec, 0.0)):
                    missing.append(f"{spec}, {size} rows")
                    continue
                if part is None:
                    part = Rows(vectors[:size], queries, own, metric, k)
                begun = time.monotonic()
                try:
                    found = part.measure(spec, random_state)
                except ValueError:  # not with so few rows
                    if not prunes:
                        raise
                    missing.append(f"{spec}, {size} rows")
                    continue
                took[spec] = time.monotonic() - begun
                known.add(spec, size, found)
            points += found
        if points and (not final or {point.codec for point in points} == set(left)):
            final = points
        left = _not_behind(left, points) if prunes else left
    if not final:
        raise ValueError(
            f"expected a codec that can be had for {len(vectors)} rows, not only {', '.join(specs)}"
        )
    return final, missing


def _not_behind(specs: Sequence[str], points: Sequence[Point]) -> list[str]:
    """Specs that no other of as few bytes is clearly better than, by codes alone."""
    alone = {point.codec: point for point in points if point.tier == "none"}
    kept = []
    for spec in specs:
        one = alone.get(spec)
        if one is None:
            continue
        rivals = [other.recall for other in alone.values() if other.ram_bytes <= one.ram_bytes]
        if one.recall >= max(rivals) - _BEHIND:
            kept.append(spec)
    return kept
