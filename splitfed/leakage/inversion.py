"""Gradient inversion: from one round's update back to the images behind it.

An attacker who knows the model looks for images whose gradient points the way the update went
(Zhu et al. 2019, "Deep leakage from gradients"), with the cosine of Geiping et al. 2020, eq. 4
("Inverting gradients - how easy is it to break privacy in federated learning?") and their total
variation prior, signed Adam and known labels. Only tensors that travel are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd

from splitfed.errors import ModelError
from splitfed.leakage.releases import Release
from splitfed.random import forked, generator
from splitfed.sharing import canonical_name
from splitfed.training.determinism import deterministic

SMOOTHNESS = 1e-2
"""Weight of the total variation."""
RATE = 0.1
"""First step of signed Adam, in units of the normalised pixels; falls as a cosine to nothing."""
SPREAD = 0.3
"""Standard deviation of the noise that a search begins with."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the attacker is given besides the update.

    Attributes:
        labels: int64 [N], the classes of the images behind the update.
        guess: float32 [N, C, H, W]: an image of each class from the attacker's own images, to
            begin with.
        low, high: float32 [C, 1, 1], the least and the largest value of a pixel.
    """

    labels: Tensor
    guess: Tensor
    low: Tensor
    high: Tensor


def invert(
    release: Release, known: Known, *, restarts: int, iterations: int, seed: int
) -> list[Tensor]:
    """The images that each restart ends with, float32 [N, C, H, W] on the CPU.

    Even restarts begin with noise and match all that travels; odd ones begin with the guess and
    match convolutions alone, if any travel: a large gradient of the classifier drowns theirs.
    Equal arguments give equal images on one machine.

    Args:
        restarts: >= 1.
        iterations: of each, >= 1; each differentiates the model twice.

    Raises:
        ModelError: the model cannot be differentiated twice, or not for so few images.
    """
    ways = _seen(release)
    device = ways[0][1].device
    low, high = known.low.to(device), known.high.to(device)
    labels, guess = known.labels.to(device), known.guess.to(device)
    found = []
    for restart in range(restarts):
        parameters, target = ways[restart % 2]
        noise = torch.randn(guess.shape, generator=generator(seed, "invert", restart))
        begin = noise.to(device) * SPREAD
        if restart % 2:
            begin = guess + begin / 3
        images = begin.clamp(low, high).requires_grad_()
        with deterministic(), forked(seed, "invert", restart, "dropout"):
            try:
                _search(images, release.model, parameters, target, labels, low, high, iterations)
            except (RuntimeError, ValueError) as error:
                if isinstance(error, RuntimeError) and "out of memory" in str(error).lower():
                    raise
                reason = str(error).strip().split("\n", 1)[0]
                raise ModelError(
                    f"{type(release.model).__name__} cannot be attacked by its gradient: {reason}",
                    "audit a model that can be differentiated twice; where it normalises over a "
                    "batch, put several images behind each update: --behind 8",
                ) from error
        found.append(images.detach().cpu())
    return found


_Way = tuple[list[nn.Parameter], Tensor]
"""Parameters, and the direction that their gradient must have had, in one vector."""


def _seen(release: Release) -> tuple[_Way, _Way]:
    """All shared parameters that were trained; and those of convolutions alone."""
    found = [
        (parameter, name)
        for raw, parameter in release.model.named_parameters()
        if (name := canonical_name(raw)) in release.after and parameter.requires_grad
    ]
    if not found:
        raise ModelError(
            f"{type(release.model).__name__}: no shared parameter is trained in this split",
            "nothing that travels depends on the images then",
        )
    of_convolutions = {
        parameter
        for part in release.model.modules()
        if isinstance(part, _ConvNd)
        for parameter in part.parameters(recurse=False)
    }
    some = [pair for pair in found if pair[0] in of_convolutions] or found
    return _way(found, release), _way(some, release)


def _way(chosen: Sequence[tuple[nn.Parameter, str]], release: Release) -> _Way:
    """Against the update: a step goes down the gradient."""
    moved = [release.before[n].double() - release.after[n].double() for _, n in chosen]
    target = torch.cat([part.flatten() for part in moved]).float()
    return [parameter for parameter, _ in chosen], target.to(chosen[0][0].device)


def _search(
    images: Tensor,
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    target: Tensor,
    labels: Tensor,
    low: Tensor,
    high: Tensor,
    iterations: int,
) -> None:
    """Move ``images`` in place to where their gradient points like ``target``."""
    optimizer = torch.optim.Adam([images], lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    led = False
    for _ in range(iterations):
        loss = functional.cross_entropy(model(images), labels)
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        gradient = torch.cat([part.flatten() for part in gradients])
        away = 1 - functional.cosine_similarity(gradient, target, dim=0)
        # Apart, so that a model whose gradient does not depend on the images is noticed.
        (slope,) = torch.autograd.grad(away, [images])
        (rough,) = torch.autograd.grad(_variation(images), [images])
        led = led or bool(slope.any())
        images.grad = torch.nan_to_num(slope + SMOOTHNESS * rough).sign()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            images.copy_(images.clamp(low, high))
    if not led:
        raise ValueError("its gradient is the same whatever the images are")


def _variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels (anisotropic total variation)."""
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean()
    across = (images[..., 1:] - images[..., :-1]).abs().mean()
    return down + across
