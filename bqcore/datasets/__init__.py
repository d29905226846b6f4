"""Vectors with queries and ground truth: read from files, or drawn from a seed."""

from __future__ import annotations

from bqcore.datasets._bin import read_bin
from bqcore.datasets._dataset import (
    ColumnChoiceError,
    Dataset,
    InvalidRowsError,
    MetricMissingError,
    split_queries,
)
from bqcore.datasets._generators import clustered, gaussian
from bqcore.datasets._part import invalid_rows
from bqcore.datasets._points import Points, PointTable, open_points, read_ids
from bqcore.datasets._read import is_table, mapped, read
from bqcore.datasets._vecs import read_vecs

__all__ = [
    "ColumnChoiceError",
    "Dataset",
    "InvalidRowsError",
    "MetricMissingError",
    "PointTable",
    "Points",
    "clustered",
    "gaussian",
    "invalid_rows",
    "is_table",
    "mapped",
    "open_points",
    "read",
    "read_bin",
    "read_ids",
    "read_vecs",
    "split_queries",
]
