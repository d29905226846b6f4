"""The study for people: findings in words, tables, and the commands that come next."""

from __future__ import annotations

import textwrap
from typing import Any

import typer
from rich import box
from rich.table import Table

from bqcore.cli import tables
from bqcore.study import Study
from bqcore.study.scale import size_text

_WIDTH = 110
_MARKS = {"good": "+", "note": "-", "warning": "!"}
_HEADINGS = {"postgres": "Postgres (bqhnsw)", "qdrant": "Qdrant"}


def print_study(found: Study) -> None:
    """Print a study on standard output."""
    document = found.document
    data = document["data"]
    typer.echo(f"{data['name']}: {data['rows']:,} vectors of {data['dim']} dimensions, {data['metric']}")
    if data["rows_in_source"] > data["rows"]:
        typer.echo(f"  of {data['rows_in_source']:,}; recall in all of them is lower than in this part")
    typer.echo("\nDiagnosis  (+ good, - note, ! mind)")
    for one in document["findings"]:
        _paragraph(f"{_MARKS[one['level']]} {one['topic']}: {one['value']}. ", one["text"])
    _print_options(document)
    _print_advice(found)
    tables.print_table(storage_table(document))
    for name, heading in _HEADINGS.items():
        if name in document:
            _print_engine(heading, document[name], document)


def _paragraph(lead: str, text: str, indent: str = "    ") -> None:
    typer.echo(textwrap.fill(lead + text, _WIDTH, initial_indent="  ", subsequent_indent=indent))


def _print_options(document: dict[str, Any]) -> None:
    k, rescored = document["goal"]["k"], document["goal"]["rescored_per_result"]
    n = document["data"]["queries_used"]
    title = f"\nCodes for files and memory, predicted from {n:,} queries (* advised, f frontier)"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("codec", no_wrap=True)
    for heading in ("bytes", f"recall@{k}", f"{k} in {k * rescored}", "oversampling for .99"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in document["options"]:
        mark = ("*" if one["chosen"] else " ") + ("f" if one["frontier"] else " ")
        cells = (one["recall"], one["recall_rescored"])
        table.add_row(
            mark,
            one["codec"],
            str(one["bytes_per_vector"]),
            *(f"{cell:.3f}" for cell in cells),
            f"{one['oversampling']:g}",
        )
    tables.print_table(table)
    if document["skipped_budgets"]:
        listed = ", ".join(str(budget) for budget in document["skipped_budgets"])
        typer.echo(f"  not measured for lack of time, or because no codec is that small: {listed} bytes")


def _print_advice(found: Study) -> None:
    """Say first what the databases can store, then the codec for files."""
    document, best, goal = found.document, found.chosen, found.document["goal"]
    k, rescored = goal["k"], goal["rescored_per_result"]
    typer.echo("Advice")
    for name, heading in _HEADINGS.items():
        if "chosen" in document.get(name, {}):
            _paragraph(f"{heading}: ", f"{engine_text(document[name], k)}.")
    text = (
        f"{best['bytes_per_vector']} bytes per vector instead of {4 * document['data']['dim']}, which no "
        f"database stores. Of the {k} nearest rows {best['recall']:.1%} come first by codes "
        f"alone, and {best['recall_rescored']:.1%} are "
        f"among the first {k * rescored} candidates, which rescoring puts in exact order. Why: "
        f"{best['reason']}."
    )
    _paragraph(f"Files and memory (bqcore.search): {best['codec']}: ", text)
    if goal["bytes_per_vector"] is None and best["recall_rescored"] < goal["target_recall"]:
        _paragraph(
            "! ",
            f"no option reaches the target of {goal['target_recall']:g} with {rescored} candidates per row.",
        )
    if document["left_out"]:
        _paragraph("! ", f"{document['left_out']}.")
    for row in document["verification"]["rows"]:
        if row["codec"] == best["codec"]:
            _paragraph(
                f"{best['codec']} measured again: ",
                f"{row['measured']:.3f} (predicted {row['predicted']:.3f}), rescored "
                f"{row['measured_rescored']:.3f} ({row['predicted_rescored']:.3f}); "
                f"{document['verification']['queries']}.",
            )


def engine_text(part: dict[str, Any], k: int) -> str:
    """Say what a database would store, what it takes and the recall that it would have."""
    chosen = part["chosen"]
    if "bits" in chosen:
        others = ", ".join(f"@{one} {recall:.3f}" for one, recall in chosen["at_k"].items())
        return (
            f"bits = {chosen['bits']}, hnsw.ef_search = {chosen['ef_search']}; {chosen['index_bytes']} bytes "
            f"of index per row instead of {part['float_bytes']}; predicted recall@{k} "
            f"{part['predicted_recall']:.3f} ({others})"
        )
    return (
        f"{chosen['config']}, vectors {chosen['transform']}; {chosen['ram_bytes']} bytes of memory per row "
        f"instead of {part['float_bytes']}; predicted recall@{k} {part['predicted_recall']:.3f}"
    )


def storage_table(document: dict[str, Any]) -> Table:
    """Lay out bytes and cost."""
    storage = document["storage"]
    rows = list(dict.fromkeys(one["rows"] for one in storage["at"]))
    title = (
        f"Memory, disk and US dollars a month (at {storage['ram_price']:g} per GB of memory and "
        f"{storage['disk_price']:g} of disk: --ram-price, --disk-price)"
    )
    table = Table(title="\n" + title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("B/row", justify="right", no_wrap=True)
    for n in rows:
        table.add_column(_rows_text(n), justify="right", no_wrap=True)
    per_row = {one["name"]: one for one in storage["per_row"]}
    for name, store in per_row.items():
        cells = [one for one in storage["at"] if one["store"] == name]
        table.add_row(
            name,
            f"{store['ram_bytes']} + {store['disk_bytes']}",
            *(
                f"{size_text(one['ram_bytes'])} + {size_text(one['disk_bytes'])}, ${one['cost']:,.0f}"
                for one in cells
            ),
        )
    return table


def _rows_text(n: int) -> str:
    return f"{n // 10**9}B rows" if n >= 10**9 else f"{n // 10**6}M rows"


def _print_engine(heading: str, part: dict[str, Any], document: dict[str, Any]) -> None:
    typer.echo(heading)
    if "unavailable" in part:
        _paragraph("", part["unavailable"])
        return
    _paragraph("", f"{engine_text(part, document['goal']['k'])}; {part['note']}.")
    if not part["reaches_target"] and document["goal"]["bytes_per_vector"] is None:
        _paragraph("! ", f"the target of {document['goal']['target_recall']:g} is not reached.")
    for step in part["steps"]:
        typer.echo("")
        for line in step["text"].splitlines():
            typer.echo(f"    # {line}" if step["kind"] == "note" else f"    {line}")
    typer.echo("")
