"""Faults on running servers under load: rows lost, indexes damaged, time to recover.

    python benchmarks/faults.py --fault all --runs 13 --seed 0 --json OUT --docs docs/reliability.md

Each run: three clients insert, update and delete rows (one of ten transactions is rolled back), one searches,
and a fault comes at a random moment of a statement. Then the table is compared with what the server has
acknowledged, bqcore_check reads both indexes with heapallindexed, and recall@10 is taken against exact
search. The faults are in integration/fault_*.py. Environment: BQCORE_TEST_PG (18 or 16).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from fault_runs import FAULTS, Summary, runs
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from support import PG_VERSION

BEGIN, END = "<!-- faults: written by benchmarks/faults.py --docs -->", "<!-- end of faults -->"


def table(summaries: list[Summary]) -> Table:
    out = Table(box=box.SIMPLE, title=f"faults, Postgres {PG_VERSION}")
    out.add_column("fault", no_wrap=True)
    for name in (
        "runs",
        "hit",
        "rows written",
        "rows lost",
        "damage",
        "recovery s, median",
        "max",
        "recall",
        "errors",
    ):
        out.add_column(name, justify="right")
    for summary in summaries:
        found = summary.as_dict()
        median, longest = found["recovery_seconds_median"], found["recovery_seconds_max"]
        out.add_row(
            summary.fault,
            str(summary.runs),
            str(summary.interrupted),
            f"{summary.written:,}",
            str(summary.findings.lost),
            str(len(summary.findings.damage)),
            "-" if median is None else f"{median:.2f}",
            "-" if longest is None else f"{longest:.2f}",
            f"{summary.findings.recall:.3f}",
            str(len(summary.errors)),
        )
    return out


def markdown(summaries: list[Summary]) -> str:
    """Table of docs/reliability.md."""
    lines = [
        "| `--fault` | what happens | runs | hit | rows written | lost | damage | lowest recall@10 "
        "| recovery, median (max) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for summary in summaries:
        found = summary.as_dict()
        median, longest = found["recovery_seconds_median"], found["recovery_seconds_max"]
        recovery = "" if median is None else f"{median:.2f} s ({longest:.2f})"
        cells = [f"`{summary.fault}`", FAULTS[summary.fault], str(summary.runs), str(summary.interrupted)]
        cells += [
            f"{summary.written:,}",
            str(summary.findings.lost),
            str(len(summary.findings.damage)),
            f"{summary.findings.recall:.3f}",
            recovery,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    numbers = [(s.runs, s.interrupted, s.written, s.findings.lost) for s in summaries]
    counts = [sum(counted) for counted in zip(*numbers, strict=True)]
    runs_, hit, written, lost = counts
    damage = sum(len(summary.findings.damage) for summary in summaries)
    recall = min(summary.findings.recall for summary in summaries)
    lines.append(f"| together | | {runs_} | {hit} | {written:,} | {lost} | {damage} | {recall:.3f} | |")
    return "\n".join(lines)


def write_docs(docs: Path, summaries: list[Summary]) -> None:
    """Replace the table of a Markdown file."""
    before, begin, rest = docs.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{docs}: expected the lines {BEGIN} and {END}")
    docs.write_text(f"{before}{begin}\n\n{markdown(summaries)}\n\n{end}{after}")


def as_json(seed: int, summaries: dict[str, Summary]) -> str:
    figures = {
        "command": shlex.join(["python", *sys.argv]),
        "postgres": PG_VERSION,
        "release": os.environ.get("BQCORE_TEST_RELEASE"),
        "seed": seed,
        "runs": sum(summary.runs for summary in summaries.values()),
        "faults": [summary.as_dict() for summary in summaries.values()],
    }
    return json.dumps(figures, indent=1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--fault", default="all", help=f"all, or some of {', '.join(FAULTS)}, with commas")
    parser.add_argument("--runs", type=int, default=3, help="of each fault")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the figures, - for standard output")
    parser.add_argument("--docs", type=Path, help="Markdown file whose table is replaced")
    arguments = parser.parse_args()
    names = list(FAULTS) if arguments.fault == "all" else arguments.fault.split(",")
    if unknown := set(names) - set(FAULTS):
        parser.error(f"expected faults among {', '.join(FAULTS)}, not {', '.join(sorted(unknown))}")
    if arguments.runs < 1:
        parser.error(f"expected at least one run, not {arguments.runs}")
    # psycopg tells of every connection that a fault has broken
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    console = Console(stderr=str(arguments.json) == "-")
    console.width = max(console.width, 110)
    summaries: dict[str, Summary] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("faults", total=arguments.runs * len(names))
        for summary, i in runs(names, arguments.runs, arguments.seed):
            summaries[summary.fault] = summary
            # what is there stays when a long run is broken off
            if arguments.json and str(arguments.json) != "-":
                arguments.json.write_text(as_json(arguments.seed, summaries) + "\n")
            progress.update(task, advance=1, description=f"{summary.fault} {i + 1}")
    console.print(table(list(summaries.values())))
    for summary in summaries.values():
        if summary.skipped:
            console.print(f"{summary.fault} skipped: {summary.skipped}", highlight=False)
        for text in summary.errors + summary.findings.damage:
            console.print(f"[red]{summary.fault}[/red]: {text}", markup=True, highlight=False)
    if str(arguments.json) == "-":
        print(as_json(arguments.seed, summaries))
    if arguments.docs:
        write_docs(arguments.docs, list(summaries.values()))
    return 0 if all(summary.passed for summary in summaries.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
