"""A small model with every kind of layer that training must treat with care, and its trainer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from splitfed.config import TrainingConfig
from splitfed.data import ImageSet
from splitfed.random import forked
from splitfed.sharing import split_model
from splitfed.training import Trainer
from tests.support.data import tiny_set

CLASSES = ("left", "right", "below")


class TinyNet(nn.Module):
    """Shared convolution and BatchNorm; private BatchNorm, dropout and classifier."""

    shared = ("conv", "norm")

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.own_norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.3)
        self.classifier = nn.Linear(48, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        kernels = torch.relu(self.own_norm(self.norm(self.conv(images))))
        return self.classifier(self.drop(kernels.flatten(1)))


def tiny_trainer(
    model: nn.Module | None = None,
    *,
    data: ImageSet | None = None,
    shared: tuple[str, ...] | None = None,
    agreed_seed: int = 7,
    party: str = "hospital-a",
    total_rounds: int = 4,
    **settings: Any,
) -> Trainer:
    """A trainer of ``model`` (a fresh :class:`TinyNet`) on 21 images, batches of 8."""
    if model is None:
        with forked(1, "tiny net"):
            model = TinyNet()
    return Trainer(
        model,
        tiny_set(21, size=(6, 6)) if data is None else data,
        TrainingConfig(**{"batch_size": 8, **settings}),
        split=split_model(model, shared),
        classes=CLASSES,
        seed=agreed_seed,
        party=party,
        total_rounds=total_rounds,
    )
