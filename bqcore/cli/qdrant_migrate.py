"""`bqcore qdrant migrate`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bqcore.cli.progress import Stages
from bqcore.cli.qdrant_options import (
    GRPC_PORT,
    TIMEOUT,
    ApiKey,
    AsJson,
    BatchSize,
    Budget,
    Edge,
    Grpc,
    GrpcPort,
    Parallel,
    Target,
    Timeout,
    Url,
    open_client,
    show,
)

if TYPE_CHECKING:
    from bqcore_qdrant import QdrantCodec

# Vectors of an existing collection that a codec is fitted on.
_FITTED_ON = 20_000


def fit_codec(stages: Stages, name: str, X: Any, metric: str, **arguments: Any) -> QdrantCodec:
    """Choose a codec under a progress bar; arguments are those of `QdrantCodec.fit`."""
    from bqcore_qdrant import QdrantCodec

    with stages.stage(name) as bar:

        def show(text: str, done: int, total: int) -> None:
            bar.describe(text)
            bar(done, total)

        return QdrantCodec.fit(X, metric, progress=show, **arguments)


def migrate(
    source: Annotated[str, typer.Argument(help="Collection to copy; it is not changed.")],
    target: Annotated[str, typer.Argument(help="Collection to make or to take up.")],
    url: Url = None,
    api_key: ApiKey = None,
    edge: Edge = None,
    grpc: Grpc = False,
    grpc_port: GrpcPort = GRPC_PORT,
    timeout: Timeout = TIMEOUT,
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
    with open_client(url, api_key, edge, grpc, grpc_port, timeout) as client:
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
            codec = fit_codec(
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
        show({**asdict(done), **collection.describe(), "codec_file": str(codec_file)}, as_json)
