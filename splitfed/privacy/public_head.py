"""A public auxiliary head where the shared layers end, for parties whose private parts differ.

With different frozen private layers each party would pull the shared ones towards another
target. ``[model] public_head = "pool-linear"`` gives all of them the same one: what the last
shared layer puts out, tanh, averaged over a grid of at most 4 x 4, and a fixed random linear
layer. It serves the federation alone; each party's own private layers are fitted afterwards.
"""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import nn
from torch.nn import functional

from splitfed.errors import ModelError
from splitfed.privacy.frozen import freeze_private, public_values
from splitfed.sharing import Split, canonical_name

GRID = 4


class _Cut(Exception):
    """The last shared layer has put out its result; what follows is not wanted."""

    def __init__(self, output: torch.Tensor) -> None:
        self.output = output


class PublicHead(nn.Module):
    """A model up to its last shared layer, and the public head behind it.

    Its tensors keep their canonical names, so a split of the model holds for this as well.
    Private layers are frozen at public values: some may run before the cut.

    Args:
        module: the model; only what comes before the cut is run.
        split: which of its tensors are shared.
        size: shape of one image, (C, H, W).
        outputs: number of classes, or 1.
        seed: the agreement's.

    Raises:
        ModelError: no shared layer is run, or its output is no tensor [N, ...] of one to three
            further dimensions.

    Shapes: [N, C, H, W] -> [N, outputs].
    """

    def __init__(
        self, module: nn.Module, split: Split, size: tuple[int, ...], outputs: int, seed: int
    ) -> None:
        super().__init__()
        self.module = module.eval()
        freeze_private(self.module, split, seed)
        # Not kept as an attribute: it would be registered, and its tensors under two names.
        _last_shared(module, split, size).register_forward_hook(_stop)
        with torch.no_grad():
            features = self._features(torch.zeros(1, *size)).shape[1]
        self.public_head = nn.Linear(features, outputs)
        with torch.no_grad():
            for name, parameter in self.public_head.named_parameters():
                parameter.copy_(public_values(f"public_head.{name}", parameter, seed))
        self.public_head.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of the images."""
        logits: torch.Tensor = self.public_head(self._features(x))
        return logits

    def _features(self, x: torch.Tensor) -> torch.Tensor:
        try:
            self.module(x)
        except _Cut as cut:
            found = torch.tanh(cut.output)
        else:
            raise ModelError("the model no longer runs its last shared layer", "check its forward")
        if found.dim() == 4:  # [N, C, H, W]
            height, width = found.shape[2:]
            step = (-(-height // GRID), -(-width // GRID))
            found = functional.avg_pool2d(found, step, step, ceil_mode=True)
        elif found.dim() == 3:  # [N, tokens, C]
            found = found.mean(1)
        return found.flatten(1)


def _stop(module: nn.Module, inputs: object, output: object) -> NoReturn:
    if not isinstance(output, torch.Tensor) or not 2 <= output.dim() <= 4:
        raise ModelError(
            f"the last shared layer ({type(module).__name__}) puts out no tensor [N, ...]",
            "share up to a layer that does, or leave [model] public_head out",
        )
    raise _Cut(output)


def _last_shared(module: nn.Module, split: Split, size: tuple[int, ...]) -> nn.Module:
    """The last module, in the order of a forward pass, that holds a shared tensor itself."""
    ran: list[nn.Module] = []
    hooks = []
    for prefix, part in module.named_modules():
        own = [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
        names = {canonical_name(f"{prefix}.{name}" if prefix else name) for name, _ in own}
        if {split.aliases.get(name, name) for name in names} & split.shared_names:
            hooks.append(part.register_forward_hook(lambda part, *_: ran.append(part)))
    try:
        with torch.no_grad():
            module(torch.zeros(1, *size))
    finally:
        for hook in hooks:
            hook.remove()
    if not ran or ran[-1] is module:
        raise ModelError(
            "no shared layer of the model is a module that its forward pass runs",
            "share modules such as conv1, or leave [model] public_head out",
        )
    return ran[-1]
