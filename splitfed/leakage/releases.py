"""What would travel: real updates by the real trainers, of images that are known here."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from splitfed.config import DP_SGD
from splitfed.data import ImageSet
from splitfed.errors import PrivacyError
from splitfed.leakage.subject import Subject
from splitfed.privacy import Mechanism
from splitfed.privacy.guards import check_model
from splitfed.privacy.keystream import Keystream
from splitfed.privacy.update import noised_update
from splitfed.random import derive
from splitfed.run.private import federated_model
from splitfed.sharing import Split, shared_tensors
from splitfed.tensors import Tensors
from splitfed.training import Trainer
from splitfed.training.private import PrivateTrainer

PLAIN = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}
"""A step that is the gradient itself: nothing of it is smoothed, decayed or rescaled."""


class RehearsedNoise(Keystream):
    """Noise of the same distribution from a seed, so that an audit gives the same twice. What is
    made with it is never released: no run can import this package."""

    def __init__(self, seed: int, *path: str | int) -> None:
        super().__init__()
        self._draw = np.random.Generator(np.random.PCG64(derive(seed, *path)))

    def words(self, count: int) -> NDArray[np.uint64]:
        """``count`` 64-bit words."""
        return self._draw.integers(0, 2**64, size=count, dtype=np.uint64)


@dataclass(frozen=True, kw_only=True)
class Release:
    """One round's shared tensors, and what a peer knows of how they came about.

    Attributes:
        model: the one that was trained, as the round found it: its architecture, the agreed
            shared tensors, and private layers at the values that the agreement's seed gives.
        before: the agreed shared tensors.
        after: those that leave.
        steps: local steps between them.
    """

    model: nn.Module
    before: Tensors
    after: Tensors
    steps: int


def release_of(
    subject: Subject, split: Split, images: ImageSet, mode: str, *, as_trained: bool, seed: int
) -> Release:
    """The update of round 1 of a party whose local data are ``images`` alone.

    Without ``as_trained`` it takes one plain step on all of them at once, under noise with
    every image drawn: the most that any step can say about them. With it, the steps, optimizer
    and algorithm of party.toml and the agreement.

    Raises:
        PrivacyError: the mode refuses this model or split.
    """
    if mode not in DP_SGD:
        return _trained(subject, split, images, mode, as_trained, seed)
    mechanism = mechanism_of(subject, split)
    federated = federated_model(subject.copy(), split, subject.agreed)
    begin = federated_model(subject.copy(), split, subject.agreed).eval()
    settings = subject.settings
    steps = mechanism.steps_per_round
    if not as_trained:
        steps = 1
        plain = settings.federated.model_copy(update=PLAIN)
        settings = settings.model_copy(update={"federated": plain})
    before = shared_tensors(begin, split)
    trainer = PrivateTrainer(
        federated,
        images,
        settings,
        mechanism=replace(
            mechanism,
            steps_per_round=steps,
            sample_rate=mechanism.sample_rate if as_trained else 1.0,
        ),
        split=split,
        classes=subject.agreed.classes,
        records=len(images),
        keystream=RehearsedNoise(seed, mode, "release"),
    )
    begin.to(next(iter(federated.parameters())).device)
    trainer.train_round(1)
    return Release(model=begin, before=before, after=trainer.shared(), steps=steps)


def mechanism_of(subject: Subject, split: Split) -> Mechanism:
    """The agreed mechanism, if it may be used with ``split``.

    Raises:
        PrivacyError: it may not.
    """
    mechanism = subject.agreed.mechanism
    if mechanism is None:
        raise PrivacyError("the agreement adds no noise", 'measure mode = "none" alone')
    check_model(subject.module, split, mechanism.mode)
    return mechanism


def _trained(
    subject: Subject, split: Split, images: ImageSet, mode: str, as_trained: bool, seed: int
) -> Release:
    settings = subject.settings
    if not as_trained:
        plain = {**PLAIN, "epochs": None, "steps": 1, "batch_size": len(images)}
        settings = settings.model_copy(update=plain)
    model, begin = subject.copy(), subject.copy().train()
    trainer = Trainer(
        model,
        images,
        settings,
        split=split,
        classes=subject.agreed.classes,
        seed=subject.agreed.seed,
        party=subject.party,
        total_rounds=subject.agreed.terms.rounds,
        algorithm=subject.agreed.algorithm if as_trained else "fedper",
        proximal=settings.proximal if as_trained else 0.0,
    )
    begin.to(next(iter(model.parameters())).device)
    before = shared_tensors(begin, split)
    trainer.train_round(1)
    after = shared_tensors(model, split)
    if mode != "none":
        noise = RehearsedNoise(seed, mode, "release")
        after = noised_update(after, before, mechanism_of(subject, split), noise)
    return Release(model=begin, before=before, after=after, steps=trainer.steps_per_round)
