"""Matplotlib figures as SVG inside a page: colours from its style sheet, text as text, ids of its own."""

from __future__ import annotations

import html
import io
import re
from typing import Any

#: Colours to draw with; each stands for a custom property of the page's style sheet.
INK, FAINT, PANEL = "#0a0a01", "#0a0a02", "#0a0a03"
SERIES = tuple(f"#0a0b0{i}" for i in range(6))
_PROPERTIES = {
    INK: "--ink",
    FAINT: "--faint",
    PANEL: "--panel",
    **{colour: f"--s{i}" for i, colour in enumerate(SERIES)},
}

#: Inches; drawn small, so that text keeps its size on a phone.
SIZE = (4.7, 3.5)
_RC: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 11,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.7,
    "lines.markersize": 5,
}


def new_figure(name: str) -> tuple[Any, Any]:
    """Return an empty figure and its axes; use within `style`.

    Parameters
    ----------
    name : str
        Of the figure, for its ids.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasSVG(figure)
    figure.set_label(name)
    return figure, figure.subplots()


def style(name: str) -> Any:
    """Return the context that a figure is drawn and written in."""
    import matplotlib as mpl

    settings: Any = {**_RC, "svg.hashsalt": name}
    return mpl.rc_context(settings)


def as_svg(figure: Any, name: str, description: str) -> str:
    """Return a figure as an ``svg`` element.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    name : str
        Prefix of its ids.
    description : str
        What a reader who cannot see it should know.

    Returns
    -------
    str
        Of no fixed size, with colours that follow the page.
    """
    target = io.StringIO()
    figure.savefig(target, format="svg", transparent=True, metadata={"Date": None})
    text = target.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sid="([^"]+)"', rf' id="{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1", text)
    text = re.sub(r"font-family: [^;\"]+;?", "", text)
    for colour, property_ in _PROPERTIES.items():
        text = text.replace(colour, f"var({property_})")
    label = html.escape(description, quote=True)
    return re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>',
        rf'<svg viewBox="\1" role="img" aria-label="{label}">',
        text,
        count=1,
    )
