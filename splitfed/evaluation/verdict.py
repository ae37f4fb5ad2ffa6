"""Did federating help? An answer from the same images, with its uncertainty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from splitfed.errors import Defect
from splitfed.random import derive

Answer = Literal["helped", "did not help", "undecided"]

FEWEST_DIFFERENCES = 6
"""Five images on which two models differ, all in favour of one, happen by chance with
probability 2·2⁻⁵ = 0.06; six with 0.03 (the exact sign test of McNemar 1947)."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether the federated model is better than the one trained alone.

    Attributes:
        answer: see :func:`paired_bootstrap`.
        compared: which model stood against local_only.
        low: lower end of the 95 % interval of accuracy(compared) - accuracy(local_only),
            between -1 and 1.
        high: its upper end.
    """

    answer: Answer
    compared: str
    low: float
    high: float

    def row(self) -> dict[str, str | float]:
        """The verdict as a report states it."""
        return {
            "answer": self.answer,
            "compared": self.compared,
            "low": self.low,
            "high": self.high,
        }


def paired_bootstrap(
    correct_local: Tensor,
    correct_compared: Tensor,
    seed: int,
    draws: int = 10_000,
    *,
    compared: str = "partial",
) -> Verdict:
    """Compare two models on the same N images by the paired percentile bootstrap
    (Efron & Tibshirani 1993, chapter 13).

    Images are drawn with replacement, N at a time, ``draws`` times; each time the accuracy
    difference (compared minus local) on the drawn images is noted. ``low`` and ``high``
    are the 2.5 % and 97.5 % quantiles of those differences. The answer is

    * ``"helped"`` when ``low > 0`` and the models differ on at least six images (below
      that the bootstrap is too sure of itself, see :data:`FEWEST_DIFFERENCES`),
    * ``"did not help"`` when ``high <= 0``: no gain is within the interval; this includes
      a federated model that is worse and one that answers exactly like the local one,
    * ``"undecided"`` otherwise: these images cannot tell the difference from chance.

    Args:
        correct_local: [N] bool, right answers of the model trained alone.
        correct_compared: [N] bool, right answers of the other on the same images.
        seed: equal seeds give equal intervals.
        draws: bootstrap samples.
        compared: name of the other model, for the verdict.

    Raises:
        Defect: unequal or empty inputs.
    """
    local = correct_local.to("cpu").numpy().astype(bool)
    other = correct_compared.to("cpu").numpy().astype(bool)
    if local.shape != other.shape or local.ndim != 1 or local.size == 0:
        raise Defect(f"cannot pair answers of shapes {local.shape} and {other.shape}")
    size = local.size
    gained, lost = int((other & ~local).sum()), int((local & ~other).sum())
    # An image adds +1, -1 or 0 to the difference, so drawing N images is drawing how many
    # of them are of each kind: the same distribution as drawing indices, in O(1) memory.
    chances = [gained / size, lost / size, (size - gained - lost) / size]
    counts = np.random.default_rng(derive(seed, "paired bootstrap")).multinomial(
        size, chances, size=draws
    )
    differences = (counts[:, 0] - counts[:, 1]) / size
    low, high = (float(q) for q in np.quantile(differences, [0.025, 0.975]))
    answer: Answer = "undecided"
    if low > 0 and gained + lost >= FEWEST_DIFFERENCES:
        answer = "helped"
    elif high <= 0:
        answer = "did not help"
    return Verdict(answer=answer, compared=compared, low=low, high=high)
