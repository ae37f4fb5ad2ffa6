"""Arguments that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RUNS = "runs"
"""Where run folders lie, beside party.toml, unless --out says otherwise."""

PartyFile = Annotated[
    Path, typer.Argument(metavar="PARTY.TOML", help="Your own party.toml.", show_default=False)
]
Folder = Annotated[
    Path,
    typer.Argument(
        metavar="DIR", help="A party's run folder, such as runs/hospital-a.", show_default=False
    ),
]
Code = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Code to build the model with, besides installed packages. Default: the party's "
        "folder, where DIR lies in it.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
