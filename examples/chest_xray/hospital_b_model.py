"""Hospital B's own model: the agreed shared layers, and a private part that A never sees."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from xray_models import XRayNet


class DeepXRayNet(XRayNet):
    """Two normalised convolutions, averages over a 3 x 3 grid, and two linear layers."""

    def private_part(self, channels: int, size: tuple[int, int], classes: int) -> None:
        """Make the private layers for features [N, channels, *size]."""
        self.block1 = nn.Conv2d(channels, 48, 3, padding=1)
        self.norm1 = nn.GroupNorm(6, 48)
        self.block2 = nn.Conv2d(48, 48, 3, padding=1)
        self.norm2 = nn.GroupNorm(6, 48)
        self.hidden = nn.Linear(48 * 3 * 3, 64)
        self.output = nn.Linear(64, classes)

    def head(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of the shared layers' features."""
        x = functional.relu(self.norm1(self.block1(x)))
        x = x + functional.relu(self.norm2(self.block2(x)))
        x = functional.adaptive_avg_pool2d(x, 3).flatten(1)
        logits: torch.Tensor = self.output(functional.relu(self.hidden(x)))
        return logits
