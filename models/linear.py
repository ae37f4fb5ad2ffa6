"""The linear model: plain federated averaging is the case in which all of it is shared."""

from __future__ import annotations

import torch
from torch import nn

from splitfed.errors import ModelError


class Linear(nn.Module):
    """y = W x + b, everything shared.

    Args:
        features: inputs per record, after flattening.
        outputs: values per record: 1 for a regression, the number of classes otherwise.

    Raises:
        ModelError: a number below 1.

    Shapes: [N, ...] with ``features`` values per record -> [N, outputs].
    """

    shared = "*"

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        if features < 1 or outputs < 1:
            raise ModelError(
                f"Linear: features = {features}, outputs = {outputs}", "both must be 1 or more"
            )
        self.linear = nn.Linear(features, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Weighted sums of the flattened inputs."""
        y: torch.Tensor = self.linear(x.flatten(1))
        return y
