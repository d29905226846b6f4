"""STORE: a file of codes that is mapped, so that codes larger than memory can be searched."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

import numpy.typing as npt

from bqcore import _sections
from bqcore.codes import Codes

KIND = "bqcore codes"


def save_mapped(codes: Codes | Iterable[Codes], path: str | PathLike[str]) -> None:
    """Write codes to a file that `open_mapped` maps.

    Parameters
    ----------
    codes : Codes or iterable of Codes
        Parts of one model's codes are joined.
    path : path-like
        Replaced at once, or not at all.

    Raises
    ------
    ValueError
        If there are no parts, or they are of several models.
    OSError
        If the file cannot be written; what was there stays.
    """
    parts = [codes] if isinstance(codes, Codes) else list(codes)
    if not parts:
        raise ValueError("codes: expected at least 1 part, not 0")
    first = parts[0]
    for part in parts:
        if part.model_id != first.model_id:
            raise ValueError(f"codes: expected codes of model {first.model_id}, not of {part.model_id}")
    meta = {"dim": first.dim, "codec": first.codec, "model_id": first.model_id}
    sections: dict[str, list[npt.NDArray[Any]]] = {
        "packed": [part.packed for part in parts],
        "factors": [part.factors for part in parts],
    }
    _sections.write(Path(path), KIND, meta, sections)


def open_mapped(path: str | PathLike[str], *, verify: bool = False) -> Codes:
    """Map a file of `save_mapped`: its codes are read as they are used.

    Parameters
    ----------
    path : path-like
    verify : bool, default False
        Whether to read it all and compare checksums. The header's, and the file's length, always are.

    Returns
    -------
    Codes
        Read-only arrays over the mapped file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is foreign, truncated, overlong, damaged or of a newer version; the text names it.
    """
    meta, found = _sections.map_file(Path(path), KIND, verify=verify)
    try:
        return Codes(found["packed"], found["factors"], meta["dim"], meta["codec"], meta["model_id"])
    except (LookupError, ValueError) as error:
        raise _sections.SectionsError(f"{path}: {error}") from error


def append_mapped(codes: Codes, path: str | PathLike[str]) -> None:
    """Add codes of the same model to a file of `save_mapped`; a crash leaves the file with them or without.

    The whole file is read, checked and written anew, because its sections are contiguous: it costs as much as
    `save_mapped` of everything. Collect codes, and append many at a time.

    Raises
    ------
    ValueError
        If the file is damaged or of another model.
    """
    save_mapped([open_mapped(path, verify=True), codes], path)
