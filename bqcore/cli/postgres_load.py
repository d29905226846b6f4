"""`bqcore postgres load`: fill a table with the vectors of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bqcore.cli.progress import Stages


def load(
    data: Annotated[
        Path, typer.Argument(help="Folder or file of vectors (npy, npz, fvecs, fbin, hdf5, parquet).")
    ],
    table: Annotated[str, typer.Argument(help="A table that exists, as SQL writes it.")],
    dsn: Annotated[str, typer.Option(help="The server and database.")],
    column: Annotated[str, typer.Option(help="Of type vector or halfvec.")] = "embedding",
    id_column: Annotated[str, typer.Option(help="Gets the numbers of the rows, from 0.")] = "id",
    vector_column: Annotated[
        str | None, typer.Option(help="Column of a Parquet file that has several of vectors.")
    ] = None,
    drop_invalid: Annotated[
        bool, typer.Option("--drop-invalid", help="Leave out rows with NaN or inf; the others are numbered.")
    ] = False,
) -> None:
    """Append the vectors of a file to a table, all or none."""
    import psycopg

    from bqcore.cli.data import read_data
    from bqcore_postgres.load import load as fill
    from bqcore_postgres.vectors import find_column

    stages = Stages()
    with stages.stage(f"read {data.name}"):
        found = read_data(
            data,
            # it plays no part in what is stored, and l2 refuses no row
            metric="l2",
            note=stages.note,
            can_drop=True,
            column=vector_column,
            hold_out=False,
            drop_invalid=drop_invalid,
        )
    with psycopg.connect(dsn) as conn:
        target = find_column(conn, table, column)
        with stages.stage(f"load {table}") as bar:
            n = fill(conn, target, found.base, id_column=id_column, progress=bar)
    typer.echo(f"{n:,} rows in {table}")
