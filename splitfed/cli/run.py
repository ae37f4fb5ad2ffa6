"""``splitfed run``: take part in a federation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from splitfed.cli.guard import complain
from splitfed.cli.output import say, say_json, say_tables
from splitfed.cli.screens import JsonLines, screen
from splitfed.cli.shared import RUNS, AsJson, PartyFile
from splitfed.errors import ConfigError, Fault
from splitfed.stopping import terminated_like_interrupted


def run(
    party_file: PartyFile,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The folder in which <party>/ lies. Default: runs beside party.toml.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
    events: Annotated[
        bool, typer.Option("--events", help="Tell the progress as JSON, one event a line.")
    ] = False,
) -> int:
    """Take part in the federation until its last round is closed.

    Waits for the other parties, trains, exchanges the shared layers, and writes a report.
    Ctrl-C (or a crash) loses nothing: run the same command again and it goes on. On a
    finished folder it says so and does nothing; after `rounds` was raised on every side it
    trains the further rounds.
    """
    if as_json and events:
        raise ConfigError([Fault("command line", "--events", "", "give --json or --events")])
    from splitfed.config import load_party

    config = load_party(party_file)
    folder = config.folder / RUNS if out is None else out
    how = "silent" if as_json else "json" if events else "auto"
    with terminated_like_interrupted(), screen(config.federation.rounds, how=how) as progress:
        told = progress("")
        told.on_phase("starting")
        from splitfed.run import run_party  # only now: it loads torch, which takes seconds

        outcome = run_party(config, folder, progress=told)
    page = folder / config.party / "report.html"
    if outcome.note:
        complain(outcome.note)
    if as_json:
        say_json(outcome.report)
    elif events:
        JsonLines().tell("end", exit_code=outcome.exit_code, report=str(page))
    else:
        say_tables({config.party: outcome.report})
        say(str(outcome.report["privacy"]["sentence"]), f"report: {page}")
    return outcome.exit_code
