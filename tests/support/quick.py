"""Three engines and more over the in-memory link, with a clock that runs fast."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from splitfed.rounds.quiet import Quiet
from splitfed.store import RunFolder
from splitfed.tensors import digest
from splitfed.transport.link import Link
from tests.support.members import INITIAL, Town

SWIFT = 20.0
"""Seconds of the engines' clock in one real second."""
PATIENCE = 60.0
"""Of the clock of :func:`swift`: three seconds, where it is waited out."""

ENDLESS = 1000.0
"""Of the same clock, longer than anybody's patience."""

DEAD: set[str] = set()
"""Parties whose silence is as long as anybody's patience; that of no other party is."""


def swift() -> float:
    return time.monotonic() * SWIFT


class QuickLink(Link):
    """The engines' clock is swift, that of the links is not. One that ends waits 0.1 s at most."""

    def __init__(self, *args: Any, **fields: Any) -> None:
        super().__init__(*args, **{**fields, "clock": time.monotonic})

    def close(self, timeout: float = 0.1) -> None:
        super().close(timeout)


class Quick(Town):
    """``spokesman`` is the link of c."""

    spokesman: type[Link] = QuickLink

    def link_type(self, name: str) -> type[Link]:
        return self.spokesman if name == "c" else QuickLink


class Four(Quick):
    """a, b, c and d; ``other`` is the link of ``whose``."""

    other: type[QuickLink] = QuickLink
    whose = "d"

    def link_type(self, name: str) -> type[QuickLink]:
        return self.other if name == self.whose else QuickLink


def four(path: Path, **changes: Any) -> Four:
    changes = {"rounds": 4, "max_update_norm": 100.0, **changes}
    return Four(path, list("abcd"), changes, clock=swift)


def town_of(path: Path, names: str = "abc", rounds: int = 4, **changes: Any) -> Quick:
    return Quick(path, list(names), {"rounds": rounds, **changes}, clock=swift)


def unhurried(patch: pytest.MonkeyPatch) -> None:
    """From now on only the dead are silent: no engine is taken for absent because it is slow."""
    DEAD.clear()
    patch.setattr(Quiet, "of", lambda quiet, peer, news: ENDLESS if peer in DEAD else 0.0)


class PowerCut(BaseException):
    """The machine goes dark."""


def begin(town: Town, *names: str, **engine: Any) -> None:
    for name in names or town.names:
        town.start(name, **{"patience": PATIENCE, **engine})


def dies_in(town: Town, name: str, round: int) -> None:
    def crash(now: int) -> None:
        if now == round:
            town.kill(name)
            DEAD.add(name)
            raise PowerCut

    town.learners[name].crash = crash


def after(*steps: list[float]) -> dict[str, torch.Tensor]:
    """g after rounds in which these parties' steps were averaged."""
    rise = sum(sum(some) / len(some) for some in steps)
    return {name: tensor + rise for name, tensor in INITIAL.items()}


def ended(town: Town, names: str) -> dict[str, torch.Tensor]:
    """The shared tensors with which all of these parties ended, done and alike."""
    found = []
    for name in names:
        ending = town.endings[name]
        assert not isinstance(ending, BaseException), ending
        assert ending.outcome == "done", ending
        found.append(ending.shared)
    assert len({digest(shared) for shared in found}) == 1
    return found[0]


def alike(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.allclose(one[n], other[n]) for n in one)


def views_of(town: Town, name: str) -> list[list[str]]:
    with RunFolder.read_only(town.folders[name]) as folder:
        return [row.members for row in folder.views]
