"""The worlds of the audit: worst-case data, shipped training, and what an attacker makes of it.

A game is played in two worlds that differ in what the guarantee hides: one record (it is
there, or contributes nothing), or a party's whole data set. One trial trains a tiny model
from known values and observes what the party would release: the shared tensors after every
round, each of one noised step. The attacker knows everything but noise and sampling, and
gives the trial a score: the higher, the more it looks like the world with the canary.

The worlds are constants. Noise and samples come from the operating system and have no seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from splitfed.config import PrivacyConfig, TrainingConfig
from splitfed.data import ImageSet
from splitfed.privacy import Mechanism, mechanism_of
from splitfed.privacy.frozen import freeze_private
from splitfed.privacy.gradients import UnitGradients
from splitfed.privacy.keystream import Keystream
from splitfed.privacy.optimizer import PrivateOptimizer, clip_factors, weighted_sum
from splitfed.random import generator
from splitfed.run.learner import PartyData
from splitfed.run.private import UpdateLearner
from splitfed.sharing import load_tensors, shared_tensors, split_model
from splitfed.training.losses import objective
from splitfed.training.private import PrivateTrainer

EPSILON = 3.0
DELTA = 1e-5
SEED = 7
CLASSES = ("left", "right")
STEP = 1e-3
"""The shared layer moves by this much times (clipped sum + noise): little, so that gradients
stay where the attacker computed them."""
HEAD_RATE = 10.0
"""The learning rate of the head that the naive split trains without noise."""
BODY, HEAD = "body.weight", "head.weight"
Worlds = Literal["own", "head", "whole"]


@dataclass(frozen=True, kw_only=True)
class Game:
    """One mode in one pair of worlds.

    Attributes:
        name: as it is printed.
        mode: a shipped one, or "naive": noise on the shared layer alone, beside a private
            head that is trained on the same records without noise.
        worlds: "own": the canary's own clipped gradient is all that tells, and it is always C
            long; "head": the canary moves the head, and the head turns the gradients of all
            other records; "whole": two data sets with opposite updates.
        rounds: T, of one noised step each.
        sample_rate: q.
    """

    name: str
    mode: str
    worlds: Worlds
    rounds: int = 2
    sample_rate: float = 1.0

    def mechanism(self) -> Mechanism:
        """What is claimed: the least noise with which T steps cost at most ε."""
        # The naive split is accounted for as its advocates do: by the noised steps.
        terms: dict[str, Any] = {"mode": "dp-frozen" if self.mode == "naive" else self.mode}
        terms |= {"epsilon": EPSILON, "delta": DELTA, "max_grad_norm": STEP}
        if self.worlds != "whole":
            terms |= {"max_grad_norm": 1.0, "sample_rate": self.sample_rate, "steps_per_round": 1}
        config = PrivacyConfig.model_validate(terms)
        made = mechanism_of(config, rounds=self.rounds, records={"audited": 64})
        assert made is not None  # none of these is "none"
        return made


GAMES = (
    Game(name="dp-frozen", mode="dp-frozen", worlds="own"),
    Game(name="dp-frozen-sampled", mode="dp-frozen", worlds="own", sample_rate=0.5),
    Game(name="dp-all", mode="dp-all", worlds="own"),
    Game(name="dp-all-head", mode="dp-all", worlds="head"),
    Game(name="party-update", mode="party-update", worlds="whole"),
    Game(name="naive", mode="naive", worlds="head"),
)


def player(game: Game, mechanism: Mechanism, *, canary: bool) -> Callable[[], float]:
    """What plays one trial of ``game`` in the world with or without the canary: train, observe,
    score.

    Args:
        mechanism: whose noise is added: the claimed one, unless the audit is to fail.
    """
    if game.worlds == "whole":
        return _UpdatePlayer(mechanism, canary=canary).play
    world = _own_worlds(game.mode) if game.worlds == "own" else _head_worlds()
    if game.mode == "naive":
        return _NaivePlayer(world, mechanism, canary=canary).play
    return _PrivatePlayer(world, mechanism, canary=canary).play


class TinyModel(nn.Module):
    """A shared and a private linear layer; [N, D] -> [N, 2]."""

    shared = ("body",)

    def __init__(self, body: Tensor, head: Tensor) -> None:
        super().__init__()
        self.body = nn.Linear(body.shape[1], body.shape[0], bias=False)
        self.head = nn.Linear(body.shape[0], len(CLASSES), bias=False)
        load_tensors(self, {BODY: body, HEAD: head})

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.body(x))
        return logits


@dataclass(frozen=True, kw_only=True)
class World:
    """Start values and records; the last record is the canary.

    Attributes:
        direction: [F, D], of what the canary changes in the released sums.
        every: the attacker reads every round; else the last one only.
    """

    model: TinyModel
    images: Tensor
    labels: Tensor
    direction: Tensor
    every: bool

    def records(self, canary: bool) -> tuple[Tensor, Tensor]:
        """Images and labels of all records, or of all but the canary."""
        end = None if canary else -1
        return self.images[:end], self.labels[:end]


def _own_worlds(mode: str) -> World:
    """A mislabelled outlier with an input of its own: its clipped gradient is C long in a
    direction where all others' is zero, and stays so while the model moves."""
    draw = generator(SEED, "audit")
    images = torch.randn(17, 5, generator=draw)
    labels = torch.randint(2, (17,), generator=draw)
    images[:, -1] = 0.0
    images[-1] = torch.tensor([0.0, 0.0, 0.0, 0.0, 100.0])
    body = 0.5 * torch.randn(3, 5, generator=draw)
    body[:, -1] = 0.0
    model = TinyModel(body, torch.zeros(2, 3))
    freeze_private(model, split_model(model), SEED)
    model.head.requires_grad_(mode == "dp-all")  # there it is trained from the same values
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    gradients = UnitGradients(model, trained, objective("cross_entropy", len(CLASSES)))
    found, _ = gradients(images[-1:], labels[-1:])
    clipped = weighted_sum(clip_factors(list(found.values()), 1.0), found[BODY])
    return World(model=model, images=images, labels=labels, direction=clipped, every=True)


def _head_worlds() -> World:
    """A canary that decides the head, which starts at zero; 63 equal records follow it.

    The others' features are zero, so they do not move the head; the canary's are not, so it
    does, with all of its clipped gradient. The others' gradients on the shared layer are
    proportional to the head, which can thus be read from their sum. Under noise (±4 standard
    deviations) they stay below C; after one eager step without noise their sum is 63 C away.
    """
    images = torch.tensor([[90.0, 0.0]]).repeat(64, 1)
    images[-1] = torch.tensor([0.0, 10.0])
    model = TinyModel(torch.tensor([[0.0, 1.0]]), torch.zeros(2, 1))
    labels, direction = torch.zeros(64, dtype=torch.int64), torch.tensor([[-1.0, 0.0]])
    return World(model=model, images=images, labels=labels, direction=direction, every=False)


def score(world: World, mechanism: Mechanism, iterates: Sequence[Tensor]) -> float:
    """The log-likelihood ratio of the released sums, given that the canary adds C times the
    direction to each sum that it is in; in head worlds the last sum along the direction."""
    toward = world.direction.to(torch.float64) / world.direction.norm()
    moves = [a.double() - b.double() for a, b in pairwise(iterates)]
    sums = np.array([float((move * toward).sum()) for move in moves]) / STEP
    if not world.every:
        return float(sums[-1])
    inside = (sums - 0.5) / mechanism.noise_multiplier**2
    rate = mechanism.sample_rate
    if rate < 1.0:
        inside = np.logaddexp(np.log1p(-rate), np.log(rate) + inside)
    return float(inside.sum())


class _PrivatePlayer:
    """ "dp-frozen" and "dp-all": the shipped trainer, round after round."""

    def __init__(self, world: World, mechanism: Mechanism, *, canary: bool) -> None:
        self._world, self._mechanism = world, mechanism
        images, labels = world.records(canary)
        records = len(world.images)
        rate = STEP * mechanism.sample_rate * records  # undoes the division by q n
        self._trainer = PrivateTrainer(
            world.model,
            ImageSet(images=images, labels=labels),
            TrainingConfig.model_validate({"federated": {"lr": rate}}),
            mechanism=mechanism,
            split=split_model(world.model),
            classes=CLASSES,
            records=records,
        )
        self._start = self._trainer.state()

    def play(self) -> float:
        trainer = self._trainer
        trainer.load_state(*self._start)
        seen = [trainer.shared()[BODY]]
        for number in range(1, self._mechanism.rounds + 1):
            trainer.train_round(number)
            released = trainer.shared()
            trainer.merge(released)
            seen.append(released[BODY])
        return score(self._world, self._mechanism, seen)


class _NaivePlayer:
    """The negative control, which splitfed refuses as a mode: built by hand from its parts."""

    def __init__(self, world: World, mechanism: Mechanism, *, canary: bool) -> None:
        self._world, self._mechanism = world, mechanism
        self._model = model = world.model
        self._split = split_model(model)
        self._images, self._labels = world.records(canary)
        self._records = len(world.images)
        both = dict(model.named_parameters())
        self._gradients = UnitGradients(model, both, objective("cross_entropy", len(CLASSES)))
        self._shared = PrivateOptimizer(
            torch.optim.SGD([model.body.weight], lr=STEP * self._records),
            model=model,
            noise_multiplier=mechanism.noise_multiplier,
            max_grad_norm=mechanism.max_grad_norm,
            expected_batch_size=self._records,
            keystream=Keystream(),
        )
        self._head = torch.optim.SGD([model.head.weight], lr=HEAD_RATE)
        self._start = {name: p.detach().clone() for name, p in both.items()}

    def play(self) -> float:
        load_tensors(self._model, self._start)
        seen = [shared_tensors(self._model, self._split)[BODY]]
        for _ in range(self._mechanism.rounds):
            found, _ = self._gradients(self._images, self._labels)
            self._shared.add([found[BODY]])
            self._shared.noised_step()
            self._model.head.weight.grad = found[HEAD].sum(0) / self._records
            self._head.step()
            seen.append(shared_tensors(self._model, self._split)[BODY])
        return score(self._world, self._mechanism, seen)


class _UpdatePlayer:
    """ "party-update": the shipped learner, on one of two data sets with opposite labels."""

    def __init__(self, mechanism: Mechanism, *, canary: bool) -> None:
        self._mechanism = mechanism
        self._model = model = TinyModel(torch.zeros(1, 1), torch.tensor([[1.0], [-1.0]]))
        labels = torch.full((2,), int(canary), dtype=torch.int64)
        data = ImageSet(images=torch.full((2, 1), 100.0), labels=labels)
        split = split_model(model)
        training = {"momentum": 0.0, "lr": 0.01, "steps": 1, "batch_size": 2}
        self._learner = UpdateLearner(
            model,
            mechanism=mechanism,
            split=split,
            data=PartyData(train=data, validation=None, test=None),
            settings=TrainingConfig.model_validate(training),
            classes=CLASSES,
            seed=SEED,
            party="audited",
            rounds=mechanism.rounds,
            acceptance=False,
        )
        self._shared = shared_tensors(model, split)
        self._start = {name: p.detach().clone() for name, p in model.named_parameters()}

    def play(self) -> float:
        load_tensors(self._model, self._start)
        self._learner.merge(self._shared)
        for number in range(1, self._mechanism.rounds + 1):
            self._learner.train(number, lambda *_: None)
            self._learner.merge(self._learner.shared())
        # Each round adds -S or S and noise: the sum is all that tells, and label 1 pulls down.
        return -float(self._model.body.weight.detach()) / STEP
