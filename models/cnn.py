"""The three-convolution network of the two-party story."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional

from splitfed.errors import ModelError

ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": functional.relu,
    "tanh": torch.tanh,
}


class ThreeLayerCNN(nn.Module):
    """Three 3x3 convolutions with padding, an activation and 2x2 max-pooling after each,
    then a linear classifier on what is left: 3 * 3 * 64 -> 10 for 28x28 images.

    conv1 and conv2 are shared; conv3 and the classifier stay private.

    Args:
        channels: of the input, 1 or 3 as a rule.
        widths: channels after each convolution.
        classes: number of classes.
        size: height and width of the input in pixels, 8 or more each.
        activation: "relu", or "tanh", which trains better under clipping and noise
            (tempered sigmoids: Papernot et al. 2021).

    Raises:
        ModelError: a value that makes no such network.

    Shapes: [N, channels, *size] -> logits [N, classes].
    """

    shared = ("conv1", "conv2")

    def __init__(
        self,
        channels: int = 1,
        widths: Sequence[int] = (32, 64, 64),
        classes: int = 10,
        size: Sequence[int] = (28, 28),
        activation: str = "relu",
    ) -> None:
        super().__init__()
        if len(widths) != 3:
            raise ModelError(f"ThreeLayerCNN: widths = {list(widths)}", "give three widths")
        if len(size) != 2 or min(size) < 8:
            raise ModelError(
                f"ThreeLayerCNN: size = {list(size)}",
                "give height and width, 8 pixels or more: each is halved three times",
            )
        if min(channels, classes, *widths) < 1:
            raise ModelError(
                f"ThreeLayerCNN: channels = {channels}, widths = {list(widths)}, "
                f"classes = {classes}",
                "all must be 1 or more",
            )
        if activation not in ACTIVATIONS:
            raise ModelError(
                f"ThreeLayerCNN: activation = {activation!r}",
                f"choose one of: {', '.join(ACTIVATIONS)}",
            )
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.conv2 = nn.Conv2d(widths[0], widths[1], 3, padding=1)
        self.conv3 = nn.Conv2d(widths[1], widths[2], 3, padding=1)
        self.classifier = nn.Linear(widths[2] * (size[0] // 8) * (size[1] // 8), classes)
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of the images."""
        activate = ACTIVATIONS[self.activation]
        for layer in (self.conv1, self.conv2, self.conv3):
            x = functional.max_pool2d(activate(layer(x)), 2)
        logits: torch.Tensor = self.classifier(x.flatten(1))
        return logits
