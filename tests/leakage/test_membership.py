"""Membership inference: it tells what was learnt by heart, and nothing of an untrained model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from splitfed.data import ImageSet
from splitfed.errors import DataError
from splitfed.leakage.membership import Told, auc, crowd, losses, shared_after, told_apart
from splitfed.leakage.subject import Subject
from splitfed.sharing import split_model
from tests.support.leaking import NOISED, subject, with_noise


@pytest.fixture(scope="module")
def overfitting(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """Random labels, so that nothing can be learnt but the images themselves."""
    one = with_noise(subject(tmp_path_factory.mktemp("party")), count=120)
    hard = one.settings.model_copy(update={"lr": 0.01, "epochs": 15, "batch_size": 8})
    return replace(one, settings=hard)


def told(one: Subject, *, rounds: int, mode: str = "none") -> Told:
    split = split_model(one.module, ("*",))
    people = crowd(one.train, one.held_out, most=60, seed=0)
    shared = shared_after(one, split, people.members, mode, rounds=rounds, seed=0)
    return told_apart(one, split, shared, people)


def test_members_of_an_overfitted_model_are_told_apart(overfitting: Subject) -> None:
    found = told(overfitting, rounds=2)
    assert found.auc > 0.7
    assert found.low > 0.5


def test_members_of_an_untrained_model_are_not(overfitting: Subject) -> None:
    found = told(overfitting, rounds=0)
    assert found.low < 0.5 < found.high


def test_noise_hides_members(tmp_path: Path, overfitting: Subject) -> None:
    private = replace(
        subject(tmp_path, privacy=NOISED),
        train=overfitting.train,
        held_out=overfitting.held_out,
    )
    found = told(private, rounds=4, mode="dp-frozen")
    assert found.low < 0.5 < found.high
    assert found == told(private, rounds=4, mode="dp-frozen")  # the noise is rehearsed


def test_the_attacker_gets_the_shared_layers_and_a_head_of_its_own(overfitting: Subject) -> None:
    """Members' own private layers are not used: changing them changes nothing."""
    split = overfitting.split
    people = crowd(overfitting.train, overfitting.held_out, most=60, seed=0)
    shared = shared_after(overfitting, split, people.members, "none", rounds=1, seed=0)
    assert set(shared) == split.shared_names
    assert told_apart(overfitting, split, shared, people).members == len(people.compared)


# --- who is compared -------------------------------------------------------------------------


def labelled(labels: list[int], *, start: int = 0) -> ImageSet:
    """Images that differ from each other: each is one number."""
    values = torch.arange(start, start + len(labels), dtype=torch.float32)
    images = values[:, None, None, None].expand(-1, 1, 4, 4).clone()
    return ImageSet(images=images, labels=torch.tensor(labels))


def test_members_and_others_have_equal_classes_and_the_attacker_has_neither() -> None:
    train = labelled([0] * 30 + [1] * 10)
    held = labelled([0] * 20 + [1] * 40, start=100)
    found = crowd(train, held, most=40, seed=1)
    assert found.others.labels is not None
    compared = found.members.subset(found.compared)
    assert compared.labels is not None
    assert sorted(compared.labels.tolist()) == sorted(found.others.labels.tolist())
    assert len(compared) == 20  # ten of each class: half of 20, and all of the ten members
    of = [{float(v) for v in part.images[:, 0, 0, 0]} for part in (found.others, found.attacker)]
    assert not of[0] & of[1]
    assert len(of[0] | of[1]) == 60


def test_a_held_out_image_that_was_trained_on_is_no_stranger() -> None:
    train = labelled([0] * 20)
    held = labelled([0] * 60)  # the first twenty are the training images
    found = crowd(train, held, most=20, seed=1)
    values = {float(v) for v in found.others.images[:, 0, 0, 0]}
    assert min(values) >= 20
    with pytest.raises(DataError, match="0 held-out images have a training image"):
        crowd(train, labelled([0] * 20), most=20, seed=1)


# --- the figure ------------------------------------------------------------------------------


def test_auc_is_the_share_of_pairs_in_order_with_ties_halved() -> None:
    draw = np.random.default_rng(1)
    members, others = draw.integers(0, 8, 40).astype(float), draw.integers(0, 6, 30).astype(float)
    apart = members[:, None] - others[None]
    wins = (apart > 0) + 0.5 * (apart == 0)
    found = auc(members, others)
    assert found.auc == pytest.approx(wins.mean())
    spread = np.sqrt(wins.mean(1).var(ddof=1) / 40 + wins.mean(0).var(ddof=1) / 30)
    assert found.high - found.auc == pytest.approx(1.959964 * spread, rel=1e-5)
    assert found.auc - found.low == pytest.approx(1.959964 * spread, rel=1e-5)


def test_perfect_and_reversed_scores_stay_within_zero_and_one() -> None:
    assert auc(np.array([2.0, 3.0]), np.array([0.0, 1.0])).auc == 1.0
    found = auc(np.array([0.0, 1.0]), np.array([2.0, 3.0]))
    assert (found.auc, found.low, found.high) == (0.0, 0.0, 0.0)


def test_a_loss_that_is_not_finite_counts_as_the_worst(overfitting: Subject) -> None:
    model = overfitting.copy()
    with torch.no_grad():
        next(iter(model.parameters())).fill_(float("nan"))
    assert np.isinf(losses(model, overfitting.train)).all()
