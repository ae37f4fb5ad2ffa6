"""What a hostile reader found: ways by which one record reached another's gradient, or what is
sent, although each record is differentiated by itself. Each is closed, and held closed here."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from splitfed.config import TrainingConfig
from splitfed.errors import ModelError
from splitfed.privacy.gradients import UnitGradients
from splitfed.privacy.optimizer import clip_factors, weighted_sum
from splitfed.run.agreed import Agreed, Settings, agree_on_model
from splitfed.run.learner import PartyData
from splitfed.run.life import make_learner
from splitfed.run.private import PrivateLearner, UpdateLearner
from splitfed.tensors import digest
from tests.support.privacy import (
    CLASSES,
    SmallNet,
    image_set,
    images_of,
    largest_movement,
    mechanism,
    private_trainer,
    small_net,
    watch,
)

MODES = ("dp-frozen", "dp-all", "party-update")
WILD = {"lr": 1e38, "batch_size": 8, "epochs": 4}


class CountsInParameter(SmallNet):
    """Its shared, untrained parameter counts the calls of forward."""

    shared = ("conv", "calls")

    def __init__(self) -> None:
        super().__init__()
        self.calls = nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls.add_(1)
        return super().forward(images)


class CountsInBuffer(SmallNet):
    """A temperature that anneals with every call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(images) / self.calls


class RemembersWhatItSaw(SmallNet):
    """A moving average by assignment: torch.func undoes it, plain evaluation keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = super().forward(images - self.seen)
        self.seen = 0.9 * self.seen + 0.1 * images.mean().reshape(1)
        return logits


@pytest.mark.parametrize("kind", [CountsInParameter, CountsInBuffer])
def test_a_model_that_writes_while_it_computes_is_refused_and_left_as_it_was(kind) -> None:
    model = kind()
    trainer = private_trainer(image_set(images_of(8)), "dp-all", model=model)
    before = digest(trainer.shared())
    with pytest.raises(ModelError, match=r"forward\(\) writes to calls"):
        trainer.train_round(1)
    assert model.calls.item() == 0.0
    assert digest(trainer.shared()) == before


def test_a_shared_parameter_that_is_not_trained_leaves_as_it_was_agreed() -> None:
    class Scaled(SmallNet):
        shared = ("conv", "scale")

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1), requires_grad=False)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images * self.scale)

    trainer = private_trainer(image_set(images_of(8)), model=Scaled())
    trainer.merge({**trainer.shared(), "scale": torch.tensor([2.0])})
    trainer.train_round(1)  # not mistaken for something that forward wrote
    tensors, facts = trainer.state()
    again = private_trainer(image_set(images_of(8)), model=Scaled())
    again.load_state(tensors, facts)
    assert digest(again.shared()) == digest(trainer.shared())
    assert again.shared()["scale"].item() == 2.0


def learner(mode: str, model: nn.Module | None = None, **data) -> PrivateLearner | UpdateLearner:
    model = small_net() if model is None else model
    agreed = Agreed(
        terms=type("Terms", (), {"rounds": 2})(),
        model=agree_on_model(model, None, None),
        classes=CLASSES,
        seed=7,
        factory="",
        document="",
        roster=b"",
        roster_document="",
        records={"a": 24},
        mechanism=mechanism(mode, unit="party" if mode == "party-update" else "record"),
    )
    return make_learner(
        agreed,
        Settings(training=TrainingConfig(**data.pop("training", {})), acceptance=True),
        party="a",
        model=model,
        split=agreed.model.split,
        data=PartyData(
            train=image_set(images_of(24)),
            validation=data.pop("validation", image_set(images_of(9, seed=50))),
            test=None,
        ),
        turn=None,
    )


def test_validation_images_do_not_reach_what_is_trained_next() -> None:
    sums = []
    for scale in (1.0, 1000.0):
        images, labels = images_of(9, seed=50)
        with torch.no_grad():
            torch.manual_seed(1)
            model = RemembersWhatItSaw()
        it = learner("dp-all", model, validation=image_set((images * scale, labels)))
        watched = watch(it._federated)
        it.train(1, lambda *_: None)
        it.validate()
        it.train(2, lambda *_: None)
        sums.append(watched.sums[-1])
    for name in sums[0]:
        assert torch.equal(sums[0][name], sums[1][name])


@pytest.mark.parametrize("others", [1, 2, 3, 63, 64, 65, 67])
def test_how_many_records_are_drawn_moves_no_bit_of_anybody_s_gradient(others) -> None:
    """Products of few rows round otherwise than those of many; chunks are filled up."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 3))
    gradients = UnitGradients(model, dict(model.named_parameters()), functional.cross_entropy)
    images, labels = images_of(others + 1)
    with_it, _ = gradients(images, labels)
    without_it, _ = gradients(images[:-1], labels[:-1])
    for name, found in without_it.items():
        assert torch.equal(with_it[name][:-1], found)


def test_a_blank_record_moves_the_sum_of_a_model_on_the_edge_by_nothing_but_itself() -> None:
    """ReLU gates that hang on rounding: weights orthogonal to known records."""

    class Edge(nn.Module):
        shared = ("first",)

        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(36, 64, bias=False)
            self.last = nn.Linear(64, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.last(torch.relu(self.first(images.flatten(1))))

    images, labels = images_of(67, seed=9)
    blank = torch.zeros_like(images[:1])
    worlds = []
    for data in ((images, labels), (torch.cat([images, blank]), torch.cat([labels, labels[:1]]))):
        torch.manual_seed(3)
        model = Edge()
        known = images[-3:].flatten(1).double()
        with torch.no_grad():
            weight = model.first.weight.double()
            weight -= weight @ torch.linalg.pinv(known) @ known
            model.first.weight.copy_(weight)
        worlds.append(watch(private_trainer(image_set(data), model=model, records=68, lr=1e-6)))
    assert largest_movement(worlds, lambda trainer: trainer.tensors(), 1) <= 1.001


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_gradients_are_clipped_as_tightly_as_others(dtype) -> None:
    draw = torch.Generator().manual_seed(4)
    samples = [torch.randn(2, 5, generator=draw).to(dtype) for _ in range(4000)]
    factors = clip_factors(samples, 1.0)
    parts = [weighted_sum(factors[:1], sample[:1]).double() for sample in samples]
    length = float(sum(part.square().sum() for part in parts)) ** 0.5
    assert length <= 1.001


def test_a_round_that_ends_in_values_that_are_not_finite_is_undone_not_told() -> None:
    trainer = private_trainer(
        image_set(images_of(8)), lr=1e38, max_grad_norm=1e3, steps_per_round=3
    )
    before = digest(trainer.shared())
    assert trainer.train_round(1).steps == 3
    assert digest(trainer.shared()) == before


@pytest.mark.parametrize("mode", ["dp-frozen", "party-update"])
def test_diverging_models_at_home_end_neither_the_run_nor_the_comparison_s_owner(mode) -> None:
    it = learner(mode, training=WILD)
    it.train(1, lambda *_: None)
    it.merge(it.shared())
    it.train(2, lambda *_: None)
    assert it.baseline is None
    if mode == "dp-frozen":
        shared = it.shared()
        it.fit()
        own = dict(it.model.named_parameters())
        assert all(torch.equal(own[name], value) for name, value in shared.items())


def test_diverged_training_sends_a_noised_zero_update() -> None:
    it = learner("party-update", training=WILD)
    base = {name: value.clone() for name, value in it.shared().items()}
    assert it.train(1, lambda *_: None).loss is None
    sent = it.shared()
    spread = torch.cat([(sent[n] - base[n]).flatten() for n in base]).std().item()
    assert 1.0 < spread < 4.0  # the noise of 2 S sigma = 2, around where it began


def test_the_steps_of_a_whole_party_are_not_told() -> None:
    from splitfed.run.spending import Account

    told = {m: Account(mechanism=mechanism(m), party="a").public_steps for m in MODES}
    assert told == {"dp-frozen": True, "dp-all": True, "party-update": False}


@pytest.mark.parametrize("mode", MODES)
def test_the_local_only_branch_shows_that_it_lives_and_not_how_many_steps_it_takes(
    mode: str,
) -> None:
    """Its steps follow from n; and a peer with patience must not take it for dead."""
    told: list[tuple[int, int]] = []
    learner(mode).train(1, lambda done, of, loss: told.append((done, of)))
    assert told[0] == (0, 0)
    assert told[-1][0] == told[-1][1] > 0


def test_tied_shared_layers_can_be_trained_privately() -> None:
    class Tied(nn.Module):
        shared = ("one", "two")

        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(36, 36, bias=False)
            self.two = nn.Linear(36, 36, bias=False)
            self.two.weight = self.one.weight
            self.classifier = nn.Linear(36, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.classifier(torch.tanh(self.two(torch.tanh(self.one(images.flatten(1))))))

    it = learner("dp-frozen", Tied())
    it.train(1, lambda *_: None)
    assert set(it.shared()) == {"one.weight"}
