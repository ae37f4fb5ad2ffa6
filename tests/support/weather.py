"""What goes wrong in a federation of three to five honest parties, drawn from a seed.

    die b 3 17 lost 4   after b has trained for exchange 3 it dies at its 17th durable point; what
                        was not synced is gone, and it comes back once somebody has closed 4
    dawdle c 2 3        for exchange 2, c trains until somebody has closed 3
    nap c 2 0.8         for exchange 2, c trains for 0.8 times the patience
    part a 5 c 6        from a's training for exchange 5 on, a and c do not reach each other until
                        somebody has closed 6
    cut a 5 c           the connection of a and c breaks then, and what was under way is lost

Each fault waits for its party to get there: none is bound to a time.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.crash import IMAGES, Image
from tests.support.members import outputs_fusion

ROUNDS, FUSE_EVERY = 8, 2
POINTS = 40
"""About as many durable points lie between two trainings of one party."""
NORMAL, SHORT = 60.0, 20.0
"""Patience: long enough for whoever is healthy, and so short that it is taken for absent."""


@dataclass(frozen=True)
class Die:
    """``party`` dies ``point`` durable points after its training for exchange ``at``."""

    party: str
    at: int
    point: int
    image: Image
    until: int

    def __str__(self) -> str:
        return f"die {self.party} {self.at} {self.point} {self.image} {self.until}"


@dataclass(frozen=True)
class Dawdle:
    """``party`` trains until somebody has closed exchange ``until``."""

    party: str
    at: int
    until: int

    def __str__(self) -> str:
        return f"dawdle {self.party} {self.at} {self.until}"


@dataclass(frozen=True)
class Nap:
    """``party`` trains for ``share`` times the patience."""

    party: str
    at: int
    share: float

    def __str__(self) -> str:
        return f"nap {self.party} {self.at} {self.share}"


@dataclass(frozen=True)
class Part:
    """``party`` and ``other`` do not reach each other until somebody has closed ``until``."""

    party: str
    at: int
    other: str
    until: int

    def __str__(self) -> str:
        return f"part {self.party} {self.at} {self.other} {self.until}"


@dataclass(frozen=True)
class Cut:
    """The connection of ``party`` and ``other`` breaks once."""

    party: str
    at: int
    other: str

    def __str__(self) -> str:
        return f"cut {self.party} {self.at} {self.other}"


Fault = Die | Dawdle | Nap | Part | Cut
KINDS = ("die", "die", "die", "dawdle", "nap", "part", "part", "cut")


@dataclass(frozen=True)
class Weather:
    """One federation, and what it has to go through.

    Attributes:
        names: one letter for each party.
        fusion: whether outputs are exchanged after every second round.
        patience: of all parties, in seconds of the fast clock.
        faults: in the order of exchanges.
    """

    seed: int
    names: str
    fusion: bool
    patience: float
    faults: tuple[Fault, ...]

    @property
    def last(self) -> int:
        """Number of the last exchange."""
        return last_of(self.fusion)

    @property
    def changes(self) -> dict[str, Any]:
        """What the terms of this federation say besides the usual."""
        fusion = outputs_fusion(list(self.names), every=FUSE_EVERY) if self.fusion else None
        return {"rounds": ROUNDS, "max_update_norm": 100.0, "fusion": fusion}

    def __str__(self) -> str:
        fusion = "with" if self.fusion else "without"
        head = f"seed {self.seed}: {self.names}, {fusion} fusion, patience {self.patience:g}"
        return "\n    ".join([head, *map(str, self.faults)])


def last_of(fusion: bool) -> int:
    """Number of the last exchange, those of fusions counted."""
    return ROUNDS + fusion * (ROUNDS // FUSE_EVERY)


def weather_of(
    seed: int,
    *,
    kinds: Sequence[str] = KINDS,
    patience: float | None = None,
    most: int = 12,
) -> Weather:
    """The weather of a seed: up to ``most`` faults of ``kinds``."""
    draw = random.Random(seed)
    names, fusion = draw.choice(("abc", "abcd", "abcde")), draw.random() < 0.5
    drawn = draw.choice((NORMAL, SHORT))
    last = last_of(fusion)
    faults = [_drawn(draw, kinds, names, last) for _ in range(draw.randint(4, most))]
    faults.sort(key=lambda fault: fault.at)
    return Weather(seed, names, fusion, patience or drawn, tuple(faults))


def _drawn(draw: random.Random, kinds: Sequence[str], names: str, last: int) -> Fault:
    party, other = draw.sample(names, 2)
    at = draw.randint(1, last)
    until = at + draw.choice((-1, -1, 0, 0, 1, 2))  # before ``at`` it is at once
    match draw.choice(kinds):
        case "die":
            return Die(party, at, draw.randrange(POINTS), draw.choice(IMAGES), until)
        case "dawdle":
            return Dawdle(party, at, max(at, until))
        case "nap":
            return Nap(party, at, round(draw.uniform(0.1, 1.6), 1))
        case "part":
            return Part(party, at, other, max(at, until))
        case _:
            return Cut(party, at, other)
