"""Accuracy with its uncertainty, and the figures beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from splitfed.errors import Defect
from splitfed.evaluation.metrics import Metrics, measure
from splitfed.evaluation.predictions import Predictions


@dataclass(frozen=True, kw_only=True)
class Score:
    """How good a set of predictions is.

    Attributes:
        size: number of images.
        accuracy: share of right answers, 0 to 1; None for a regression or without labels.
        accuracy_low: lower end of the 95 % Wilson interval; None with ``accuracy``.
        accuracy_high: its upper end.
        loss: as in :class:`~splitfed.evaluation.Predictions`.
        metrics: what the accuracy hides.
    """

    size: int
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    loss: float | None
    metrics: Metrics

    def row(self) -> dict[str, Any]:
        """The figures as a report states them: the four here, then those of ``metrics``."""
        return {
            "accuracy": self.accuracy,
            "accuracy_low": self.accuracy_low,
            "accuracy_high": self.accuracy_high,
            "loss": self.loss,
            **self.metrics.row(),
        }


def score(predictions: Predictions) -> Score:
    """Accuracy with its 95 % interval, loss and metrics. A regression has its loss alone."""
    size, correct = len(predictions), predictions.correct
    if correct is None:
        return Score(
            size=size,
            accuracy=None,
            accuracy_low=None,
            accuracy_high=None,
            loss=predictions.loss,
            metrics=Metrics(),
        )
    right = int(correct.sum())
    low, high = wilson_interval(right, size)
    return Score(
        size=size,
        accuracy=right / size,
        accuracy_low=low,
        accuracy_high=high,
        loss=predictions.loss,
        metrics=measure(predictions),
    )


def wilson_interval(right: int, size: int, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval for a proportion of Wilson (1927), "Probable inference, the law of
    succession, and statistical inference", JASA 22, 209-212:

    ``(p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)`` with ``p = right/size``.

    Unlike ``p ± z √(p(1-p)/n)`` it stays inside [0, 1] and does not collapse to a point
    when every answer is right.

    >>> low, high = wilson_interval(81, 263)
    >>> round(low, 4), round(high, 4)
    (0.2553, 0.3662)

    Raises:
        Defect: not 0 ≤ right ≤ size with size ≥ 1.
    """
    if size < 1 or not 0 <= right <= size:
        raise Defect(f"no interval for {right} right of {size}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p, zz = right / size, z * z / size
    centre = p + zz / 2
    spread = z * math.sqrt(p * (1 - p) / size + zz / (4 * size))
    low, high = (centre - spread) / (1 + zz), (centre + spread) / (1 + zz)
    # exact at the ends, where the formula differs from 0 and 1 by rounding only
    return (0.0 if right == 0 else low), (1.0 if right == size else high)
