"""Either party dies at every durable point of a whole federation, and both end as if it had not.

Every point is tried, none is drawn: first the party stops before its first durable step, then
before its second, and so on until it ends without having been stopped.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from tests.support.crash import Image
from tests.support.members import outputs_fusion
from tests.support.paying import paid_crash, paying
from tests.support.trials import PAIR, End, crash_at, pair, undisturbed

ONE_ROUND: dict[str, Any] = {"rounds": 1}
FUSED: dict[str, Any] = {"rounds": 2, "fusion": outputs_fusion(list(PAIR), every=1)}
ENOUGH = 5
"""Faults after which no further point is tried."""


def every_point(
    path: Path, victim: str, kind: Image, calm: dict[str, End], changes: dict[str, Any]
) -> list[str]:
    """Die before each point in turn; returns the points in order."""
    wrong: list[str] = []
    for stop in itertools.count():
        trial = crash_at(pair(path / str(stop), **changes), victim, stop, kind, calm)
        where = f"{victim} before point {stop} ({trial.where or 'the end'}), image {kind}"
        wrong += [f"{where}: {fault}" for fault in trial.found]
        if not trial.where or len(wrong) > ENOUGH:
            break
    assert not wrong, "\n".join(wrong)
    return trial.points


@pytest.mark.parametrize("kind", ["torn"])  # "lost": with the fusions; "killed": `make soak`
@pytest.mark.parametrize("victim", PAIR)
def test_a_crash_at_any_durable_point_of_one_round_changes_nothing(
    tmp_path: Path, victim: str, kind: Image
) -> None:
    calm = undisturbed(tmp_path / "calm", **ONE_ROUND)
    points = every_point(tmp_path, victim, kind, calm, ONE_ROUND)
    assert len(points) >= 35, "a folder made, a round, a goodbye"


@pytest.mark.parametrize("victim", PAIR)
def test_a_power_loss_at_any_durable_point_of_rounds_and_fusions_changes_nothing(
    tmp_path: Path, victim: str
) -> None:
    calm = undisturbed(tmp_path / "calm", **FUSED)
    assert [kind for _, kind, _ in calm["a"].history] == ["update", "outputs"] * 2
    points = every_point(tmp_path, victim, "lost", calm, FUSED)
    assert len(points) >= 100, "four exchanges"


@pytest.mark.parametrize("victim", PAIR)
def test_after_a_power_loss_at_any_durable_point_what_was_sent_was_paid_exactly_once(
    tmp_path: Path, victim: str
) -> None:
    """Noise is new in every life, so a payload made again would have another root."""
    wrong: list[str] = []
    for stop in itertools.count():
        town = paying(tmp_path / str(stop))
        where, found = paid_crash(town, victim, stop)
        wrong += [f"{victim} before point {stop} ({where or 'the end'}): {it}" for it in found]
        if not where:
            break
    assert not wrong, "\n".join(wrong)
    assert stop >= 38, "one round, and a debit beside it"
