from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitfed.errors import Defect
from splitfed.evaluation import Predictions, measure, score, wilson_interval


@pytest.mark.parametrize(
    ("right", "size", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_gives_the_published_values(
    right: int, size: int, low: float, high: float
) -> None:
    assert wilson_interval(right, size) == (
        pytest.approx(low, abs=5e-5),
        pytest.approx(high, abs=5e-5),
    )


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_ends_solve_the_score_equation(case: tuple[int, int]) -> None:
    """Each end q is where |p - q| = z √(q(1-q)/n): the definition Wilson inverts."""
    right, size = case
    p = right / size
    for q in wilson_interval(right, size):
        assert 0 <= q <= 1
        assert abs(p - q) == pytest.approx(
            1.959963984540054 * math.sqrt(q * (1 - q) / size), abs=1e-7
        )


def test_all_right_and_all_wrong_still_leave_doubt() -> None:
    low, high = wilson_interval(10, 10)
    assert (round(low, 3), high) == (0.722, 1.0)
    low, high = wilson_interval(0, 10)
    assert (low, round(high, 3)) == (0.0, 0.278)


@pytest.mark.parametrize(("right", "size"), [(0, 0), (-1, 4), (5, 4)])
def test_impossible_counts_are_a_defect(right: int, size: int) -> None:
    with pytest.raises(Defect, match=f"{right} right of {size}"):
        wilson_interval(right, size)


def test_score_counts_right_answers() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]]).double()
    said = Predictions(
        probabilities=probabilities, values=None, labels=torch.tensor([0, 1, 1, 1]), loss=0.5
    )
    got = score(said)
    assert (got.size, got.accuracy, got.loss) == (4, 0.75, 0.5)
    assert (got.accuracy_low, got.accuracy_high) == wilson_interval(3, 4)
    row = got.row()
    assert list(row)[:4] == ["accuracy", "accuracy_low", "accuracy_high", "loss"]
    assert [row[key] for key in list(row)[:4]] == [0.75, *wilson_interval(3, 4), 0.5]
    assert {key: row[key] for key in list(row)[4:]} == measure(said).row()
