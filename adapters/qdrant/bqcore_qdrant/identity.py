"""Which codec a collection belongs to: in its metadata, or in a file beside the codec."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bqcore_qdrant.codec import QdrantCodec

KEY, VERSION = "bqcore", 1


def identity(codec: QdrantCodec, using: str, **more: Any) -> dict[str, Any]:
    """Return what a collection remembers of its codec."""
    return {
        "version": VERSION,
        "codec": codec.hash,
        "transform": codec.transform.hash,
        "kind": codec.transform.kind,
        "source_metric": codec.metric,
        "storage": codec.config.storage,
        "vector": using,
        **more,
    }


def check_identity(
    name: str, found: Mapping[str, Any] | None, codec: QdrantCodec, using: str | None
) -> dict[str, Any]:
    """Check that a collection was made with a codec and return what it remembers.

    `using` is the vector that is asked for; None takes the one that it was made with.

    Raises
    ------
    ValueError
        If it was made with another one or without bqcore, or by a newer version.
    """
    if not found:
        raise ValueError(
            f"collection {name!r}: expected one of codec {codec.hash}, not one without metadata of bqcore"
        )
    if found.get("version", 0) > VERSION:
        raise ValueError(f"collection {name!r}: expected version <= {VERSION}, not {found['version']}")
    if found.get("codec") != codec.hash:
        raise ValueError(f"collection {name!r}: expected codec {codec.hash}, not {found.get('codec')}")
    if using is not None and found.get("vector") != using:
        raise ValueError(f"collection {name!r}: expected vector {using!r}, not {found.get('vector')!r}")
    return dict(found)


class IdentityFile:
    """``<codec file>.collections.json``: identities of collections on servers before 1.16.

    Parameters
    ----------
    codec_file : Path or None
        Where the codec was saved.
    """

    def __init__(self, codec_file: Path | None) -> None:
        self._codec_file = codec_file

    @property
    def path(self) -> Path:
        """The file.

        Raises
        ------
        ValueError
            If the codec was not saved.
        """
        if self._codec_file is None:
            raise ValueError(
                "servers before 1.16 keep no metadata of collections: save the codec to a file first"
            )
        return self._codec_file.with_name(self._codec_file.name + ".collections.json")

    def read(self, name: str) -> dict[str, Any] | None:
        """Return a collection's identity, if it is known."""
        if self._codec_file is None or not self.path.is_file():
            return None
        found = json.loads(self.path.read_text(encoding="utf-8")).get(name)
        return dict(found) if found else None

    def write(self, name: str, value: Mapping[str, Any] | None) -> None:
        """Keep or forget a collection's identity."""
        known: dict[str, Any] = {}
        if self.path.is_file():
            known = json.loads(self.path.read_text(encoding="utf-8"))
        known.pop(name, None)
        if value is not None:
            known[name] = dict(value)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(known, indent=2), encoding="utf-8")
        new.replace(self.path)
