"""`bqcore eval`: recall and bytes of codecs, of other libraries' quantizers and of the Gaussian bound."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from bqcore.cli import tables
from bqcore.cli.data import read_data
from bqcore.cli.progress import Stages
from bqcore.codec_eval import OVERSAMPLING, CodecResult, check_specs, evaluate
from bqcore.datasets import Dataset


def eval_command(
    data_dir: Annotated[
        Path,
        typer.Argument(help="Vectors: a folder or file (npy, fvecs, hdf5, parquet).", show_default=False),
    ],
    codec: Annotated[
        list[str],
        typer.Option(
            help="What to measure, e.g. 'rabitq(bits=1)', 'faiss(OPQ48,PQ48x8)', 'gaussian_bound(bytes=48)'; "
            "may be repeated.",
            metavar="SPEC",
        ),
    ],
    seeds: Annotated[int, typer.Option(min=1, help="Average over this many values of random_state.")] = 3,
    k: Annotated[int, typer.Option(min=1, help="Neighbours per query.")] = 10,
    rows: Annotated[int | None, typer.Option(min=1, help="Use the first vectors only.")] = None,
    metric: Annotated[
        str | None, typer.Option(help="l2, ip or cosine. [default: what the data says, else cosine]")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column of a Parquet file.")] = None,
    bound: Annotated[
        bool, typer.Option(help="Add the Gaussian rate-distortion bound at every size that occurs.")
    ] = True,
    skip: Annotated[
        bool, typer.Option("--skip", help="Leave out specs that cannot be had here, with their reason.")
    ] = False,
    json_path: Annotated[
        str | None, typer.Option("--json", metavar="PATH|-", help="Write the rows as JSON.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw recall against bytes into this PNG.")] = None,
) -> None:
    """Measure codecs: exhaustive search over codes, nothing rescored, recall against exact neighbours."""
    from bqcore.cli import picture

    if plot is not None:
        picture.require_matplotlib()
    stages = Stages()
    data = read_data(data_dir, metric=metric, rows=rows, column=column, note=stages.note)
    skipped: dict[str, str] = {}
    with _quiet_stdout():
        if skip:
            skipped = check_specs(codec, data)
            for spec, reason in skipped.items():
                stages.note(f"skipped {spec}: {reason}")
            codec = [spec for spec in codec if spec not in skipped]
        with stages.console.status("") as status:

            def show(text: str) -> None:
                if stages.console.is_terminal:
                    status.update(text)
                else:
                    stages.note(text)

            results = evaluate(data, codec, seeds=range(seeds), k=k, bound=bound, progress=show)
    about = {"data": data.name, "n": data.n, "dim": data.dim, "metric": data.metric}
    document = [
        *({**one.as_dict(), **about, "n_queries": len(data.queries)} for one in results),
        *({"codec": spec, "skipped": reason, **about} for spec, reason in skipped.items()),
    ]
    if json_path != "-":
        tables.print_table(results_table(results, describe(data)))
    if json_path is not None:
        tables.write_json(document, json_path)
    if plot is not None:
        picture.save_codecs(results, plot, describe(data))


def describe(data: Dataset) -> str:
    """Name a data set with its size, for titles."""
    size = f"{data.n:,} vectors of {data.dim} dimensions"
    return f"{data.name}: {size}, {data.metric}, {len(data.queries):,} queries"


def results_table(results: Sequence[CodecResult], title: str) -> Table:
    """Lay out one row per codec, in the order given.

    Parameters
    ----------
    results : sequence of CodecResult
        Of one k.
    title : str

    Returns
    -------
    rich.table.Table
    """
    k = results[0].k
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("codec", no_wrap=True)
    for heading in (
        "bytes/vector",
        f"recall@{k}",
        "sd",
        f"{k} in {OVERSAMPLING * k}",
        "encode",
        "scan",
        "train",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in results:
        table.add_row(
            one.codec,
            f"{one.bytes_per_vector:g}",
            f"{one.recall_at_k:.3f}",
            "" if one.recall_at_k_sd is None else f"{one.recall_at_k_sd:.3f}",
            f"{one.recall_in_candidates:.3f}",
            "" if one.encode_us_per_vector is None else f"{one.encode_us_per_vector:.2f} us",
            "" if one.scan_ns_per_vector is None else f"{one.scan_ns_per_vector:.1f} ns",
            "" if one.kind == "bound" else f"{one.train_s:.1f} s",
        )
    return table


@contextlib.contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Send what other libraries print to standard output, from C too, to standard error."""
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)
