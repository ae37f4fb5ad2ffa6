"""Fault plans: a few lines of text that say what goes wrong in a federation of two, and when.

    die b 31 lost       b dies before its 31st durable point, and what was not synced is gone
    die a 4 torn late   a dies in its next life, and comes back long after
    die b 'remove 000002.safetensors' lost   the same before the first point that does this
    cut 12 lose         the connection breaks before the 12th message; what was under way is lost
    twice 7             the 7th message arrives twice
    hold 9 4            from the 9th message on none arrives, until 4 more were sent or all wait

Deaths of one party happen in the order of the lines, one in each of its lives, counted from that
life's first point; messages are counted over the whole federation. A plan is made from a seed,
printed, read back and carried out again.
"""

from __future__ import annotations

import random
import shlex
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from splitfed.rounds import Ending
from splitfed.transport.memory import MemoryHub
from splitfed.transport.wire import Sent
from tests.support.crash import IMAGES, Crash, CrashDisk, Image, QuickDisk
from tests.support.members import Town
from tests.support.trials import LINGER, PAIR, STEP, End, faults, heard, pair, renew, standing

POINTS, MESSAGES = 75, 45
"""About as many durable points has a life of two rounds, and messages a whole federation."""
ABSENCE = 3600.0
"""Seconds by which the clock jumps while somebody is away for long."""
IDLE = 0.03
"""Real seconds without a message after which everybody is taken to wait."""
WITHIN = 60.0


@dataclass(frozen=True)
class Die:
    """``party`` dies before its durable point ``point`` (a number, or what it does) and goes on
    from ``image``; ``late``: only after its peer has waited for an hour by the clock."""

    party: str
    point: int | str
    image: Image = "lost"
    late: bool = False

    def __str__(self) -> str:
        point = shlex.quote(str(self.point))
        return f"die {self.party} {point} {self.image}" + " late" * self.late


@dataclass(frozen=True)
class Cut:
    """The connection breaks before message ``message``."""

    message: int
    lose: bool = False

    def __str__(self) -> str:
        return f"cut {self.message}" + " lose" * self.lose


@dataclass(frozen=True)
class Twice:
    """Message ``message`` arrives twice."""

    message: int

    def __str__(self) -> str:
        return f"twice {self.message}"


@dataclass(frozen=True)
class Hold:
    """From ``message`` on nothing arrives, until ``more`` messages later."""

    message: int
    more: int

    def __str__(self) -> str:
        return f"hold {self.message} {self.more}"


Fault = Die | Cut | Twice | Hold
Plan = list[Fault]


def text_of(plan: Iterable[Fault]) -> str:
    """The plan as :func:`read_plan` reads it, one fault a line."""
    return "\n".join(str(fault) for fault in plan)


def read_plan(text: str) -> Plan:
    """The inverse of :func:`text_of`."""
    plan: Plan = []
    for line in text.splitlines():
        match shlex.split(line):
            case ["die", party, point, image, *late]:
                assert image in IMAGES
                stop = int(point) if point.isdigit() else point
                plan.append(Die(party, stop, image, late == ["late"]))
            case ["cut", message, *lose]:
                plan.append(Cut(int(message), lose == ["lose"]))
            case ["twice", message]:
                plan.append(Twice(int(message)))
            case ["hold", message, more]:
                plan.append(Hold(int(message), int(more)))
            case [_, *_]:
                raise ValueError(f"no fault: {line}")
    return plan


def plan_of(seed: int, size: int = 6) -> Plan:
    """The plan of a seed: up to ``size`` faults."""
    draw = random.Random(seed)
    return [_drawn(draw) for _ in range(draw.randint(1, size))]


def _drawn(draw: random.Random) -> Fault:
    message = draw.randint(1, MESSAGES)
    match draw.choice(["die", "die", "cut", "twice", "hold"]):
        case "die":
            point, image = draw.randint(0, POINTS), draw.choice(IMAGES)
            return Die(draw.choice(PAIR), point, image, draw.random() < 0.3)
        case "cut":
            return Cut(message, draw.random() < 0.5)
        case "twice":
            return Twice(message)
        case _:
            return Hold(message, draw.randint(1, 8))


class FaultyHub(MemoryHub):
    """The network of a plan."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(PAIR)
        self.count = 0
        self._cuts = {f.message: f for f in plan if isinstance(f, Cut)}
        self._twice = {f.message for f in plan if isinstance(f, Twice)}
        self._holds = {f.message: f.more for f in plan if isinstance(f, Hold)}
        self._until = 0

    def send(self, wire, connection, header, body) -> Sent:
        with self._lock:
            self.count += 1
            number = self.count
            if number in self._cuts:
                self.cut(*PAIR, lose=self._cuts[number].lose)
            if number in self._holds:
                self.hold(*PAIR)
                self._until = number + self._holds[number]
            elif self._until and number >= self._until:
                self.let_go()
            sent = super().send(wire, connection, header, body)
            if number in self._twice and sent is Sent.SENT:
                super().send(wire, connection, header, body)
            return sent

    def let_go(self) -> None:
        """What was held back arrives."""
        self._until = 0
        self.release(*PAIR)


class Carrying:
    """Carries out one plan: starts whoever is down, until both have ended for good.

    Attributes:
        deaths: who died so far, and whether its folder had then closed all rounds.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self.town: Town = pair(path)
        record = self.town.hub.record
        self.hub = self.town.hub = FaultyHub(plan)
        self.hub.record = record
        self._deaths = {
            name: [f for f in plan if isinstance(f, Die) and f.party == name] for name in PAIR
        }
        self._late: dict[str, bool] = dict.fromkeys(PAIR, False)
        self._lives = dict.fromkeys(PAIR, 0)
        self.deaths: list[tuple[str, bool]] = []
        self._gone: dict[str, float] = {}
        self._seen, self._since = 0, time.monotonic()

    def run(self, within: float = WITHIN) -> None:
        """Until both parties have ended for good, or one of them badly."""
        for name in PAIR:
            self._live(name)
        until = time.monotonic() + within
        while (alive := self._alive()) or any(self._again(name) for name in PAIR):
            assert time.monotonic() < until, f"{alive} did not end: {self.town.endings}"
            for name, ending in list(self.town.endings.items()):
                assert isinstance(ending, (Ending, Crash)), f"{name}: {ending!r}"
            for name in PAIR:
                if name not in alive and self._again(name) and self._its_turn(name, alive):
                    self._live(name)
            self._not_for_ever(alive)
            if alive:
                self.town._threads[alive[0]].join(0.005)

    def _live(self, name: str) -> None:
        """Begin the next life of ``name``."""
        town, lives = self.town, self._lives[name]
        death = self._deaths[name].pop(0) if self._deaths[name] else None
        if lives:
            renew(town, name)
        self._lives[name] += 1
        self._gone.pop(name, None)
        town.endings.pop(name, None)
        self._late[name] = death is not None and death.late
        disk = QuickDisk()
        if death is not None:
            disk = CrashDisk(town.folders[name])
            image = town.path / f"{name}{self._lives[name]}"
            disk.arm(death.point, image, death.image)
            disk.died = lambda: town.kill(name)
        town.disks[name] = disk
        town.start(name)

    def _alive(self) -> list[str]:
        alive = [name for name in PAIR if self.town._threads[name].is_alive()]
        for name in PAIR:
            if name not in alive:
                self._gone.setdefault(name, time.monotonic())
        return alive

    def _again(self, name: str) -> bool:
        """Whether ``name`` has to be started once more: it died, or it ended while its peer
        still needs it."""
        if self.town._threads[name].is_alive():
            return False
        ending = self.town.endings[name]
        if isinstance(ending, Crash):
            return True
        other = next(peer for peer in PAIR if peer != name)
        theirs = self.town.endings.get(other)
        needed = not isinstance(theirs, Ending) or not theirs.confirmed
        return isinstance(ending, Ending) and not ending.confirmed and needed

    def _its_turn(self, name: str, alive: list[str]) -> bool:
        if isinstance(self.town.endings[name], Crash):
            disk = self.town.disks[name]
            assert isinstance(disk, CrashDisk)
            if self._late[name] and alive and not self._idle():
                return False
            if self._late[name]:
                self._pass(ABSENCE)
            assert disk.plan is not None
            self.town.folders[name] = disk.plan[1]
            over = standing(self.town.folders[name], self.town.terms.rounds)[1]
            self.deaths.append((name, over))
        return True

    def _idle(self) -> bool:
        now = time.monotonic()
        if self.hub.count != self._seen:
            self._seen, self._since = self.hub.count, now
        return now - self._since > IDLE

    def _pass(self, seconds: float) -> None:
        self.town.clock.ahead += seconds

    def _not_for_ever(self, alive: list[str]) -> None:
        """End what would last: a hold when all wait, and waiting for one who ended for good."""
        if self._idle():
            self.hub.let_go()
        over = [name for name in self._gone if not self._again(name)]
        for name in alive if over else []:
            if not heard(self.town, name) or time.monotonic() > self._gone[over[0]] + LINGER:
                self._pass(STEP)


def carry_out(
    path: Path, plan: Plan, calm: dict[str, End], within: float = WITHIN
) -> tuple[list[str], list[tuple[str, bool]]]:
    """Everything in which a federation under this plan ended otherwise than ``calm``, and
    :attr:`Carrying.deaths`: one planned beyond a life's last point does not happen."""
    carrying = Carrying(path, plan)
    carrying.run(within)
    town = carrying.town
    unsure = [
        name
        for name in PAIR
        if isinstance(town.endings[name], Ending) and not town.endings[name].confirmed
    ]
    return faults(town, calm, unconfirmed=unsure[0] if unsure else ""), carrying.deaths
