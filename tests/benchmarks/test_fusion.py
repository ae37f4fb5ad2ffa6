"""The fusion benchmark's arithmetic: intervals, paired differences, targets; no training."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from scipy.stats import ttest_1samp

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))  # they are scripts

import fusion

from splitfed.data import digits

DIFFERENCES = [1.2, -0.3, 0.8, 2.1, 0.4]


def table(**rows: tuple[float, float]) -> dict[str, dict[str, float]]:
    """Accuracies of two parties by row."""
    return {row: {"a": values[0], "b": values[1]} for row, values in rows.items()}


def test_the_interval_is_students() -> None:
    expected = ttest_1samp(DIFFERENCES, 0.0).confidence_interval(0.95)
    assert fusion.interval(DIFFERENCES) == pytest.approx((expected.low, expected.high))


def test_the_interval_of_a_known_case() -> None:
    # Mean 2, deviation 1, three values: 4.3027 / sqrt(3) to either side.
    assert fusion.interval([1.0, 2.0, 3.0]) == pytest.approx((-0.4841, 4.4841), abs=1e-4)


def test_more_confidence_is_wider_and_contains() -> None:
    low, high = fusion.interval(DIFFERENCES, 0.9)
    wide_low, wide_high = fusion.interval(DIFFERENCES, 0.99)
    assert wide_low < low < high < wide_high


def test_one_observation_says_nothing_about_chance() -> None:
    assert fusion.interval([3.0]) == (-math.inf, math.inf)
    assert math.isnan(fusion.spread([3.0]))


def test_differences_are_paired_by_seed_and_averaged_over_parties() -> None:
    results = [
        table(fused=(90, 92), full=(91, 92)),
        table(fused=(95, 93), full=(90, 90)),
        table(fused=(1, 1)),  # a seed without the row takes no part
    ]
    assert fusion.paired(results, "fused", "full") == [-0.5, 4.0]


def test_the_weaker_party_is_the_one_with_less_by_itself() -> None:
    assert fusion.weaker(table(local_only=(80, 79))) == "b"
    assert fusion.weaker(table(local_only=(80, 80))) == "a"


def test_targets_of_the_demo() -> None:
    met = [table(local_only=(80, 90), fused=(84, 90), full=(87, 88))] * 2
    below, gain = fusion.targets("demo", met)
    assert below[1:] == (pytest.approx(-0.5), True)
    assert gain[1:] == (pytest.approx(4.0), True)
    missed = [table(local_only=(80, 90), fused=(80.5, 91), full=(87, 88))]
    assert not any(reached for *_, reached in fusion.targets("demo", missed * 2))


def test_under_noise_the_worst_party_of_all_seeds_decides() -> None:
    fine = table(local_only=(80, 90), fused=(79.5, 92), kept=(80, 92))
    worse = table(local_only=(80, 90), fused=(80, 89.4), kept=(80, 90))
    assert [m for *_, m in fusion.targets("dp-frozen", [fine])] == [True, True]
    kept, fused = fusion.targets("dp-frozen", [fine, worse])
    assert kept[2]
    assert fused[1:] == (pytest.approx(-0.6), False)


def test_other_settings_have_to_beat_outputs_beyond_the_interval() -> None:
    results = [table(fused=(90, 90), outputs_only=(89, 89.5)) for _ in range(3)]
    ((_, low, reached),) = fusion.targets("few-labels", results)
    assert low == pytest.approx(0.75)
    assert reached


def test_lines_of_the_table_hold_mean_spread_and_difference() -> None:
    results = [
        table(local_only=(80, 82), fused=(85, 85)),
        table(local_only=(82, 84), fused=(86, 86)),
    ]
    local, fused = fusion.rows_of(results)
    assert local[:7] == ["local_only", "2", "82.00", "1.41", "80.00", "84.00", "+3.50"]
    assert local[7] == "-2.85 to +9.85"  # 12.706 * 0.7071 / sqrt(2) to either side
    assert fused == ["fused", "2", "85.50", "0.71", "85.00", "86.00"]


def test_words_are_counted() -> None:
    assert fusion.counted(["x", "y", "y"]) == "y 2 of 3, x 1 of 3"


def test_negatives_are_turned_back_by_a_second_negative() -> None:
    data = digits.federation(2, "iid", 0, 20).parties[0].train
    turned = fusion.inverted(data)
    assert torch.equal(turned.images, 255 - data.images)
    assert torch.equal(fusion.inverted(turned).images, data.images)


@pytest.mark.parametrize("name", fusion.SETTINGS)
def test_every_setting_can_be_dealt(name: str) -> None:
    setting = fusion.SETTINGS[name]
    parties, reference = fusion.parties_of(setting, 7)
    assert len(parties) == setting.parties
    assert len(reference) == (setting.reference or 1000)
    assert setting.records is None or len(parties[0].train) == setting.records


def test_only_the_last_party_is_shifted() -> None:
    (a, b), reference = fusion.parties_of(fusion.SETTINGS["shifted"], 7)
    plain = digits.federation(2, "skew", 7, 100)
    assert torch.equal(a.test.images, plain.test.images)
    assert torch.equal(b.test.images, 255 - plain.test.images)
    assert torch.equal(b.train.images, 255 - plain.parties[1].train.images)
    assert torch.equal(reference.images, plain.reference.images)


def test_without_options_the_documented_settings_run_with_their_own_seeds() -> None:
    options = fusion.options_of([])
    assert tuple(options.setting) == fusion.DOCUMENTED
    assert options.seeds is None
    assert not {1, 2, 3, 4, 5, 101, 102} & set(fusion.CONFIRMING)  # those had searched
