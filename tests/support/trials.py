"""A federation of two that dies at a given point and goes on, and what must be true afterwards.

The learner keeps a private state that every training, merge and fusion changes in a way that
does not commute: one lost or doubled step, or one in another order, gives another final state.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from splitfed.errors import FolderError
from splitfed.rounds import UPDATE, Ending
from splitfed.store import RunFolder
from splitfed.tensors import digest
from splitfed.transport.frames import OfferBody, Type, Vote, decode_body, decode_header
from splitfed.transport.memory import Recorded
from tests.support.crash import Crash, CrashDisk, Image, QuickDisk
from tests.support.members import AddingLearner, Town

PAIR = ("a", "b")
WITHIN = 60.0
LINGER, STEP = 5.0, 100.0
"""Real seconds after a peer's end in which its last words must have been read; then the clock
goes forward by steps of so many seconds."""


class KeepingLearner(AddingLearner):
    """Also keeps a private tensor that no step leaves alone."""

    def __init__(self, step: float) -> None:
        super().__init__(step)
        self.private = torch.ones(2, dtype=torch.float64)

    def _went(self, factor: float, more: float) -> None:
        self.private = self.private * factor + more

    def train(self, round, step):
        made = super().train(round, step)
        self._went(1.5, round)
        return made

    def merge(self, shared) -> None:
        super().merge(shared)
        self._went(1.25, float(shared["w"].sum()))

    def prepare(self, kind, final, step):
        made = super().prepare(kind, final, step)
        self._went(1.125, 1.0 + final)
        return made

    def absorb(self, received) -> None:
        super().absorb(received)
        self._went(1.0625, float(len(received)))

    def state(self):
        tensors, meta = super().state()
        return {**tensors, "private": self.private.clone()}, meta

    def restore(self, tensors, meta) -> None:
        values = dict(tensors)
        self.private = values.pop("private").clone()
        super().restore(values, meta)


class Clock:
    """Real seconds, put forward when nobody is left to wait for."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


class Watch:
    """Everything signed that was ever seen on the wire."""

    def __init__(self) -> None:
        self.said: dict[tuple[Any, ...], set[bytes]] = defaultdict(set)

    def __call__(self, message: Recorded) -> None:
        header = decode_header(message.header)
        if header.type not in (Type.OFFER, Type.VOTE):
            return
        match decode_body(header, message.body):
            case OfferBody(offer):
                self.said[offer.party, offer.round, offer.kind].add(offer.manifest.root)
            case Vote(body, _):
                self.said[message.sender, header.round, "vote"].add(body)

    def faults(self) -> list[str]:
        return [f"{key}: {len(it)} different ones" for key, it in self.said.items() if len(it) > 1]


@dataclass(frozen=True)
class End:
    """What a party's folder and learner say when all is over."""

    shared: bytes
    private: list[float]
    received: dict[str, bytes] | None
    history: list[tuple[int, str, str]]
    released: list[tuple[int, str, bytes]]
    closed: tuple[int, str, bytes]


def pair(path: Path, **changes: Any) -> Town:
    """Two parties whose learners keep something, and whose words are watched."""
    town = Town(path, list(PAIR), {"rounds": 2, **changes}, Clock())
    town.learner = KeepingLearner
    return ready(town)


def ready(town: Town) -> Town:
    """The same for a town of another kind."""
    for name in town.names:
        renew(town, name)
        town.disks[name] = QuickDisk()
    town.hub.record = Watch()
    return town


def renew(town: Town, name: str) -> None:
    """A new process knows nothing."""
    town.learners[name] = town.learner(1.0 + town.names.index(name))


def end_of(town: Town, name: str) -> End:
    """What ``name`` ended with."""
    ending = town.endings[name]
    assert isinstance(ending, Ending), f"{name} ended with {ending!r}"
    learner = town.learners[name]
    assert isinstance(learner, KeepingLearner)
    with RunFolder.read_only(town.folders[name]) as folder:
        last = folder.closed()
        assert last is not None
        assert folder.verify() == len(folder.ledger.rows())
        assert folder.evidence() == ()
        return End(
            shared=digest(ending.shared),
            private=learner.private.tolist(),
            received=None
            if ending.received is None
            else {party: digest(tensors) for party, tensors in ending.received.items()},
            history=[(row["round"], row["kind"], row["outcome"]) for row in folder.history()],
            released=[(e.row.round, e.row.kind, e.row.root) for e in folder.ledger.rows()],
            closed=(last.round, last.outcome, last.digest),
        )


def undisturbed(path: Path, **changes: Any) -> dict[str, End]:
    """How both end when nothing happens."""
    town = pair(path, **changes)
    for name in PAIR:
        town.start(name)
    town.wait()
    return {name: end_of(town, name) for name in PAIR}


def faults(town: Town, calm: dict[str, End], *, unconfirmed: str = "") -> list[str]:
    """In words, everything in which ``town`` ended otherwise than the undisturbed one.
    ``unconfirmed``: who may not know that its peer has ended too."""
    watch = town.hub.record
    assert isinstance(watch, Watch)
    found = watch.faults()
    for name in town.names:
        ending = town.endings[name]
        if not isinstance(ending, Ending):
            found.append(f"{name} ended with {ending!r}")
            continue
        if (ending.outcome, ending.confirmed) != ("done", name != unconfirmed):
            found.append(f"{name} ended {ending.outcome}, confirmed {ending.confirmed}")
        end = end_of(town, name)
        found += [
            f"{name}: {field} is {getattr(end, field)}, undisturbed {getattr(calm[name], field)}"
            for field in End.__dataclass_fields__
            if getattr(end, field) != getattr(calm[name], field)
        ]
    return found


def after_the_last_round(path: Path, **changes: Any) -> dict[str, str]:
    """By party, the durable point that follows at once when its last round is closed, as
    recorded in an undisturbed run: what a crash disk is armed with to die there."""
    town = pair(path, **changes)
    disks = {name: CrashDisk(town.folders[name]) for name in PAIR}
    town.disks.update(disks)
    for name in PAIR:
        town.start(name)
    town.wait()
    return {name: _after_the_last_close(disk.points) for name, disk in disks.items()}


def _after_the_last_close(points: list[str]) -> str:
    """A round is closed by the commit after its checkpoint."""
    end = max(number for number, what in enumerate(points) if what == "sync folder checkpoints")
    assert points[end + 1] == "commit", points
    found = points[end + 2]
    assert points.count(found) == 1, f"{found} is not the name of one point alone: {points}"
    return found


def settle(town: Town, within: float = WITHIN) -> None:
    """Wait until all have ended. Who comes back after its peer has ended for good would wait a
    minute for a sign of it: the clock is put forward."""
    clock = town.clock
    assert isinstance(clock, Clock)
    began = time.monotonic()
    gone: dict[str, float] = {}
    while waiting := [name for name in town.names if town._threads[name].is_alive()]:
        now = time.monotonic()
        assert now < began + within, f"{waiting} did not end: {town.endings}"
        for name in town.names:
            if name not in waiting:
                assert isinstance(town.endings[name], Ending), f"{name}: {town.endings[name]!r}"
                gone.setdefault(name, now)
        for name in waiting:
            if len(gone) == 1 and (not heard(town, name) or now > min(gone.values()) + LINGER):
                clock.ahead += STEP
        town._threads[waiting[0]].join(0.02)


def heard(town: Town, name: str) -> bool:
    """Whether ``name`` has heard of a peer in this life."""
    link = town.links.get(name)
    return link is None or any(v.last_sign_of_life for v in link.peers_status().values())


@dataclass
class Trial:
    """A crash and what came of it.

    Attributes:
        where: the durable point before which the party died; empty: it ended before.
        points: all durable points that it passed in its first life.
        found: what is wrong afterwards.
    """

    where: str = ""
    points: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)


def crash_at(town: Town, victim: str, stop: int, kind: Image, calm: dict[str, End]) -> Trial:
    """Run both, let ``victim`` die before its durable point number ``stop`` and go on from
    ``kind``, the image of that moment."""
    where, points = die_at(town, victim, stop, kind)
    if not where:
        return Trial(points=points, found=faults(town, calm))
    durable, over = standing(town.folders[victim], len(calm[victim].history))
    try:
        return_of(town, victim)
    except AssertionError as error:
        return Trial(where, points, [str(error)])
    found = faults(town, calm, unconfirmed=unsure(town, victim) if over else "")
    again = [round for round in town.learners[victim].trained if round in durable]
    if again:
        found.append(f"rounds {again} were trained again, although that was durable")
    return Trial(where, points, found)


def die_at(town: Town, victim: str, stop: int | str, kind: Image) -> tuple[str, list[str]]:
    """Run both until ``victim`` dies before its durable point ``stop`` (a number, or what it
    does); its folder is then the image. Returns where that was, empty where both ended before,
    and the points that it passed."""
    image = town.path / "image"
    disk = CrashDisk(town.folders[victim])
    disk.arm(stop, image, kind)
    disk.died = lambda: town.kill(victim)
    town.disks[victim] = disk
    for name in town.names:
        town.start(name)
    town.wait(victim)
    ended = town.endings[victim]
    if not isinstance(ended, Crash):
        assert isinstance(ended, Ending), f"{victim}: {ended!r}"
        town.wait()
        return "", disk.points
    town.folders[victim] = image
    return str(ended), disk.points


def return_of(town: Town, name: str, within: float = WITHIN) -> None:
    """A new process of ``name`` goes on with its folder, until both have ended."""
    town.disks[name] = QuickDisk()
    renew(town, name)
    town.start(name)
    settle(town, within)


def unsure(town: Town, victim: str) -> str:
    """``victim``, if it died after its peer had ended for good: nobody can tell it so."""
    ending = town.endings[victim]
    return victim if isinstance(ending, Ending) and not ending.confirmed else ""


def standing(path: Path, exchanges: int) -> tuple[list[int], bool]:
    """The rounds whose training is durable in a folder, and whether all is closed."""
    try:
        found = RunFolder.read_only(path)
    except FolderError:
        return [], False  # it died while the folder was made
    with found as folder:
        rows, checkpoint = folder.history(), folder.checkpoint()
        done = sum(row["kind"] == UPDATE for row in rows)
        if checkpoint is not None and checkpoint.meta["phase"] == "trained":
            done += checkpoint.meta["kind"] == UPDATE
        return list(range(1, done + 1)), len(rows) == exchanges
