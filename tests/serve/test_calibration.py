"""Temperature scaling finds the temperature, and a promise is only made where it holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom

from splitfed.errors import DataError
from splitfed.serve import (
    Calibration,
    abstention,
    calibrate,
    fit_temperature,
    tempered,
    upper_bound,
)


def drawn(count: int = 4000, classes: int = 4, scale: float = 2.0) -> tuple[torch.Tensor, ...]:
    """Logits, and labels drawn from their own softmax: calibrated by construction."""
    draw = torch.Generator().manual_seed(3)
    logits = torch.randn(count, classes, generator=draw, dtype=torch.float64) * scale
    labels = torch.multinomial(torch.softmax(logits, 1), 1, generator=draw)[:, 0]
    return logits, labels


@pytest.mark.parametrize("scale", [1 / 3, 1.0, 3.0])
def test_scaled_logits_are_scaled_back(scale: float) -> None:
    logits, labels = drawn()
    assert fit_temperature(logits * scale, labels) == pytest.approx(scale, rel=0.05)


def test_logarithms_of_probabilities_give_the_temperature_of_the_logits() -> None:
    logits, labels = drawn()
    logs = torch.log_softmax(3 * logits, dim=1)
    assert fit_temperature(logs, labels) == pytest.approx(fit_temperature(3 * logits, labels))


def test_no_other_temperature_has_a_lower_loss() -> None:
    logits, labels = drawn(count=200)

    def loss(t: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits * 3 / t, labels))

    best = fit_temperature(logits * 3, labels)
    assert all(loss(best) <= loss(other) for other in np.geomspace(0.06, 19, 200))


def test_all_right_leaves_the_models_own_opinion_and_says_so() -> None:
    labels = torch.arange(30) % 3
    probabilities = torch.full((30, 3), 0.1, dtype=torch.float64)
    probabilities[torch.arange(30), labels] = 0.8
    found = calibrate(probabilities, labels)
    assert (found.temperature, found.determined) == (1.0, False)


def test_all_wrong_has_almost_no_opinion_and_stays_in_bounds() -> None:
    probabilities = torch.tensor([[0.9, 0.1]] * 20, dtype=torch.float64)
    found = calibrate(probabilities, torch.ones(20, dtype=torch.int64))
    assert found.temperature == pytest.approx(math.exp(3), rel=1e-3)
    assert not found.reached


def test_tempering_never_changes_the_likeliest_class() -> None:
    logits, _ = drawn(scale=5.0)
    probabilities = torch.softmax(logits, dim=1)
    for temperature in (0.1, 1.0, 2.5, 20.0):
        after = tempered(probabilities, temperature)
        assert torch.equal(after.argmax(1), probabilities.argmax(1))
        assert torch.allclose(after.sum(1), torch.ones(len(after), dtype=torch.float64))
    assert torch.allclose(tempered(probabilities, 1.0), probabilities, rtol=1e-12)


def test_a_probability_that_underflowed_stays_finite() -> None:
    probabilities = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.6, 0.4]], dtype=torch.float64)
    found = calibrate(probabilities, torch.tensor([1, 0, 0]))
    assert math.isfinite(found.temperature)
    assert torch.isfinite(tempered(probabilities, found.temperature)).all()


def test_upper_bound_by_hand() -> None:
    # No error among n: the bound solves (1 - r)^n = 0.05.
    assert upper_bound(0, 149) == pytest.approx(1 - 0.05 ** (1 / 149))
    assert upper_bound(0, 149) < 0.02 < upper_bound(0, 148)
    assert upper_bound(5, 5) == 1.0
    # With the bound as the true rate, so few errors happen in 5 % of all samples.
    assert binom.cdf(3, 100, upper_bound(3, 100)) == pytest.approx(0.05)


def test_threshold_leaves_the_errors_below_it() -> None:
    confidence = torch.linspace(0, 1, 400, dtype=torch.float64)
    correct = confidence > 0.4  # everything below is wrong, everything above right
    threshold = abstention(confidence, correct, 0.05)
    assert threshold is not None
    covered = confidence >= threshold
    assert 0.36 < threshold < 0.44
    assert upper_bound(int((covered & ~correct).sum()), int(covered.sum())) <= 0.05


def test_a_model_without_errors_answers_everything_it_has_seen_the_like_of() -> None:
    confidence = torch.linspace(0.5, 1, 250, dtype=torch.float64)
    assert abstention(confidence, torch.ones(250, dtype=torch.bool), 0.05) == 0.5


@pytest.mark.parametrize("count", [1, 20, 58])
def test_too_few_images_promise_nothing(count: int) -> None:
    """0.95^59 < 0.05: fewer than 59 images without an error do not rule out 5 %."""
    right = torch.ones(count, dtype=torch.bool)
    confidence = torch.linspace(0.5, 1, count, dtype=torch.float64)
    assert abstention(confidence, right, 0.05) is None


@pytest.mark.parametrize("count", [59, 80, 99, 100, 160, 1000])
def test_enough_images_without_an_error_promise_all(count: int) -> None:
    right = torch.ones(count, dtype=torch.bool)
    confidence = torch.linspace(0.5, 1, count, dtype=torch.float64)
    assert abstention(confidence, right, 0.05) == 0.5


def test_several_looks_share_the_chance_of_being_wrong() -> None:
    """One look at one error in 99 answers would do (4.7 %); of eight looks none does."""
    correct = torch.ones(120, dtype=torch.bool)
    correct[-1] = False  # the surest answer is wrong, so every look sees it
    confidence = torch.linspace(0.5, 1, 120, dtype=torch.float64)
    assert upper_bound(1, 99) < 0.05
    assert abstention(confidence, correct, 0.05) is None


def test_the_second_half_counts_where_the_first_is_too_few() -> None:
    """A binary search would look at 125 answers first, be refused, and go for fewer."""
    correct = torch.ones(250, dtype=torch.bool)
    correct[-1] = False
    confidence = torch.linspace(0.5, 1, 250, dtype=torch.float64)
    assert upper_bound(1, 125, 1 - 0.05 / 8) > 0.05
    assert abstention(confidence, correct, 0.05) == 0.5


def test_ties_count_as_one_threshold() -> None:
    confidence = torch.full((200,), 0.9, dtype=torch.float64)
    correct = torch.ones(200, dtype=torch.bool)
    correct[:40] = False  # 20 % wrong, all equally sure: no threshold can tell them apart
    assert abstention(confidence, correct, 0.05) is None


def test_the_promise_holds_as_often_as_it_says() -> None:
    """The true error above the chosen threshold exceeds 10 % in at most 5 % of the samples."""
    draw = torch.Generator().manual_seed(0)
    broken = made = 0
    for _ in range(200):
        confidence = torch.rand(1000, generator=draw, dtype=torch.float64)
        # An answer of confidence c is right with probability c: above t the error is (1 - t)/2.
        correct = torch.rand(1000, generator=draw, dtype=torch.float64) < confidence
        threshold = abstention(confidence, correct, 0.1)
        made += threshold is not None
        broken += threshold is not None and (1 - threshold) / 2 > 0.1
    assert made > 20
    assert broken <= 0.05 * 200


def test_a_row_that_is_not_finite_counts_as_wrong() -> None:
    probabilities = torch.tensor([[0.9, 0.1]] * 300, dtype=torch.float64)
    labels = torch.zeros(300, dtype=torch.int64)
    labels[::100] = 1
    good = calibrate(probabilities, labels)
    probabilities[1:200:2] = math.nan
    bad = calibrate(probabilities, labels)
    assert good.reached
    assert math.isfinite(bad.temperature)
    assert bad.images == 300


@pytest.mark.parametrize("rate", [0.0, 1.0, -1.0, math.nan])
def test_impossible_error_rate_is_refused(rate: float) -> None:
    with pytest.raises(DataError, match="error rate"):
        calibrate(
            torch.ones(1, 2, dtype=torch.float64) / 2, torch.zeros(1, dtype=torch.int64), rate
        )


def test_no_image_is_refused() -> None:
    with pytest.raises(DataError, match="no images"):
        calibrate(torch.ones(0, 2, dtype=torch.float64), torch.zeros(0, dtype=torch.int64))


def test_row_says_everything() -> None:
    logits, labels = drawn(count=300, scale=8.0)
    found = calibrate(torch.softmax(logits, 1), labels, error_rate=0.3)
    assert Calibration(**found.row()) == found
    assert found.reached
    assert found.row()["images"] == 300
