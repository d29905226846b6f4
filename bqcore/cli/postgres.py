"""``bqcore postgres``: put the extension into a Postgres server."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bqcore.cli.postgres_load import load

app = typer.Typer(help="The Postgres extension.", no_args_is_help=True)
app.command()(load)


@app.callback()
def _group() -> None:
    """Keep ``install`` a subcommand: typer would merge a single one into its parent."""


@app.command()
def install(
    pg_config: Annotated[
        Path | None,
        typer.Option(help="pg_config of the server. Default: $PG_CONFIG, else the one on the PATH."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Build the extension and copy it into a server's folders."""
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
    typer.echo(f"In one that has an older version of bqcore:\n  {report.update_sql}")
