"""The public bound on the norm of an update that an agreement starts with."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from splitfed.tensors import distance


def norm_bound(initial: Mapping[str, torch.Tensor]) -> float:
    """The usual public bound on an update: max(1, ‖g₀‖), rounded up to a whole number."""
    floats = {name: tensor for name, tensor in initial.items() if tensor.is_floating_point()}
    zero = {name: torch.zeros_like(tensor) for name, tensor in floats.items()}
    return float(max(1, math.ceil(distance(floats, zero))))
