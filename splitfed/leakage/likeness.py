"""How like two images are: PSNR and SSIM by torchmetrics, correlation, and who is nearest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

MOST = 100.0
"""dB: what equal images are told as, whose PSNR has no bound."""


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """One image beside the true one.

    Attributes:
        psnr: peak signal-to-noise ratio in dB, pixels 0 to 1; at most :data:`MOST`.
        ssim: structural similarity (Wang et al. 2004), at most 1.
        correlation: Pearson's, of the pixels; blind to brightness and contrast, as an eye is.
    """

    psnr: float
    ssim: float
    correlation: float

    def row(self) -> dict[str, float]:
        """As JSON tells it."""
        return {
            "psnr": round(self.psnr, 2),
            "ssim": round(self.ssim, 3),
            "correlation": round(self.correlation, 3),
        }


def likeness(made: Tensor, true: Tensor) -> Likeness:
    """Of two images [C, H, W] with pixels 0 to 1."""
    # torchmetrics takes seconds to import: only who measures waits for it
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    if torch.equal(made, true):
        return Likeness(psnr=MOST, ssim=1.0, correlation=1.0)
    psnr = peak_signal_noise_ratio(made[None].double(), true[None].double(), data_range=1.0)
    # The window of 11 pixels of the paper, or 5 where the image is hardly larger than that.
    window = 1.5 if min(true.shape[-2:]) >= 16 else 0.5
    ssim = structural_similarity_index_measure(
        made[None].double(), true[None].double(), sigma=window, data_range=1.0
    )
    assert isinstance(ssim, Tensor)  # a pair only if asked for
    return Likeness(
        psnr=min(float(psnr), MOST),
        ssim=float(ssim),
        correlation=float(correlations(made, true[None])[0]),
    )


def correlations(made: Tensor, others: Tensor) -> Tensor:
    """Pearson's correlation of one image [C, H, W] with each of [N, C, H, W]: float64 [N]; 0 with
    an image of one colour."""
    one, rest = made.double().flatten(), others.double().flatten(1)
    one, rest = one - one.mean(), rest - rest.mean(1, keepdim=True)
    lengths = one.norm() * rest.norm(dim=1)
    return torch.where(lengths > 0, rest @ one / lengths.clamp(min=1e-300), 0.0)


def in_order(made: Tensor, true: Tensor) -> Tensor:
    """``made`` [N, C, H, W] in the order in which it is nearest to ``true``: an attacker who finds
    all images of an update does not know which came first."""
    apart = (made[:, None] - true[None]).square().flatten(2).mean(2)
    rows, columns = linear_sum_assignment(apart.double().numpy())
    order = np.empty(len(rows), dtype=np.int64)
    order[columns] = rows
    return made[torch.from_numpy(order)]
