"""One party's models and data, as the round engine drives them.

Two branches learn side by side from equal initial values, with equal batches: the party's
own model, whose shared tensors are replaced at every merge, and (with ``acceptance``) the
local_only branch, which never meets a merge. The second is what federation is compared to.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from splitfed.errors import TrainingDiverged
from splitfed.evaluation import Predictions, predict
from splitfed.rounds import Trained
from splitfed.sharing import Split, shared_tensors
from splitfed.tensors import Tensors
from splitfed.training import Trainer
from splitfed.training.trainer import below

if TYPE_CHECKING:
    from splitfed.config import TrainingConfig
    from splitfed.data import ImageSet


@dataclass(frozen=True, kw_only=True)
class PartyData:
    """A party's labelled image sets. Nothing of them leaves the house."""

    train: ImageSet
    validation: ImageSet | None
    test: ImageSet | None


class LocalLearner:
    """Implements :class:`splitfed.rounds.Learner` with :class:`splitfed.training.Trainer`.

    Args:
        model: the party's model with the agreed initial shared tensors already in it.
        split: which of its tensors are shared.
        data: the party's images.
        settings: the ``[training]`` section.
        classes: the agreement's class names.
        seed: the agreement's seed.
        party: own name.
        rounds: rounds of the agreement.
        acceptance: train the local_only branch too.
        turn: held while this learner computes. Parties in one process take turns, since
            torch's global generator and determinism flags belong to the process.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        split: Split,
        data: PartyData,
        settings: TrainingConfig,
        classes: tuple[str, ...],
        seed: int,
        party: str,
        rounds: int,
        acceptance: bool,
        turn: AbstractContextManager[Any] | None = None,
    ) -> None:
        self.data = data
        self.settings = settings
        self.split = split
        self._classes = classes
        self._turn = turn or nullcontext()

        def trainer(of: nn.Module) -> Trainer:
            return Trainer(
                of,
                data.train,
                settings,
                split=split,
                classes=classes,
                seed=seed,
                party=party,
                total_rounds=rounds,
            )

        self._baseline = trainer(deepcopy(model)) if acceptance else None
        self._own = trainer(model)

    @property
    def model(self) -> nn.Module:
        """The party's own model, trained in place."""
        return self._own.model

    @property
    def federated(self) -> nn.Module | None:
        """The noised model that the federation trains, where it is not the own model."""
        return None

    @property
    def baseline(self) -> nn.Module | None:
        """The local_only model, or None without ``acceptance``."""
        return None if self._baseline is None else self._baseline.model

    def train(self, round: int, step: Callable[[int, int, float], None]) -> Trained:
        """Both branches, one after the other, on the same batches."""
        with self._turn:
            baseline = 0.0
            if self._baseline is not None:
                baseline = self._baseline.train_round(round).seconds
            result = self._own.train_round(round, step)
        return Trained(loss=result.loss, seconds=result.seconds, baseline_seconds=baseline)

    def shared(self) -> Tensors:
        """Copies of the shared tensors as they are now."""
        return shared_tensors(self.model, self.split)

    def merge(self, shared: Tensors) -> None:
        """Take over the agreed shared tensors; the local_only branch does not."""
        self._own.merge(shared)

    def fit(self) -> Trained:
        """After the last round: the private layers on the final shared tensors, while the
        local_only branch spends the same epochs on all of its layers."""
        with self._turn:
            baseline = self._fit_baseline()
            result = self._own.fit_private()
        return Trained(loss=result.loss, seconds=result.seconds, baseline_seconds=baseline)

    def validate(self) -> float | None:
        """Accuracy on the own validation images; None without any, or for a regression."""
        return self._accuracy(self.model)

    def personal(self) -> tuple[str, nn.Module]:
        """The model to keep: the better branch on the own validation images, so that taking
        part never leaves a party with a worse model than its own (on those images). Equal
        branches, or no local_only branch, give the federated one.

        Returns:
            "partial" or "local_only", and that model.
        """
        own = self.predict(self.model, self.data.validation)
        alone = self.predict(self.baseline, self.data.validation)
        if self.baseline is None or own is None or alone is None or not _better(alone, own):
            return "partial", self.model
        return "local_only", self.baseline

    def predict(self, model: nn.Module | None, data: ImageSet | None) -> Predictions | None:
        """What ``model`` makes of ``data``; None where either is missing."""
        if model is None or data is None:
            return None
        with self._turn:
            return predict(model, data, loss=self.settings.loss, classes=len(self._classes) or None)

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Models and optimizers of both branches, for a bit-exact resume."""
        tensors, meta = self._own.state()
        baseline, facts = self._baseline_state()
        return {f"own/{name}": value for name, value in tensors.items()} | baseline, {
            "own": meta,
            **facts,
        }

    def restore(self, tensors: Tensors, meta: dict[str, Any]) -> None:
        """The inverse of :meth:`state`. A folder made without ``acceptance`` has no
        local_only branch to go on with, so the comparison ends there."""
        self._own.load_state(below("own/", tensors), meta["own"])
        self._restore_baseline(tensors, meta)

    def _train_baseline(self, round: int) -> float:
        """Seconds of a round of the local_only branch. One that diverges ends the comparison,
        never the run: under privacy whether a run goes on may not depend on it."""
        if self._baseline is None:
            return 0.0
        try:
            return self._baseline.train_round(round).seconds
        except TrainingDiverged:
            self._baseline = None
            return 0.0

    def _fit_baseline(self) -> float:
        """The same for its epochs after the last round."""
        if self._baseline is None:
            return 0.0
        try:
            return self._baseline.fit_all().seconds
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

    def _accuracy(self, model: nn.Module) -> float | None:
        found = self.predict(model, self.data.validation)
        if found is None or found.correct is None:
            return None
        return float(found.correct.to(torch.float64).mean())


def _better(one: Predictions, other: Predictions) -> bool:
    """Higher accuracy; for a regression, lower loss."""
    if one.correct is not None and other.correct is not None:
        return int(one.correct.sum()) > int(other.correct.sum())
    return one.loss is not None and (other.loss is None or one.loss < other.loss)
