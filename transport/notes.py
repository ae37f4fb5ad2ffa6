"""What other parties signed, passed on to one peer and by it."""

from __future__ import annotations

from collections.abc import Iterator

import blake3
import msgspec

from splitfed.errors import Defect
from splitfed.transport.frames import NoteBody

MAX_NOTES = 1024
"""Notes kept for one peer at once: four for each of the most parties that a view can have."""
REMEMBERED = 4 * MAX_NOTES
"""Notes of one peer remembered, to hand up each only once."""

_NoteKey = tuple[str, str, bytes]


def sound(note: NoteBody) -> NoteBody:
    """The note, if a peer could read it.

    Raises:
        Defect: a field that no peer would accept.
    """
    try:
        return msgspec.msgpack.decode(msgspec.msgpack.encode(note), type=NoteBody)
    except msgspec.MsgspecError as error:
        raise Defect(f"a note that no peer could read: {error}") from error


class Notes:
    """Notes for one peer, kept until :meth:`discard`, and those that came from it."""

    def __init__(self) -> None:
        self._kept: dict[_NoteKey, tuple[int, NoteBody]] = {}
        self._told: set[_NoteKey] = set()
        self._heard: dict[bytes, None] = {}

    # --- for the peer ---

    def keep(self, round: int, note: NoteBody) -> bool:
        """Keep a note until ``round`` is discarded, or until :data:`MAX_NOTES` were kept after it;
        one that is kept already, for the later of both rounds. Returns whether this session has
        yet to send it."""
        key = _key(note)
        round = max(round, self._kept.pop(key, (round, note))[0])
        if len(self._kept) >= MAX_NOTES:
            oldest = next(iter(self._kept))
            del self._kept[oldest]
            self._told.discard(oldest)
        self._kept[key] = round, note
        return key not in self._told

    def due(self, closed: int) -> Iterator[tuple[int, NoteBody]]:
        """Notes to send in a new session with a peer that closed round ``closed``."""
        return ((round, note) for round, note in self._kept.values() if round > closed)

    def told(self, note: NoteBody) -> None:
        """This session sends it."""
        self._told.add(_key(note))

    def open(self) -> None:
        """A session begins: nothing was sent in it."""
        self._told.clear()

    def discard(self, round: int) -> None:
        """Drop notes of rounds up to ``round``."""
        self._kept = {key: kept for key, kept in self._kept.items() if kept[0] > round}
        self._told &= self._kept.keys()

    # --- from the peer ---

    def first(self, note: NoteBody) -> bool:
        """Is it the first time that the peer sends this, as far as we remember?"""
        name = blake3.blake3(msgspec.msgpack.encode((note.origin, note.kind, note.body))).digest()
        if name in self._heard:
            return False
        self._heard[name] = None
        if len(self._heard) > REMEMBERED:
            del self._heard[next(iter(self._heard))]
        return True


def _key(note: NoteBody) -> _NoteKey:
    return note.origin, note.kind, note.body
