"""Files of this package: a .npz with arrays and a JSON header, readable by numpy alone."""

from __future__ import annotations

import contextlib
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

# What zipfile raises for damaged headers: a wrong magic, a password flag, an unknown method or version.
_ZIP_ERRORS = (zipfile.BadZipFile, RuntimeError, NotImplementedError, zlib.error)

# A zip archive's first local header: an .npz file has at least one array.
_MAGIC = b"PK\x03\x04"


def write(path: Path, header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write a header and arrays; the suffix is the caller's."""
    with path.open("wb") as file:
        np.savez(file, header=np.array(json.dumps(header)), **arrays)  # type: ignore[arg-type]


def read(path: Path, kind: str, newest: int) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Read header and arrays of a file whose format is `kind` and whose version is at most `newest`."""
    with path.open("rb") as raw, _opened(raw) as file:
        header = json.loads(str(file["header"]))
        if header.get("format") != kind:
            raise ValueError(f"expected format {kind!r}, not {header.get('format')!r}")
        if header["version"] > newest:
            raise ValueError(f"expected version <= {newest}, not {header['version']}")
        return header, {name: file[name] for name in file.files if name != "header"}


def _opened(raw: BinaryIO) -> Any:
    """Open an archive; what is none is not shown to numpy, which would advise to trust it."""
    magic = raw.read(len(_MAGIC))
    if magic != _MAGIC:
        raise ValueError(f"expected a .npz file, which starts {_MAGIC!r}, not {magic!r}")
    raw.seek(0)
    return np.load(raw, allow_pickle=False)


@contextlib.contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a foreign or damaged file raises into a ValueError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, EOFError, LookupError, TypeError, AttributeError, ValueError, *_ZIP_ERRORS) as error:
        raise ValueError(f"{path}: not a readable file of bqcore {what}: {error}") from error
