"""Archives of NumPy arrays."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore.datasets._dataset import ColumnChoiceError, Dataset, assemble, require_metric
from bqcore.datasets._part import WHOLE, Part

_MAGIC = b"PK\x03\x04"
# Names of base vectors and of queries, where an archive has both.
_BASE, _QUERIES = ("base", "train", "vectors", "embeddings"), ("queries", "query", "test")


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise ValueError(f"it does not start {_MAGIC!r}")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                found = {}
                for name in archive.files:
                    try:
                        found[name] = archive[name]
                    except ValueError:  # an array of objects: no vectors
                        continue
                return found
    except (ValueError, EOFError, OSError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        size = path.stat().st_size
        raise ValueError(f"{path}: expected a whole .npz file, not these {size} bytes: {error}") from error


def vectors_of(path: Path, column: str | None) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    """Return base vectors and queries of an archive.

    Parameters
    ----------
    path : Path
    column : str or None
        The array of base vectors; None takes the only matrix of numbers, or the one that is called base,
        train, vectors or embeddings. Queries are called queries, query or test.

    Raises
    ------
    ColumnChoiceError
        If the array is missing or ambiguous.
    ValueError
        If it is not a whole ``.npz`` file.
    """
    found = {name: one for name, one in _arrays(path).items() if one.ndim == 2 and one.dtype.kind in "fiu"}
    listed = ", ".join(found) or "none"
    if column is not None and column not in found:
        raise ColumnChoiceError(f"{path}: expected a matrix of numbers ({listed}), not {column!r}")
    queries = next((found[name] for name in _QUERIES if name in found and name != column), None)
    if column is None:
        names = [name for name in found if name not in _QUERIES] or list(found)
        column = next((name for name in _BASE if name in names), names[0] if len(names) == 1 else None)
    if column is None:
        raise ColumnChoiceError(f"{path}: expected one matrix of numbers, not {len(found)} ({listed})")
    return found[column], queries if column not in _QUERIES else None


def read_npz(
    path: Path, *, metric: str | None, rows: int | None, column: str | None, part: Part = WHOLE
) -> Dataset:
    """Read the vectors of an archive, and its queries where it has any; errors as `vectors_of`."""
    checked = require_metric(metric, path)
    base, queries = vectors_of(path, column)
    return assemble(path.stem, base, queries, metric=checked, rows=rows, part=part)
