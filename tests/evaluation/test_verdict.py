from __future__ import annotations

import pytest
import torch

from splitfed.errors import Defect
from splitfed.evaluation import paired_bootstrap


def answers(both: int, gained: int, lost: int, neither: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(local, compared) for given counts of the four ways two models can answer one image."""
    local = [True] * both + [False] * gained + [True] * lost + [False] * neither
    other = [True] * both + [True] * gained + [False] * lost + [False] * neither
    return torch.tensor(local), torch.tensor(other)


@pytest.mark.parametrize(
    ("counts", "answer"),
    [
        ((900, 60, 20, 20), "helped"),
        ((900, 20, 60, 20), "did not help"),
        ((900, 30, 28, 42), "undecided"),
        ((900, 0, 0, 100), "did not help"),  # the same answer on every image
        ((0, 50, 0, 0), "helped"),
        ((0, 0, 50, 0), "did not help"),
    ],
)
def test_the_answer_follows_the_interval(counts: tuple[int, int, int, int], answer: str) -> None:
    verdict = paired_bootstrap(*answers(*counts), seed=1)
    assert verdict.answer == answer
    assert {"helped": verdict.low > 0, "did not help": verdict.high <= 0}.get(
        answer, verdict.low <= 0 < verdict.high
    )


def test_the_interval_is_that_of_drawing_images() -> None:
    """Against the textbook way: draw indices, average, take quantiles."""
    local, other = answers(800, 90, 50, 60)
    verdict = paired_bootstrap(local, other, seed=3)
    differences = other.double() - local.double()
    gen = torch.Generator().manual_seed(9)
    draws = torch.stack(
        [differences[torch.randint(1000, (1000,), generator=gen)].mean() for _ in range(4000)]
    )
    low, high = torch.quantile(draws, torch.tensor([0.025, 0.975]).double()).tolist()
    assert verdict.low == pytest.approx(low, abs=0.003)
    assert verdict.high == pytest.approx(high, abs=0.003)


def test_five_images_in_favour_are_not_enough_and_six_are() -> None:
    five = paired_bootstrap(*answers(994, 5, 0, 1), seed=1)
    six = paired_bootstrap(*answers(993, 6, 0, 1), seed=1)
    assert five.low > 0  # the bootstrap alone would have been sure
    assert (five.answer, six.answer) == ("undecided", "helped")


def test_pairing_sees_what_unpaired_intervals_cannot() -> None:
    """85 % against 87 % of 1,000 overlap widely, but here the errors are nested."""
    assert paired_bootstrap(*answers(850, 20, 0, 130), seed=1).answer == "helped"


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    pair = answers(800, 90, 50, 60)
    assert paired_bootstrap(*pair, seed=5) == paired_bootstrap(*pair, seed=5)
    assert paired_bootstrap(*pair, seed=5) != paired_bootstrap(*pair, seed=6)


def test_exchanging_the_models_turns_the_interval_round() -> None:
    local, other = answers(800, 90, 50, 60)
    forward = paired_bootstrap(local, other, seed=5)
    backward = paired_bootstrap(other, local, seed=5)
    assert forward.low == pytest.approx(-backward.high, abs=0.002)
    assert forward.high == pytest.approx(-backward.low, abs=0.002)


def test_the_verdict_names_what_was_compared() -> None:
    verdict = paired_bootstrap(*answers(0, 9, 0, 0), seed=1, compared="fused")
    assert verdict.row() == {"answer": "helped", "compared": "fused", "low": 1.0, "high": 1.0}


@pytest.mark.parametrize(("first", "second"), [((3,), (4,)), ((0,), (0,)), ((2, 2), (2, 2))])
def test_answers_that_cannot_be_paired_are_a_defect(
    first: tuple[int, ...], second: tuple[int, ...]
) -> None:
    with pytest.raises(Defect, match="cannot pair"):
        paired_bootstrap(torch.ones(first).bool(), torch.ones(second).bool(), seed=1)
