"""Federations of three to five honest parties in weather drawn from a seed: power cuts, links that
are cut, trainings that last until others have gone on. All end alike, and nobody is blamed.

`make soak SOAK_ARGS=views` runs hundreds of them, also with patience of normal length."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.storm import Storm
from tests.support.weather import SHORT, weather_of

BOUND_TO_PROGRESS = ("die", "die", "dawdle", "part", "cut")


@pytest.mark.parametrize("seed", [1, 4, 6])
def test_in_any_weather_all_end_alike(tmp_path: Path, seed: int) -> None:
    weather = weather_of(seed, kinds=BOUND_TO_PROGRESS, patience=SHORT, most=8)
    outcome = Storm(tmp_path, weather).run(within=60.0)
    assert not outcome.found, "\n".join([*outcome.found, f"under {weather}"])
    assert outcome.rounds == weather.last
    assert outcome.split == outcome.quarantined == 0


def test_the_weather_comes_back_from_its_seed() -> None:
    for seed in range(200):
        weather = weather_of(seed)
        assert weather == weather_of(seed)
        assert weather != weather_of(seed + 1)
        assert all(fault.party in weather.names for fault in weather.faults)
