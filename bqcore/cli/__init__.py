"""One file per `bqcore` subcommand; adapters are imported lazily."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import metadata
from typing import Annotated

import typer

from bqcore.cli import errors, qdrant
from bqcore.cli.advise import advise_command
from bqcore.cli.demo import demo
from bqcore.cli.eval_ import eval_command
from bqcore.cli.tune import tune_command

_USAGE, _FAILURE = 2, 1

app = typer.Typer(
    name="bqcore",
    help="A quantization layer for the vector database you already run.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("advise")(advise_command)
app.command("tune")(tune_command)
app.command()(demo)
app.command("eval")(eval_command)

try:
    from bqcore.cli import postgres
except ImportError as missing:
    _reason = str(missing)

    @app.command("postgres", help="Postgres + pgvector (not available here: pip install 'bqcore[postgres]').")
    def _postgres_missing() -> None:
        raise ImportError(f"the Postgres adapter needs pip install 'bqcore[postgres]' ({_reason})")
else:
    app.add_typer(postgres.app, name="postgres")

app.add_typer(qdrant.app, name="qdrant")


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"bqcore {version()}")
        raise typer.Exit


@app.callback()
def _common(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks (also: BQCORE_DEBUG=1 in the environment).")
    ] = False,
) -> None:
    if debug:
        os.environ["BQCORE_DEBUG"] = "1"


def version() -> str:
    """Return the installed version of bqcore."""
    try:
        return metadata.version("bqcore")
    except metadata.PackageNotFoundError:
        return "(not installed: run from a source tree)"


def main() -> None:
    """Run the command line.

    Errors meant for users are a line on stderr; the exit code is 2 for bad input and 1 for other failures. A
    fault of ours shows its traceback.
    """
    try:
        app()
    except Exception as error:
        if os.environ.get("BQCORE_DEBUG"):
            raise
        if not errors.is_for_users(error):
            traceback.print_exc()
            print("bqcore: this is a fault of bqcore: please report it with the lines above", file=sys.stderr)
            sys.exit(_FAILURE)
        command = errors.command_of(typer.main.get_command(app), sys.argv[1:])
        print(f"bqcore: {errors.in_shell_words(error, command)}", file=sys.stderr)
        sys.exit(_USAGE if errors.is_bad_input(error) else _FAILURE)
