"""The events between the link's thread and the round engine's."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable

from splitfed.errors import Defect
from splitfed.transport.events import (
    Event,
    Greeted,
    Left,
    LinkBroken,
    Noted,
    Noticed,
    OfferRefused,
    StatusChanged,
    Voted,
)

_LATEST_ONLY = (Greeted, LinkBroken, Noticed, StatusChanged)
"""Of these, a peer's newest alone counts: an engine that trains for hours while the
network flaps finds a handful of events, not thousands."""


MOST_ALIKE = 64
"""Votes, refused offers, or words of one party about one thing, that one peer's queue holds."""


def _same_kind(event: Noted, other: Event) -> bool:
    same = event.origin, event.kind
    return isinstance(other, Noted) and (other.origin, other.kind) == same


class Mailbox:
    """A queue of events with one reader. Safe to use from several threads."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._failure: BaseException | None = None

    def put(self, events: Iterable[Event]) -> None:
        """Add events; an older one that a new one makes worthless goes."""
        with self._changed:
            for event in events:
                if isinstance(event, _LATEST_ONLY):
                    self._forget(type(event), event.peer)
                elif isinstance(event, Left) and event in self._events:
                    self._events.remove(event)  # said again in every new session
                elif isinstance(event, Voted | Noted | OfferRefused):
                    self._thin(event)
                self._events.append(event)
            self._changed.notify_all()

    def _forget(self, kind: type, peer: str) -> None:
        for event in self._events:
            if type(event) is kind and event.peer == peer:
                self._events.remove(event)
                return

    def _thin(self, event: Voted | Noted | OfferRefused) -> None:
        """Room for one more of what piles up while the others go on without us."""
        like = [
            other
            for other in self._events
            if type(other) is type(event)
            and other.peer == event.peer
            and (not isinstance(event, Noted) or _same_kind(event, other))
        ]
        if len(like) >= MOST_ALIKE:
            self._events.remove(like[0])

    def backlog(self, peer: str) -> int:
        """Events of ``peer`` that nobody has taken yet."""
        with self._changed:
            return sum(event.peer == peer for event in self._events)

    def fail(self, failure: BaseException) -> None:
        """No more events will come, because of ``failure``: every reader learns of it."""
        with self._changed:
            self._failure = failure
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """No more events will come."""
        return self._closed

    def close(self) -> None:
        """No more events will come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def check(self) -> None:
        """
        Raises:
            Defect: the link's thread stopped by an error of ours.
        """
        if self._failure is not None:
            raise Defect(
                f"the link's thread stopped: {type(self._failure).__name__}: {self._failure}",
                "this is a bug in splitfed; run again with --debug and report what it prints",
            ) from self._failure

    def get(self, timeout: float | None) -> Event | None:
        """The next event; None if none came within ``timeout`` seconds or ever will.

        Raises:
            Defect: as :meth:`check`.
        """
        until = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while True:
                self.check()
                if self._events:
                    return self._events.popleft()
                left = None if until is None else until - time.monotonic()
                if self._closed or (left is not None and left <= 0):
                    return None
                self._changed.wait(left)
