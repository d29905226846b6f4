"""Vectors with queries and ground truth: read from files, or drawn from a seed."""

from __future__ import annotations

from bqcore.datasets._dataset import Dataset, InvalidRowsError, split_queries
from bqcore.datasets._generators import clustered, gaussian
from bqcore.datasets._read import read
from bqcore.datasets._vecs import read_vecs

__all__ = ["Dataset", "InvalidRowsError", "clustered", "gaussian", "read", "read_vecs", "split_queries"]
