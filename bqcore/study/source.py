"""What is advised on: vectors, and where they came from, so that commands can name it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bqcore._validation import Float32Array
from bqcore.datasets import Dataset, is_table, read

#: Rows that are read at most unless told otherwise: recall of more is that of a sample anyway.
MAX_ROWS = 200_000
#: From fewer rows nothing can be predicted: neighbours are then everywhere.
MIN_ROWS = 100


def shell_path(path: str) -> str:
    """Quote a path for a shell; one that begins like an option begins with its folder."""
    return shlex.quote(f"./{path}" if path.startswith("-") else path)


@dataclass(frozen=True)
class Origin:
    """Where vectors are.

    Parameters
    ----------
    kind : {"file", "postgres", "qdrant", "array"}
    name : str
        Path, ``table.column``, collection, or what an array is called.
    vectors_path, queries_path : str, optional
        Files of the vectors alone, for loading, and of the queries.
    type_name : str, default "vector"
        Of a Postgres column.
    column : str, optional
        Of a file, where it was named.
    drop_invalid : bool, default False
        Whether rows that are not finite were to be left out.
    """

    kind: Literal["file", "postgres", "qdrant", "array"]
    name: str
    vectors_path: str | None = None
    queries_path: str | None = None
    type_name: str = "vector"
    column: str | None = None
    drop_invalid: bool = False

    @property
    def quoted(self) -> str:
        """`name` for a shell."""
        return shell_path(self.name)

    @property
    def identifier(self) -> str:
        """A name for a table or a collection: lower-case letters, digits and underscores."""
        last = Path(self.name).stem if self.kind == "file" else self.name.rsplit(".", 1)[0]
        kept = "".join(c if c.isalnum() and c.isascii() else "_" for c in last.lower()).strip("_")
        return (kept if kept and not kept[0].isdigit() else f"items_{kept}").rstrip("_")[:40]


@dataclass(frozen=True, eq=False)
class Source:
    """Vectors to advise on.

    Parameters
    ----------
    base : ndarray of float32, shape (n, dim)
    queries : ndarray of float32, shape (n_queries, dim), or None
    metric : str
    origin : Origin
    n_source : int
        Rows where they came from; more than n where `base` is a random sample.
    n_dropped : tuple of int, default (0, 0)
        Rows of base and queries left out because they are not finite.
    query_texts : list of str, optional
    """

    base: Float32Array
    queries: Float32Array | None
    metric: str
    origin: Origin
    n_source: int
    n_dropped: tuple[int, int] = (0, 0)
    query_texts: list[str] | None = None

    @classmethod
    def of(cls, data: Dataset, origin: Origin) -> Source:
        """Take a data set that `bqcore.datasets` read."""
        queries = data.queries if data.has_queries and len(data.queries) else None
        n = data.n_source or data.n
        return cls(data.base, queries, data.metric, origin, n, data.n_dropped, data.query_texts)

    def check(self, k: int) -> None:
        """Refuse what is too small to predict from.

        Raises
        ------
        ValueError
            If there are fewer than 100 rows, or not more than `k`.
        """
        check_rows(len(self.base), k, self.origin.name)


def check_rows(n: int, k: int, name: str) -> None:
    """Refuse too few rows: neighbours are then everywhere.

    Raises
    ------
    ValueError
        If there are fewer than 100 rows, or not more than `k`; the text calls them `name`.
    """
    least = max(MIN_ROWS, k + 1)
    if n < least:
        raise ValueError(f"{name}: expected at least {least:,} rows to predict recall@{k} from, not {n:,}")


def read_source(
    path: Path,
    *,
    metric: str | None = None,
    max_rows: int = MAX_ROWS,
    drop_invalid: bool = False,
    column: str | None = None,
) -> Source:
    """Read a file or folder of vectors.

    Parameters
    ----------
    path : Path
        As `bqcore.datasets.read` takes it.
    metric : {"l2", "ip", "cosine"}, optional
        Needed where the file does not say it.
    max_rows : int, default 200,000
        Of more, a random sample of so many is read.
    drop_invalid : bool, default False
        Leave rows that are not finite out, and count them.
    column : str, optional
        Of a Parquet file.

    Returns
    -------
    Source

    Raises
    ------
    FileNotFoundError, ImportError, TypeError, ValueError
        As `bqcore.datasets.read`; `bqcore.datasets.InvalidRowsError` for rows that are not finite.
    """
    data = read(
        path, metric=metric, sample=max_rows, drop_invalid=drop_invalid, column=column, hold_out=False
    )
    vectors = path / "base.npy" if path.is_dir() and not is_table(path) else path
    queries = path / "query.npy"
    has_queries = vectors != path and queries.is_file()
    return Source.of(
        data,
        Origin(
            "file",
            str(path),
            str(vectors),
            str(queries) if has_queries else None,
            column=column,
            drop_invalid=drop_invalid,
        ),
    )


def array_source(X: Float32Array, queries: Float32Array | None, metric: str) -> Source:
    """Wrap arrays; a random sample where there are more rows than `MAX_ROWS`."""
    base = X
    if len(X) > MAX_ROWS:
        base = X[np.sort(np.random.default_rng(0).choice(len(X), MAX_ROWS, replace=False))]
    return Source(base, queries, metric, Origin("array", "vectors"), len(X))
