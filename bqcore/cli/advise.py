"""`bqcore advise`: what quantization will do to your vectors, and what to set."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bqcore.cli import tables
from bqcore.cli.progress import Stages
from bqcore.cli.qdrant_options import TIMEOUT

if TYPE_CHECKING:
    from bqcore.study.engines import Engine


def advise_command(
    data: Annotated[
        str,
        typer.Argument(
            help="Vectors: a file (npy, fvecs, bvecs, hdf5, parquet), a folder with base.npy, query.npy and "
            "meta.json, table.column with --dsn, or a collection with --url.",
            show_default=False,
        ),
    ],
    metric: Annotated[
        str | None, typer.Option(help="l2, ip or cosine. [default: what the data says, else cosine]")
    ] = None,
    k: Annotated[int, typer.Option(help="Neighbours per query.")] = 10,
    nbytes: Annotated[
        int | None, typer.Option("--bytes", help="Best recall within so many bytes per vector.")
    ] = None,
    target_recall: Annotated[
        float | None,
        typer.Option(help="Fewest bytes with this recall@k after rescoring. [default: 0.95]"),
    ] = None,
    rows: Annotated[
        int, typer.Option(min=100, help="Of more vectors, take a random sample of so many.")
    ] = 200_000,
    drop_invalid: Annotated[
        bool, typer.Option("--drop-invalid", help="Leave out rows with NaN or inf, and count them.")
    ] = False,
    codec: Annotated[
        list[str] | None, typer.Option(help="Choose among these only; may be repeated.", metavar="SPEC")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column of a Parquet file.")] = None,
    dsn: Annotated[
        str | None, typer.Option(help="Postgres server: DATA is table.column. Also used in the commands.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Qdrant server: DATA is a collection, where no such file exists.")
    ] = None,
    api_key: Annotated[str | None, typer.Option(envvar="QDRANT_API_KEY", help="Its key.")] = None,
    using: Annotated[str, typer.Option(help="Vector of the collection; unnamed by default.")] = "",
    timeout: Annotated[
        int, typer.Option(min=1, help="Seconds that one request to a Qdrant server may take.")
    ] = TIMEOUT,
    report: Annotated[
        Path | None, typer.Option(help="Write an HTML report: one file, works offline.")
    ] = None,
    json_path: Annotated[
        str | None, typer.Option("--json", metavar="FILE|-", help="Write everything as JSON; - is stdout.")
    ] = None,
    engine: Annotated[
        list[str] | None, typer.Option(help="postgres or qdrant; may be repeated. [default: both]")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0, help="After so many seconds begin no further budget of bytes.")
    ] = 40,
    ram_price: Annotated[float, typer.Option(min=0, help="US dollars per GB of memory and month.")] = 3.0,
    disk_price: Annotated[float, typer.Option(min=0, help="US dollars per GB of disk and month.")] = 0.1,
) -> None:
    """Diagnose vectors, predict recall per codec and database, and print the next commands.

    Exit codes: 0 advised; 1 a server, a missing package or another failure; 2 bad input: an unreadable file,
    dimensions that differ, rows that are not finite, too few rows, numbers out of range.
    """
    from bqcore.cli import advice_text, advise_source
    from bqcore.study import study

    if report is not None:
        from bqcore.cli import picture

        picture.require_matplotlib()
    stages = Stages()
    with stages.stage(f"read {data}"):
        source, places = advise_source.open_source(
            data,
            metric=metric,
            rows=rows,
            drop_invalid=drop_invalid,
            column=column,
            dsn=dsn,
            url=url,
            api_key=api_key,
            using=using,
            timeout=timeout,
            note=stages.note,
        )
    if len(source.base) < source.n_source - source.n_dropped[0]:
        stages.note(f"a random sample of {len(source.base):,} of {source.n_source:,} vectors (--rows)")
    with _Progress(stages) as say:
        found = study(
            source,
            k=k,
            target_recall=target_recall,
            bytes_per_vector=nbytes,
            places=places,
            engines=_engines(engine),
            codecs=codec,
            seconds=seconds,
            ram_price=ram_price,
            disk_price=disk_price,
            progress=say,
        )
    wall, cpu = found.document["seconds"], found.document["cpu_seconds"]
    stages.note(f"advised in {wall:.1f} s, {cpu:.1f} s of CPU time")
    if report is not None:
        with stages.stage("report"):
            found.save_report(report)
    if json_path != "-":
        advice_text.print_study(found)
        if report is not None:
            typer.echo(f"Report: {report}")
    if json_path is not None:
        tables.write_json(found.document, json_path)


def _engines(names: list[str] | None) -> dict[str, Engine] | None:
    from bqcore.study.engines import ENGINES

    for name in names or ():
        if name not in ENGINES:
            raise ValueError(f"--engine: expected one of {', '.join(ENGINES)}, not {name!r}")
    return {name: ENGINES[name] for name in names} if names else None


class _Progress:
    """Lines of what is under way, from several threads: one that changes on a terminal, else one per step."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self._status = stages.console.status("")
        self._start = time.perf_counter()
        self._lock = threading.Lock()

    def __enter__(self) -> _Progress:
        self._status.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._status.stop()

    def __call__(self, text: str) -> None:
        """Show a step."""
        with self._lock:
            line = f"{time.perf_counter() - self._start:5.1f} s  {text}"
            if self._stages.console.is_terminal:
                self._status.update(line)
            else:
                self._stages.note(line)
