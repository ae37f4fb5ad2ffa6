"""What this process has heard of each peer: for the log at once, for the screen when asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from splitfed.progress import lasting
from splitfed.store import RunFolder
from splitfed.transport.events import (
    Event,
    Failed,
    Greeted,
    Left,
    LinkBroken,
    Noticed,
    PeerView,
    Status,
)
from splitfed.transport.link import Link


@dataclass(slots=True)
class _Known:
    """One peer; ``since``: when the state of its link began."""

    since: float
    met: bool = False
    left: str = ""
    error: str = ""


class Acquaintance:
    """All peers of one link. :meth:`heard` belongs to the link's thread; any may ask the rest.

    Args:
        number: the round of training that an exchange is, or that it comes after.
        routes: how each peer is reached, in words.
    """

    def __init__(
        self,
        link: Link,
        folder: RunFolder,
        *,
        number: Callable[[int], int],
        routes: Mapping[str, str],
        clock: Callable[[], float],
    ) -> None:
        self._link, self._folder, self._clock = link, folder, clock
        self._number, self._routes = number, routes
        now = clock()
        self._peers = {peer: _Known(since=now) for peer in link.peers_status()}
        self._lines: deque[tuple[str, str]] = deque()

    def heard(self, event: Event) -> None:
        """Log what happened to the link, when it happened: the engine may train for hours
        before it takes the event."""
        known = self._peers.get(event.peer)
        if known is None:
            return
        now, peer = self._clock(), event.peer
        lasted = round(now - known.since, 3)
        match event:
            case Greeted() if event.greeting.purpose == "run":
                again = f" again, after {lasting(lasted)}" if known.met and not known.left else ""
                known.since, known.met = now, True
                known.left = known.error = ""
                closed, boot = event.greeting.closed_round, event.greeting.boot
                self._folder.log("connected", peer=peer, closed=closed, boot=boot, after_s=lasted)
                self._lines.append((peer, f"connected{again}"))
            case LinkBroken():
                self._folder.log("link-broken", peer=peer, reason=event.reason, lasted_s=lasted)
                if not known.left:  # who took leave was expected to go
                    known.since = now
                    self._lines.append((peer, f"link broken ({event.reason}), reconnecting"))
            case Noticed() if str(event.error) != known.error:
                known.error = str(event.error)
                kind = type(event.error).__name__
                self._folder.log("noticed", peer=peer, kind=kind, error=known.error)
                self._lines.append((peer, known.error))
            case Left() if event.reason != known.left:
                known.since, known.left = now, event.reason
                self._folder.log("left", peer=peer, reason=event.reason, closed=event.closed)
                again = "; it must start `splitfed run` again" if event.reason == "failed" else ""
                self._lines.append((peer, f"left ({event.reason}){again}"))
            case Failed():
                known.since, known.error = now, str(event.error)
                kind = type(event.error).__name__
                self._folder.log("failed", peer=peer, kind=kind, error=known.error)
            case _:
                pass

    def lines(self) -> Iterator[tuple[str, str]]:
        """What the screen should say of a peer and has not been told yet."""
        while self._lines:
            yield self._lines.popleft()

    def entries(self, now: float) -> dict[str, dict[str, Any]]:
        """Each peer as it stands in status.json; docs/operations.md describes the keys."""
        views = self._link.peers_status()
        return {peer: self._entry(peer, views[peer], now) for peer in self._peers}

    def _entry(self, peer: str, view: PeerView, now: float) -> dict[str, Any]:
        known, status = self._peers[peer], view.status or Status("", 0, 0, 0)
        return {
            "state": view.state,
            "met": known.met,
            "left": known.left,
            "since_state_s": passed(now, known.since),
            "phase": status.phase or None,
            "round": self._number(status.round) if status.phase else None,
            "step": status.step if status.steps else None,
            "steps": status.steps or None,
            "since_change_s": passed(now, view.since_change),
            "last_sign_of_life_s": passed(now, view.last_sign_of_life),
            "awaiting": view.awaiting,
            "last_error": known.error or None,
            "route": self._routes.get(peer),
        }


def passed(now: float, since: float | None) -> float | None:
    """Seconds since then; None if it never was."""
    return None if since is None else round(max(now - since, 0.0), 1)
