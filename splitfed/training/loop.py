"""What every run of training steps has in common: its losses, its progress, its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from splitfed.training.losses import LossRecord

Progress = Callable[[int, int, float], None]
"""Called with (steps done, steps in all, mean loss so far)."""

REPORT_SECONDS = 0.2
"""Least time between two looks at the loss: each makes a GPU wait."""


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """What one round of local training did.

    Attributes:
        loss: mean training loss per image over the round; None when there was no step.
        steps: optimizer steps taken.
        images: images seen, repeats counted.
        seconds: wall time.
    """

    loss: float | None
    steps: int
    images: int
    seconds: float


NOTHING = RoundResult(loss=None, steps=0, images=0, seconds=0.0)
"""The result of a run without a step."""


class Meter:
    """Counts the steps of one run, tells progress, and notices a loss that is not finite.

    Args:
        sizes: images of each step to come.
        who: the party, for the error.
        when: such as "in round 3", for the error.
        progress: told at most every 0.2 s, and once at the end.
    """

    def __init__(
        self, sizes: Sequence[int], who: str, when: str, progress: Progress | None
    ) -> None:
        self.step = 0
        """Steps taken so far."""
        self._begin = self._told = time.perf_counter()
        self._steps = len(sizes)
        self._images = sum(sizes)
        self._losses = LossRecord(sizes, who, when)
        self._progress = progress

    def add(self, loss: Tensor) -> None:
        """Note the loss of one more step, a scalar.

        Raises:
            TrainingDiverged: a loss was not finite; seen at the next look, not at once.
        """
        self._losses.add(self.step, loss)
        self.step += 1
        now = time.perf_counter()
        if now - self._told >= REPORT_SECONDS and self.step < self._steps:
            self._told = now
            self._tell(self._losses.mean(self.step))

    def result(self) -> RoundResult:
        """What the run did, after its last step.

        Raises:
            TrainingDiverged: a loss was not finite.
        """
        mean = self._losses.mean(self._steps)
        self._tell(mean)
        return RoundResult(
            loss=mean,
            steps=self._steps,
            images=self._images,
            seconds=time.perf_counter() - self._begin,
        )

    def _tell(self, mean: float) -> None:
        if self._progress is not None:
            self._progress(self.step, self._steps, mean)
