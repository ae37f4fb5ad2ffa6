"""The kills of the soak are drawn the same again from their seed."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))  # they are scripts

import soak_kills

POINTS = {"a": 90, "b": 80}


def test_as_many_kills_are_drawn_as_were_asked_for_and_the_same_again() -> None:
    plans = soak_kills.drawn_plans(POINTS, 200, 5)
    assert sum(map(len, plans)) == 200
    assert plans == soak_kills.drawn_plans(POINTS, 200, 5)
    assert plans != soak_kills.drawn_plans(POINTS, 200, 6)
    assert all(0 <= death.point < POINTS[death.party] for plan in plans for death in plan)


def test_in_every_fourth_federation_somebody_dies_after_the_last_round() -> None:
    for plan in soak_kills.drawn_plans(POINTS, 200, 5)[::4]:
        last = plan[-1]
        assert last.point >= POINTS[last.party] - soak_kills.AFTER_THE_LAST_ROUND
        assert [death.party for death in plan].count(last.party) == 1, "in its first life"
