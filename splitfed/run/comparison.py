"""The local_only branch: what a party's model would be without the federation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from splitfed.errors import TrainingDiverged
from splitfed.run.judging import Judge
from splitfed.tensors import Tensors
from splitfed.training import Trainer
from splitfed.training.trainer import below


class Comparison:
    """Holds the local_only branch, which never meets a merge, and the judge who asks it.

    One that diverges ends the comparison, never the run: under privacy whether a run goes on
    may not depend on it.

    Args:
        baseline: its trainer; None without ``acceptance``.
        classes: the agreement's class names.
    """

    def __init__(self, baseline: Trainer | None, classes: Sequence[str]) -> None:
        self._baseline = baseline
        self._judge = Judge(classes=classes)

    @property
    def baseline(self) -> nn.Module | None:
        """The local_only model, or None without ``acceptance``."""
        return None if self._baseline is None else self._baseline.model

    def _alive(self, done: int, of: int, loss: float) -> None:
        """A sign of life from work whose steps are not told: under privacy they give away n."""

    def _train_baseline(self, round: int) -> float:
        """A round of the local_only branch; seconds."""
        if self._baseline is None:
            return 0.0
        try:
            return self._baseline.train_round(round, self._alive).seconds
        except TrainingDiverged:
            self._baseline = None
            return 0.0

    def _fit_baseline(self, epochs: int | None = None) -> float:
        """Its epochs after the last round, in seconds; None: as many as those of the fit."""
        if self._baseline is None:
            return 0.0
        try:
            return self._baseline.fit_all(epochs, self._alive).seconds
        except TrainingDiverged:
            self._baseline = None
            return 0.0

    def _baseline_state(self) -> tuple[Tensors, dict[str, Any]]:
        if self._baseline is None:
            return {}, {"baseline": None}
        tensors, facts = self._baseline.state()
        return {f"baseline/{name}": value for name, value in tensors.items()}, {"baseline": facts}

    def _restore_baseline(self, tensors: Tensors, meta: dict[str, Any]) -> None:
        if self._baseline is not None and meta["baseline"] is not None:
            self._baseline.load_state(below("baseline/", tensors), meta["baseline"])
        else:
            self._baseline = None
