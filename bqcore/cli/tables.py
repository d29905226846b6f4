"""The table of an index comparison, for people; the same rows as JSON, for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from rich import box
from rich.console import Console
from rich.measure import Measurement as Width
from rich.table import Table

_NAMES = {"vector": "hnsw vector", "halfvec": "hnsw halfvec", "bit": "hnsw bit + rescore"}
REFERENCE_INDEX = _NAMES["vector"]


class Result(Protocol):
    """One index measured at one `ef_search`: what the table and the picture need of a measurement."""

    @property
    def index(self) -> str:
        """``vector``, ``halfvec``, ``bit`` or ``bqhnsw``."""

    @property
    def bits(self) -> int:
        """Stored bits per dimension."""

    @property
    def ef_search(self) -> int:
        """Candidates kept during the search."""

    @property
    def recall_at_10(self) -> float:
        """Share of the ten true neighbours found."""

    @property
    def cpu_ms(self) -> float | None:
        """CPU time of the server per query, in milliseconds; None on another machine's server."""

    @property
    def p50_ms(self) -> float:
        """Median wall time per query, in milliseconds."""

    @property
    def size_bytes(self) -> int:
        """Size of the index on disk."""

    @property
    def build_s(self) -> float:
        """Seconds that building the index took."""


def comparison_table(results: Sequence[Result], title: str) -> Table:
    """Lay out one row per index and `ef_search`, with size and time relative to `hnsw vector`.

    Parameters
    ----------
    results : sequence of Result
        In the order to show; rows of one index are adjacent.
    title : str

    Returns
    -------
    rich.table.Table
    """
    groups = indexes(results)
    clock = clock_of(results)
    reference = {result.ef_search: result for result in groups.get(REFERENCE_INDEX, [])}
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("index", no_wrap=True)
    for heading in ("size", "x size", "build", "ef_search", "recall@10", f"{clock}/query", f"x {clock}"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, rows in groups.items():
        for number, row in enumerate(rows):
            same = reference.get(row.ef_search)
            about_index = (
                name,
                megabytes(row.size_bytes),
                _ratio(row.size_bytes, same.size_bytes if same else None),
                f"{row.build_s:.1f} s",
            )
            time_ms = query_ms(row, clock)
            table.add_row(
                *(about_index if number == 0 else ("",) * len(about_index)),
                str(row.ef_search),
                f"{row.recall_at_10:.3f}",
                f"{time_ms:.2f} ms",
                _ratio(time_ms, query_ms(same, clock) if same else None),
                end_section=number == len(rows) - 1,
            )
    return table


def display_name(index: str, bits: int) -> str:
    """Name an index for people, e.g. ``hnsw bit + rescore`` or ``bqhnsw 4 bits``."""
    return _NAMES.get(index, f"{index} {bits} bit{'' if bits == 1 else 's'}")


def clock_of(results: Sequence[Result]) -> str:
    """Tell which time all results have: ``CPU`` of the server, else ``wall``."""
    return "wall" if any(result.cpu_ms is None for result in results) else "CPU"


def legend(results: Sequence[Result]) -> str:
    """Explain the columns of the table, and how far to trust small differences."""
    wall = "wall: median per query, as the client sees it"
    clock = "CPU: of the server process per query" if clock_of(results) == "CPU" else wall
    return (
        f"x: relative to {REFERENCE_INDEX} at the same ef_search. {clock}. size: on disk, without the table."
    )


def query_ms(result: Result, clock: str) -> float:
    """Return milliseconds per query by the clock that `clock_of` chose."""
    return result.p50_ms if clock == "wall" or result.cpu_ms is None else result.cpu_ms


def megabytes(n_bytes: float) -> str:
    """Write a size in MB (10^6 bytes) with the digits that matter."""
    size = n_bytes / 1e6
    return f"{size:.0f} MB" if size >= 99.5 else f"{size:.1f} MB"


def _ratio(value: float, reference: float | None) -> str:
    return "" if not reference else f"{value / reference:.2f}"


def print_table(table: Table, file: TextIO | None = None) -> None:
    """Print a table whole: lines are as long as it takes, never cut and never wrapped.

    Parameters
    ----------
    table : rich.table.Table
    file : text file, optional
        Default: standard output.
    """
    console = Console(file=file or sys.stdout, highlight=False)
    needed = Width.get(console, console.options.update(width=10_000), table).maximum
    console.width = max(console.width, needed)
    console.print(table)


def write_json(document: Mapping[str, Any] | Sequence[Mapping[str, Any]], target: str) -> None:
    """Write a document as JSON to a file, or to standard output if `target` is ``-``.

    Parameters
    ----------
    document : mapping or sequence of mappings
    target : str
        A path, whose folders are created, or ``-``.
    """
    text = json.dumps(document, indent=2, default=_plain) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _plain(value: object) -> object:
    """Turn numpy numbers and arrays into what JSON knows."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def indexes(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Group measurements by index, in the order in which the indexes first appear."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(display_name(result.index, result.bits), []).append(result)
    return groups
