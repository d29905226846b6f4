"""``bqcore postgres``: put the extension into a Postgres server."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from bqcore.cli.postgres_load import load
from bqcore.cli.progress import Stages
from bqcore.cli.tables import megabytes, print_table, write_json

if TYPE_CHECKING:
    import psycopg

    from bqcore_postgres.adopt import Adoption, Reading

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
    typer.echo(f"In one that has an older version of bqcore:\n  {report.update_sql}")


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


def _connect(dsn: str | None) -> psycopg.Connection[Any]:
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


@app.command()
def adopt(
    table: Annotated[str, typer.Argument(help="Table, as SQL names it: items, or my_schema.items.")],
    column: Annotated[str, typer.Argument(help="Its column of vectors.")],
    dsn: Annotated[
        str | None, typer.Option(help="Connection string of the database. Default: libpq's variables.")
    ] = None,
    bits: Annotated[
        int | None, typer.Option(help="1, 2, 4 or 8. Default: what a sample of rows needs.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="l2, ip or cosine. Default: that of the index that is there, else cosine."),
    ] = None,
    k: Annotated[int, typer.Option(min=1, help="Rows that queries ask for.")] = 10,
    target_recall: Annotated[
        float | None, typer.Option(help="Fewest bits with this recall@k. [default: 0.95]")
    ] = None,
    queries: Annotated[
        int, typer.Option(help="Rows to search for when recall is measured; each is a scan of the table too.")
    ] = 50,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look and advise, build nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Build bqhnsw beside the indexes of a table, without locking out writers; drops none of them."""
    from bqcore_postgres.adopt import adopt as adopt_table

    stages = Stages()
    with _connect(dsn) as conn, _connect(dsn) as watcher, stages.stage(f"{table}.{column}") as bar:

        def show(phase: str, done: int, total: int) -> None:
            bar.describe(phase)
            if total:
                bar(done, total)

        report = adopt_table(
            conn,
            watcher,
            table,
            column,
            bits=bits,
            metric=metric,
            k=k,
            target_recall=target_recall,
            n_queries=queries,
            dry_run=dry_run,
            progress=show,
        )
        bar.describe(f"{table}.{column}")
    if as_json:
        write_json(report.as_dict(), "-")
        return
    _print_adoption(report)


def _print_adoption(report: Adoption) -> None:
    found = report.inspection
    toast = f", {megabytes(found.toast_bytes)} of it out of line" if found.is_toasted else ""
    typer.echo(
        f"{found.relation}: {found.rows:,} rows, {found.type_name}({found.dim}), "
        f"{megabytes(found.table_bytes)}{toast}"
    )
    for index in found.indexes:
        state = "" if index.is_valid else ", invalid"
        typer.echo(f"  {index.name}: {index.method} {index.opclass}, {megabytes(index.size_bytes)}{state}")
    advice = report.advice
    best = advice.chosen
    typer.echo(
        f"Advice: bits = {best.bits}, hnsw.ef_search = {best.ef_search}: predicted recall@{advice.k} "
        f"{best.recall:.3f} from {advice.sample_rows:,} rows ({recalls(best.at_k)})"
    )
    if not advice.reaches_target:
        typer.echo(f"! the target of {advice.target_recall:g} is not reached: this is the best recall")
    typer.echo(f"{report.ddl};")
    typer.echo(f"SET hnsw.ef_search = {report.ef_search};")
    if report.after is not None:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        ks = [f"recall@{k}" for k in report.after.at_k]
        for heading in ("", "index", "size", "ef_search", *ks, "p50"):
            table.add_column(heading, no_wrap=True)
        for when, reading in (("before", report.before), ("after", report.after)):
            table.add_row(when, *_cells(reading, len(ks)))
        print_table(table)
        typer.echo(f"Built in {report.build_s:.1f} s.")
    for note in report.notes:
        typer.echo(f"Note: {note}")


def recalls(at_k: Mapping[int, float]) -> str:
    """Write recall at several k in a line."""
    return ", ".join(f"@{k} {recall:.3f}" for k, recall in at_k.items())


def _cells(reading: Reading | None, n_recalls: int) -> list[str]:
    if reading is None:
        return ["none", *[""] * (n_recalls + 3)]
    time_ms = "-" if reading.p50_ms is None else f"{reading.p50_ms:.2f} ms"
    shown = [f"{recall:.4f}" for recall in reading.at_k.values()]
    return [reading.index, megabytes(reading.size_bytes), str(reading.ef_search), *shown, time_ms]
