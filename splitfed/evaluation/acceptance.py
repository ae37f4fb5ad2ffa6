"""Whether a merge cost accuracy, shown beyond chance on the own images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from splitfed.errors import Defect

MARGIN = 0.01
"""A loss of accuracy up to this is nobody's fault."""
CONFIDENCE = 0.99
"""Of the one-sided bound on the loss."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What one model loses against another on the same N images.

    Attributes:
        images: N.
        lost: images that only the model without the merge has right.
        gained: images that only the model with it has right.
        difference: (lost - gained) / N, the share of accuracy lost; negative where it gains.
        bound: what the loss is at least, see :func:`loss_of`.
    """

    images: int
    lost: int
    gained: int
    difference: float
    bound: float

    @property
    def bad(self) -> bool:
        """Whether more than :data:`MARGIN` is lost, not by chance."""
        return self.bound > MARGIN


def loss_of(without: Tensor, merged: Tensor) -> Loss:
    """The loss of accuracy, with a lower bound that holds with :data:`CONFIDENCE` at least.

    The loss is ψ (2π - 1): ψ is the chance that the two models differ on an image, π that the
    one without the merge is right where they do. Given how many images they differ on, ``lost``
    is binomial with π (McNemar 1947), and that number is itself binomial with ψ. Both get the
    exact interval of Clopper & Pearson (1934), π from below and ψ from both sides, each with half
    of the error that is allowed (Bonferroni). So the bound is exact for every N, and cautious.

    Args:
        without: [N] bool, right answers of the model that never met the merge.
        merged: [N] bool, right answers of the other on the same images.

    Raises:
        Defect: unequal or empty inputs.
    """
    from scipy.stats import binomtest

    if without.shape != merged.shape or without.dim() != 1 or not len(without):
        raise Defect(
            f"cannot pair answers of shapes {list(without.shape)} and {list(merged.shape)}"
        )
    images = len(without)
    lost, gained = int((without & ~merged).sum()), int((merged & ~without).sum())
    differ, half = lost + gained, (1 + CONFIDENCE) / 2
    least = 0.0
    if differ:
        least = binomtest(lost, differ, alternative="greater").proportion_ci(half, "exact").low
    either = binomtest(differ, images).proportion_ci(half, "exact")
    share = either.low if least > 0.5 else either.high
    return Loss(
        images=images,
        lost=lost,
        gained=gained,
        difference=(lost - gained) / images,
        bound=float(share * (2 * least - 1)),
    )
