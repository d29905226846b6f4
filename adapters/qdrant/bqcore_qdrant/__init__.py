"""Qdrant collections whose recall is known beforehand."""

from __future__ import annotations

try:
    import qdrant_client as _qdrant_client  # noqa: F401
except ImportError as _error:
    raise ImportError(f"the Qdrant adapter needs pip install 'bqcore[qdrant]' ({_error})") from _error

from bqcore_qdrant.async_collection import AsyncCollection
from bqcore_qdrant.codec import QdrantCodec
from bqcore_qdrant.collection import Collection
from bqcore_qdrant.config import Config
from bqcore_qdrant.migrate import Migration, migrate
from bqcore_qdrant.payloads import restore_factors
from bqcore_qdrant.transform import Transform
from bqcore_qdrant.upload import Uploaded, upload
from bqcore_qdrant.verify import Verification, verify
from bqcore_qdrant.versions import Version

__all__ = [
    "AsyncCollection",
    "Collection",
    "Config",
    "Migration",
    "QdrantCodec",
    "Transform",
    "Uploaded",
    "Verification",
    "Version",
    "migrate",
    "restore_factors",
    "upload",
    "verify",
]
