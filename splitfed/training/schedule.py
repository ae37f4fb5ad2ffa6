"""Learning rates as functions of the round and step number only.

A schedule that looked at a loss or an accuracy would let private data decide what leaves;
these need nothing but public numbers, so a resumed round uses the rates of an undisturbed one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from splitfed.config.party import OptimizerConfig


def round_rate(
    settings: OptimizerConfig, *, round: int, step: int, steps: int, total_rounds: int
) -> float:
    """The learning rate of ``step`` (from 0, of ``steps``) in ``round`` (from 1).

    * constant: ``lr``
    * cosine (Loshchilov & Hutter 2017, eq. 5, without restarts): from ``lr`` in the first
      step towards 0 after the last step of the last round,
      ``lr · (1 + cos(π t / T)) / 2`` with t the steps before this one and T all steps
    * step: ``lr · gamma^⌊(round - 1) / step_rounds⌋``
    """
    if settings.schedule == "cosine":
        done = min(((round - 1) * steps + step) / (total_rounds * steps), 1.0)
        return settings.lr * (1 + math.cos(math.pi * done)) / 2
    if settings.schedule == "step":
        every = settings.step_rounds or total_rounds
        return settings.lr * settings.gamma ** ((round - 1) // every)
    return settings.lr


def fit_rate(settings: OptimizerConfig, *, step: int, steps: int, total_rounds: int) -> float:
    """The learning rate of ``step`` while layers are fitted after the last round.

    Cosine runs once more from ``lr`` towards 0 over these steps; step keeps the rate of the
    last round; constant stays.
    """
    if settings.schedule == "cosine":
        return round_rate(settings, round=1, step=step, steps=steps, total_rounds=1)
    return round_rate(
        settings, round=total_rounds, step=step, steps=steps, total_rounds=total_rounds
    )
