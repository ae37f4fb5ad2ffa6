"""``splitfed status``: what a run is doing, from another terminal."""

from __future__ import annotations

from typing import Any

from splitfed.cli.output import columns, printable, say, say_json
from splitfed.cli.shared import AsJson, Folder
from splitfed.cli.words import whole_round


def status(folder: Folder, as_json: AsJson = False) -> int:
    """Say what the run in DIR is doing or waiting for. Reads only, never disturbs."""
    from splitfed.store import RunFolder

    with RunFolder.read_only(folder) as view:
        closed, history = view.closed(), view.history()
        said = view.status() or {}
        found: dict[str, Any] = {
            **said,
            "party": view.party,
            "running_pid": RunFolder.holder(folder),
            "closed_round": closed.round if closed else 0,
            "confirmed": view.confirmed,
            "last_round": history[-1] if history else None,
        }
    if as_json:
        say_json(found)
        return 0
    pid = found["running_pid"]
    rows = [
        ("party", found["party"]),
        ("process", "not running" if pid is None else f"running, process {pid}"),
        ("now" if pid is not None else "last", printable(_doing(said))),
    ]
    if history:
        rows.append(("closed", whole_round(history[-1])))
    else:
        rows.append(("closed", "no round yet"))
    say(columns(rows, indent=""))
    return 0


def _doing(said: dict[str, Any]) -> str:
    """The run's own words about itself, as one phrase."""
    if not said:
        return "nothing yet"
    text = str(said.get("phase", "nothing yet"))
    if said.get("of"):
        text += f" for {said.get('for')} of {', '.join(map(str, said['of']))}"
    if said.get("round"):
        of = f" of {said['rounds']}" if said.get("rounds") else ""
        text += f", round {said['round']}{of}"
    return text
