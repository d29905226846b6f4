"""`bqcore tune`: measure the frontier of recall, bytes and time, or the settings of a live index."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from bqcore.cli import tables
from bqcore.cli.progress import Stages
from bqcore.cli.qdrant_options import TIMEOUT


def tune_command(
    data: Annotated[
        str,
        typer.Argument(
            help="Vectors as `bqcore advise` takes them; with --live table.column (--dsn) or a collection "
            "(--url, --edge).",
            show_default=False,
        ),
    ],
    metric: Annotated[
        str | None, typer.Option(help="l2, ip or cosine. [default: what the data says, else cosine]")
    ] = None,
    k: Annotated[int, typer.Option(min=1, help="Neighbours per query.")] = 10,
    target_recall: Annotated[
        float | None, typer.Option(help="Least memory (live: time) with this recall@k.")
    ] = None,
    max_bytes: Annotated[int | None, typer.Option(min=1, help="Most bytes of memory per vector.")] = None,
    seconds: Annotated[float, typer.Option(min=0, help="Begin nothing that would probably end later.")] = 300,
    rows: Annotated[int, typer.Option(min=400, help="Measure a random sample of so many.")] = 50_000,
    total_rows: Annotated[
        int | None, typer.Option(min=1, help="Extrapolate recall to so many rows. [default: those of DATA]")
    ] = None,
    codec: Annotated[
        list[str] | None, typer.Option(help="Measure these only; may be repeated.", metavar="SPEC")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="Keep what is measured here, and go on from it the next time.")
    ] = None,
    drop_invalid: Annotated[
        bool, typer.Option("--drop-invalid", help="Leave out rows with NaN or inf, and count them.")
    ] = False,
    column: Annotated[str | None, typer.Option(help="Column of a Parquet file.")] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Tune the search settings of an index that is there.")
    ] = False,
    dsn: Annotated[str | None, typer.Option(help="Postgres server.")] = None,
    url: Annotated[str | None, typer.Option(help="Qdrant server.")] = None,
    edge: Annotated[Path | None, typer.Option(help="Folder of Qdrant's embedded engine.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="QDRANT_API_KEY", help="Key of the server.")] = None,
    using: Annotated[
        str,
        typer.Option(help="Vector of the collection. [default: the codec's with --live, else the unnamed]"),
    ] = "",
    timeout: Annotated[
        int, typer.Option(min=1, help="Seconds that one request to a Qdrant server may take.")
    ] = TIMEOUT,
    codec_file: Annotated[
        Path | None, typer.Option(help="Codec of the collection, as `bqcore qdrant advise` wrote it.")
    ] = None,
    json_path: Annotated[
        str | None, typer.Option("--json", metavar="FILE|-", help="Write everything as JSON; - is stdout.")
    ] = None,
) -> None:
    """Measure which codec, bits, basis, centroids and rescoring tier are worth it; exit codes as `advise`."""
    stages = Stages()
    if live:
        place = _Place(dsn, url, edge, api_key, using or None, timeout)
        document = _live(stages, data, place, codec_file, k, target_recall, seconds)
    else:
        from bqcore.cli.advise_source import open_source
        from bqcore.tune import tune

        with stages.stage(f"read {data}"):
            source, _ = open_source(
                data,
                metric=metric,
                rows=max(rows, 200_000),
                drop_invalid=drop_invalid,
                column=column,
                dsn=dsn,
                url=url,
                api_key=api_key,
                using=using,
                timeout=timeout,
                note=stages.note,
            )
        with stages.stage("tune") as bar:

            def show(text: str, done: int, total: int) -> None:
                bar.describe(text[:60])
                bar(done, total)

            document = tune(
                source,
                k=k,
                target_recall=target_recall,
                max_bytes=max_bytes,
                seconds=seconds,
                max_rows=rows,
                total_rows=total_rows,
                state=state,
                codecs=codec,
                progress=show,
            ).document
    if json_path != "-":
        _print(document)
    if json_path is not None:
        tables.write_json(document, json_path)


@dataclass(frozen=True)
class _Place:
    """Where a live index is; `using` is the vector of a collection, None the codec's."""

    dsn: str | None
    url: str | None
    edge: Path | None
    api_key: str | None
    using: str | None
    timeout: int


def _live(
    stages: Stages,
    data: str,
    place: _Place,
    codec_file: Path | None,
    k: int,
    target_recall: float | None,
    seconds: float,
) -> dict[str, Any]:
    dsn, url, edge = place.dsn, place.url, place.edge
    if [dsn, url, edge].count(None) != 2:
        raise ValueError(f"--live: expected one of --dsn, --url and --edge, not {dsn}, {url} and {edge}")
    with stages.stage(f"measure {data}") as bar:

        def show(text: str, done: int, total: int) -> None:
            bar.describe(text)
            bar(done, total)

        if dsn is not None:
            from bqcore_postgres.tuning import tune_index

            return tune_index(dsn, data, k=k, target_recall=target_recall, seconds=seconds, progress=show)
        if codec_file is None:
            raise ValueError(
                "--live: expected --codec-file, which `bqcore qdrant advise` wrote, with a collection"
            )
        from bqcore.cli.qdrant_options import open_client
        from bqcore_qdrant import Collection, QdrantCodec
        from bqcore_qdrant.tuning import tune_collection

        codec = QdrantCodec.load(codec_file)
        with open_client(url, place.api_key, edge, False, timeout=place.timeout) as client:
            collection = Collection(client, data, codec, place.using)
            return tune_collection(
                collection, k=k, target_recall=target_recall, seconds=seconds, progress=show
            )


def _print(document: dict[str, Any]) -> None:
    if "settings" in document:
        names = list(document["settings"][0])
        _print_rows(names, document["settings"], f"{document.get('index') or document['collection']}")
        chosen = ", ".join(f"{name} {value}" for name, value in document["chosen"].items())
        typer.echo(f"chosen: {chosen}")
        _print_misses(document["reaches_target"], document["target_recall"])
        if "advice" in document:
            advised, best = document["advice"], document["advice"]["chosen"]
            typer.echo(
                f"bits: {document['bits']} in this index; advised for recall@{document['k']} of "
                f"{advised['target_recall']:g}: {best['bits']}, at hnsw.ef_search {best['ef_search']}"
            )
        typer.echo(document.get("sql") or document["python"])
        return
    data, goal = document["data"], document["goal"]
    title = f"Frontier over {data['rows_measured']:,} rows, {data['queries']} queries, recall@{goal['k']}"
    names = ["codec", "tier", "oversampling", "recall", "ram_bytes", "disk_bytes", "ms"]
    rows = [{**one, "at_total": _at(one["at_total"])} for one in document["frontier"]]
    _print_rows([*names, "at_total"], rows, title, at=f"recall at {data['total_rows']:,}")
    best = document["chosen"]
    tier = f"{best['oversampling']:g} x rescored from {best['tier']}"
    if best["tier"] == "none":
        tier = "not rescored"
    typer.echo(
        f"chosen: {best['codec']}, {tier}: {best['ram_bytes']} bytes of memory, {best['disk_bytes']} of "
        "disk, "
        f"recall {best['recall']:.3f}; {_at(best['at_total']) or 'not extrapolated'} at "
        f"{data['total_rows']:,} rows"
    )
    _print_misses(document["reaches_target"], goal["target_recall"])
    if document["not_measured"]:
        listed = "; ".join(document["not_measured"])
        typer.echo(f"not measured for lack of time or rows: {listed}")


def _print_misses(reaches: bool, target: float | None) -> None:
    if not reaches:
        typer.echo(f"! nothing reaches the target of {target:g}: this is the best recall")


def _at(line: dict[str, Any] | None) -> str:
    return "" if line is None else f"{line['recall']:.3f} +- {line['plus_minus']:.3f}"


def _print_rows(names: list[str], rows: list[dict[str, Any]], title: str, at: str = "") -> None:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        heading = at if name == "at_total" else name.replace("_", " ")
        table.add_column(heading, justify="left" if name in ("codec", "tier") else "right", no_wrap=True)
    for row in rows:
        cells = (row[name] for name in names)
        table.add_row(*(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells))
    tables.print_table(table)
