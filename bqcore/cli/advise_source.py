"""Where commands take vectors from: files, a Postgres column, a Qdrant collection."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bqcore.cli.data import with_metric
from bqcore.study import Places, Source, read_source


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

        def read_file(known: str | None) -> Source:
            return read_source(path, metric=known, max_rows=rows, drop_invalid=drop_invalid, column=column)

        try:
            source = with_metric(read_file, metric, path.name, note)
        except InvalidRowsError as error:
            raise ValueError(f"{error}; --drop-invalid leaves them out") from None
        return source, Places(dsn=dsn, url=url)
    if dsn is not None and url is not None:
        raise ValueError(f"{data}: no such file; expected one of --dsn and --url, not both")
    if dsn is not None:
        from bqcore_postgres.vectors import read_column

        def read_table(known: str | None) -> tuple[Source, str, str]:
            return read_column(dsn, data, metric=known, rows=rows)

        source, table, name = with_metric(read_table, metric, data, note)
        return source, Places(dsn=dsn, table=table, column=name)
    from bqcore_qdrant.vectors import read_collection

    assert url is not None
    source = read_collection(
        url, data, api_key=api_key, using=using, metric=metric, rows=rows, timeout=timeout
    )
    return source, Places(url=url, collection=data, using=using)
