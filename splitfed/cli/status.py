"""``splitfed status``: what a run is doing or waiting for, from another terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from splitfed.cli.output import columns, printable, say, say_json
from splitfed.cli.shared import AsJson, Folder
from splitfed.cli.words import up, whole_round
from splitfed.errors import FolderError, NoRunFolder
from splitfed.progress import lasting, link_words

SCHEMA = 1
"""Of the status.json that this reads; docs/operations.md describes it."""
SILENT = 30.0
"""Seconds without a word of a connected peer that are worth a remark."""
FRESH = 30.0
"""Seconds after which a living run that says nothing new is worth a remark."""
CURES = {
    1: "please report it with the text that --debug adds; the same command goes on",
    5: "the federation is over for this party: tell the others, who may wait for it in vain",
    130: "run the same command again to go on",
}
"""By exit codes, where the end itself names none."""


def status(folder: Folder, as_json: AsJson = False) -> int:
    """Say what the run in DIR is doing or waiting for. Reads only, never disturbs."""
    found = look(folder)
    if as_json:
        say_json(found)
    else:
        say(columns(_readable(folder, found), indent=""))
    return 0


def _readable(folder: Path, found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The rows for a person. Both sources may be somebody else's: anything may stand in them.

    Raises:
        FolderError: not what a run writes.
    """
    try:
        return list(_rows(found))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise FolderError(
            f"{folder}: status.json or the last closed round holds what no run writes "
            f"({type(error).__name__}: {error})",
            "look at it with --json; a run writes status.json anew",
        ) from None


def look(folder: Path) -> dict[str, Any]:
    """All that there is to know: status.json, and what the run folder's database adds.

    Raises:
        NoRunFolder: there is none at ``folder``.
        FolderError: its database is damaged.
    """
    from splitfed.store import RunFolder

    if not folder.is_dir():
        if folder.name == "party.toml" and folder.is_file():
            return look(folder.parent)  # says where the run folders lie
        raise NoRunFolder(
            f"{folder}: no such folder",
            "give the run folder of one party, such as runs/hospital-a; a run that was started "
            "just now makes it within some seconds",
        )
    pid, said = RunFolder.holder(folder), RunFolder.read_status(folder) or {}
    if said.get("schema") != SCHEMA:
        said = {}  # of another version: it says nothing that we could read
    found: dict[str, Any] = {**said, "running_pid": pid, "age_s": _age(said, pid is not None)}
    try:
        with RunFolder.read_only(folder) as view:
            closed, history = view.closed(), view.history()
            return found | {
                "party": view.party,
                "closed_round": closed.round if closed else 0,
                "confirmed": view.confirmed,
                "last_round": history[-1] if history else None,
                "members": list(view.views[-1].members) if view.views else None,
                "quarantined": view.quarantined,
            }
    except NoRunFolder as error:
        if pid is not None:
            return {"phase": "starting", **found, "closed_round": 0, "last_round": None}
        files = [*folder.glob("*/ledger.sqlite"), *folder.glob("*/*/ledger.sqlite")]
        inner = sorted(str(path.parent) for path in files)
        cure = f"it holds run folders: {', '.join(inner)}" if inner else error.cure
        raise NoRunFolder(error.message, cure) from None


def _age(said: Mapping[str, Any], running: bool) -> float | None:
    """Seconds since status.json was written. A living process shares our clock that is never
    set; of a dead one, perhaps of before a reboot, only the wall clock tells."""
    try:
        if running and (age := time.monotonic() - float(said["monotonic_s"])) >= 0:
            return round(age, 1)
        written = datetime.fromisoformat(said["updated_at"])
        return round(max((datetime.now(UTC) - written).total_seconds(), 0.0), 1)
    except (KeyError, TypeError, ValueError):
        return None


def _rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    running = found["running_pid"] is not None
    yield "party", printable(str(found.get("party", "not known yet")))
    yield "process", _process(found)
    yield ("now" if running else "last"), printable(doing(found))
    if running:
        for line in _consequence(found):
            yield "", line
        if found.get("link") == "open":
            for peer, entry in (found.get("peers") or {}).items():
                first, *more = _peer(entry)
                yield f"peer {printable(peer)}", first
                yield from (("", line) for line in more)
    else:
        more = (found.get("ended") or {}).get("why", "").splitlines()[1:]
        yield from (("", printable(line.strip())) for line in more)
        if (cure := _cure(found)) is not None:
            yield "", printable(cure)
    last = found["last_round"]
    yield "closed", whole_round(last) if last else "no round yet"
    if members := found.get("members"):
        yield "voting", printable(", ".join(members))
    for peer, reason in (found.get("quarantined") or {}).items():
        yield "shut out", printable(f"{peer}: {reason}")
    if (epsilon := found.get("epsilon")) is not None:
        yield "privacy", f"epsilon {up(epsilon)} for all that has left{_budget(found)}"


def _process(found: Mapping[str, Any]) -> str:
    age, pid = found["age_s"], found["running_pid"]
    if pid is None:
        return "not running" + ("" if age is None else f", last word {lasting(age)} ago")
    when = "" if age is None else f", as of {lasting(age)} ago"
    if age is not None and age >= FRESH:
        when += ": it says nothing new; is the machine busy, or its disk full?"
    return f"running, process {pid}{when}"


def doing(found: Mapping[str, Any]) -> str:
    """What the run does, waits for, or said last, as one phrase."""
    ended, wait, phase = found.get("ended"), found.get("waiting"), found.get("phase")
    running = found["running_pid"] is not None
    if not phase:
        return "nothing yet"
    if ended and not running:
        why = str(ended["why"]).partition("\n")[0].rstrip(":")
        how = f"ended with exit code {ended['exit_code']}" if ended["exit_code"] else "finished"
        return f"{how}: {why}" if why else how
    where = f"round {found['round']} of {found.get('rounds')}, " if found.get("round") else ""
    text = f"{where}{phase}"
    if wait:
        of = ", ".join(map(str, wait["of"]))
        text = (
            f"{where}waiting for the {wait['for']} of {of} for {lasting(wait['seconds'])} "
            f"(since {_moment(wait['since'])})"
        )
    elif found.get("steps"):
        text += f", step {found['step']} of {found['steps']}"
    if (idle := found.get("since_progress_s")) and idle >= FRESH and not wait:
        text += f", no step for {lasting(idle)}"
    if found.get("alone"):
        text += f"; alone, because {found['alone']}"
    return text if running else f"{text}; then it was killed, or the machine went down"


def _moment(said: str) -> str:
    """A moment of status.json to the second, for a person."""
    return datetime.fromisoformat(said).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _consequence(found: Mapping[str, Any]) -> Iterator[str]:
    """What becomes of a wait if nothing changes."""
    if not (wait := found.get("waiting")):
        return
    if wait["for"] == "goodbye":
        yield "all rounds are closed; it serves what peers may have missed"
    elif wait["patience_left_s"] is None:
        yield "it waits for ever: party.toml sets no [link] patience"
    else:
        then = "finishes alone (exit code 5)"
        if found["on_absent"] != "finish-alone":
            then = "ends with exit code 3; run again to go on"
        if len(found.get("peers") or {}) > 1:
            met = "all have met before and " if wait["for"] == "greeting" else ""
            then = f"goes on without who is absent if {met}enough others agree; else it {then}"
        left = lasting(max(wait["patience_left_s"] - (found["age_s"] or 0.0), 0.0))
        yield f"if nothing changes, in {left} it {then}"


def _peer(entry: Mapping[str, Any]) -> Iterator[str]:
    """How the link stands, what was heard last, and what to do about it."""
    link = link_words(entry)
    life = entry["last_sign_of_life_s"]
    there = entry["state"] in ("connected", "greeting") or entry["met"]
    if life is not None and there and entry["state"] != "left":
        link += f", last heard {lasting(life)} ago"
    yield printable(link)
    if entry["state"] == "connected" and life is not None and life > SILENT:
        yield "it should say something every 10 s: stopped, or its machine too busy?"
    if entry["phase"]:
        steps = f", step {entry['step']} of {entry['steps']}" if entry["steps"] else ""
        where = f"round {entry['round']} " if entry["round"] else ""
        since = lasting(entry["since_change_s"] or 0.0)
        told = f"{where}{entry['phase']}{steps}"
        if entry["state"] == "left":
            yield printable(f"its last word: {told}")
        else:
            yield printable(f"it said: {told}; unchanged for {since}")
    if entry["awaiting"]:
        yield printable(f"still missing: {entry['awaiting']}")
    if entry["state"] in ("absent", "greeting") and entry["route"]:
        yield printable(entry["route"])
    if entry["last_error"]:
        yield from (printable(line.strip()) for line in str(entry["last_error"]).splitlines())
    elif entry["state"] == "absent" and not entry["met"]:
        yield "start `splitfed run` on their side; `splitfed check` there tells what is in the way"


def _cure(found: Mapping[str, Any]) -> str | None:
    """What the operator of a run that is over can do."""
    ended = found.get("ended")
    if not ended:
        return None if found.get("phase") is None else "run the same command again: it goes on"
    if ended["exit_code"] == 0:
        return None if found.get("confirmed") else "run again later: a peer may miss the last round"
    return ended.get("cure") or CURES.get(ended["exit_code"])


def _budget(found: Mapping[str, Any]) -> str:
    account = found.get("budget")
    if not account:
        return ""
    spent = account["spent_epsilon"]
    of = f"budget of {printable(account['data_id'])}: {account['budget_epsilon']:g}"
    return f"; {of}, {'not added up yet' if spent is None else f'{up(spent)} spent'}"
