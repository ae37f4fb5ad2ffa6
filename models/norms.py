"""From batch to group normalisation.

BatchNorm mixes the records of a batch, so a per-record gradient does not exist and no
differential privacy can be claimed for it; its running statistics are also buffers that
would have to be shared. GroupNorm (Wu & He 2018) normalises each record by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from splitfed.errors import ModelError

MAX_GROUPS = 32
MIN_CHANNELS_PER_GROUP = 8
"""Groups of one channel would erase features whose map has shrunk to one pixel."""

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_LAZY = (nn.LazyBatchNorm1d, nn.LazyBatchNorm2d, nn.LazyBatchNorm3d)


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """One layer that was converted: its name, its channels and the groups they fall into."""

    name: str
    channels: int
    groups: int

    def __str__(self) -> str:
        return f"{self.name}: BatchNorm({self.channels}) -> GroupNorm({self.groups} groups)"


def group_count(channels: int) -> int:
    """The number of groups for ``channels``: the largest divisor that is at most 32 and
    leaves at least 8 channels a group; 1 if there is none.

    >>> [group_count(n) for n in (4, 16, 24, 64, 112, 512, 1280)]
    [1, 2, 3, 8, 14, 32, 32]
    """
    fitting = (
        groups
        for groups in range(MAX_GROUPS, 1, -1)
        if channels % groups == 0 and channels // groups >= MIN_CHANNELS_PER_GROUP
    )
    return next(fitting, 1)


def batch_to_group_norm(model: nn.Module) -> tuple[Conversion, ...]:
    """Replace every BatchNorm below ``model`` by a GroupNorm, in place; names stay.

    Scale, shift and epsilon are taken over; running statistics are dropped, so a trained
    model has to be trained on. It draws nothing from any random generator.

    Returns:
        What was converted, in the order of the modules, so that the caller can say so.

    Raises:
        ModelError: ``model`` itself is a BatchNorm, or one is lazily initialised.
    """
    if isinstance(model, _BATCH_NORMS):
        raise ModelError("the model is a single BatchNorm", "put it into a module")
    done: list[Conversion] = []
    made: dict[nn.Module, nn.GroupNorm] = {}  # a norm that stands in two places stays one norm
    for parent_name, parent in list(model.named_modules()):
        for child_name, child in list(parent._modules.items()):
            name = f"{parent_name}.{child_name}".lstrip(".")
            if isinstance(child, _LAZY):
                raise ModelError(f"{name} is lazily initialised", "use the layer's eager class")
            if not isinstance(child, _BATCH_NORMS):
                continue
            if child not in made:
                made[child] = _group_norm_like(child)
                groups = made[child].num_groups
                done.append(Conversion(name=name, channels=child.num_features, groups=groups))
            setattr(parent, child_name, made[child])
    return tuple(done)


def _group_norm_like(batch_norm: nn.modules.batchnorm._BatchNorm) -> nn.GroupNorm:
    channels = batch_norm.num_features
    group_norm = nn.GroupNorm(
        group_count(channels), channels, eps=batch_norm.eps, affine=batch_norm.affine
    )
    group_norm.train(batch_norm.training)
    if not batch_norm.affine:
        return group_norm
    group_norm = group_norm.to(batch_norm.weight.device, batch_norm.weight.dtype)
    with torch.no_grad():
        group_norm.weight.copy_(batch_norm.weight)
        group_norm.bias.copy_(batch_norm.bias)
    return group_norm
