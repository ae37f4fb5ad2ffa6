"""Holding one side of a model still while the other is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from torch import nn

from splitfed.errors import ModelError
from splitfed.sharing import Split, canonical_name, load_tensors, private_tensors, shared_tensors
from splitfed.tensors import digest

Side = Literal["shared", "private"]


@contextmanager
def frozen(model: nn.Module, names: frozenset[str]) -> Iterator[None]:
    """Keep the tensors called ``names`` as they are while the rest trains.

    Named parameters ask for no gradient; the optimizer then passes them over, whatever
    momentum or weight decay it holds for them. A module that holds a named tensor itself
    (not only through a child) runs in evaluation mode: a BatchNorm then uses its running
    statistics and leaves them alone. Everything else is in training mode. Afterwards each
    parameter and module is as before.

    Args:
        names: canonical names, aliases of tied tensors included.
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
        yield
    finally:
        for parameter, requires_grad in asked:
            parameter.requires_grad_(requires_grad)
        for module, training in modes:
            module.training = training


@contextmanager
def held(model: nn.Module, split: Split, side: Side | None) -> Iterator[None]:
    """:func:`frozen` for all tensors of one side, and proof that every bit was kept.

    Args:
        side: None holds nothing.

    Raises:
        ModelError: at the end, when the model wrote to a held tensor all the same; it is
            put back.
    """
    if side is None:
        yield
        return
    tensors_of = shared_tensors if side == "shared" else private_tensors
    before = tensors_of(model, split)
    aliases = {alias for alias, name in split.aliases.items() if name in before}
    with frozen(model, frozenset(before.keys() | aliases)):
        yield
    after = tensors_of(model, split)
    other = "private" if side == "shared" else "shared"
    for name in sorted(before):
        if digest({name: before[name]}) != digest({name: after[name]}):
            load_tensors(model, before)
            raise ModelError(
                f"{side} tensor {name} changed while only {other} layers were trained: the "
                "model writes to it even in evaluation mode",
                f"write to it only while self.training is true, or make it {other}",
            )
