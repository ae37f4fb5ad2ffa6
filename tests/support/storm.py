"""A federation of three to five honest parties in bad weather, and what must hold afterwards."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path

from splitfed.errors import FolderError, PeerUnreachable
from splitfed.rounds import Ending
from splitfed.store import RunFolder
from splitfed.tensors import digest
from tests.support.crash import Crash, CrashDisk
from tests.support.heard import Heard, Square
from tests.support.members import AddingLearner
from tests.support.quick import SWIFT, alike, begin, swift
from tests.support.weather import Cut, Dawdle, Die, Fault, Nap, Part, Weather

LOOK = 0.01
STALLED = 10.0
"""So many times the patience, and ten seconds of real time, a majority may take that lacks
nothing."""
END_WITHIN = 300.0
"""Real seconds for one federation."""


@dataclass
class Outcome:
    """What came of a federation.

    Attributes:
        found: what is wrong, in words; empty where all is well.
        rounds: exchanges that were closed.
        split: those of them that were closed on two outcomes.
        quarantined: how often somebody is out for another.
        stalled: how often a majority that reached each other closed nothing for long.
        most_views: of one exchange, that one party was a member of.
        seen: what happened, and how often.
    """

    found: list[str] = field(default_factory=list)
    rounds: int = 0
    split: int = 0
    quarantined: int = 0
    stalled: int = 0
    most_views: int = 0
    seen: Counter[str] = field(default_factory=Counter)


class Storm:
    """Carries out the weather of one federation: starts whoever is down, until all have ended."""

    def __init__(self, path: Path, weather: Weather) -> None:
        self.weather, self.names = weather, weather.names
        self.town = Square(path, list(self.names), weather.changes, clock=swift)
        self.town.heard = self.heard = Heard(self.names)
        self.outcome = Outcome()
        self._faults = {n: [f for f in weather.faults if f.party == n] for n in self.names}
        self._disks: dict[str, CrashDisk] = {}
        self._lives: Counter[str] = Counter()
        self._deaths: dict[str, Die] = {}
        self._died: dict[str, int] = {}
        self._begun: set[str] = set()
        self._busy: set[str] = set()
        self._apart: list[tuple[Part, int]] = []
        self._mercy, self._calm = 0, False
        self._mark: object = None
        self._moved = self._closed = time.monotonic()

    def run(self, within: float = END_WITHIN) -> Outcome:
        """Until all have ended, or something is wrong; ``within`` real seconds."""
        for name in self.names:
            self._live(name)
        until = time.monotonic() + within
        while not self._over() and not self.outcome.found:
            if time.monotonic() > until:
                self._wrong(f"did not end: closed {self.heard.closed}, {self.town.endings}")
            self._look()
            self._join()
            time.sleep(LOOK)
        self._calm = True
        if self.outcome.found:
            for link in self.town.links.values():
                link.close(0.0)
        self._judge()
        return self.outcome

    # --- what goes wrong ---------------------------------------------------------------

    def _look(self) -> None:
        """Have mercy where the weather itself leaves nobody who could go on."""
        now, patience = time.monotonic(), self.weather.patience / SWIFT
        mark = self.heard.top, self._able()
        if mark != self._mark:
            self._mark, self._closed = mark, now
        waited = now - self._closed
        if self._able() and self.heard.top < self.weather.last:
            if waited > STALLED * patience + 10.0:
                self.outcome.stalled += 1
                self._mercy, self._closed = self._mercy + 1, now
        elif waited > 2.0 * patience:
            self._mercy, self._closed = self._mercy + 1, now

    def _able(self) -> bool:
        """Whether enough parties run, are not busy and reach each other."""
        apart = [{fault.party, fault.other} for fault, _ in self._apart]
        if len(self._begun) < len(self.names):
            return False  # before the first round all have to meet
        here = [name for name in self.names if name not in self._busy | self._died.keys()]
        groups = map(set, combinations(here, self.town.terms.minimum_parties))
        return any(not any(pair <= group for pair in apart) for group in groups)

    def _past(self, until: int, mercy: int) -> bool:
        """Whether somebody has closed ``until``, or nothing goes on without that."""
        return self._calm or self.heard.top >= until or self._mercy > mercy

    def _trains(self, name: str, round: int) -> None:
        """In the thread of ``name``: whatever waited for its training."""
        self._begun.add(name)
        at, waiting = self.heard.closed[name] + 1, self._faults[name]
        while waiting and waiting[0].at <= at and not self._calm:
            if isinstance(waiting[0], Die) and self._disks[name].plan is not None:
                break  # it will not live to see that
            fault = waiting.pop(0)
            self.outcome.seen[type(fault).__name__] += 1
            self._happens(fault)

    def _happens(self, fault: Fault) -> None:
        hub, mercy = self.town.hub, self._mercy
        match fault:
            case Die(party, _, point, image):
                self._deaths[party] = fault
                target = self.town.path / f"{party}{self._lives[party]}"
                self._disks[party].arm(point, target, image)
            case Dawdle(party, _, until):
                with self._training(party):
                    while not self._past(until, mercy):
                        time.sleep(LOOK)
            case Nap(party, _, share):
                with self._training(party):
                    time.sleep(share * self.weather.patience / SWIFT)
            case Part(party, _, other):
                self._apart.append((fault, mercy))
                hub.part(party, other)
            case Cut(party, _, other):
                hub.cut(party, other, lose=True)

    @contextmanager
    def _training(self, name: str) -> Iterator[None]:
        self._busy.add(name)
        yield
        self._busy.remove(name)

    def _join(self) -> None:
        for fault, mercy in list(self._apart):
            if self._past(fault.until, mercy):
                self._apart.remove((fault, mercy))
                pair = {fault.party, fault.other}
                if all({other.party, other.other} != pair for other, _ in self._apart):
                    self.town.hub.join(fault.party, fault.other)

    # --- lives -------------------------------------------------------------------------

    def _live(self, name: str) -> None:
        town, patience = self.town, self.weather.patience
        self._lives[name] += 1
        self._died.pop(name, None)
        town.endings.pop(name, None)
        learner = town.learners[name] = AddingLearner(1.0 + self.names.index(name))
        learner.crash = partial(self._trains, name)
        disk = self._disks[name] = town.disks[name] = CrashDisk(town.folders[name])
        disk.died = partial(self._dies, name)
        begin(town, name, patience=patience, confirm_within=patience)

    def _dies(self, name: str) -> None:
        self._died[name] = self._mercy
        self.town.kill(name)

    def _over(self) -> bool:
        """Whether all have ended for good. Whoever is down, or ended before others, goes on."""
        done = set()
        for name, ending in list(self.town.endings.items()):
            match ending:
                case Ending(outcome="done", confirmed=confirmed):
                    done.add(name)
                    again = not confirmed
                case Crash():
                    again = self._past(self._deaths[name].until, self._died[name])
                    plan = self._disks[name].plan
                    if again and plan is not None:
                        self.town.folders[name] = plan[1]
                case PeerUnreachable():
                    again = True
                case _:
                    again = False
                    self._wrong(f"{name} ended with {ending!r}")
            if again and len(done) < len(self.names) and not self.town.alive(name):
                self.outcome.seen[type(ending).__name__] += 1
                self._live(name)
        return len(done) == len(self.names)

    # --- what must hold ----------------------------------------------------------------

    def _wrong(self, what: str) -> None:
        self.outcome.found.append(what)

    def _judge(self) -> None:
        agreed: dict[int, set[bytes]] = defaultdict(set)
        for name in self.names:
            try:
                with RunFolder.read_only(self.town.folders[name]) as folder:
                    folder.verify()
                    rows, views = folder.all_closed(), folder.views
                    quarantined, evidence = folder.quarantined, folder.evidence()
            except FolderError as error:
                self._wrong(f"{name}: {error}")
                continue
            for row in rows:
                self.outcome.seen[row.outcome] += 1
                if row.outcome in ("agreed", "void"):
                    agreed[row.round].add(row.digest)
            counts = Counter(row.round for row in views)
            self.outcome.seen["view"] += len(views)
            self.outcome.most_views = max([self.outcome.most_views, *counts.values()])
            self.outcome.quarantined += len(quarantined)
            if quarantined or evidence:
                self._wrong(f"{name} holds against others: {quarantined}, {len(evidence)} proofs")
        split = [number for number, outcomes in agreed.items() if len(outcomes) > 1]
        self.outcome.rounds, self.outcome.split = len(agreed), len(split)
        if split:
            self._wrong(f"{split} were closed on two outcomes")
        for fault in self.heard.faults():
            self._wrong(fault)
        if not self.outcome.found:
            self._judge_tensors(agreed)

    def _judge_tensors(self, agreed: dict[int, set[bytes]]) -> None:
        ends = [end.shared for end in self.town.endings.values() if isinstance(end, Ending)]
        if len({digest(shared) for shared in ends}) > 1:
            self._wrong("ended with different tensors")
        elif not alike(ends[0], self.heard.result(agreed)):
            self._wrong("ended with other tensors than the means of what was counted")
