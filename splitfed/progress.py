"""What a party's run tells whoever watches it, without knowing whether anybody does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

NEWS = 2.0
"""Seconds after which a wait is worth telling: every round has shorter ones."""

_REMINDERS = (NEWS, 60.0, 300.0, 1800.0)
_HOUR = 3600.0


def reminders(seconds: float) -> int:
    """How often a wait of that length was told by lines: when it is news, after 1, 5 and 30
    minutes, and every hour.

    >>> [reminders(s) for s in (1, 2, 59, 60, 300, 1800, 3600, 7199, 7200)]
    [0, 1, 1, 2, 3, 4, 5, 5, 6]
    """
    return sum(seconds >= due for due in _REMINDERS) + int(seconds // _HOUR)


def lasting(seconds: float) -> str:
    """A time as people say it, never rounded up.

    >>> lasting(0.4), lasting(59.9), lasting(60), lasting(7530), lasting(200_000)
    ('0 s', '59 s', '1 min', '2 h 5 min', '2 d 7 h')
    """
    whole = max(int(seconds), 0)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h" if hours else f"{days} d"
    if hours:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{minutes} min" if minutes else f"{whole} s"


def link_words(peer: Mapping[str, Any]) -> str:
    """How the link to a peer stands, from its entry in status.json."""
    state, since = peer["state"], lasting(peer["since_state_s"])
    if state == "connected":
        return "connected"
    if state == "left":
        return f"left {since} ago ({peer['left']})"
    if state == "failed":
        return f"failed {since} ago"
    if state == "greeting":
        return "there, not greeted yet"
    return f"reconnecting since {since}" if peer["met"] else "not there yet"


class Progress(Protocol):
    """Told by the thread of the run, in order; each call returns at once.

    Texts may name peers and public figures; they go to the screen, never to a peer.
    """

    def on_phase(self, text: str) -> None:
        """The run now does ``text``, such as "training" or "exchanging"."""
        ...

    def on_step(self, round: int, step: int, steps: int, loss: float) -> None:
        """``step`` of ``steps`` local training steps of ``round`` are done."""
        ...

    def on_round(self, row: Mapping[str, Any]) -> None:
        """A round is closed; ``row`` is its entry of the report's ``history``."""
        ...

    def on_peer(self, peer: str, text: str) -> None:
        """What ``peer`` is doing, or what is the matter with the link to it."""
        ...

    def on_waiting(self, what: str, seconds: float, how: str) -> None:
        """The run has been waiting for ``what`` for ``seconds``; told about once a second, from
        :data:`NEWS` seconds on. ``how``: how the link to each awaited peer stands."""
        ...

    def say(self, text: str) -> None:
        """One line that should not be missed."""
        ...


class Silent:
    """A :class:`Progress` that nobody watches."""

    def on_phase(self, text: str) -> None:
        pass

    def on_step(self, round: int, step: int, steps: int, loss: float) -> None:
        pass

    def on_round(self, row: Mapping[str, Any]) -> None:
        pass

    def on_peer(self, peer: str, text: str) -> None:
        pass

    def on_waiting(self, what: str, seconds: float, how: str) -> None:
        pass

    def say(self, text: str) -> None:
        pass
