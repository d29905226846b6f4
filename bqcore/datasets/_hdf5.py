"""HDF5 files of ann-benchmarks: ``train``, ``test``, ``neighbors`` and an attribute ``distance``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bqcore._validation import Metric, check_metric
from bqcore.datasets._dataset import Dataset, assemble, import_extra, require_metric
from bqcore.datasets._part import WHOLE, Part, check_memory


def _stored_metric(attribute: Any, path: Path) -> Metric | None:
    if attribute is None:
        return None
    distance = attribute.decode() if isinstance(attribute, bytes) else str(attribute)
    try:
        return check_metric(distance)
    except ValueError:
        known = "angular, cosine, euclidean, l2, dot, ip"
        raise ValueError(f"{path}: expected a distance of {known}, not {distance!r}") from None


def base_of(path: Path) -> Any:
    """Return the base vectors as they are; errors as `read_hdf5`, but for the metric."""
    with _opened(path) as file:
        return file["train"][()]


def _opened(path: Path) -> Any:
    h5py = import_extra("h5py")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        size = path.stat().st_size
        raise ValueError(f"{path}: expected a whole HDF5 file, not these {size} bytes: {error}") from error
    if "train" not in file:
        names = sorted(file)
        file.close()
        raise ValueError(f"{path}: expected a dataset 'train', not only {names}")
    return file


def read_hdf5(path: Path, *, metric: str | None, rows: int | None, part: Part = WHOLE) -> Dataset:
    """Read an ann-benchmarks file.

    Parameters
    ----------
    path : Path
        The file; ``test`` and ``neighbors`` may be missing.
    metric, rows, part
        As in `read`.

    Returns
    -------
    Dataset
        With ground truth where the file holds ``test`` and ``neighbors``.

    Raises
    ------
    ImportError
        If h5py is not installed.
    ValueError
        If it is not a whole HDF5 file, has no ``train``, or its distance is not one of the three metrics.
    """
    with _opened(path) as file:
        try:
            stored = _stored_metric(file.attrs.get("distance"), path)
        except ValueError:
            # what the caller says is needed then, and the file's ground truth is of no use
            if metric is None:
                raise
            stored = None
        is_known = stored is not None or file.attrs.get("distance") is None
        has_queries = "test" in file
        check_memory(file["train"].shape, path.stem)
        return assemble(
            path.stem,
            file["train"][()],
            file["test"][()] if has_queries else None,
            metric=require_metric(metric or stored, path),
            stored_metric=stored,
            ground_truth=file["neighbors"][()] if has_queries and is_known and "neighbors" in file else None,
            rows=rows,
            part=part,
        )
