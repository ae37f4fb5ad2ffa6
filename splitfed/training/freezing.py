"""Holding a model's shared tensors still while the private ones are trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from splitfed.sharing import canonical_name


@contextmanager
def frozen(model: nn.Module, names: frozenset[str]) -> Iterator[bool]:
    """Keep the tensors called ``names`` as they are while the rest trains.

    Named parameters ask for no gradient. A module that holds a named tensor itself (not
    only through a child) runs in evaluation mode: a BatchNorm then uses its running
    statistics and leaves them alone. Everything else is in training mode. Afterwards each
    parameter and module is as before.

    Args:
        names: canonical names, aliases of tied tensors included.

    Yields:
        Whether any parameter is left to train.
    """
    asked = [
        (parameter, parameter.requires_grad)
        for raw, parameter in model.named_parameters()
        if canonical_name(raw) in names
    ]
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    for prefix, module in model.named_modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        if any(canonical_name(f"{prefix}.{name}" if prefix else name) in names for name, _ in own):
            module.training = False  # not .eval(), which would reach its children
    for parameter, _ in asked:
        parameter.requires_grad_(False)
    try:
        yield any(parameter.requires_grad for parameter in model.parameters())
    finally:
        for parameter, requires_grad in asked:
            parameter.requires_grad_(requires_grad)
        for module, training in modes:
            module.training = training
