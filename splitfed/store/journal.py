"""``log.jsonl`` and ``status.json``: for people and their tools; nothing depends on them.

Neither is fsynced and neither stops a run: a full disk is reported by the first durable
write, and the log says how many lines it lost.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from splitfed.reading import read_plain

LOG = "log.jsonl"
STATUS = "status.json"
_LARGEST = 1 << 20  # bytes of a status that are read


class Log:
    """Append events to ``log.jsonl``, one JSON object a line; any thread may call it."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(folder / LOG, flags, 0o600)
        self._clock = clock
        self._guard = threading.Lock()
        self._lost = 0
        size = os.fstat(self._descriptor).st_size
        # A process that was killed while writing leaves half a line: ours begins a new one.
        self._torn = size > 0 and os.pread(self._descriptor, 1, size - 1) != b"\n"

    def write(self, event: str, fields: dict[str, Any]) -> None:
        """Append one event with its time; what JSON cannot hold is written as text."""
        moment = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        stamp = {"time": moment, "event": event}
        with self._guard:
            if self._descriptor < 0:
                return
            lost = {"lines_lost": self._lost} if self._lost else {}
            line = to_json({**stamp, **fields, **lost, **stamp}) + b"\n"
            line = b"\n" + line if self._torn else line
            try:
                written = os.write(self._descriptor, line)  # one call: lines never mix
            except OSError:
                self._lost += 1
                return
            self._torn = written < len(line)
            self._lost = self._lost + 1 if self._torn else 0

    def close(self) -> None:
        """Close the file; later events are dropped."""
        with self._guard:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1


def write_status(folder: Path, status: dict[str, Any]) -> None:
    """Replace ``status.json``, with the time and this process's id: a reader sees the old one
    or the new one, never a mixture."""
    path = folder / STATUS
    temporary = path.with_name(f".{STATUS}.{threading.get_ident()}.tmp")
    stamp = {
        "pid": os.getpid(),
        "updated_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        # The wall clock may be set meanwhile; this one tells how old the file is all the same.
        "monotonic_s": round(time.monotonic(), 3),
    }
    try:
        temporary.write_bytes(to_json({**status, **stamp}))
        temporary.replace(path)
    except OSError:
        return


def read_status(folder: Path) -> dict[str, Any] | None:
    """What the run last said about itself, or None if nothing can be read."""
    try:
        status = msgspec.json.decode(read_plain(folder / STATUS, _LARGEST))
    except (OSError, msgspec.MsgspecError, RecursionError, UnicodeError):
        return None  # after a power loss the unsynced file may be empty
    return status if isinstance(status, dict) else None


def to_json(value: Any) -> bytes:
    """Compact JSON; figures that are not finite become null, bytes hex, paths text."""
    return msgspec.json.encode(_plain(value), enc_hook=str)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
