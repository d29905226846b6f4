"""``bqcore qdrant``: advise, create, upload, verify, migrate."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from bqcore.cli import tables
from bqcore.cli.data import read_queries
from bqcore.cli.progress import Stages

if TYPE_CHECKING:
    from bqcore_qdrant import QdrantCodec

app = typer.Typer(help="Qdrant collections whose recall is known beforehand.", no_args_is_help=True)

# Vectors of an existing collection that a codec is fitted on.
_FITTED_ON = 20_000
# Port of a server's gRPC interface unless it says otherwise; seconds that one request may take.
GRPC_PORT, _TIMEOUT = 6334, 60

Url = Annotated[
    str | None, typer.Option(help="The server, e.g. http://localhost:6333. [default: QDRANT_URL]")
]
ApiKey = Annotated[str | None, typer.Option(envvar="QDRANT_API_KEY", help="Its key.")]
Edge = Annotated[Path | None, typer.Option(help="Folder of the embedded engine, instead of a server.")]
Grpc = Annotated[bool, typer.Option("--grpc", help="Talk to the server over gRPC.")]
GrpcPort = Annotated[int, typer.Option(envvar="QDRANT_GRPC_PORT", min=1, max=65535, help="Its gRPC port.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Metric = Annotated[
    str | None, typer.Option(help="l2, ip or cosine. [default: what the data says, else cosine]")
]
Target = Annotated[float | None, typer.Option(help="Cheapest configuration with this recall@k.")]
Budget = Annotated[
    int | None, typer.Option("--bytes-per-vector", help="Best recall with so many bytes in memory.")
]
Codec = Annotated[Path, typer.Argument(help="File that `advise` wrote.")]
Name = Annotated[str, typer.Argument(help="Collection.")]
Parallel = Annotated[int, typer.Option(min=1, help="Threads.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Points per request.")]
DropInvalid = Annotated[
    bool, typer.Option("--drop-invalid", help="Leave out rows that are null, or hold NaN or inf.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Leave points alone that are there already.")]


@contextlib.contextmanager
def open_client(
    url: str | None, api_key: str | None, edge: Path | None, grpc: bool, grpc_port: int = GRPC_PORT
) -> Iterator[Any]:
    """Yield a client of the server (by default that of QDRANT_URL), or of the embedded engine."""
    if url is None and edge is None:
        url = os.environ.get("QDRANT_URL")
    if (url is None) == (edge is None):
        raise ValueError(f"expected one of --url and --edge, not --url {url} and --edge {edge}")
    if edge is not None:
        from bqcore_qdrant.edge import EdgeClient

        with EdgeClient(edge) as embedded:
            yield embedded
        return
    from qdrant_client import QdrantClient

    client = QdrantClient(url=url, api_key=api_key, prefer_grpc=grpc, grpc_port=grpc_port, timeout=_TIMEOUT)
    try:
        yield client
    finally:
        client.close()


def _fit(stages: Stages, name: str, X: Any, metric: str, **arguments: Any) -> QdrantCodec:
    from bqcore_qdrant import QdrantCodec

    with stages.stage(name) as bar:

        def show(text: str, done: int, total: int) -> None:
            bar.describe(text)
            bar(done, total)

        return QdrantCodec.fit(X, metric, progress=show, **arguments)


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
        codec = _fit(
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
    with open_client(url, api_key, edge, grpc, grpc_port) as client:
        _show(Collection.create(client, name, codec, **given).describe(), as_json)


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
    with open_client(url, api_key, edge, grpc, grpc_port) as client:
        collection = Collection(client, name, codec)
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
        _show({**asdict(done), **collection.describe(), "seconds": stages.seconds}, as_json)


@app.command()
def verify(
    codec_file: Codec,
    name: Name,
    url: Url = None,
    api_key: ApiKey = None,
    edge: Edge = None,
    grpc: Grpc = False,
    grpc_port: GrpcPort = GRPC_PORT,
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
        open_client(url, api_key, edge, grpc, grpc_port) as client,
        stages.stage("exact and quantized search") as bar,
    ):
        found = measure(Collection(client, name, codec), asked, k, n_queries=n_queries, progress=bar)
    _show(found.as_dict(), as_json)
    if not found.is_as_predicted:
        raise typer.Exit(1)


@app.command()
def migrate(
    source: Annotated[str, typer.Argument(help="Collection to copy; it is not changed.")],
    target: Annotated[str, typer.Argument(help="Collection to make or to take up.")],
    url: Url = None,
    api_key: ApiKey = None,
    edge: Edge = None,
    grpc: Grpc = False,
    grpc_port: GrpcPort = GRPC_PORT,
    codec_file: Annotated[
        Path, typer.Option("--codec", help="Codec; fitted on the source and saved here if missing.")
    ] = Path("codec.npz"),
    using: Annotated[str, typer.Option(help="Vector of the source; unnamed by default.")] = "",
    source_codec: Annotated[
        Path | None, typer.Option(help="Codec of the source, where bqcore set it up, too.")
    ] = None,
    target_recall: Target = None,
    bytes_per_vector: Budget = None,
    batch_size: BatchSize = 256,
    parallel: Parallel = 1,
    as_json: AsJson = False,
) -> None:
    """Copy a collection into one set up by bqcore; after an interruption, the same again."""
    from bqcore_qdrant import Collection, QdrantCodec
    from bqcore_qdrant import migrate as copy
    from bqcore_qdrant.collection import VECTOR, server_version
    from bqcore_qdrant.migrate import METRICS, other_vectors, sample_vectors, source_of, source_vector

    stages = Stages()
    with open_client(url, api_key, edge, grpc, grpc_port) as client:
        params = source_vector(client, source, using)
        old = None if source_codec is None else QdrantCodec.load(source_codec)
        source_of(client, source, using, old)
        if codec_file.is_file():
            codec = QdrantCodec.load(codec_file)
        else:
            with stages.stage("sample the source"):
                X = sample_vectors(client, source, using, _FITTED_ON, old)
            n_total = max(len(X), client.count(source, exact=True).count)
            if target_recall is None and bytes_per_vector is None:
                target_recall = 0.95
            codec = _fit(
                stages,
                "predict recall",
                X,
                METRICS[params.distance] if old is None else old.metric,
                target_recall=target_recall,
                bytes_per_vector=bytes_per_vector,
                server_version=server_version(client),
                n_total=n_total,
            )
            codec.save(codec_file)
        if client.collection_exists(target):
            collection = Collection(client, target, codec)
        else:
            dense, sparse = other_vectors(client, source, using)
            vector = using or VECTOR
            collection = Collection.create(
                client, target, codec, using=vector, other_vectors=dense, sparse_vectors=sparse
            )
        with stages.stage("copy") as bar:
            done = copy(
                client,
                source,
                collection,
                using=using,
                batch_size=batch_size,
                parallel=parallel,
                source_codec=old,
                progress=lambda n, total: bar(n, total or n),
            )
        with stages.stage("build graph and codes"):
            collection.optimize()
        _show({**asdict(done), **collection.describe(), "codec_file": str(codec_file)}, as_json)


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(result, indent=2, default=str))
        return
    width = max(len(name) for name in result)
    for name, value in result.items():
        typer.echo(f"{name:<{width}}  {f'{value:.4f}' if isinstance(value, float) else value}")
