"""Patience, second by second: what counts as a peer's progress, and what says nothing of it.

The wait is the engine's own; the link before it is one whose hours take no time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from splitfed.errors import LinkDown, PeerUnreachable
from splitfed.rounds.book import Book
from splitfed.rounds.quiet import ASLEEP
from splitfed.rounds.waiting import Waiting
from splitfed.transport.events import Event, Noticed, PeerView, Status
from tests.support.waits import unchanging

PATIENCE = 100.0


class Hours:
    """Stands for link, mail, folder and screen of one wait: each look takes one second.

    Attributes:
        now: seconds on the clock.
        look: called at every look, to let things happen.
    """

    closed = False
    peers = ("b", "c")
    number = 3
    run = None
    book = Book(round=3)

    def __init__(self, look: Callable[[Hours], Event | None]) -> None:
        self.now = 1000.0
        self.look = look
        self.moved = dict.fromkeys(self.peers, 0)
        self.changed: float | None = None
        self.left: dict[str, Any] = {}
        self.membership = unchanging("a", *self.peers, clock=lambda: self.now)

    def next(self, timeout: float) -> Event | None:
        self.now += timeout
        return self.look(self)

    def peers_status(self) -> dict[str, PeerView]:
        status = Status("training", 3, 1, 9)
        return {
            peer: PeerView("connected", status, self.changed, self.now, "", self.moved[peer])
            for peer in self.peers
        }

    def handle(self, event: Event) -> None:
        pass

    def ignored(self, *_: Any, **__: Any) -> None:
        pass

    log = waiting = tick = waited = say = ignored

    def wait(self, seconds: float) -> float:
        """Wait for an update up to ``seconds``; returns how long the wait lasted.

        Raises:
            PeerUnreachable: patience ended.
        """
        began = self.now
        waiting: Any = Waiting
        waiting(
            link=self,
            mail=self,
            folder=self,
            rejected=[],
            patience=PATIENCE,
            on_absent="wait",
            clock=lambda: self.now,
            telling=self,
        ).until_here(lambda: ["b"] if self.now - began < seconds else [], "update")
        return self.now - began


def nothing(_: Hours) -> None:
    return None


def test_a_peer_whose_status_does_not_change_is_waited_for_as_long_as_agreed() -> None:
    hours = Hours(nothing)
    with pytest.raises(PeerUnreachable, match="b showed no progress for 101 s"):
        hours.wait(10_000.0)
    assert Hours(nothing).wait(PATIENCE) == PATIENCE


def test_bytes_and_a_new_status_are_progress() -> None:
    """An update can be on its way out for hours while the peer's vote is awaited."""

    def moves(hours: Hours) -> None:
        if hours.now % 90 == 0:
            hours.moved["b"] += 1

    def changes(hours: Hours) -> None:
        if hours.now % 90 == 0:
            hours.changed = hours.now

    assert Hours(moves).wait(10_000.0) == 10_000.0
    assert Hours(changes).wait(10_000.0) == 10_000.0


def test_bytes_of_one_peer_do_not_hide_the_silence_of_another() -> None:
    """c pulls for hours while nothing comes of b."""

    def moves(hours: Hours) -> None:
        hours.moved["c"] += 1

    with pytest.raises(PeerUnreachable, match="b showed no progress for 101 s"):
        Hours(moves).wait(10_000.0)


def test_hours_that_passed_in_a_moment_are_not_the_peer_s() -> None:
    def sleeps(hours: Hours) -> None:
        if hours.now == 1050.0:
            hours.now += 7 * 3600.0

    hours = Hours(sleeps)
    with pytest.raises(PeerUnreachable, match="for 101 s"):
        hours.wait(1e9)
    awake = hours.now - 1000.0 - 7 * 3600.0
    assert awake == 101.0 - (ASLEEP - 1.0)  # the sleep counted as one long look


def test_a_machine_that_dozes_off_again_and_again_still_comes_to_an_end() -> None:
    def dozes(hours: Hours) -> None:
        hours.now += 3600.0

    with pytest.raises(PeerUnreachable, match="for 120 s"):
        Hours(dozes).wait(1e9)


def test_a_link_that_flaps_without_end_does_not_hide_that_nothing_comes() -> None:
    def flaps(hours: Hours) -> Event:
        return Noticed("b", LinkDown("again"))

    with pytest.raises(PeerUnreachable, match="for 101 s"):
        Hours(flaps).wait(10_000.0)
