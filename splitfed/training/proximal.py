"""FedProx: local steps that are pulled back to where the round began."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


class ProximalTerm:
    """μ/2 · ‖w - g‖² of Li et al. 2020, *Federated Optimization in Heterogeneous Networks*, eq. 2.

    It enters as its gradient μ (w - g), added after the backward pass: no graph is built for
    it, and the loss that is told stays the loss on the images, comparable with a model that
    has no such term. Plain gradient descent is stable for lr · μ < 2 and does not overshoot
    for lr · μ <= 1.

    Args:
        parameters: w, the shared parameters; their present values become g.
        weight: μ >= 0.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], weight: float) -> None:
        self._pairs = [(parameter, parameter.detach().clone()) for parameter in parameters]
        self._weight = weight

    @torch.no_grad()
    def add_gradients(self) -> None:
        """Add μ (w - g) to the gradient of every parameter that has one."""
        for parameter, start in self._pairs:
            if parameter.grad is not None:  # frozen, or not used by the model: it stays at g
                parameter.grad.add_(parameter - start, alpha=self._weight)
