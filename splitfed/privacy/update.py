"""Mode "party-update": the whole update is clipped and noised, whatever happened inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from splitfed.tensors import Tensors

if TYPE_CHECKING:
    from splitfed.privacy.keystream import Keystream
    from splitfed.privacy.mechanism import Mechanism


def noised_update(
    tensors: Mapping[str, torch.Tensor],
    base: Mapping[str, torch.Tensor],
    mechanism: Mechanism,
    keystream: Keystream,
) -> Tensors:
    """``base + clip(tensors − base, S) + N(0, (2Sσ)² I)``, float64, rounded once at the end.

    Replacing the party's whole data set moves the clipped update by at most 2S, so the noise
    has σ times that (Gaussian mechanism: Dwork & Roth 2014, appendix A; for updates McMahan et
    al. 2018). An update that is not finite counts as zero.

    Args:
        tensors: the shared tensors after local training, floating point.
        base: g of the last closed round, same names.
    """
    moved = clipped_update(tensors, base, mechanism.max_grad_norm)
    std = 2 * mechanism.max_grad_norm * mechanism.noise_multiplier
    out: Tensors = {}
    for name in sorted(base):
        start = base[name].to(torch.float64)
        noise = torch.from_numpy(keystream.gaussian(start.numel())).reshape(start.shape)
        out[name] = (start + moved[name] + std * noise).to(base[name].dtype)
    return out


def clipped_update(
    tensors: Mapping[str, torch.Tensor], base: Mapping[str, torch.Tensor], bound: float
) -> Tensors:
    """The difference to ``base`` in float64, shortened to ``bound`` where it is longer; zero
    where it is not finite."""
    moved = {n: tensors[n].to(torch.float64) - base[n].to(torch.float64) for n in sorted(base)}
    length = float(sum(float(part.square().sum()) for part in moved.values())) ** 0.5
    if not length < float("inf"):
        return {name: torch.zeros_like(part) for name, part in moved.items()}
    factor = min(1.0, bound / (length * (1 + 1e-12))) if length else 1.0
    return {name: part * factor for name, part in moved.items()}
