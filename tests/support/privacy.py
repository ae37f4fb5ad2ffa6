"""Federated trainers whose sums can be watched, and data that differ in one record."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from splitfed.config import TrainingConfig
from splitfed.data import ImageSet
from splitfed.privacy import Mechanism
from splitfed.privacy.frozen import freeze_private
from splitfed.random import forked
from splitfed.sharing import split_model
from splitfed.tensors import Tensors
from splitfed.training.private import PrivateTrainer

CLASSES = ("left", "right", "below")
SIZE = (6, 6)


class SmallNet(nn.Module):
    """A shared convolution and a private head, smooth and small."""

    shared = ("conv",)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.classifier = nn.Linear(48, len(CLASSES))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.tanh(self.conv(images)).flatten(1))


def small_net(seed: int = 1) -> SmallNet:
    with forked(seed, "small net"):
        return SmallNet()


def mechanism(mode: str = "dp-frozen", **changes: Any) -> Mechanism:
    """Every unit in every step, no noise to speak of, unless told otherwise."""
    fields: dict[str, Any] = {
        "mode": mode, "unit": "record", "delta": 1e-5, "noise_multiplier": 1.0,
        "max_grad_norm": 1.0, "sample_rate": 1.0, "steps_per_round": 1, "rounds": 4,
    }  # fmt: skip
    return Mechanism(**{**fields, **changes})


def images_of(count: int, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 [count, 1, 6, 6] and their labels."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(CLASSES)
    images = torch.randn(count, 1, *SIZE, generator=draw) + labels[:, None, None, None] / 2
    return images, labels


def with_record(
    data: tuple[torch.Tensor, torch.Tensor], image: torch.Tensor, label: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The data and one record more."""
    images, labels = data
    return torch.cat([images, image[None]]), torch.cat([labels, torch.tensor([label])])


def image_set(data: tuple[torch.Tensor, torch.Tensor], **more: Any) -> ImageSet:
    return ImageSet(images=data[0], labels=data[1], **more)


def private_trainer(
    data: ImageSet,
    mode: str = "dp-frozen",
    *,
    model: nn.Module | None = None,
    records: int | None = None,
    keystream: Any = None,
    lr: float = 0.5,
    **changes: Any,
) -> PrivateTrainer:
    """A federated trainer as a run makes it."""
    model = small_net() if model is None else model
    split = split_model(model)
    terms = mechanism(mode, **changes)
    if mode == "dp-frozen":
        freeze_private(model, split, seed=7)
    return PrivateTrainer(
        model,
        data,
        TrainingConfig(federated={"lr": lr}),
        mechanism=terms,
        split=split,
        classes=CLASSES,
        records=len(data) if records is None else records,
        keystream=keystream,
    )


@dataclass
class Watched:
    """A trainer, and the clipped sum of each of its steps before noise."""

    trainer: PrivateTrainer
    sums: list[Tensors]


def watch(trainer: PrivateTrainer) -> Watched:
    """Record every sum, and take the step without its noise."""
    sums: list[Tensors] = []
    optimizer = trainer._private
    names = list(trainer._optimizer._parameters)

    def instead_of_noise() -> None:
        sums.append(
            {n: p.summed_grad.clone() for n, p in zip(names, optimizer.params, strict=True)}
        )
        for parameter in optimizer.params:
            parameter.grad = parameter.summed_grad.to(parameter.dtype)

    optimizer.add_noise = instead_of_noise
    return Watched(trainer, sums)


def movement(one: Tensors, other: Tensors) -> float:
    """The Euclidean norm of the difference of two sums."""
    return float(sum((one[name] - other[name]).square().sum() for name in one)) ** 0.5


def largest_movement(
    worlds: Sequence[Watched], force: Callable[[PrivateTrainer], Tensors], steps: int
) -> float:
    """s of the sensitivity test: the largest movement of a step's sum between two worlds in
    which exactly what is noised is held equal before every step.

    Args:
        worlds: the trainer on D and the one on D with one more record.
        force: takes the first world's trainer and gives the tensors that both must have.
    """
    from splitfed.sharing import load_tensors

    largest = 0.0
    for step in range(steps):
        held = force(worlds[0].trainer)
        for world in worlds:
            load_tensors(world.trainer.model, held)
            world.trainer.train_round(step + 1)
        moved = movement(worlds[0].sums[-1], worlds[1].sums[-1])
        assert math.isfinite(moved), "a record made the sum NaN or infinite"
        largest = max(largest, moved)
    return largest
