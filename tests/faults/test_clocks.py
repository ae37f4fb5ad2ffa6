"""Clocks that jump: a machine that slept says nothing about its peers.

Monotonic clocks go on while a process is stopped or a virtual machine is paused; the wall
clock may be set back at any time.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from splitfed.store import RunFolder
from tests.support.crossing import Crossing
from tests.support.wires import NO_BEATS

HOURS = 5 * 3600.0
SIZE, WINDOW = 4 << 20, 1 << 20


class Clock:
    """Monotonic seconds that can jump; knows who read it since the last jump."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.reads: dict[str, int] = {}

    def __call__(self) -> float:
        name = threading.current_thread().name
        self.reads[name] = self.reads.get(name, 0) + 1
        return time.monotonic() + self.ahead

    def jump(self, seconds: float) -> None:
        self.reads.clear()
        self.ahead += seconds


@pytest.fixture
def crossing(tmp_path: Path) -> Iterator[Crossing]:
    one = Crossing(tmp_path, SIZE, 2, NO_BEATS, link={"window": WINDOW}, engine={"patience": 60.0})
    try:
        yield one
    finally:
        one.close()


def sleeps(crossing: Crossing, phase: str, of_b: tuple[str, int]) -> Clock:
    """While ``b`` is at ``of_b`` and ``a`` in ``phase``, hours pass for ``a`` in a moment."""
    clock = crossing.clocks["a"] = Clock()

    def at_b(moment: str, round: int) -> None:
        if (moment, round) == of_b:
            crossing.until(lambda: phase_of_a(crossing) == phase)
            clock.jump(HOURS)
            # Once for the jump, and once more to see what it makes of it.
            crossing.until(lambda: clock.reads.get("engine a", 0) > 2)

    crossing.hooks["b"] = at_b
    return clock


def phase_of_a(crossing: Crossing) -> str:
    status = crossing.links["b"].peers_status()["a"].status
    return "" if status is None else status.phase


def test_a_machine_that_slept_for_hours_does_not_blame_its_peer_for_them(crossing) -> None:
    clock = sleeps(crossing, "exchanging", ("train", 2))
    crossing.meet()
    crossing.finish()
    assert clock.ahead == HOURS  # it did sleep


def test_a_machine_that_slept_after_its_last_round_still_waits_for_the_goodbye(crossing) -> None:
    clock = sleeps(crossing, "finished", ("validate", 2))
    crossing.meet()
    crossing.finish()  # which demands that both are confirmed
    assert clock.ahead == HOURS


def test_a_transfer_over_which_both_sides_slept_goes_on_where_it_was(crossing) -> None:
    clocks = crossing.clocks = {"a": Clock(), "b": Clock()}
    proxy = crossing.meet()
    proxy.black_hole_after(SIZE // 2, "down")
    crossing.until(lambda: proxy.pending == 0)
    for clock in clocks.values():
        clock.jump(HOURS)
    proxy.heal()
    crossing.finish()
    assert 0 <= crossing.repeated() <= 2 * WINDOW


def test_a_wall_clock_that_runs_backwards_harms_neither_ledger_nor_log(crossing) -> None:
    hours = itertools.count()
    crossing.walls["a"] = lambda: 1.8e9 - 3600.0 * next(hours)
    crossing.meet()
    crossing.finish()
    with RunFolder.open(crossing.path / "a", party="a", contract=crossing.terms.contract) as folder:
        folder.ledger.verify()
        times = [entry.time for entry in folder.ledger.rows()]
    assert times == sorted(times, reverse=True)
    lines = (crossing.path / "a" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines].count("closed") == 2
