"""``splitfed evaluate`` and ``splitfed report``: what a finished run came to."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from splitfed.cli.output import say, say_json

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="A party's run folder, such as runs/hospital-a.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]


def evaluate(folder: Folder, as_json: Json = False) -> int:
    """The comparison table of a finished run, from its report.json."""
    from splitfed.report import read_report

    found = read_report(folder)
    if as_json:
        say_json({"evaluation": found["evaluation"], "verdict": found["verdict"]})
    else:
        say_tables({found["party"]: found})
    return 0


def report(folder: Folder, as_json: Json = False) -> int:
    """Write report.html of a finished run anew from its report.json, and say where it is."""
    from splitfed.report import read_report, write_report

    found = read_report(folder)
    path = write_report(folder, found)
    if as_json:
        say_json(found)
    else:
        say(f"report: {path}")
    return 0


def say_tables(reports: Mapping[str, Mapping[str, Any]]) -> None:
    """The comparison as a table in a terminal, as plain lines elsewhere."""
    from splitfed.cli.output import console
    from splitfed.report import console_table, plain_lines

    if sys.stdout.isatty():
        console().print(console_table(reports))
    else:
        say(*plain_lines(reports))
