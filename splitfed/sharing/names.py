"""The names tensors have on the wire, and the patterns that select them."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

import torch
from torch.nn.parameter import is_lazy

from splitfed.errors import SharingError
from splitfed.tensors import NAMES, Tensors

WRAPPERS = ("_module", "module")
"""Prefixes that opacus (``_module.``) and DistributedDataParallel (``module.``) add."""


def canonical_name(name: str) -> str:
    """``name`` without the leading components that training wrappers add.

    >>> canonical_name("_module.module.conv1.weight")
    'conv1.weight'
    >>> canonical_name("conv1.module.weight")
    'conv1.module.weight'
    """
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in WRAPPERS:
        parts = parts[1:]
    return ".".join(parts)


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The user's own module inside opacus' or DDP's wrapper.

    A module whose only child is called ``module`` or ``_module`` and which holds no tensor
    of its own counts as a wrapper, since its name must not reach the wire.
    """
    while True:
        children = dict(model.named_children())
        own = any(True for _ in model.parameters(recurse=False)) or any(
            True for _ in model.buffers(recurse=False)
        )
        name = next(iter(children), "")
        if len(children) != 1 or own or name not in WRAPPERS:
            return model
        model = children[name]


def named_tensors(model: torch.nn.Module) -> Tensors:
    """Every parameter and buffer by canonical name, tied aliases included, not copied.

    Raises:
        SharingError: a tensor without values (lazily initialised or on the meta device),
            with a dtype or layout that has no wire form, or two tensors with one name.
    """
    tensors: Tensors = {}
    found: list[tuple[str, torch.Tensor]] = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    for raw, tensor in found:
        name = canonical_name(raw)
        if is_lazy(tensor):
            raise SharingError(
                f"tensor {name} is lazily initialised: it has no shape yet",
                "run one forward pass in the constructor, or use the layer's eager class",
            )
        if tensor.is_meta:
            raise SharingError(
                f"tensor {name} is on the meta device: it has no values",
                "build the model on the CPU",
            )
        if tensor.layout is not torch.strided or tensor.dtype not in NAMES:
            raise SharingError(
                f"tensor {name} is {tensor.layout} of {tensor.dtype}, which has no wire form",
                f"use a dense tensor of one of: {', '.join(NAMES.values())}",
            )
        if name in tensors:
            raise SharingError(
                f"two tensors are called {name} once wrapper prefixes are removed",
                "rename the outermost submodule: 'module' and '_module' are taken",
            )
        tensors[name] = tensor.detach()
    return tensors


def check_pattern(pattern: str, side: str) -> None:
    """Refuse a pattern that cannot mean anything.

    Raises:
        SharingError: not a string, empty, or with an empty component.
    """
    if not isinstance(pattern, str) or not pattern or "" in pattern.split("."):
        raise SharingError(
            f"{side} pattern {pattern!r} is not a dotted name such as 'conv1' or 'layer1.*.weight'",
            "name modules or tensors; '*' within a component matches any run of characters",
        )


def matches(pattern: str, name: str) -> bool:
    """Whether ``pattern`` selects the tensor ``name``.

    Both are split at the dots. A pattern selects a name when each of its components
    matches (shell style, case-sensitive: ``*``, ``?``, ``[…]``) the component at the same
    place. A shorter pattern selects everything below it; no component is ever matched in
    part, so ``conv1`` does not select ``conv10``.

    >>> matches("conv1", "conv1.weight"), matches("conv1", "conv10.weight")
    (True, False)
    >>> matches("layer?.0", "layer1.0.conv1.weight"), matches("*", "fc.bias")
    (True, True)
    >>> matches("conv1.weight.extra", "conv1.weight")
    False
    """
    wanted, parts = pattern.split("."), name.split(".")
    return len(wanted) <= len(parts) and all(
        fnmatchcase(part, want) for want, part in zip(wanted, parts, strict=False)
    )


def selected(patterns: Iterable[str], names: Iterable[str], side: str) -> dict[str, str]:
    """Which pattern selects which name: ``{name: pattern}``.

    Raises:
        SharingError: a pattern that matches nothing, or two that match one tensor.
    """
    names = list(names)
    chosen: dict[str, str] = {}
    for pattern in patterns:
        check_pattern(pattern, side)
        hit = [name for name in names if matches(pattern, name)]
        if not hit:
            tops = ", ".join(sorted({name.split(".")[0] for name in names})) or "no tensor at all"
            raise SharingError(
                f"{side} pattern '{pattern}' matches no tensor",
                f"the model's outermost names are: {tops}",
            )
        for name in hit:
            if name in chosen:
                raise SharingError(
                    f"tensor {name} is matched by two {side} patterns, "
                    f"'{chosen[name]}' and '{pattern}'",
                    "let each tensor be named once, so that the declaration reads one way",
                )
            chosen[name] = pattern
    return chosen
