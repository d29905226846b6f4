"""Vectors that are in a collection: a random part of them, as a source of advice."""

from __future__ import annotations

from typing import Any

from bqcore.study.source import Origin, Source
from bqcore_qdrant.codec import QdrantCodec
from bqcore_qdrant.migrate import METRICS, sample_vectors, source_of, source_vector

# Vectors of 1,536 dimensions: 120 MB in all, read in pages.
_MOST = 20_000


def read_collection(
    client_or_url: Any,
    name: str,
    *,
    api_key: str | None = None,
    using: str = "",
    metric: str | None = None,
    rows: int = _MOST,
    timeout: int = 60,
    source_codec: QdrantCodec | None = None,
) -> Source:
    """Read up to `rows`, at most 20,000, random vectors of a collection.

    Parameters
    ----------
    client_or_url : QdrantClient, EdgeClient or str
    name : str
    api_key : str, optional
    using : str, default ""
        Name of the vector.
    metric : {"l2", "ip", "cosine"}, optional
        By default the collection's.
    rows : int
    timeout : int, default 60
        Seconds that one request may take, where a URL is given.
    source_codec : QdrantCodec, optional
        Of a collection that bqcore set up: its vectors are transformed ones.

    Raises
    ------
    ValueError
        If there is no such collection or vector, it is empty, or it was set up with another codec.
    """
    client = client_or_url
    if isinstance(client_or_url, str):
        from qdrant_client import QdrantClient

        client = QdrantClient(url=client_or_url, api_key=api_key, timeout=timeout)
    params = source_vector(client, name, using)
    source_of(client, name, using, source_codec)
    base = sample_vectors(client, name, using, min(rows, _MOST), source_codec)
    if not len(base):
        raise ValueError(f"collection {name!r}: expected points, not 0")
    total = max(len(base), int(client.count(name, exact=True).count))
    return Source(base, None, metric or METRICS[params.distance], Origin("qdrant", name), total)
