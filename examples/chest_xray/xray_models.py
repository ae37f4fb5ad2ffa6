"""The model the two hospitals agree on: the first layers are shared, the rest is private."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

ACTIVATIONS = {"relu": functional.relu, "tanh": torch.tanh}


class XRayNet(nn.Module):
    """conv1 and conv2 are shared. What follows is private; this one is hospital A's.

    Whoever wants another private part overrides ``private_part`` and ``head`` in a class of
    its own: the shared layers are made here, so they stay the same everywhere.

    Args:
        channels: of the image, 1 for a radiograph.
        classes: number of classes.
        size: height and width of the image in pixels.
        activation: of the shared layers, "relu" or "tanh" (better under noise). It is agreed on:
            without it the same tensors would mean another thing at the other hospital.

    Shapes: [N, channels, *size] -> logits [N, classes].
    """

    shared = ("conv1", "conv2")

    def __init__(
        self,
        channels: int = 1,
        classes: int = 2,
        size: Sequence[int] = (28, 28),
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.activate = ACTIVATIONS[activation]
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.private_part(32, (size[0] // 4, size[1] // 4), classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of the images."""
        x = functional.max_pool2d(self.activate(self.conv1(x)), 2)
        x = functional.max_pool2d(self.activate(self.conv2(x)), 2)
        return self.head(x)

    def private_part(self, channels: int, size: tuple[int, int], classes: int) -> None:
        """Make the private layers for features [N, channels, *size]."""
        self.conv3 = nn.Conv2d(channels, 64, 3, padding=1)
        self.classifier = nn.Linear(64 * (size[0] // 2) * (size[1] // 2), classes)

    def head(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of the shared layers' features."""
        x = functional.max_pool2d(functional.relu(self.conv3(x)), 2)
        logits: torch.Tensor = self.classifier(x.flatten(1))
        return logits
