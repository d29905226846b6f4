"""Where commands take vectors from: files, a Postgres column, a Qdrant collection."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bqcore.study import Places, Source, read_source

_WITHOUT_METRIC = (".npy", ".parquet")


def open_source(
    data: str,
    *,
    metric: str | None,
    rows: int,
    drop_invalid: bool,
    column: str | None,
    dsn: str | None,
    url: str | None,
    api_key: str | None,
    using: str,
    timeout: int,
    note: Callable[[str], None],
) -> tuple[Source, Places]:
    """Read vectors from wherever `data` names.

    A path that exists is read as a file, and `dsn` and `url` then only name servers for the printed commands.

    Raises
    ------
    FileNotFoundError, ImportError, TypeError, ValueError
        If nothing of that name can be read.
    """
    from bqcore.datasets import InvalidRowsError

    path = Path(data)
    if path.exists() or (dsn is None and url is None):
        if metric is None and path.suffix.lower() in _WITHOUT_METRIC and path.is_file():
            metric = "cosine"
            note(f"{path.name} does not say its metric: taken as cosine (--metric changes that)")
        try:
            source = read_source(path, metric=metric, max_rows=rows, drop_invalid=drop_invalid, column=column)
        except InvalidRowsError as error:
            raise ValueError(f"{error}; --drop-invalid leaves them out") from None
        return source, Places(dsn=dsn, url=url)
    if dsn is not None and url is not None:
        raise ValueError(f"{data}: no such file; expected one of --dsn and --url, not both")
    if dsn is not None:
        from bqcore_postgres.vectors import read_column

        source, table, name = read_column(dsn, data, metric=metric or "cosine", rows=rows)
        if metric is None:
            note("a table does not say its metric: taken as cosine (--metric changes that)")
        return source, Places(dsn=dsn, table=table, column=name)
    from bqcore_qdrant.vectors import read_collection

    assert url is not None
    source = read_collection(
        url, data, api_key=api_key, using=using, metric=metric, rows=rows, timeout=timeout
    )
    return source, Places(url=url, collection=data, using=using)
