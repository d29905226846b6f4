"""What a study found: the document, tables for notebooks, the report."""

from __future__ import annotations

import html
import importlib
import tempfile
import webbrowser
from os import PathLike
from pathlib import Path
from typing import Any

_COLUMNS = (
    "codec",
    "bytes_per_vector",
    "recall",
    "oversampling",
    "recall_rescored",
    "local_fidelity",
    "frontier",
    "chosen",
)


class Study:
    """The result of `bqcore.study.study`.

    Parameters
    ----------
    document : dict
        Everything that was found, as JSON has it.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    @property
    def chosen(self) -> dict[str, Any]:
        """The advised option."""
        found: dict[str, Any] = next(one for one in self.document["options"] if one["chosen"])
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return the document."""
        return self.document

    def to_frame(self, library: str | None = None) -> Any:
        """Return the options as a data frame.

        Parameters
        ----------
        library : {"pandas", "polars"}, optional
            By default the first of them that is installed.

        Returns
        -------
        pandas.DataFrame or polars.DataFrame
            A row per option.

        Raises
        ------
        ImportError
            If it, or neither of them, is installed.
        ValueError
            If `library` is another one.
        """
        return frame([{name: one[name] for name in _COLUMNS} for one in self.document["options"]], library)

    def save_report(self, path: str | PathLike[str]) -> Path:
        """Write the HTML report, one self-contained file; needs `bqcore[plot]`."""
        from bqcore.report import write_report

        return write_report(self.document, Path(path))

    def show(self) -> Any:
        """Show the report: within a notebook, else in a browser, from a temporary file."""
        from bqcore.report import report_html

        page = report_html(self.document)
        try:
            shell = importlib.import_module("IPython").get_ipython()
            display = importlib.import_module("IPython.display")
        except ImportError:
            shell = None
        if shell is not None:
            # A frame of its own: the page's styles and script stay inside.
            frame_of = (
                f'<iframe srcdoc="{html.escape(page)}" style="width:100%;height:80vh;border:0"></iframe>'
            )
            return display.display(display.HTML(frame_of))
        with tempfile.NamedTemporaryFile("w", suffix=".html", delete=False, encoding="utf-8") as file:
            file.write(page)
        webbrowser.open(Path(file.name).as_uri())
        return None

    def _repr_html_(self) -> str:
        data = self.document["data"]
        title = f"{data['name']}: {data['rows']:,} x {data['dim']}, {data['metric']}"
        head = "".join(f"<th>{html.escape(name)}</th>" for name in _COLUMNS)
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(_cell(one[name]))}</td>" for name in _COLUMNS) + "</tr>"
            for one in self.document["options"]
        )
        return f"<p><b>{html.escape(title)}</b></p><table><tr>{head}</tr>{rows}</table>"

    def __repr__(self) -> str:
        data, best = self.document["data"], self.chosen
        return (
            f"Study({data['name']!r}, {data['rows']} x {data['dim']}, {data['metric']}: {best['codec']}, "
            f"{best['bytes_per_vector']} bytes, recall {best['recall']}, "
            f"rescored {best['recall_rescored']})"
        )


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def frame(rows: list[dict[str, Any]], library: str | None = None) -> Any:
    """Return rows as a data frame of pandas or polars.

    Parameters
    ----------
    rows : list of dict
    library : {"pandas", "polars"}, optional
        By default the first of them that is installed.

    Raises
    ------
    ImportError
        If it, or neither of them, is installed.
    ValueError
        If `library` is another one.
    """
    known = ("pandas", "polars")
    if library is not None and library not in known:
        raise ValueError(f"library: expected one of {', '.join(known)}, not {library!r}")
    for name in known if library is None else (library,):
        try:
            return importlib.import_module(name).DataFrame(rows)
        except ImportError:
            continue
    raise ImportError(
        f"a data frame needs {library or ' or '.join(known)}: pip install {library or known[0]}"
    )
