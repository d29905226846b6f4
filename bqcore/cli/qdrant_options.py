"""Options that the commands about Qdrant share, and the client that they open."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

# Port of a server's gRPC interface unless it says otherwise; seconds that one request may take.
GRPC_PORT, TIMEOUT = 6334, 60

Url = Annotated[
    str | None, typer.Option(help="The server, e.g. http://localhost:6333. [default: QDRANT_URL]")
]
ApiKey = Annotated[str | None, typer.Option(envvar="QDRANT_API_KEY", help="Its key.")]
Edge = Annotated[Path | None, typer.Option(help="Folder of the embedded engine, instead of a server.")]
Grpc = Annotated[bool, typer.Option("--grpc", help="Talk to the server over gRPC.")]
GrpcPort = Annotated[int, typer.Option(envvar="QDRANT_GRPC_PORT", min=1, max=65535, help="Its gRPC port.")]
Timeout = Annotated[int, typer.Option(min=1, help="Seconds that one request to the server may take.")]
Using = Annotated[
    str | None, typer.Option(help="The codec's vector. [default: the one that the collection was made with]")
]
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
    url: str | None,
    api_key: str | None,
    edge: Path | None,
    grpc: bool,
    grpc_port: int = GRPC_PORT,
    timeout: int = TIMEOUT,
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

    client = QdrantClient(url=url, api_key=api_key, prefer_grpc=grpc, grpc_port=grpc_port, timeout=timeout)
    try:
        yield client
    finally:
        client.close()


def show(result: dict[str, Any], as_json: bool) -> None:
    """Print a result, a line per field or as JSON."""
    if as_json:
        typer.echo(json.dumps(result, indent=2, default=str))
        return
    width = max(len(name) for name in result)
    for name, value in result.items():
        typer.echo(f"{name:<{width}}  {f'{value:.4f}' if isinstance(value, float) else value}")
