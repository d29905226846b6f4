"""``bqcore qdrant``: advise, create, upload, verify, migrate."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from bqcore.cli import tables
from bqcore.cli.data import read_queries
from bqcore.cli.progress import Stages
from bqcore.cli.qdrant_migrate import fit_codec, migrate
from bqcore.cli.qdrant_options import (
    GRPC_PORT,
    TIMEOUT,
    ApiKey,
    AsJson,
    BatchSize,
    Budget,
    Codec,
    DropInvalid,
    Edge,
    Grpc,
    GrpcPort,
    Metric,
    Name,
    Parallel,
    Resume,
    Target,
    Timeout,
    Url,
    Using,
    open_client,
    show,
)

if TYPE_CHECKING:
    from bqcore_qdrant import QdrantCodec

app = typer.Typer(help="Qdrant collections whose recall is known beforehand.", no_args_is_help=True)


def _given(
    config: str | None, transform: str, target_recall: float | None, bytes_per_vector: int | None
) -> tuple[Any, Any] | None:
    """Return transform and configuration that are given on the command line."""
    from bqcore_qdrant import Config
    from bqcore_qdrant.transform import KINDS

    if config is None:
        return None
    if target_recall is not None or bytes_per_vector is not None:
        raise ValueError("--config: expected neither --target-recall nor --bytes-per-vector beside it")
    if transform not in KINDS:
        raise ValueError(f"--transform: expected one of {', '.join(KINDS)}, not {transform!r}")
    return transform, Config.parse(config)


def _options_table(codec: QdrantCodec) -> Table:
    fitted = codec.fitted
    title = f"{fitted.n_total:,} x {codec.dim}, {codec.metric}" if fitted else ""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("configuration", no_wrap=True)
    table.add_column("transform", no_wrap=True)
    for heading in ("recall", "raw", "codes alone", "RAM B", "disk B"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("why", no_wrap=True)
    for option in codec.options:
        table.add_row(
            option.config.name,
            option.kind,
            f"{option.recall:.3f}",
            f"{option.raw_recall:.3f}",
            f"{option.recall_without_rescore:.3f}",
            str(option.bytes_ram),
            str(option.bytes_disk),
            option.reason,
        )
    return table


def _codec_json(codec: QdrantCodec, path: Path | None) -> dict[str, Any]:
    return {**codec.header(), "reason": codec.reason, "file": str(path) if path else None}


@app.command()
def advise(
    data: Annotated[Path, typer.Argument(help="Folder or file of vectors (npy, fvecs, hdf5, parquet).")],
    metric: Metric = None,
    target_recall: Target = None,
    bytes_per_vector: Budget = None,
    server_version: Annotated[str, typer.Option(help="Features it may use.")] = "1.20",
    k: Annotated[int, typer.Option(min=1)] = 10,
    rows: Annotated[int | None, typer.Option(min=2, help="Predict from a sample of so many vectors.")] = None,
    option: Annotated[int, typer.Option(min=1, help="Save the n-th option, not the first.")] = 1,
    config: Annotated[
        str | None, typer.Option(help="Take this configuration, e.g. 'turbo1+turbo8 x4'.", metavar="NAME")
    ] = None,
    transform: Annotated[str, typer.Option(help="Of vectors, with --config: raw, centre or rotate.")] = "raw",
    factors: Annotated[
        bool, typer.Option("--factors", help="Binary codes with RaBitQ's factors in the payload.")
    ] = False,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the codec is saved.")] = Path(
        "codec.npz"
    ),
    column: Annotated[str | None, typer.Option(help="Column of a Parquet file.")] = None,
    drop_invalid: DropInvalid = False,
    as_json: AsJson = False,
) -> None:
    """Choose a transform and a configuration for data, with the recall that they will have."""
    import numpy as np

    from bqcore.cli.data import read_data
    from bqcore.study.source import check_rows
    from bqcore_qdrant import QdrantCodec

    if factors and (bytes_per_vector is not None or config is not None):
        given = f"--bytes-per-vector {bytes_per_vector} and --config {config}"
        raise ValueError(f"--factors: expected --target-recall alone, not {given}")
    stages = Stages()
    with stages.stage(f"read {data.name}"):
        found = read_data(
            data, metric=metric, note=stages.note, can_drop=True, column=column, drop_invalid=drop_invalid
        )
    check_rows(found.n + (0 if found.has_own_queries else len(found.queries)), k, str(data))
    X, n_total = found.base, found.n
    if rows is not None and rows < found.n:
        X = X[np.sort(np.random.default_rng(0).choice(found.n, rows, replace=False))]
    only = _given(config, transform, target_recall, bytes_per_vector)
    if target_recall is None and bytes_per_vector is None and only is None:
        target_recall = 0.95
    asked: dict[str, Any] = {
        "target_recall": target_recall,
        "server_version": server_version,
        "queries": found.queries,
        "k": k,
        "n_total": n_total,
    }
    if factors:
        with stages.stage("predict recall"):
            codec = QdrantCodec.with_factors(X, found.metric, **asked)
    else:
        codec = fit_codec(
            stages, "predict recall", X, found.metric, only=only, bytes_per_vector=bytes_per_vector, **asked
        )
    if option > 1:
        if option > len(codec.options):
            raise ValueError(f"--option: expected at most {len(codec.options)}, not {option}")
        codec = codec.with_option(codec.options[option - 1], X)
    codec.save(output)
    if as_json:
        tables.write_json(_codec_json(codec, output), "-")
        return
    tables.print_table(_options_table(codec))
    typer.echo(f"{output}: {codec.config.name}, {codec.transform.kind}, hash {codec.hash[:12]}")


@app.command()
def create(
    codec_file: Codec,
    name: Name,
    url: Url = None,
    api_key: ApiKey = None,
    edge: Edge = None,
    grpc: Grpc = False,
    grpc_port: GrpcPort = GRPC_PORT,
    timeout: Timeout = TIMEOUT,
    using: Using = None,
    indexing_threshold: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="kB of vectors from which a segment is indexed; points before that have coarser codes. "
            "[default: the server's, 10,000]",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a collection for a codec."""
    from qdrant_client import models

    from bqcore_qdrant import Collection, QdrantCodec

    codec = QdrantCodec.load(codec_file)
    given: dict[str, Any] = {}
    if indexing_threshold is not None:
        given["optimizers_config"] = models.OptimizersConfigDiff(indexing_threshold=indexing_threshold)
    with open_client(url, api_key, edge, grpc, grpc_port, timeout) as client:
        if using is not None:
            given["using"] = using
        show(Collection.create(client, name, codec, **given).describe(), as_json)


@app.command()
def upload(
    codec_file: Codec,
    name: Name,
    source: Annotated[Path, typer.Argument(help="File or folder of vectors; of Parquet with their payload.")],
    url: Url = None,
    api_key: ApiKey = None,
    edge: Edge = None,
    grpc: Grpc = False,
    grpc_port: GrpcPort = GRPC_PORT,
    timeout: Timeout = TIMEOUT,
    using: Using = None,
    batch_size: BatchSize = 256,
    parallel: Parallel = 1,
    resume: Resume = False,
    keep_zero: Annotated[
        bool, typer.Option("--keep-zero", help="Cosine: write zero vectors' points without the vector.")
    ] = False,
    drop_invalid: DropInvalid = False,
    id_column: Annotated[str, typer.Option(help="Of a Parquet file; '' for the numbers of the rows.")] = "id",
    vector_column: Annotated[str | None, typer.Option(help="Of a Parquet file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fill a collection; after an interruption, the same again with --resume."""
    from bqcore_qdrant import Collection, QdrantCodec
    from bqcore_qdrant import upload as fill

    stages = Stages()
    codec = QdrantCodec.load(codec_file)
    with open_client(url, api_key, edge, grpc, grpc_port, timeout) as client:
        collection = Collection(client, name, codec, using)
        with stages.stage("upload") as bar:
            done = fill(
                collection,
                source,
                batch_size=batch_size,
                parallel=parallel,
                resume=resume,
                zero_vectors="keep" if keep_zero else "error",
                id_column=id_column,
                vector_column=vector_column,
                drop_invalid=drop_invalid,
                progress=lambda n, total: bar(n, total or n),
            )
        with stages.stage("build graph and codes"):
            collection.optimize()
        show({**asdict(done), **collection.describe(), "seconds": stages.seconds}, as_json)


@app.command()
def verify(
    codec_file: Codec,
    name: Name,
    url: Url = None,
    api_key: ApiKey = None,
    edge: Edge = None,
    grpc: Grpc = False,
    grpc_port: GrpcPort = GRPC_PORT,
    timeout: Timeout = TIMEOUT,
    using: Using = None,
    queries: Annotated[
        Path | None, typer.Option(help="Vectors to ask for. [default: points of the collection]")
    ] = None,
    k: Annotated[int, typer.Option(min=1)] = 10,
    n_queries: Annotated[int, typer.Option(min=1, help="The most that are asked.")] = 200,
    as_json: AsJson = False,
) -> None:
    """Measure recall on the live collection; exit code 1 where it is below the prediction."""
    from bqcore_qdrant import Collection, QdrantCodec
    from bqcore_qdrant import verify as measure

    codec = QdrantCodec.load(codec_file)
    stages = Stages()
    asked = None if queries is None else read_queries(queries, codec.metric, stages.note)
    with (
        open_client(url, api_key, edge, grpc, grpc_port, timeout) as client,
        stages.stage("exact and quantized search") as bar,
    ):
        found = measure(Collection(client, name, codec, using), asked, k, n_queries=n_queries, progress=bar)
    show(found.as_dict(), as_json)
    if not found.is_as_predicted:
        raise typer.Exit(1)


@app.command()
def restore(
    codec_file: Codec,
    name: Name,
    url: Url = None,
    api_key: ApiKey = None,
    edge: Edge = None,
    grpc: Grpc = False,
    grpc_port: GrpcPort = GRPC_PORT,
    timeout: Timeout = TIMEOUT,
    using: Using = None,
    as_json: AsJson = False,
) -> None:
    """Write corrective factors again that payload writes of an application removed (`verify` counts them)."""
    from bqcore_qdrant import Collection, QdrantCodec, restore_factors

    codec = QdrantCodec.load(codec_file)
    with open_client(url, api_key, edge, grpc, grpc_port, timeout) as client:
        show({"restored": restore_factors(Collection(client, name, codec, using))}, as_json)


app.command()(migrate)
