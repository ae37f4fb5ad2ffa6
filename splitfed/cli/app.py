"""All commands in one program."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from splitfed import __version__
from splitfed.cli.audit import audit
from splitfed.cli.check import check
from splitfed.cli.demo import demo
from splitfed.cli.export import export
from splitfed.cli.guard import INTERRUPTED, Debug, complain, guarded
from splitfed.cli.init import init
from splitfed.cli.keys import keys
from splitfed.cli.plan import plan
from splitfed.cli.predict import predict
from splitfed.cli.results import evaluate, report
from splitfed.cli.run import run
from splitfed.cli.simulate import simulate
from splitfed.cli.status import status
from splitfed.cli.verify import verify
from splitfed.cli.words import prose

app = typer.Typer(
    name="splitfed",
    help="Train image models together with other institutions, sharing only the layers "
    "that the agreement names. No image, label or metric leaves this machine.\n\n"
    "To begin: `splitfed init`, then `splitfed plan party.toml`, then `splitfed run "
    "party.toml`. To see it all on one machine: `splitfed demo`.",
    epilog="Exit codes: 0 done · 1 a defect of splitfed · 2 your input · 3 peer or network · "
    "4 a safety stop · 5 finished alone · 130 Ctrl-C.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"splitfed {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show a traceback with every error (any command).")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    Debug.on = Debug.on or debug


for command in (
    demo,
    init,
    plan,
    check,
    audit,
    run,
    status,
    evaluate,
    report,
    predict,
    export,
    verify,
    simulate,
):
    app.command(help=prose(command.__doc__))(guarded(command))
app.add_typer(keys, name="keys")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and exits with its code.

    Args:
        arguments: without the program's name; None takes those of the process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    # --debug is understood anywhere, also behind the command that failed without it.
    Debug.on = "--debug" in given
    try:
        app(args=[word for word in given if word != "--debug"], prog_name="splitfed")
    except KeyboardInterrupt:
        complain("stopped")
        sys.exit(INTERRUPTED)
    sys.exit(0)
