"""Public random values for layers that are frozen while the shared ones are trained.

"dp-frozen" trains the shared layers against private layers that are fixed at values anybody
can compute (FedBABU: Oh, Kim & Yun 2022). They derive from the agreement's seed and each
tensor's name, so equal layers are frozen equally at every party, whatever else differs.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from splitfed.random import generator
from splitfed.sharing import Split, canonical_name, load_tensors
from splitfed.tensors import Tensors


def freeze_private(model: nn.Module, split: Split, seed: int) -> None:
    """Give the private parameters of ``model`` their public values and stop training them.

    Weights of two or more dimensions are uniform with standard deviation 1/√fan_in (LeCun et
    al. 1998), which keeps the size of a signal from layer to layer; scales of norms are one
    and shifts and biases zero. Private buffers keep the values that the factory gave them.
    """
    aliases = split.aliases
    values: Tensors = {}
    for raw, parameter in model.named_parameters():
        name = canonical_name(raw)
        if aliases.get(name, name) not in split.private_names:
            continue
        parameter.requires_grad_(False)
        values[name] = public_values(name, parameter, seed)
    load_tensors(model, values)


def public_values(name: str, like: torch.Tensor, seed: int) -> torch.Tensor:
    """The public values of the tensor ``name`` with the shape and dtype of ``like``."""
    values = torch.empty(like.shape, dtype=torch.float32)
    if values.dim() < 2:
        return values.fill_(1.0 if name.endswith("weight") else 0.0).to(like.dtype)
    bound = math.sqrt(3.0 / max(1, values[0].numel()))
    values.uniform_(-bound, bound, generator=generator(seed, "frozen", name))
    return values.to(like.dtype)
