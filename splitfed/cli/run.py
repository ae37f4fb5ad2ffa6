"""``splitfed run``: take part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from splitfed.cli.guard import complain
from splitfed.cli.output import say, say_json
from splitfed.cli.results import say_tables
from splitfed.cli.screens import screen


def run(
    party_file: Annotated[Path, typer.Argument(metavar="PARTY.TOML", help="Your party.toml.")],
    out: Annotated[
        Path | None,
        typer.Option(help="The folder in which <party>/ lies. Default: runs beside party.toml."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON, and nothing else.")
    ] = False,
) -> int:
    """Take part in the federation until its last round is closed.

    Waits for an absent peer. After a crash or Ctrl-C the same command goes on from the last
    closed round; on a finished folder it does nothing.
    """
    from splitfed.config import load_party

    config = load_party(party_file)
    folder = config.folder / "runs" if out is None else out
    with screen(config.federation.rounds, quiet=as_json) as progress:
        from splitfed.run import run_party

        outcome = run_party(config, folder, progress=progress)
    if outcome.note:
        complain(outcome.note)
    if as_json:
        say_json(outcome.report)
    else:
        say_tables({config.party: outcome.report})
        say(outcome.report["privacy"]["sentence"])
        say(f"report: {folder / config.party / 'report.html'}")
    return outcome.exit_code
