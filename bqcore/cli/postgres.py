"""``bqcore postgres``: put the extension into a Postgres server."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

app = typer.Typer(help="The Postgres extension.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep ``install`` a subcommand: typer would merge a single one into its parent."""


@app.command()
def install(
    pg_config: Annotated[
        Path | None,
        typer.Option(help="pg_config of the server. Default: $PG_CONFIG, else the one on the PATH."),
    ] = None,
    sql_mode: Annotated[
        bool,
        typer.Option(
            "--sql", help="Only SQL functions, into a database: no C, no superuser, for managed servers."
        ),
    ] = False,
    dsn: Annotated[
        str | None,
        typer.Option(help="With --sql: connection string of the database. Default: libpq's variables."),
    ] = None,
    print_only: Annotated[
        bool, typer.Option("--print", help="With --sql: print the SQL and install nothing.")
    ] = False,
    vector_schema: Annotated[
        str, typer.Option(help="With --print: the schema that pgvector was created in.")
    ] = "public",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Build the extension and copy it into a server's folders; with --sql, put functions into a database."""
    if sql_mode:
        if pg_config is not None:
            raise ValueError("--pg-config belongs to the C extension: leave it out with --sql")
        _install_sql(dsn, print_only, vector_schema, as_json)
        return
    if dsn is not None or print_only:
        raise ValueError("--dsn and --print belong to SQL mode: add --sql")
    from bqcore_postgres.install import find_pg_config
    from bqcore_postgres.install import install as install_extension

    errors = Console(stderr=True)
    try:
        found = find_pg_config(pg_config)
        if not as_json:
            errors.print(f"Building for {found} ...", markup=False, highlight=False)
        report = install_extension(found)
    except RuntimeError as error:
        if os.environ.get("BQCORE_DEBUG"):
            raise
        # A compiler's message keeps its lines, which the common handler would join.
        errors.print(f"bqcore: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2))
        return
    typer.echo(f"Installed into {report.server_version}:")
    for path in report.files:
        typer.echo(f"  {path}")
    if not report.has_pgvector:
        typer.echo("This server has no pgvector yet: install it first (Debian: postgresql-NN-pgvector).")
    typer.echo(f"Next, in a database:\n  {report.next_sql}")


def _install_sql(dsn: str | None, print_only: bool, vector_schema: str, as_json: bool) -> None:
    from bqcore_postgres import sql_mode

    if print_only:
        typer.echo(sql_mode.script(vector_schema))
        return
    with _connect(dsn) as conn:
        report = sql_mode.install(conn)
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2))
        return
    before = f" (was {report.replaced})" if report.replaced else ""
    typer.echo(f"SQL mode {report.version}{before} is in schema bqcore of database {report.database}.")
    typer.echo("Next, for a table with a column of vectors:")
    for line in (
        "SELECT bqcore.add('items', 'embedding', bqcore.train('items', 'embedding'));",
        "CALL bqcore.fill('items', 'embedding');",
        "CREATE INDEX CONCURRENTLY ON items USING hnsw (embedding_code bit_hamming_ops);",
        "SELECT * FROM bqcore.search('items', 'embedding', $1, 10);",
    ):
        typer.echo(f"  {line}")


def _connect(dsn: str | None) -> Any:
    try:
        import psycopg
    except ImportError as error:
        raise ImportError("connecting needs psycopg: pip install 'bqcore[postgres]'") from error
    return psycopg.connect(dsn or "", autocommit=True)


@app.command()
def uninstall(
    dsn: Annotated[
        str | None, typer.Option(help="Connection string of the database. Default: libpq's variables.")
    ] = None,
) -> None:
    """Drop SQL mode's schema bqcore from a database; columns with codes have to be removed before."""
    from bqcore_postgres import sql_mode

    with _connect(dsn) as conn:
        dropped = sql_mode.uninstall(conn)
    typer.echo("Dropped schema bqcore." if dropped else "There is no SQL mode in this database.")
