"""`fxsparse`: one command, one subcommand a file. Exit status 0; 1 when the work failed, with one clear sentence; 2 for wrong
usage; 130 after Ctrl-C."""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from fxsparse.errors import Error
from fxsparse.tools.bench import bench
from fxsparse.tools.calibrate import calibrate
from fxsparse.tools.console import plain
from fxsparse.tools.demo import demo
from fxsparse.tools.doctor import doctor
from fxsparse.tools.export import export
from fxsparse.tools.inspect import inspect
from fxsparse.tools.prune import prune
from fxsparse.tools.report import report
from fxsparse.tools.train import train
from fxsparse.version import __version__

INTERRUPTED = 130  # what shells say of a process that Ctrl-C ended


class Commands(TyperGroup):
    """The subcommands; Ctrl-C ends each of them alike."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("fxsparse: stopped; nothing half-written is left", err=True)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=Commands,
    name="fxsparse",
    help="A compiler for sparsity: what of a PyTorch network may go, and the network without it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(inspect)
app.command()(prune)
app.command()(train)
app.command()(calibrate)
app.command()(export)
app.command()(bench)
app.command()(report)
app.command()(demo)
app.command()(doctor)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"fxsparse {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version and stop."),
) -> None:
    """Options of the command as a whole."""


def main() -> None:
    """The entry point: errors that fxsparse raises on purpose become one sentence and status 1."""
    try:
        app()
    except Error as error:
        plain(stderr=True).print(f"fxsparse: {error}")
        sys.exit(1)
    except OSError as error:
        if error.strerror is None:
            raise
        where = "" if error.filename is None else f"{error.filename}: "  # a write to a full disk does not name the file
        typer.echo(f"fxsparse: {where}{error.strerror[:1].lower()}{error.strerror[1:]}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
