"""NumPy files: a single one, or a folder of them with its metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore._validation import check_metric
from bqcore.datasets._dataset import Dataset, assemble, require_metric
from bqcore.datasets._part import WHOLE, Part

_EXPECTED = ("base.npy", "query.npy", "meta.json")
_TRUTH = "gt.npy"


def is_folder(folder: Path) -> bool:
    """Whether a folder has one of the files that `read_folder` expects."""
    return any((folder / name).exists() for name in _EXPECTED)


def load_npy(path: Path) -> npt.NDArray[Any]:
    """Map an array; a ValueError names a file that is not a whole one of numbers."""
    # Mapped, so that rows=N reads only those rows; and a mapped file cannot hold pickled objects.
    # A shape whose product exceeds 64 bits overflows in numpy: an error, not a warning.
    try:
        with np.errstate(over="raise"):
            return np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError, FloatingPointError, OverflowError) as error:
        size = path.stat().st_size
        raise ValueError(
            f"{path}: expected a whole .npy file of numbers, not these {size} bytes: {error}"
        ) from error


def read_npy(path: Path, *, metric: str | None, rows: int | None, part: Part = WHOLE) -> Dataset:
    """Read one array and hold out queries.

    Parameters
    ----------
    path : Path
        The file, a 2-d array.
    metric, rows, part
        As in `read`.

    Returns
    -------
    Dataset
        Without ground truth.

    Raises
    ------
    ValueError
        If it is not a whole ``.npy`` file of numbers, or the metric is missing.
    """
    return assemble(
        path.stem, load_npy(path), None, metric=require_metric(metric, path), rows=rows, part=part
    )


def _load_meta(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON: {error}") from error
    if not isinstance(meta, dict):
        raise ValueError(f"{path}: expected a JSON object, not {type(meta).__name__}")
    if "metric" not in meta:
        raise ValueError(f"{path}: expected a key 'metric', not only {sorted(meta)}")
    return meta


def _load_texts(path: Path) -> list[str] | None:
    if not path.exists():
        return None
    # split, not splitlines: a text may contain U+2028 and other characters that splitlines breaks at.
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def read_folder(folder: Path, *, metric: str | None, rows: int | None, part: Part = WHOLE) -> Dataset:
    """Read ``base.npy``, ``query.npy``, ``meta.json`` and, where it is there, ``gt.npy``.

    Parameters
    ----------
    folder : Path
        The folder; ``base_texts.txt`` and ``query_texts.txt`` (UTF-8, one text per line) are optional.
    metric, rows, part
        As in `read`.

    Returns
    -------
    Dataset
        With ground truth where the folder holds it.

    Raises
    ------
    FileNotFoundError
        If one of the three files is missing.
    ValueError
        If a file is truncated or the files do not fit each other.
    """
    missing = [name for name in _EXPECTED if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(f"{folder}: expected {', '.join(_EXPECTED)}; missing: {', '.join(missing)}")
    meta = _load_meta(folder / "meta.json")
    stored_metric = check_metric(meta["metric"])
    base = load_npy(folder / "base.npy")
    for key, axis in (("n", 0), ("d", 1)):
        if key in meta and base.ndim == 2 and meta[key] != base.shape[axis]:
            raise ValueError(
                f"{folder}: meta.json says {key} = {meta[key]}, but base.npy has shape {base.shape}"
            )
    return assemble(
        str(meta.get("name", folder.name)),
        base,
        load_npy(folder / "query.npy"),
        metric=stored_metric if metric is None else metric,
        stored_metric=stored_metric,
        ground_truth=load_npy(folder / _TRUTH) if (folder / _TRUTH).exists() else None,
        rows=rows,
        part=part,
        base_texts=_load_texts(folder / "base_texts.txt"),
        query_texts=_load_texts(folder / "query_texts.txt"),
    )
