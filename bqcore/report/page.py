"""The page: every number on it is one of the document's, marked up as data."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from bqcore.report import figures
from bqcore.report.svg import SERIES
from bqcore.study.scale import size_text

Document = dict[str, Any]
_STEPS = {"sql": "SQL", "shell": "Shell", "note": "Note"}
_SERIES_NAMES = ("coordinates, by number", "coordinates, sorted", "principal directions")


def esc(value: object) -> str:
    """Escape text for HTML."""
    return html.escape(str(value), quote=True)


def num(value: float | None, form: str = "") -> str:
    """Write a number of the document, with its exact value beside the rounded one."""
    if value is None:
        return ""
    return f'<data value="{value!r}">{value:{form}}</data>'


def recall(value: float | None) -> str:
    """Write a recall with three digits."""
    return num(value, ".3f")


def nbytes(value: int) -> str:
    """Write bytes with the unit that suits them."""
    return f'<data value="{value!r}">{size_text(value)}</data>'


def report_html(document: Document) -> str:
    """Return the report of a study as one HTML page without remote assets.

    Parameters
    ----------
    document : dict
        As `Study.document`.

    Raises
    ------
    ImportError
        If matplotlib is missing.
    """
    try:
        import matplotlib as _  # noqa: F401
    except ImportError as error:
        raise ImportError("the report needs matplotlib: pip install 'bqcore[plot]'") from error
    files = resources.files("bqcore.report")
    css, script = (files.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    data = document["data"]
    title = f"bqcore: {data['name']}"
    body = "\n".join(
        part
        for part in (
            _header(document),
            _cards(document),
            _findings(document),
            _options(document),
            _pictures(document),
            _worst(document),
            _storage(document),
            _engine(document, "postgres", "Postgres"),
            _engine(document, "qdrant", "Qdrant"),
            _footer(document),
        )
        if part
    )
    # "<" cannot end the script element early once it is escaped.
    packed = json.dumps(document, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{esc(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<style>\n{css}</style>\n</head>\n<body>\n{body}\n"
        f'<script type="application/json" id="document">{packed}</script>\n<script>\n{script}</script>\n'
        "</body>\n</html>\n"
    )


def write_report(document: Document, path: Path) -> Path:
    """Write the report of a study to a file; folders are created."""
    page = report_html(document)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def _header(document: Document) -> str:
    data = document["data"]
    more = ""
    if data["rows_in_source"] > data["rows"]:
        more = f" (a random sample of {num(data['rows_in_source'], ',')})"
    return (
        f"<header><h1>{esc(data['name'])}</h1>"
        '<label class="controls">Theme <select id="theme"><option value="auto">system</option>'
        '<option value="light">light</option><option value="dark">dark</option></select></label></header>'
        f'<p class="muted">{num(data["rows"], ",")} vectors{more} of {num(data["dim"])} dimensions, '
        f"{esc(data['metric'])}. Recall is predicted from {num(data['queries_used'], ',')} queries "
        f"({esc(data['queries_are'])}), compared with {esc(data['compared_with'])}.</p>"
    )


def _cards(document: Document) -> str:
    best = next(one for one in document["options"] if one["chosen"])
    goal = document["goal"]
    k = goal["k"]
    cards = []
    for key, name in (("postgres", "Postgres"), ("qdrant", "Qdrant")):
        part = document.get(key)
        if part and "chosen" in part:
            chosen = part["chosen"]
            what = (
                f"bits = {num(chosen['bits'])}, ef_search = {num(chosen['ef_search'])}"
                if "bits" in chosen
                else esc(chosen["config"])
            )
            cards.append((recall(part["predicted_recall"]), f"recall@{num(k)} in {name}: {what}"))
    cards += [
        (num(best["bytes_per_vector"]), f"bytes per vector in files and memory, {esc(best['codec'])}"),
        (recall(best["recall"]), f"recall@{num(k)} by codes alone"),
        (
            recall(best["recall_rescored"]),
            f"recall@{num(k)}, {num(goal['rescored_per_result'])} candidates per row rescored",
        ),
    ]
    items = "".join(f'<div class="card"><b>{big}</b><span>{small}</span></div>' for big, small in cards)
    return f'<section class="cards" aria-label="Advice">{items}</section><p>Why: {esc(best["reason"])}.</p>'


def _findings(document: Document) -> str:
    items = "".join(
        f'<li class="{one["level"]}"><span class="tag">{esc(one["level"])}</span> '
        f"<b>{esc(one['topic'])}</b>: {esc(one['value'])}. {esc(one['text'])}</li>"
        for one in document["findings"]
    )
    return f'<section><h2>What the data is like</h2><ul class="findings">{items}</ul></section>'


def _table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], caption: str) -> str:
    cells = "".join(f'<th scope="col">{name}</th>' for name in head)

    def line(attributes: str, row: Sequence[str]) -> str:
        kinds = [' class="text"' if name == "text" else "" for name in head]
        rest = "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds[1:], row[1:], strict=True))
        return f'<tr{attributes}><th scope="row">{row[0]}</th>{rest}</tr>'

    lines = "".join(line(attributes, row) for attributes, row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{esc(caption)}"><table>'
        f"<thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _options(document: Document) -> str:
    goal = document["goal"]
    k, rescored = goal["k"], goal["rescored_per_result"]
    rows = [
        (
            ' class="chosen"' if one["chosen"] else "",
            (
                esc(one["codec"]),
                num(one["bytes_per_vector"]),
                recall(one["recall"]),
                recall(one["recall_rescored"]),
                num(one["oversampling"], "g"),
                f'<span data-curve="{esc(one["codec"])}"></span>',
                "advised" if one["chosen"] else "yes" if one["frontier"] else "",
            ),
        )
        for one in document["options"]
    ]
    points = len(next(iter(document["candidates"].values())))
    head = (
        "codec",
        "bytes",
        f"recall@{num(k)}, codes alone",
        f"rescored, {num(rescored)} per row",
        f"candidates per row for {num(goal['oversampling_holds'])}",
        "at the slider",
        "on the frontier",
    )
    slider = (
        '<div class="controls"><label for="oversampling">Candidates rescored: '
        '<output id="oversampling-value" for="oversampling"></output></label>'
        f'<input type="range" id="oversampling" min="0" max="{points - 1}" value="4" step="1"></div>'
    )
    return f"<section><h2>Options</h2>{slider}{_table(head, rows, 'Options')}</section>"


def _figure(title: str, picture: str, caption: str, controls: str = "") -> str:
    return f"<figure><h2>{title}</h2>{controls}{picture}<figcaption>{caption}</figcaption></figure>"


def _boxes(name: str, labels: Sequence[str]) -> str:
    boxes = "".join(
        f'<label><input type="checkbox" checked data-series="{name}-series-{i}">'
        f'<span class="swatch" style="background:var(--s{i % len(SERIES)})"></span>{esc(label)}</label>'
        for i, label in enumerate(labels)
    )
    return f'<div class="controls">{boxes}</div>'


def _pictures(document: Document) -> str:
    radio = "".join(
        f'<label><input type="radio" name="tradeoff" value="{value}"'
        f"{' checked' if value == 'both' else ''}>{label}</label>"
        for value, label in (("both", "both"), ("codes", "codes alone"), ("rescored", "rescored"))
    )
    parts = [
        _figure(
            "Recall against bytes",
            figures.trade_off(document),
            "Filled: codes alone, solid frontier. Hollow: after rescoring, dashed frontier. "
            "The circle is the advised option.",
            f'<div class="controls" role="radiogroup" aria-label="Trade-off">{radio}</div>',
        ),
        _figure(
            "Recall against candidates",
            figures.candidates(document),
            "The best option of each budget of bytes. Databases rescore candidates from the vectors.",
            _boxes("candidates", [one["codec"] for one in figures.leaders(document)]),
        ),
    ]
    checked = figures.verification(document)
    if checked is not None:
        what = document["verification"]
        parts.append(
            _figure(
                "Predicted and measured",
                checked,
                f"Trained anew and measured with {num(what['n_queries'], ',')} queries: "
                f"{esc(what['queries'])}. "
                "The band is two hundredths wide to either side, bars are two standard errors.",
            )
        )
    parts.append(
        _figure(
            "Variance",
            figures.variances(document),
            "Of each coordinate, and of the principal directions: how unequal coordinates are, and how many "
            "directions matter.",
            _boxes("variances", _SERIES_NAMES),
        )
    )
    for key, name in (("scatter", "scatter"), ("scatter_with_bound", "bounded")):
        if key in document:
            parts.append(_scatter(document[key], name))
    parts.append(
        _figure(
            "Recall of queries",
            figures.queries(document),
            f"With {esc(document['queries']['codec'])}. A low mean can be a few hopeless queries or all.",
        )
    )
    return f'<section class="grid" aria-label="Pictures">{"".join(parts)}</section>'


def _scatter(data: dict[str, Any], name: str) -> str:
    what = f"{esc(data['codec'])}: near rows and any rows of some queries"
    caption = f"{what}, correlation {num(data['correlation'])}."
    if data["bound"] is not None:
        caption += (
            f" {num(data['within_bound'], '.1%')} of estimates lie within the error bound of "
            f"{num(data['eps0'])} standard deviations."
        )
    else:
        caption += " This codec has no error bound of its own."
    return _figure("Estimated and exact distances", figures.scatter(data, name), caption)


def _worst(document: Document) -> str:
    found = document["queries"]["worst"]
    has_texts = any(one["text"] for one in found)
    rows = [
        (
            "",
            (
                num(one["query"]),
                recall(one["recall_codes"]),
                recall(one["recall_rescored"]),
                num(one["candidates_for_all"], ","),
                *([esc(one["text"])] if has_texts else []),
            ),
        )
        for one in found
    ]
    head = ("query", "codes alone", "rescored", "candidates that hold all", *(["text"] if has_texts else []))
    return f"<section><h2>Worst queries</h2>{_table(head, rows, 'Worst queries')}</section>"


def _storage(document: Document) -> str:
    storage = document["storage"]
    sizes = list(dict.fromkeys(one["rows"] for one in storage["at"]))
    rows = []
    for store in storage["per_row"]:
        cells = [one for one in storage["at"] if one["store"] == store["name"]]
        rows.append(
            (
                "",
                (
                    esc(store["name"]),
                    f"{num(store['ram_bytes'])} + {num(store['disk_bytes'])}",
                    *(
                        f"{nbytes(one['ram_bytes'])} + {nbytes(one['disk_bytes'])}, "
                        f"${num(one['cost'], ',.0f')}"
                        for one in cells
                    ),
                ),
            )
        )
    head = ("", "bytes per row", *(f"{num(n, ',')} rows" for n in sizes))
    return (
        "<section><h2>Memory, disk and cost a month</h2>"
        f'<p class="muted">Memory + disk. At ${num(storage["ram_price"])} per GB of memory and '
        f"${num(storage['disk_price'])} of disk, which are assumptions: give your own with --ram-price and "
        "--disk-price.</p>"
        f"{_table(head, rows, 'Memory, disk and cost')}</section>"
    )


def _engine(document: Document, key: str, name: str) -> str:
    part = document.get(key)
    if part is None:
        return ""
    if "unavailable" in part:
        return f"<section><h2>{name}</h2><p>{esc(part['unavailable'])}</p></section>"
    blocks = "".join(
        f'<div class="copy"><span class="muted">{_STEPS[step["kind"]]}</span>'
        f'<button type="button" data-copy="{key}-{i}">Copy</button></div>'
        f'<pre id="{key}-{i}">{esc(step["text"])}</pre>'
        for i, step in enumerate(part["steps"])
    )
    return (
        f"<section><h2>{name}</h2><p>Predicted recall@{num(document['goal']['k'])}: "
        f"{recall(part['predicted_recall'])}; "
        f"{esc(part['note'])}.</p>{blocks}</section>"
    )


def _footer(document: Document) -> str:
    skipped = document["skipped_budgets"]
    left_out = f" Budgets left out: {', '.join(num(one) for one in skipped)} bytes." if skipped else ""
    took = f"{num(document['seconds'])} s, {num(document['cpu_seconds'])} s of CPU time"
    return f"<footer>bqcore {esc(document['bqcore'])}, {took}.{left_out}</footer>"
