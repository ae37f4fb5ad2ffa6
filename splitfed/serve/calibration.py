"""How sure a finished model may be: temperature scaling, and when it had better not answer.

Both are fitted on the party's own validation images and stay in its house.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splitfed.errors import DataError

ERROR_RATE = 0.05
"""Errors among answers that are promised at most, unless the caller says otherwise. 250
validation images promise it for all answers with 4 errors among them, or for the surest 99
with none; to promise 2 % takes 251 without a single error."""

CONFIDENCE = 0.95
"""Of the promise."""

LOOKS = 8
"""Thresholds that are examined at most."""

BOUND = 3.0
"""Temperatures are searched between e⁻³ = 0.05 and e³ = 20."""

_TINY = float(np.finfo(np.float64).tiny)  # a probability that underflowed has a logarithm too


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was fitted on the validation images.

    Attributes:
        temperature: T > 0 of ``softmax(log p / T)``.
        images: how many it was fitted on.
        abstain_below: answers with a lower calibrated probability are not vouched for; None
            where no threshold keeps the promise.
        error_rate: the promise: at most this share of the answers is wrong.
        reached: whether there is a threshold that keeps it. Where there is none, every
            prediction abstains: nothing is answered in silence without the promise.
        determined: whether the images told T; otherwise it is 1, see :func:`fit_temperature`.

    Raises:
        ValueError: values that contradict each other, as a damaged file may have them.
    """

    temperature: float
    images: int
    abstain_below: float | None
    error_rate: float
    reached: bool
    determined: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature = {self.temperature} is not above 0")
        if self.reached != (self.abstain_below is not None):
            raise ValueError(f"reached = {self.reached}, abstain_below = {self.abstain_below}")

    def row(self) -> dict[str, Any]:
        """The calibration as ``model.json`` and report.json state it."""
        return {
            "temperature": self.temperature,
            "images": self.images,
            "abstain_below": self.abstain_below,
            "error_rate": self.error_rate,
            "reached": self.reached,
            "determined": self.determined,
        }


def calibrate(probabilities: Tensor, labels: Tensor, error_rate: float = ERROR_RATE) -> Calibration:
    """Fit temperature and threshold to a model's answers on validation images.

    Both use the same images, and so did the choice of the model to keep: the promise is as
    good as these images resemble those to come. A row that is not finite counts as a wrong
    answer of the lowest confidence.

    Args:
        probabilities: [N, K] float64, rows sum to one, not yet calibrated; of an ensemble
            the mean of its members'.
        labels: [N] int64.
        error_rate: promised, between 0 and 1.

    Raises:
        DataError: no image, or an error rate outside (0, 1).
    """
    if len(labels) == 0:
        raise DataError("there are no images to calibrate on", "give at least one")
    if not 0 < error_rate < 1:
        raise DataError(f"error rate {error_rate}", "choose one between 0 and 1, such as 0.05")
    finite = torch.isfinite(probabilities).all(dim=1)
    temperature, determined = 1.0, False
    if bool(finite.any()):
        logs = probabilities[finite].clamp_min(_TINY).log()
        optimum = _optimum(logs, labels[finite])
        determined = optimum is not None
        temperature = 1.0 if optimum is None else optimum
    confidence, answers = tempered(probabilities, temperature).max(dim=1)
    threshold = abstention(
        torch.where(finite, confidence, 0.0), (answers == labels) & finite, error_rate
    )
    return Calibration(
        temperature=temperature,
        images=len(labels),
        abstain_below=threshold,
        error_rate=error_rate,
        reached=threshold is not None,
        determined=determined,
    )


def tempered(probabilities: Tensor, temperature: float) -> Tensor:
    """Calibrated probabilities ``softmax(log p / T)``, [N, K] float64; the order of the
    classes in a row stays.

    Args:
        probabilities: [N, K] float64, rows sum to one.
        temperature: T > 0; 1 changes nothing.
    """
    return torch.softmax(probabilities.clamp_min(_TINY).log() / temperature, dim=1)


def fit_temperature(logs: Tensor, labels: Tensor) -> float:
    """The T that minimises the mean of ``-log softmax(logs / T)[label]``
    (Guo et al. 2017, section 4.2).

    That is convex in 1/T, so it has one minimum along log T, which is searched in
    [-:data:`BOUND`, :data:`BOUND`]. Where every label is the likeliest class, less is always
    better: the images say nothing about how sure to be, and T is 1, the model's own opinion.
    Where the model is no better than chance, T is the upper bound: almost no opinion.

    Args:
        logs: [N, K] float64, logits or logarithms of probabilities, finite. N ≥ 1.
        labels: [N] int64.
    """
    optimum = _optimum(logs, labels)
    return 1.0 if optimum is None else optimum


def _optimum(logs: Tensor, labels: Tensor) -> float | None:
    """The best T, or None where there is none: every answer is right."""
    from scipy.optimize import minimize_scalar

    values = logs.to(torch.float64)
    picked = labels[:, None]
    if bool((values.argmax(dim=1) == labels).all()):
        return None

    def loss(log_t: float) -> float:
        scaled = torch.log_softmax(values / math.exp(log_t), dim=1)
        return float(-scaled.gather(1, picked).mean())

    found = minimize_scalar(loss, bounds=(-BOUND, BOUND), method="bounded", options={"xatol": 1e-7})
    return math.exp(float(found.x))


def abstention(confidence: Tensor, correct: Tensor, error_rate: float) -> float | None:
    """The lowest examined confidence from which on at most ``error_rate`` of the answers are
    wrong, with probability :data:`CONFIDENCE`; None where the images cannot tell: selection
    with guaranteed risk (Geifman & El-Yaniv 2017).

    Up to :data:`LOOKS` numbers of answers, surest first, are examined: each by the upper
    Clopper–Pearson bound of the error among the images at or above its threshold. They are
    fixed before an answer is seen and share the 5 % chance of being wrong (Bonferroni), so
    the promise holds for whichever is chosen. The paper's binary search is not used: with few
    images the bound falls before it rises, and the search walks away from a good threshold.

    Args:
        confidence: [N] float64.
        correct: [N] bool.
        error_rate: promised, between 0 and 1.

    Returns:
        A confidence of one of the images.
    """
    looks = _looks(len(confidence), error_rate)
    level = 1 - (1 - CONFIDENCE) / len(looks)
    ordered = confidence.sort(descending=True).values
    for answers in reversed(looks):
        threshold = float(ordered[answers - 1])
        covered = confidence >= threshold
        errors = int((covered & ~correct).sum())
        if upper_bound(errors, int(covered.sum()), level) <= error_rate:
            return threshold
    return None


def _looks(count: int, error_rate: float) -> list[int]:
    """The numbers of answers that are examined, rising. Fewer than the first could not keep
    the promise even without an error; with fewer images than that, all are examined at once."""
    least = math.ceil(math.log((1 - CONFIDENCE) / LOOKS) / math.log1p(-error_rate))
    if count <= least:
        return [count]
    steps = LOOKS - 1
    return sorted({least + (count - least) * step // steps for step in range(LOOKS)})


def upper_bound(errors: int, count: int, confidence: float = CONFIDENCE) -> float:
    """The error rate that ``errors`` of ``count`` images rule out to exceed, one-sided
    (Clopper & Pearson 1934).

    >>> round(upper_bound(0, 149), 4)
    0.0199
    """
    from scipy.special import betaincinv  # scipy.stats would take half a second to import

    if errors >= count:
        return 1.0
    return float(betaincinv(errors + 1, count - errors, confidence))
