"""One party's local training, round after round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from splitfed.config.algorithm import ALGORITHMS
from splitfed.errors import Defect, FolderError, ModelError, UserError
from splitfed.random import forked
from splitfed.sharing import (
    Split,
    canonical_name,
    load_tensors,
    private_tensors,
    shared_tensors,
)
from splitfed.tensors import Tensors
from splitfed.training.batches import Batches
from splitfed.training.determinism import deterministic, find_device
from splitfed.training.distillation import Distillation
from splitfed.training.freezing import Side, held
from splitfed.training.loop import NOTHING, Meter, Progress, RoundResult
from splitfed.training.losses import check_labels, objective
from splitfed.training.optimizer import NamedOptimizer
from splitfed.training.phases import Phase, round_phases
from splitfed.training.proximal import ProximalTerm
from splitfed.training.schedule import fit_rate, round_rate

if TYPE_CHECKING:
    from splitfed.config import TrainingConfig
    from splitfed.data import ImageSet

Losses = Callable[[Tensor, Tensor], Tensor]
"""(images, labels) of one batch -> its mean loss, ready for the backward pass."""


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
        algorithm: the agreement's, which says what a round trains; "fedper" for a model that
            is trained alone.
        proximal: μ of FedProx, >= 0 (``settings.proximal``); 0 for a model trained alone.

    Raises:
        DataError: images without labels, or a label outside the classes.
        ModelError: no parameter asks for a gradient.
        UserError: neither or both of epochs and steps; an unknown algorithm; CUDA where
            there is none.
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
        algorithm: str = "fedper",
        proximal: float = 0.0,
    ) -> None:
        if algorithm not in ALGORITHMS:
            raise UserError(
                f"algorithm = {algorithm!r}: no such algorithm",
                f"choose one of: {', '.join(ALGORITHMS)}",
            )
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
        self._classes = len(classes)
        self._algorithm = algorithm
        self._proximal = proximal
        self._objective = objective(settings.loss, len(classes))
        self._batches = Batches(data, settings.batch_size, device)
        self._parameters = {
            split.aliases.get(name, name): parameter
            for name, parameter in _named_parameters(model)
            if parameter.requires_grad
        }
        if not self._parameters:
            raise ModelError(
                f"{type(model).__name__} has no parameter to train",
                "leave requires_grad set on at least one parameter",
            )
        self._optimizer = NamedOptimizer(self._parameters, settings)

    @property
    def steps_per_round(self) -> int:
        """Optimizer steps of one round, of all its phases."""
        return sum(phase.steps for phase in self._phases())

    def train_round(self, round: int, progress: Progress | None = None) -> RoundResult:
        """Train for one round, from what is there, the layers that the algorithm says, in its
        order: see :func:`~splitfed.training.phases.round_phases`.

        What is held keeps every bit: see :func:`~splitfed.training.freezing.held`. With
        ``proximal`` the shared layers are pulled back to where this round found them.

        Args:
            round: from 1.
            progress: called at most every 0.2 s, and once at the end; over all phases.

        Raises:
            UserError: the loss is not finite (training diverged); the model is spoilt then.
            ModelError: outputs that do not fit the classes, an operation that is not
                deterministic, or a model that writes to what is held.
        """
        phases = self._phases()
        steps = self.steps_per_round

        def rate(step: int) -> float:
            return round_rate(
                self._settings, round=round, step=step, steps=steps, total_rounds=self._total_rounds
            )

        self.model.train()
        term = ProximalTerm(self._trained("private"), self._proximal) if self._proximal else None
        return self._train(
            f"in round {round}", (round, "training"), phases, rate, progress, term=term
        )

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
        return self._fit("fitting the private layers", epochs, progress, hold="shared")

    def fit_all(self, epochs: int | None = None, progress: Progress | None = None) -> RoundResult:
        """The steps of :meth:`fit_private`, on the same batches, but of every layer: what a
        model trained alone does with the time that a federated one spends on fitting."""
        self.model.train()
        return self._fit("fitting all layers", epochs, progress, hold=None)

    def distill(
        self,
        reference: ImageSet,
        teacher: Tensor,
        *,
        temperature: float,
        weight: float,
        epochs: int,
        progress: Progress | None = None,
    ) -> RoundResult:
        """Train all layers on the own labels and on the parties' averaged outputs at once.

        The loss of a step is :class:`~splitfed.training.distillation.Distillation`'s; an epoch
        is one pass over the own images, and the reference images come round in an order of
        their own. Batches depend on (seed, party, "distill") alone. Momentum starts anew, and
        is forgotten afterwards: it belongs to values that are gone. The rate is the one of
        :func:`~splitfed.training.schedule.fit_rate`. The result counts own images only.

        Args:
            reference: public images, all that the teacher was asked about; their labels, if
                any, are not looked at.
            teacher: probabilities float [N, K], a row for each reference image.
            temperature: T > 0 of the softened outputs.
            weight: of the teacher beside the own labels, > 0.
            epochs: >= 0.
            progress: as in :meth:`train_round`.

        Raises:
            UserError: a regression (loss "mse"), or the loss is not finite.
            DataError: the teacher's rows are not finite probabilities of the right number.
        """
        if self._settings.loss == "mse":
            raise UserError(
                'loss = "mse": distillation softens class probabilities, a regression has none',
                "choose another fusion",
            )
        lesson = Distillation(
            reference,
            teacher,
            classes=self._classes,
            temperature=temperature,
            weight=weight,
            batch_size=self._settings.batch_size,
            device=next(iter(self._parameters.values())).device,
        )
        of_batch = lesson.losses(
            self.model, self._objective, self._seed, self._party, "distill", "reference"
        )
        self.model.train()
        self._optimizer.restart(self._parameters)
        result = self._fit("distilling", epochs, progress, hold=None, losses=of_batch)
        self._optimizer.restart(self._parameters)
        return result

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

    def _phases(self) -> list[Phase]:
        """Those of the algorithm that have something to train."""
        phases = round_phases(self._algorithm, self._settings, per_epoch=self._batches.per_epoch)
        return [phase for phase in phases if self._trained(phase.held)]

    def _trained(self, held: Side | None) -> list[nn.Parameter]:
        """The parameters that a phase trains."""
        shared = self.split.shared_names
        return [
            parameter
            for name, parameter in self._parameters.items()
            if held is None or (name in shared) == (held == "private")
        ]

    def _fit(
        self,
        when: str,
        epochs: int | None,
        progress: Progress | None,
        *,
        hold: Side | None,
        losses: Losses | None = None,
    ) -> RoundResult:
        steps = self._batches.per_epoch * (self._settings.fit_epochs if epochs is None else epochs)

        def rate(step: int) -> float:
            return fit_rate(self._settings, step=step, steps=steps, total_rounds=self._total_rounds)

        phase = Phase(hold, steps if self._trained(hold) else 0)
        path = "fit" if losses is None else "distill"
        return self._train(when, (path,), (phase,), rate, progress, losses=losses)

    def _train(
        self,
        when: str,
        path: tuple[str | int, ...],
        phases: Sequence[Phase],
        rate: Callable[[int], float],
        progress: Progress | None,
        *,
        losses: Losses | None = None,
        term: ProximalTerm | None = None,
    ) -> RoundResult:
        sizes = self._batches.sizes(sum(phase.steps for phase in phases))
        if not sizes:
            return NOTHING
        # One stream of batches over all phases, so that a model that trains all layers at
        # once for as many steps sees the same images in the same order.
        batches = self._batches.epochs(self._seed, self._party, *path)
        meter = Meter(sizes, self._party, when, progress)
        losses = losses or self._losses
        with deterministic(), forked(self._seed, self._party, *path):
            for side, steps in phases:
                with held(self.model, self.split, side):
                    for _ in range(steps):
                        self._step(rate(meter.step), losses, next(batches), term, meter)
        self._optimizer.zero_grad()  # gradients take as much memory as the model
        return meter.result()

    def _step(
        self,
        rate: float,
        losses: Losses,
        batch: tuple[Tensor, Tensor],
        term: ProximalTerm | None,
        meter: Meter,
    ) -> None:
        optimizer = self._optimizer
        optimizer.set_rate(rate)
        optimizer.zero_grad()
        loss = losses(*batch)
        torch.autograd.backward(loss)  # Tensor.backward carries no types
        if term is not None:
            term.add_gradients()
        optimizer.step()
        meter.add(loss)

    def _losses(self, images: Tensor, labels: Tensor) -> Tensor:
        return self._objective(self.model(images), labels)


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
