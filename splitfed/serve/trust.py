"""Whose code a run folder may bring: folders are handed on, code is not.

``model.json`` and ``started.json`` name a folder on the machine on which they were written.
Somebody else's may name any folder of this one, so what it names is searched for code only where
the run folder lies right below it, as a run of one's own does, or where the user gives it.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

from splitfed.reading import read_plain

STARTED = "started.json"
"""Written by a run: which party.toml it was started with."""

_LARGEST = 64 << 10
_LEVELS = 2  # runs/<party>


def is_own(run: Path, code: Path) -> bool:
    """Whether a run folder's word is enough to run code of the folder ``code``.

    It is where ``code`` is one of the two folders above the run folder, belongs to this user and
    cannot be written by everybody.
    """
    try:
        home, status = code.resolve(), code.stat()
        above = run.resolve().parents[:_LEVELS]
    except (OSError, RuntimeError, ValueError):
        return False
    mine = status.st_uid == os.geteuid() and not status.st_mode & stat.S_IWOTH
    return mine and home in above


def party_file_of(run: Path) -> Path | None:
    """The party.toml that a run says it was started with; None where nothing says so."""
    try:
        started = json.loads(read_plain(run / STARTED, _LARGEST))
        return Path(started["party_file"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
