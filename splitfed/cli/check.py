"""``splitfed check``: look at the peers without training or disturbing a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from splitfed.cli.guard import complain
from splitfed.cli.output import printable, say, say_json


def check(
    party_file: Annotated[Path, typer.Argument(metavar="PARTY.TOML", help="Your party.toml.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a program.")] = False,
) -> int:
    """Is the peer reachable, my key accepted, the agreement the same? Gives up after 10 s.

    Nothing is trained and no run is disturbed. Where your own run holds the port, that run
    is asked.
    """
    from splitfed.config import load_party

    config = load_party(party_file)
    from splitfed.run import check_peers

    found = check_peers(config)
    if as_json:
        keys = ("peer", "ok", "reachable", "text", "cure")
        say_json([{key: getattr(one, key) for key in keys} for one in found])
    for one in found if not as_json else ():
        say(f"{one.peer}: {'ok' if one.ok else 'NOT OK'}: {printable(one.text, keep=chr(10))}")
        if one.cure:
            complain(f"  cure: {one.cure}")
    return max((one.exit_code for one in found), default=0)
