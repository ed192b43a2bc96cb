"""`fxsparse`: one command, one subcommand a file. Exit status 0; 1 when the work failed, with one clear sentence; 2 for wrong usage."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from fxsparse.errors import Error
from fxsparse.tools.bench import bench
from fxsparse.tools.calibrate import calibrate
from fxsparse.tools.doctor import doctor
from fxsparse.tools.export import export
from fxsparse.tools.inspect import inspect
from fxsparse.tools.prune import prune
from fxsparse.tools.train import train
from fxsparse.version import __version__

app = typer.Typer(
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
        Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"fxsparse: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
