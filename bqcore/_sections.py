"""Files of arrays that are mapped, not read: sections at cache lines, a checksum each, replaced whole.

Layout in docs/code-format.md. Writing goes to a new file beside the old one, which is synced and renamed over
it: a crash at any moment leaves the old file or the new one. What is mapped stays what it was: the old file's
pages outlive its name.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MAGIC = b"BQSECT\0\0"
VERSION = 1

#: Sections begin at multiples of it.
ALIGN = 64

# magic, version, the header's length, CRC-32 of version, length and header
_PREFIX = np.dtype([("magic", "S8"), ("version", "<u4"), ("length", "<u4"), ("crc", "<u4"), ("zero", "<u4")])

# Bytes written or summed at a time.
_CHUNK = 1 << 24

Array = npt.NDArray[Any]


class SectionsError(ValueError):
    """A file that is foreign, truncated or damaged."""


def _round_up(n: int) -> int:
    return -(-n // ALIGN) * ALIGN


def _chunks(array: Array) -> Iterator[npt.NDArray[np.uint8]]:
    if array.nbytes == 0:
        return
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for start in range(0, len(flat), _CHUNK):
        yield flat[start : start + _CHUNK]


def write(path: Path, kind: str, meta: Mapping[str, Any], sections: Mapping[str, Sequence[Array]]) -> None:
    """Write sections, each of parts that are joined along their first axis.

    Raises
    ------
    OSError
        If the file cannot be written; what was there stays.
    """
    entries, at = {}, 0
    for name, parts in sections.items():
        crc = 0
        for part in parts:
            for chunk in _chunks(part):
                crc = zlib.crc32(chunk.data, crc)
        dtype = parts[0].dtype
        shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
        entries[name] = {
            "offset": at,
            "dtype": dtype.descr if dtype.names is not None else dtype.str,
            "shape": shape,
            "crc": crc,
        }
        at += _round_up(int(np.prod(shape)) * dtype.itemsize)
    text = json.dumps({"kind": kind, "meta": dict(meta), "sections": entries}).encode()
    prefix = np.zeros(1, dtype=_PREFIX)
    prefix["magic"], prefix["version"], prefix["length"] = MAGIC, VERSION, len(text)
    prefix["crc"] = zlib.crc32(text, zlib.crc32(prefix.tobytes()[8:16]))

    def pieces() -> Iterator[Any]:
        head = prefix.tobytes() + text
        yield head + bytes(_round_up(len(head)) - len(head))
        for parts in sections.values():
            nbytes = sum(part.nbytes for part in parts)
            for part in parts:
                yield from _chunks(part)
            yield bytes(_round_up(nbytes) - nbytes)

    _replace(path, pieces())


def _replace(path: Path, pieces: Iterable[Any]) -> None:
    """Write, sync, rename, sync the folder."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def map_file(path: Path, kind: str, *, verify: bool) -> tuple[dict[str, Any], dict[str, Array]]:
    """Map a file: its meta data and its sections, read-only.

    Parameters
    ----------
    path : Path
    kind : str
        What it must be.
    verify : bool
        Whether to read everything and compare checksums. The header's, and the file's length, always are.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    SectionsError
        If the file is foreign, truncated, overlong, damaged, of a newer version or of another kind; the text
        names it.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < _PREFIX.itemsize:
            raise SectionsError(f"{path}: expected a file of {kind}, not {size} bytes")
        data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)
    try:
        return _sections(data, kind, verify)
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise SectionsError(f"{path}: {error}") from error


def _sections(
    data: npt.NDArray[np.uint8], kind: str, verify: bool
) -> tuple[dict[str, Any], dict[str, Array]]:
    prefix = data[: _PREFIX.itemsize].view(_PREFIX)[0]
    if data[:8].tobytes() != MAGIC:
        raise SectionsError(f"expected a file starting {MAGIC!r}, not {data[:8].tobytes()!r}")
    if prefix["version"] > VERSION:
        raise SectionsError(f"expected version <= {VERSION}, not {prefix['version']}")
    end = _PREFIX.itemsize + int(prefix["length"])
    if end > len(data):
        raise SectionsError(f"expected {end} bytes of header, not {len(data)}")
    text = data[_PREFIX.itemsize : end].tobytes()
    crc = zlib.crc32(text, zlib.crc32(data[8:16].tobytes()))
    if crc != prefix["crc"]:
        raise SectionsError(f"expected checksum {prefix['crc']:08x} of the header, not {crc:08x}")
    header = json.loads(text)
    if header["kind"] != kind:
        raise SectionsError(f"expected a file of {kind}, not of {header['kind']}")
    found, at = {}, _round_up(end)
    for name, entry in header["sections"].items():
        form = entry["dtype"]
        dtype = np.dtype(form) if isinstance(form, str) else np.dtype([tuple(field) for field in form])
        shape = tuple(entry["shape"])
        nbytes = int(np.prod(shape)) * dtype.itemsize
        if at + nbytes > len(data):
            raise SectionsError(f"expected {at + nbytes} bytes or more, not {len(data)}")
        piece = data[at : at + nbytes]
        found[name] = piece.view(dtype).reshape(shape) if nbytes else np.empty(shape, dtype=dtype)
        if verify and (crc := _checksum(piece)) != entry["crc"]:
            raise SectionsError(f"expected checksum {entry['crc']:08x} of {name}, not {crc:08x}")
        at += _round_up(nbytes)
    if at != len(data):
        raise SectionsError(f"expected {at} bytes, not {len(data)}")
    meta: dict[str, Any] = header["meta"]
    return meta, found


def _checksum(array: Array) -> int:
    crc = 0
    for chunk in _chunks(array):
        crc = zlib.crc32(chunk.data, crc)
    return crc
