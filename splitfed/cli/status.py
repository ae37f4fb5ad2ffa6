"""``splitfed status``: what a run is doing, asked from another terminal."""

from __future__ import annotations

from typing import Any

from splitfed.cli.output import printable, say, say_json
from splitfed.cli.results import Folder, Json


def status(folder: Folder, as_json: Json = False) -> int:
    """What the run in DIR does or waits for, and which round it closed last."""
    from splitfed.store import RunFolder

    with RunFolder.read_only(folder) as view:
        closed = view.closed()
        found: dict[str, Any] = {
            **(view.status() or {}),
            "party": view.party,
            "running_pid": RunFolder.holder(folder),
            "closed_round": closed.round if closed else 0,
            "confirmed": view.confirmed,
        }
    if as_json:
        say_json(found)
        return 0
    pid = found["running_pid"]
    say(f"{found['party']}: {'not running' if pid is None else f'running, process {pid}'}")
    say(f"last closed round: {found['closed_round']}")
    doing = str(found.get("phase", "nothing yet"))
    if found.get("of"):
        doing += f" for {found.get('for')} of {', '.join(found['of'])}"
    say(f"{'last' if pid is None else 'now'}: {printable(doing)}")
    return 0
