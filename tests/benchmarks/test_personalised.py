"""The personalised benchmark's division and its score; no training."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))  # they are scripts

import personalised

LABELS = np.repeat(np.arange(10), 400)


def dealt(**more: object) -> list[personalised.Hand]:
    options = {"parties": 8, "alpha": 0.3, "seed": 3, "fewest": 20} | more
    return personalised.deal(LABELS, **options)


def test_the_deal_is_a_partition() -> None:
    places = np.concatenate([np.concatenate([hand.train, hand.test]) for hand in dealt()])
    assert sorted(places.tolist()) == list(range(len(LABELS)))


def test_equal_seeds_deal_equally_and_others_do_not() -> None:
    for one, other in zip(dealt(), dealt(), strict=True):
        assert np.array_equal(one.train, other.train)
        assert np.array_equal(one.test, other.test)
    assert any(
        len(one.train) != len(other.train)
        for one, other in zip(dealt(), dealt(seed=4), strict=True)
    )


def test_numpys_global_generator_is_left_alone() -> None:
    np.random.seed(5)
    expected = np.random.rand()
    np.random.seed(5)
    dealt()
    assert np.random.rand() == expected


@pytest.mark.parametrize("fewest", [1, 60, 150])
def test_everybody_has_enough_images(fewest: int) -> None:
    sizes = [len(hand.train) + len(hand.test) for hand in dealt(fewest=fewest)]
    assert min(sizes) >= fewest


def test_a_quarter_is_for_testing() -> None:
    for hand in dealt():
        size = len(hand.train) + len(hand.test)
        assert len(hand.train) == int(0.75 * size)


def test_a_small_alpha_gives_few_labels_each() -> None:
    def kinds(alpha: float) -> float:
        hands = dealt(alpha=alpha, fewest=1)
        return float(np.mean([len(np.unique(LABELS[hand.train])) for hand in hands]))

    assert kinds(0.05) < 6 < kinds(100.0)


def test_whoever_is_full_gets_nothing_more() -> None:
    # Of each label one party gets nearly all: without the rule some would get several labels.
    sizes = [len(h.train) + len(h.test) for h in dealt(parties=5, alpha=0.01, fewest=1, seed=0)]
    assert max(sizes) < len(LABELS) / 5 + 400


def test_the_score_counts_images_and_not_parties() -> None:
    assert personalised.over_all([1.0, 0.5], [300, 100]) == pytest.approx(87.5)
    assert personalised.over_all([1 / 3, 2 / 3], [3, 3]) == pytest.approx(50.0)


def test_the_network_is_the_one_of_the_leaderboard() -> None:
    model = personalised.TwoConvolutions()
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert sum(p.numel() for p in model.parameters()) == 582_026  # 832 + 51,264 + 524,800 + 5,130
    private = [name for name, _ in model.named_children() if name not in model.shared]
    assert private == ["classifier"]


def test_a_line_of_the_table_compares_what_was_merged() -> None:
    row = {"algorithm": "fedper", "merged": 96.5, "fitted": 97.0, "alone": 96.0}
    row |= {"cpu_s": 60.0, "wall_s": 120.0}
    line = personalised.row_of([row])
    assert line == ["fedper", "1", "96.50", "97.00", "96.00", "97.4", "yes", "1.0", "2.0"]
    line = personalised.row_of([row, row | {"merged": 95.5, "alone": None}])
    assert line[2:5] == ["96.00 ± 0.71", "97.00 ± 0.00", "96.00"]
    assert line[6] == "no, -1.40"
