from __future__ import annotations

import math
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.optimizer import register_optimizer_step_pre_hook

from splitfed.config import TrainingConfig
from splitfed.data import ImageSet
from splitfed.training.batches import Batches
from splitfed.training.schedule import fit_rate, round_rate
from tests.support.training import tiny_trainer

CPU = torch.device("cpu")


def numbered(count: int) -> ImageSet:
    """Records whose only value is their own number."""
    return ImageSet(
        images=torch.arange(count, dtype=torch.float32)[:, None], labels=torch.arange(count)
    )


@given(records=st.integers(1, 40), size=st.integers(1, 12))
def test_every_epoch_shows_every_record_once(records: int, size: int) -> None:
    batches = Batches(numbered(records), size, CPU)
    stream = batches.epochs(1, "a")
    for _ in range(2):
        epoch = list(islice(stream, batches.per_epoch))
        assert sorted(torch.cat([labels for _, labels in epoch]).tolist()) == list(range(records))
        assert all(torch.equal(images[:, 0].long(), labels) for images, labels in epoch)


@given(records=st.integers(1, 40), size=st.integers(1, 12), steps=st.integers(0, 30))
def test_sizes_tell_what_comes_and_no_batch_of_one_is_left_over(
    records: int, size: int, steps: int
) -> None:
    batches = Batches(numbered(records), size, CPU)
    came = [len(labels) for _, labels in islice(batches.epochs(1, "a"), steps)]
    assert batches.sizes(steps) == came
    if records > 1 and size > 1:
        assert 1 not in came
    assert all(length <= size + 1 for length in came)


def test_epochs_differ_and_repeat_for_the_same_path() -> None:
    batches = Batches(numbered(20), 20, CPU)
    one = [labels.tolist() for _, labels in islice(batches.epochs(3, "a", 1), 2)]
    again = [labels.tolist() for _, labels in islice(batches.epochs(3, "a", 1), 2)]
    other = [labels.tolist() for _, labels in islice(batches.epochs(3, "a", 2), 2)]
    assert one == again
    assert one[0] != one[1]
    assert one[0] != other[0]


def test_constant_stays() -> None:
    settings = TrainingConfig(lr=0.3)
    rates = {
        round_rate(settings, round=r, step=s, steps=5, total_rounds=4)
        for r in (1, 4)
        for s in (0, 4)
    }
    assert rates | {fit_rate(settings, step=2, steps=5, total_rounds=4)} == {0.3}


def test_cosine_falls_from_lr_towards_zero_over_all_rounds() -> None:
    settings = TrainingConfig(lr=0.4, schedule="cosine")
    rates = [
        round_rate(settings, round=r, step=s, steps=2, total_rounds=2)
        for r in (1, 2)
        for s in (0, 1)
    ]
    by_hand = [0.2 * (1 + math.cos(math.pi * t / 4)) for t in range(4)]
    assert rates == pytest.approx(by_hand)
    assert round_rate(settings, round=9, step=0, steps=2, total_rounds=2) == 0.0


def test_step_multiplies_by_gamma_every_so_many_rounds() -> None:
    settings = TrainingConfig(lr=1.0, schedule="step", gamma=0.5, step_rounds=2)
    rates = [round_rate(settings, round=r, step=3, steps=5, total_rounds=5) for r in range(1, 6)]
    assert rates == [1.0, 1.0, 0.5, 0.5, 0.25]
    assert fit_rate(settings, step=0, steps=5, total_rounds=5) == 0.25


def test_cosine_runs_once_more_over_a_fit() -> None:
    settings = TrainingConfig(lr=0.4, schedule="cosine")
    rates = [fit_rate(settings, step=s, steps=4, total_rounds=9) for s in range(4)]
    assert rates == pytest.approx([0.2 * (1 + math.cos(math.pi * s / 4)) for s in range(4)])


def test_a_round_steps_with_the_rates_of_its_schedule() -> None:
    seen: list[float] = []
    handle = register_optimizer_step_pre_hook(
        lambda optimizer, args, kwargs: seen.append(optimizer.param_groups[0]["lr"])
    )
    try:
        trainer = tiny_trainer(lr=0.4, schedule="cosine", total_rounds=2)
        trainer.train_round(2)
    finally:
        handle.remove()
    assert seen == pytest.approx([0.2 * (1 + math.cos(math.pi * t / 6)) for t in (3, 4, 5)])
