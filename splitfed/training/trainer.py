"""One party's local training, round after round."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from splitfed.errors import Defect, FolderError, ModelError, UserError
from splitfed.random import forked
from splitfed.sharing import (
    Split,
    canonical_name,
    load_tensors,
    private_tensors,
    shared_tensors,
)
from splitfed.tensors import Tensors, digest
from splitfed.training.batches import Batches
from splitfed.training.determinism import deterministic, find_device
from splitfed.training.freezing import frozen
from splitfed.training.losses import LossRecord, check_labels, objective
from splitfed.training.optimizer import NamedOptimizer
from splitfed.training.schedule import fit_rate, round_rate

if TYPE_CHECKING:
    from splitfed.config import TrainingConfig
    from splitfed.data import ImageSet

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


class Trainer:
    """Trains ``model`` in place on one party's images.

    Two trainers with equal arguments give equal bytes on one machine with the same number
    of threads; so does one that was saved with :meth:`state` and loaded in another process.
    Batches and dropout of a round depend on (seed, party, round) alone, not on what was
    drawn before.

    Args:
        model: moved to the device of ``settings``; all layers train from here on.
        data: labelled training images.
        settings: the ``[training]`` section of party.toml.
        split: which tensors of ``model`` are shared.
        classes: the agreement's class names; not looked at when the loss is ``"mse"``.
        seed: the agreement's seed, unless ``settings.seed`` replaces it.
        party: this party's name.
        total_rounds: rounds of the agreement, for the cosine schedule.

    Raises:
        DataError: images without labels, or a label outside the classes.
        ModelError: no parameter asks for a gradient.
        UserError: neither or both of epochs and steps; CUDA where there is none.
    """

    def __init__(
        self,
        model: nn.Module,
        data: ImageSet,
        settings: TrainingConfig,
        *,
        split: Split,
        classes: Sequence[str],
        seed: int,
        party: str,
        total_rounds: int,
    ) -> None:
        if (settings.epochs is None) == (settings.steps is None):
            raise UserError(
                f"[training] epochs = {settings.epochs} and steps = {settings.steps}",
                "give exactly one of the two",
            )
        check_labels(data.labels, settings.loss, len(classes))
        device = find_device(settings.device)
        self.model = model.to(device)
        self.split = split
        self._settings = settings
        self._seed = seed if settings.seed is None else settings.seed
        self._party = party
        self._total_rounds = total_rounds
        self._objective = objective(settings.loss, len(classes))
        self._batches = Batches(data, settings.batch_size, device)
        parameters = {
            split.aliases.get(name, name): parameter
            for name, parameter in _named_parameters(model)
            if parameter.requires_grad
        }
        if not parameters:
            raise ModelError(
                f"{type(model).__name__} has no parameter to train",
                "leave requires_grad set on at least one parameter",
            )
        self._optimizer = NamedOptimizer(parameters, settings)

    @property
    def steps_per_round(self) -> int:
        """Optimizer steps of one round."""
        if self._settings.steps is not None:
            return self._settings.steps
        return self._batches.per_epoch * (self._settings.epochs or 0)

    def train_round(self, round: int, progress: Progress | None = None) -> RoundResult:
        """Train all layers for the epochs or steps of one round, from what is there.

        Args:
            round: from 1.
            progress: called at most every 0.2 s, and once at the end.

        Raises:
            UserError: the loss is not finite (training diverged); the model is spoilt then.
            ModelError: outputs that do not fit the classes, or an operation that is not
                deterministic.
        """
        steps = self.steps_per_round

        def rate(step: int) -> float:
            return round_rate(
                self._settings, round=round, step=step, steps=steps, total_rounds=self._total_rounds
            )

        self.model.train()
        return self._train(f"in round {round}", (round, "training"), steps, rate, progress)

    def fit_private(
        self, epochs: int | None = None, progress: Progress | None = None
    ) -> RoundResult:
        """Train the private layers on the shared ones as they are.

        Shared parameters, and shared buffers such as the running statistics of a shared
        BatchNorm, keep every bit: modules that hold one run in evaluation mode meanwhile.
        Where everything is shared there is nothing to fit, and no step is taken.

        Args:
            epochs: None takes ``fit_epochs`` of the settings.
            progress: as in :meth:`train_round`.

        Raises:
            UserError: the loss is not finite.
            ModelError: the model writes to a shared tensor all the same; it is put back.
        """
        before = shared_tensors(self.model, self.split)
        aliases = {a for a, name in self.split.aliases.items() if name in before}
        with frozen(self.model, self.split.shared_names | aliases) as trainable:
            result = self._fit("fitting the private layers", epochs if trainable else 0, progress)
        after = shared_tensors(self.model, self.split)
        for name in sorted(before):
            if digest({name: before[name]}) != digest({name: after[name]}):
                load_tensors(self.model, before)
                raise ModelError(
                    f"shared tensor {name} changed while only private layers were fitted: the "
                    "model writes to it even in evaluation mode",
                    "write to it only while self.training is true, or make it private",
                )
        return result

    def fit_all(self, epochs: int | None = None, progress: Progress | None = None) -> RoundResult:
        """The steps of :meth:`fit_private`, on the same batches, but of every layer: what a
        model trained alone does with the time that a federated one spends on fitting."""
        self.model.train()
        return self._fit("fitting all layers", epochs, progress)

    def merge(self, shared: Mapping[str, Tensor]) -> None:
        """Take over the tensors that all parties agreed on, and restart their momentum.

        The private layers' optimizer state goes on across rounds. The shared layers' must
        not: it belongs to tensors that have just been replaced.

        Raises:
            Defect: not exactly the shared tensors.
        """
        for name in sorted(self.split.shared_names ^ shared.keys()):
            raise Defect(f"merge: tensor {name} is not both shared and given")
        load_tensors(self.model, shared)
        self._optimizer.restart(self.split.shared_names)

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Everything the next round depends on: tensors (copies on the CPU, called
        ``model/<name>`` and ``optimizer/<name>/<key>``) and JSON-able facts about them."""
        model = shared_tensors(self.model, self.split) | private_tensors(self.model, self.split)
        tensors = {f"model/{name}": value for name, value in sorted(model.items())}
        for name, value in self._optimizer.state().items():
            tensors[f"optimizer/{name}"] = value
        return tensors, {"optimizer": self._optimizer.kind}

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Go on where :meth:`state` was taken, to the last bit.

        Raises:
            FolderError: the checkpoint is of another model or optimizer.
        """
        model = below("model/", tensors)
        known = self.split.shared_names | self.split.private_names
        check_state(model, known, meta, self._optimizer.kind)
        load_tensors(self.model, model)
        self._optimizer.load(below("optimizer/", tensors))

    def _fit(self, when: str, epochs: int | None, progress: Progress | None) -> RoundResult:
        steps = self._batches.per_epoch * (self._settings.fit_epochs if epochs is None else epochs)

        def rate(step: int) -> float:
            return fit_rate(self._settings, step=step, steps=steps, total_rounds=self._total_rounds)

        return self._train(when, ("fit",), steps, rate, progress)

    def _train(
        self,
        when: str,
        path: tuple[str | int, ...],
        steps: int,
        rate: Callable[[int], float],
        progress: Progress | None,
    ) -> RoundResult:
        begin = reported = time.perf_counter()
        if steps == 0:
            return RoundResult(loss=None, steps=0, images=0, seconds=0.0)
        sizes = self._batches.sizes(steps)
        losses = LossRecord(sizes, self._party, when)
        batches = self._batches.epochs(self._seed, self._party, *path)
        model, optimizer, loss_of = self.model, self._optimizer, self._objective
        with deterministic(), forked(self._seed, self._party, *path):
            for step in range(steps):
                images, labels = next(batches)
                optimizer.set_rate(rate(step))
                optimizer.zero_grad()
                loss = loss_of(model(images), labels)
                torch.autograd.backward(loss)  # Tensor.backward carries no types
                optimizer.step()
                losses.add(step, loss)
                now = time.perf_counter()
                if now - reported >= REPORT_SECONDS and step + 1 < steps:
                    reported = now
                    mean = losses.mean(step + 1)
                    if progress is not None:
                        progress(step + 1, steps, mean)
        optimizer.zero_grad()  # gradients take as much memory as the model
        mean = losses.mean(steps)
        if progress is not None:
            progress(steps, steps, mean)
        return RoundResult(
            loss=mean, steps=steps, images=sum(sizes), seconds=time.perf_counter() - begin
        )


def _named_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(canonical_name(raw), parameter) for raw, parameter in model.named_parameters()]


def below(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """The tensors whose names start with ``prefix``, without it."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def check_state(
    model: Mapping[str, Tensor], known: frozenset[str], meta: Mapping[str, Any], kind: str
) -> None:
    """Make sure that a checkpoint's tensors are those ``known``, of the optimizer ``kind``.

    Raises:
        FolderError: naming the tensor or the optimizer that differs.
    """
    if meta.get("optimizer") != kind:
        raise FolderError(
            f"the checkpoint was made with optimizer {meta.get('optimizer')!r}, "
            f"[training] says {kind!r}",
            "set it back in party.toml, or give --out a new folder",
        )
    for name in sorted(known ^ model.keys()):
        where = "the checkpoint" if name in known else "this model"
        raise FolderError(
            f"tensor {name} is missing from {where}",
            "run with the model the folder was made with, or give --out a new folder",
        )
