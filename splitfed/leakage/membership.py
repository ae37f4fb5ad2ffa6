"""Membership inference: was this image among the training images of the shared layers?

The attack by loss of Yeom et al. 2018 ("Privacy risk in machine learning: analyzing the connection
to overfitting"): a lower loss speaks for a member. The peer holds the shared layers alone, so it
fits a head of its own on its own images, as splitfed's own fit does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm, rankdata
from torch import Tensor, nn
from torch.nn import functional

from splitfed.config import DP_SGD
from splitfed.data import ImageSet
from splitfed.errors import DataError
from splitfed.leakage.releases import RehearsedNoise, mechanism_of
from splitfed.leakage.subject import Subject
from splitfed.privacy.update import noised_update
from splitfed.random import generator
from splitfed.run.private import federated_model
from splitfed.sharing import Split, load_tensors, shared_tensors
from splitfed.tensors import Tensors
from splitfed.training import Trainer
from splitfed.training.private import PrivateTrainer

HEAD_EPOCHS = 3
"""Epochs that the attacker fits its own head for."""
LEAST = 10
"""Members and others that an interval is computed from."""


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """Who is told apart, by whom.

    Attributes:
        members: training images; the audited model is trained on these alone.
        others: held-out images, of each class as many as members that are compared.
        compared: places in ``members`` that are compared with ``others``.
        attacker: further held-out images, with which the attacker fits its head.
    """

    members: ImageSet
    others: ImageSet
    compared: Tensor
    attacker: ImageSet


@dataclass(frozen=True, kw_only=True)
class Told:
    """How well members are told from others.

    Attributes:
        auc: chance that a member has a lower loss than another image, ties counting half.
        low, high: 95 % interval of it.
        members, others: how many were compared.
    """

    auc: float
    low: float
    high: float
    members: int
    others: int

    def row(self) -> dict[str, float | int]:
        """As JSON tells it."""
        return {
            "auc": round(self.auc, 4),
            "low": round(self.low, 4),
            "high": round(self.high, 4),
            "members": self.members,
            "others": self.others,
        }


def crowd(train: ImageSet, held_out: ImageSet, *, most: int, seed: int) -> Crowd:
    """Draw the images of the attack, the same for one seed.

    Of each class half the held-out images are the attacker's and half are compared, with equally
    many members of that class: a party whose classes are skewed would otherwise be told from
    the others by its classes. A held-out image that is also trained on, or twice there, is left
    out.

    Args:
        most: training images that are used at most.

    Raises:
        DataError: too few images are left to compare.
    """
    draw = generator(seed, "membership")
    members = torch.randperm(len(train), generator=draw)[:most]
    known = {_bytes(train, place) for place in range(len(train))}
    order = []
    for place in torch.randperm(len(held_out), generator=draw).tolist():
        content = _bytes(held_out, place)
        if content not in known:
            known.add(content)
            order.append(place)
    assert train.labels is not None  # the subject was checked
    assert held_out.labels is not None
    own = train.labels[members]
    compared: list[int] = []
    others: list[int] = []
    attacker: list[int] = []
    for label in sorted(set(held_out.labels.tolist())):
        of_class = [place for place in order if int(held_out.labels[place]) == label]
        mine = torch.nonzero(own == label).flatten().tolist()
        count = min(len(of_class) // 2, len(mine))
        others += of_class[:count]
        compared += mine[:count]
        attacker += of_class[count:]
    if len(others) < LEAST or not attacker:
        raise DataError(
            f"{len(others)} held-out images have a training image of their class to compare with",
            f"membership needs {LEAST} or more: name more validation or test images that are not "
            "trained on",
        )
    return Crowd(
        members=train.subset(members),
        others=held_out.subset(others),
        compared=torch.tensor(compared),
        attacker=held_out.subset(attacker),
    )


def shared_after(
    subject: Subject, split: Split, members: ImageSet, mode: str, *, rounds: int, seed: int
) -> Tensors:
    """The shared tensors that leave after ``rounds`` rounds of the party alone, as its peer sees
    them: not diluted by anybody's average.

    Raises:
        PrivacyError: the mode refuses this model or split.
        TrainingDiverged: the loss is not finite any more.
    """
    if mode in DP_SGD:
        mechanism = replace(mechanism_of(subject, split), unit="record")
        private = PrivateTrainer(
            federated_model(subject.copy(), split, subject.agreed),
            members,
            subject.settings,
            mechanism=mechanism,
            split=split,
            classes=subject.agreed.classes,
            records=len(members),
            keystream=RehearsedNoise(seed, mode, "membership"),
        )
        for round in range(1, rounds + 1):
            private.train_round(round)
        return private.shared()
    trainer = _trainer(subject, subject.copy(), split, members)
    shared = shared_tensors(trainer.model, split)
    noise = RehearsedNoise(seed, mode, "membership")
    for round in range(1, rounds + 1):
        trainer.train_round(round)
        moved = shared_tensors(trainer.model, split)
        if mode != "none":
            moved = noised_update(moved, shared, mechanism_of(subject, split), noise)
            trainer.merge(moved)
        shared = moved
    return shared


def told_apart(subject: Subject, split: Split, shared: Tensors, found: Crowd) -> Told:
    """The attack on these shared tensors.

    Raises:
        TrainingDiverged: the attacker's own fit does.
    """
    model = subject.copy()
    load_tensors(model, shared)
    _trainer(subject, model, split, found.attacker).fit_private(HEAD_EPOCHS)
    mine = losses(model, found.members.subset(found.compared))
    return auc(-mine, -losses(model, found.others))


def losses(model: nn.Module, data: ImageSet, batch: int = 256) -> NDArray[np.float64]:
    """[N] cross-entropy of each image, the model in evaluation mode; infinity where it is not
    finite."""
    device = next(iter(model.parameters())).device
    parts = []
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(data), batch):
            places = torch.arange(start, min(start + batch, len(data)))
            images, labels = data.batch(places)
            assert labels is not None  # the subject was checked
            outputs = model(images.to(device)).double()
            parts.append(functional.cross_entropy(outputs, labels.to(device), reduction="none"))
    values: NDArray[np.float64] = torch.cat(parts).cpu().numpy()
    return np.nan_to_num(values, nan=np.inf)


def auc(members: NDArray[np.float64], others: NDArray[np.float64]) -> Told:
    """Area under the ROC curve of scores, higher for members, with the interval of DeLong et al.
    1988 by midranks (Sun & Xu 2014), within 0 and 1. Scores that all lie apart give an interval
    of no width: the variance that they show is 0."""
    count, rest = len(members), len(others)
    ranks = rankdata(np.concatenate([members, others]))
    area = (ranks[:count].sum() - count * (count + 1) / 2) / (count * rest)
    of_members = (ranks[:count] - rankdata(members)) / rest
    of_others = 1 - (ranks[count:] - rankdata(others)) / count
    spread = float(np.sqrt(_variance(of_members) / count + _variance(of_others) / rest))
    wide = float(norm.ppf(0.975)) * spread
    return Told(
        auc=float(area),
        low=max(0.0, float(area) - wide),
        high=min(1.0, float(area) + wide),
        members=count,
        others=rest,
    )


def _variance(values: Sequence[float] | NDArray[np.float64]) -> float:
    return float(np.var(values, ddof=1)) if len(values) > 1 else 0.0


def _trainer(subject: Subject, model: nn.Module, split: Split, data: ImageSet) -> Trainer:
    return Trainer(
        model,
        data,
        subject.settings,
        split=split,
        classes=subject.agreed.classes,
        seed=subject.agreed.seed,
        party=subject.party,
        total_rounds=subject.agreed.terms.rounds,
        algorithm=subject.agreed.algorithm,
        proximal=subject.settings.proximal,
    )


def _bytes(data: ImageSet, place: int) -> bytes:
    content: bytes = data.images[place].contiguous().numpy().tobytes()
    return content
