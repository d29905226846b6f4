"""Pictures: an index comparison (recall against time, sizes as bars) and codecs (recall against bytes)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bqcore.cli.tables import Result, clock_of, indexes, megabytes, query_ms
from bqcore.codec_eval import CodecResult

# Okabe and Ito's colours, distinct for colour-blind readers; shapes differ too, for print.
_COLOURS = ("#000000", "#0072B2", "#999999", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Points, per line, so that labels of neighbouring lines do not meet.
_LABEL_OFFSETS = ((7, -11), (-6, 6), (7, -11), (6, 6), (-6, -12))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def require_matplotlib() -> None:
    """Raise an ImportError that names the extra if matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("the picture needs matplotlib: pip install 'bqcore[plot]'")


def save_comparison(results: Sequence[Result], path: Path, title: str) -> None:
    """Draw recall@10 against CPU time per query, and the sizes of the indexes.

    Parameters
    ----------
    results : sequence of Result
    path : Path
        Where the PNG goes; folders are created.
    title : str

    Raises
    ------
    ImportError
        If matplotlib is missing.
    ValueError
        If there is nothing to draw.
    """
    if not results:
        raise ValueError("expected at least one measurement to draw, not 0")
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = indexes(results)
    figure = Figure(figsize=(12.5, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    curve, bars = figure.subplots(1, 2, width_ratios=(1.35, 1))
    _draw_recall(curve, groups, clock_of(results))
    _draw_sizes(bars, groups)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _draw_recall(axes: Any, groups: dict[str, list[Result]], clock: str) -> None:
    for number, (name, rows) in enumerate(groups.items()):
        rows = sorted(rows, key=lambda row: row.ef_search)
        axes.plot(
            [query_ms(row, clock) for row in rows],
            [row.recall_at_10 for row in rows],
            color=_COLOURS[number % len(_COLOURS)],
            marker=_MARKERS[number % len(_MARKERS)],
            linewidth=1.8,
            markersize=7,
            label=name,
        )
        x, y = _LABEL_OFFSETS[number % len(_LABEL_OFFSETS)]
        for row in rows:
            axes.annotate(
                str(row.ef_search),
                (query_ms(row, clock), row.recall_at_10),
                xytext=(x, y),
                ha="right" if x < 0 else "left",
                textcoords="offset points",
                fontsize=7.5,
                color=_COLOURS[number % len(_COLOURS)],
            )
    axes.set_xlim(left=0)
    axes.margins(x=0.06, y=0.08)
    time_name = "CPU time of the server" if clock == "CPU" else "median wall time"
    axes.set_xlabel(f"{time_name} per query, ms (at the points: ef_search)")
    axes.set_ylabel("recall@10 against exact search")
    axes.set_title("Recall against time: up and to the left is better", loc="left", fontsize=10)
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.legend(loc="lower right", frameon=True, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_sizes(axes: Any, groups: dict[str, list[Result]]) -> None:
    rows = [group[0] for group in groups.values()]
    sizes = [row.size_bytes / 1e6 for row in rows]
    positions = range(len(rows))
    axes.barh(positions, sizes, color=[_COLOURS[i % len(_COLOURS)] for i in positions], height=0.62)
    for position, row, size in zip(positions, rows, sizes, strict=True):
        label = f" {megabytes(row.size_bytes)}, built in {row.build_s:.1f} s"
        axes.text(size, position, label, va="center", fontsize=9)
    axes.set_yticks(positions, list(groups))
    axes.invert_yaxis()
    axes.set_xlim(0, max(sizes) * 1.6)
    axes.set_xlabel("index size, MB")
    axes.set_title("Size on disk: shorter is better", loc="left", fontsize=10)
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save_codecs(results: Sequence[CodecResult], path: Path, title: str) -> None:
    """Draw recall@k against total bytes per vector: bqcore's codecs, peers and the Gaussian bound.

    Parameters
    ----------
    results : sequence of CodecResult
    path : Path
        Where the PNG goes; folders are created.
    title : str

    Raises
    ------
    ImportError
        If matplotlib is missing.
    ValueError
        If there is nothing to draw.
    """
    if not results:
        raise ValueError("expected at least one measurement to draw, not 0")
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 6.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots()
    bound = sorted((one.bytes_per_vector, one.recall_at_k) for one in results if one.kind == "bound")
    if bound:
        label = "ideal Gaussian code"
        axes.plot(*zip(*bound, strict=True), color="#999999", linestyle="--", marker=".", label=label)
    for number, (family, rows) in enumerate(_families(results).items()):
        colour = _COLOURS[1:][number % (len(_COLOURS) - 1)] if rows[0].kind == "codec" else "#555555"
        face = colour if rows[0].kind == "codec" else "none"
        axes.plot(
            [row.bytes_per_vector for row in rows],
            [row.recall_at_k for row in rows],
            linestyle="none",
            color=colour,
            marker=_MARKERS[number % len(_MARKERS)],
            markerfacecolor=face,
            markersize=8,
            label=family,
        )
        for row in rows:
            axes.annotate(
                row.codec.partition("(")[2].removesuffix(")") or row.codec,
                (row.bytes_per_vector, row.recall_at_k),
                xytext=(6, -9),
                textcoords="offset points",
                fontsize=7,
                color=colour,
            )
    axes.margins(x=0.1, y=0.08)
    axes.set_xlabel("bytes per vector: code, corrective factors, list id")
    axes.set_ylabel(f"recall@{results[0].k} of an exhaustive scan, nothing rescored")
    axes.set_title("Up and to the left is better; hollow: other libraries", loc="left", fontsize=10)
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.legend(loc="lower right", frameon=True, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _families(results: Sequence[CodecResult]) -> dict[str, list[CodecResult]]:
    """Group codecs and peers by the name before their parameters, codecs first."""
    groups: dict[str, list[CodecResult]] = {}
    for one in sorted(results, key=lambda one: one.kind):
        if one.kind != "bound":
            groups.setdefault(one.codec.partition("(")[0].strip(), []).append(one)
    return groups
