"""Hours of waiting in moments: real conversations, run folder and screen, and a clock that only
moves when somebody waits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from splitfed.progress import Silent
from splitfed.rounds.book import Book
from splitfed.rounds.pace import Pace
from splitfed.rounds.spending import Unaccounted
from splitfed.rounds.telling import Telling
from splitfed.rounds.views import Views
from splitfed.rounds.waiting import Waiting
from splitfed.store import RunFolder
from splitfed.transport.events import Event, PeerView, Status
from tests.support.folders import new_folder
from tests.support.talk import joined

LOOK = 1.0
"""Seconds that one look for an event takes."""


def unchanging(*parties: str, clock: Callable[[], float]) -> SimpleNamespace:
    """The membership of the first of these parties, in which nobody is ever left out."""
    views = Views(parties, parties[0], len(parties))
    return SimpleNamespace(dynamic=False, pace=Pace(clock), views=views, ready=lambda: None)


class Bench:
    """Alice, who waits for Bob's update, with all that she tells of it.

    Attributes:
        meanwhile: called at every look, before its second passes: what Bob does.
        here: whether what is awaited has come.
    """

    def __init__(
        self,
        path: Path,
        *,
        patience: float = 0.0,
        on_absent: Any = "wait",
        progress: Any = None,
        spending: Any = None,
        wall: Callable[[], float] = lambda: 1.5e9,
    ) -> None:
        self.net, self.alice, self.bob, self.line = joined()
        self.folder = new_folder(path, party="alice", clock=wall)
        self.meanwhile: Callable[[], None] = lambda: None
        self.here = False
        self.bytes = 0
        self.closed = False
        self.watch: Callable[[Event], None] = lambda event: None
        self._given = len(self.alice.events)
        self.telling = Telling(
            party="alice", folder=self.folder, link=self, progress=progress or Silent(),
            rounds=4, number=lambda exchange: exchange, spending=spending or Unaccounted(),
            patience=patience, on_absent=on_absent, clock=self.clock,
            routes={"bob": "it dials us at tcp://127.0.0.1:7001"},
        )  # fmt: skip
        self.watch = self.telling.heard
        for event in self.alice.events:
            self.watch(event)
        self.waiting = Waiting(
            link=self,
            mail=SimpleNamespace(
                handle=lambda event: None,
                number=3,
                peers=("bob",),
                left={},
                run=None,
                book=Book(round=1),
                membership=unchanging("alice", "bob", clock=self.clock),
            ),
            folder=self.folder, rejected=[], patience=patience, on_absent=on_absent,
            clock=self.clock, telling=self.telling,
        )  # fmt: skip

    # --- what Alice's engine asks of its link ---

    def clock(self) -> float:
        return self.net.now

    def next(self, timeout: float | None = None) -> Event | None:
        if self._given == len(self.alice.events):
            self.meanwhile()
            self.net.tick(LOOK)
        for event in self.alice.events[self._given :]:
            self.watch(event)
            self._given += 1
            return event
        return None

    def peers_status(self) -> dict[str, PeerView]:
        return {"bob": replace(self.alice.talk.view, moved=self.bytes)}

    def status(
        self,
        phase: str,
        round: int = 0,
        step: int = 0,
        steps: int = 0,
        awaits: tuple[str, ...] = (),
    ) -> None:
        self.alice.talk.status = Status(phase, round, step, steps, awaits=awaits)

    # --- what a test does ---

    def wait(self) -> float:
        """Wait for Bob's update; returns the seconds that passed."""
        began = self.net.now
        self.waiting.until_here(lambda: [] if self.here else ["bob"], "update")
        return self.net.now - began

    def says(self, phase: str, step: int = 0, steps: int = 0) -> None:
        """Bob's engine is at this step of round 3."""
        self.bob.talk.status = Status(phase, 3, step, steps)

    def flap(self) -> None:
        """The connection breaks and is made anew."""
        self.net.cut(self.net.lines.pop(self.line.name))
        self.line = self.net.connect(self.bob, self.alice)
        self.net.pump()

    def log(self, *names: str) -> list[dict[str, Any]]:
        """The logged events of these names, in order."""
        return logged(self.folder.path, *names)

    def status_file(self) -> dict[str, Any]:
        found = RunFolder.read_status(self.folder.path)
        assert found is not None
        return found


def logged(folder: Path, *names: str) -> list[dict[str, Any]]:
    """Events of a run folder's log.jsonl; without names all of them."""
    lines = (folder / "log.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    return [event for event in events if not names or event["event"] in names]
