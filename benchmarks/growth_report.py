"""Tables of benchmarks/growth.py: sizes and times, ratios to indexes of floats, fitted exponents."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from bqcore.cli.tables import print_table

Cell = dict[str, Any]
#: What the others are compared with, the first that was measured at a number of rows.
REFERENCES = ("vector", "halfvec")


def label(cell: Cell) -> str:
    """Name of a cell's index."""
    return (
        f"bqhnsw {cell['bits']} bit{'s' * (cell['bits'] > 1)}" if cell["index"] == "bqhnsw" else cell["index"]
    )


def at_ef(cell: Cell, ef: int) -> dict[str, Any]:
    """Return the measurements at one ef_search."""
    for point in cell["points"]:
        if point["ef_search"] == ef:
            return dict(point)
    raise ValueError(f"expected ef_search in {[p['ef_search'] for p in cell['points']]}, not {ef}")


def cpu_at(cell: Cell, level: float) -> float | None:
    """Interpolate the CPU milliseconds at a recall; None where it lies outside what was measured."""
    points = [(p["recall_at_10"], p["cpu_ms"]) for p in cell["points"]]
    for (below, ms_below), (above, ms) in itertools.pairwise(points):
        if below <= level <= above and above > below:
            return float(ms_below + (ms - ms_below) * (level - below) / (above - below))
    return None


def exponent(rows: list[int], values: list[float | None]) -> float | None:
    """Slope of log(value) over log(rows) by least squares; None with fewer than two sizes."""
    pairs = [(n, v) for n, v in zip(rows, values, strict=True) if v]
    if len(pairs) < 2:
        return None
    x, y = np.log(np.array(pairs, float)).T
    return float(np.polyfit(x, y, 1)[0])


def reference(cells: list[Cell], n: int) -> Cell | None:
    """Return the float index that others are compared with at n rows."""
    for name in REFERENCES:
        for cell in cells:
            if cell["rows"] == n and cell["index"] == name:
                return cell
    return None


def figures(cells: list[Cell], cell: Cell) -> dict[str, float | None]:
    """Return the numbers of a line of the table, ratios to the reference's."""
    ef = cell["buffers"]["ef_search"]
    here = at_ef(cell, ef)
    found: dict[str, float | None] = {
        "build s": cell["build_s"],
        "MB": cell["size_bytes"] / 1e6,
        "recall": here["recall_at_10"],
        "CPU ms": here["cpu_ms"],
        "touched": cell["buffers"]["warm"]["hit"] + cell["buffers"]["warm"]["read"],
        "read cold": cell["buffers"]["cold"]["read"],
        "read warm": cell["buffers"]["warm"]["read"],
    }
    other = reference(cells, cell["rows"])
    if other is not None:
        level = at_ef(other, ef)["recall_at_10"]
        own, theirs = cpu_at(cell, level), at_ef(other, ef)["cpu_ms"]
        found["size x"] = cell["size_bytes"] / other["size_bytes"]
        found["CPU x at its recall"] = None if own is None else own / theirs
        cold, warm = (other["buffers"][name]["read"] for name in ("cold", "warm"))
        found["read cold x"] = found["read cold"] / cold if cold else None  # type: ignore[operator]
        found["read warm x"] = found["read warm"] / warm if warm else None  # type: ignore[operator]
    return found


_DIGITS = {"build s": 1, "MB": 1, "recall": 4, "touched": 0, "read cold": 1, "read warm": 1}
_COLUMNS = (
    *("build s", "MB", "size x", "recall", "CPU ms", "CPU x at its recall"),
    *("touched", "read cold", "read cold x", "read warm", "read warm x"),
)
_FITTED = ("build s", "MB", "CPU ms", "touched", "read cold", "read warm")


def render(cells: list[Cell]) -> None:
    """Print the table of cells, then the exponents."""
    if not cells:
        return
    order = list(dict.fromkeys(label(cell) for cell in cells))
    cells = sorted(cells, key=lambda cell: (cell["rows"], order.index(label(cell))))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("index", no_wrap=True)
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    found = {id(cell): figures(cells, cell) for cell in cells}
    for i, cell in enumerate(cells):
        values = [_text(name, found[id(cell)].get(name)) for name in _COLUMNS]
        last = i + 1 == len(cells) or cells[i + 1]["rows"] != cell["rows"]
        table.add_row(f"{cell['rows']:,}", label(cell), *values, end_section=last)
    fitted = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="exponents over rows", title_justify="left")
    fitted.add_column("index", no_wrap=True)
    for name in _FITTED:
        fitted.add_column(name, justify="right", no_wrap=True)
    fitted.add_column("sizes", no_wrap=True)
    for name in order:
        own = [cell for cell in cells if label(cell) == name]
        rows = [cell["rows"] for cell in own]
        slopes = [exponent(rows, [found[id(cell)][column] for cell in own]) for column in _FITTED]
        sizes = ", ".join(f"{n:,}" for n in rows)
        fitted.add_row(name, *("-" if s is None else f"{s:.2f}" for s in slopes), sizes)
    print_table(table)
    print_table(fitted)
    ef = cells[0]["buffers"]["ef_search"]
    named = {f"{n:,}": reference(cells, n) for n in dict.fromkeys(cell["rows"] for cell in cells)}
    against = ", ".join(f"{n} rows: {'none' if cell is None else cell['index']}" for n, cell in named.items())
    print(f"recall, CPU and blocks per query at ef_search {ef}; x: ratio to the float index ({against})")
    print("CPU x at its recall: CPU where the recall is the float index's, to the float index's CPU")


def _text(name: str, value: float | None) -> str:
    return "-" if value is None else f"{value:,.{_DIGITS.get(name, 3)}f}"
