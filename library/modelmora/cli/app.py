"""Puts the commands together and turns errors into words and exit codes.

Exit codes: 0 it worked · 1 the server or a manifest says no · 2 the command line or the settings are wrong ·
3 no server answers · 130 interrupted.
"""

import json
import sys
from importlib.metadata import version
from typing import Annotated, Final

import typer

from modelmora.cli import infer, models, serve, validate
from modelmora.cli.output import show_error
from modelmora.errors import ModelMoraError, ServerUnavailable, SetupError
from modelmora.wire.status import to_problem

REFUSED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
INTERRUPTED: Final = 130

app = typer.Typer(
    name="modelmora",
    help="Many medium-sized models on few GPUs. Exit codes: 0 fine, 1 refused, 2 wrong use, 3 no server answers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command(name="serve")(serve.serve)
app.command(name="validate")(validate.validate)
app.command(name="infer")(infer.infer)
app.command(name="list")(models.list_models)
app.command(name="info")(models.info)
app.command(name="health")(models.health)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - the shape of a typer callback
    if wanted:
        typer.echo(f"modelmora {version('modelmora')}")
        raise typer.Exit


@app.callback()
def options(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Many medium-sized models on few GPUs."""


def run() -> int:
    """Runs the command line of this process; the exit code."""
    try:
        app()
    except ModelMoraError as error:
        _report(error)
        return exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def exit_code(error: ModelMoraError) -> int:
    """The exit code that an error means."""
    if isinstance(error, ServerUnavailable):
        return UNREACHABLE
    return USAGE if isinstance(error, SetupError) else REFUSED


def _report(error: ModelMoraError) -> None:
    if "--json" in sys.argv:
        print(json.dumps(to_problem(error), ensure_ascii=False), file=sys.stderr)  # noqa: T201 - the machine's answer
    else:
        show_error(error)
