"""One party's models and data, as the round engine drives them.

Two branches learn side by side from equal initial values, with equal batches: the party's
own model, whose shared tensors are replaced at every merge, and (with ``acceptance``) the
local_only branch, which never meets a merge. The second is what federation is compared to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from splitfed.config import OwnFusionConfig
from splitfed.errors import Defect, TrainingDiverged
from splitfed.evaluation import Predictions, predict
from splitfed.rounds import Trained
from splitfed.run.comparison import Comparison
from splitfed.run.fusing import AgreedFusion, averaged, joined, outputs_of, teacher
from splitfed.run.judging import Judge
from splitfed.sharing import Split, private_tensors, shared_tensors
from splitfed.tensors import Tensors
from splitfed.training import Trainer
from splitfed.training.loop import Progress
from splitfed.training.phases import as_alone
from splitfed.training.trainer import below

if TYPE_CHECKING:
    from splitfed.config import TrainingConfig
    from splitfed.data import ImageSet


@dataclass(frozen=True, kw_only=True)
class PartyData:
    """A party's labelled image sets, of which nothing leaves the house, and the unlabelled
    reference images that every party holds."""

    train: ImageSet
    validation: ImageSet | None
    test: ImageSet | None
    reference: ImageSet | None = None


class LocalLearner(Comparison):
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
        acceptance: train the local_only branch too, and judge every merge by it.
        on_distrust: "warn", or "leave": what distrust comes to.
        fusion: what the parties agreed to exchange besides updates; None: nothing.
        own_fusion: how this party learns from it.
        algorithm: how local training treats the two sides, see :class:`Trainer`.
        proximal: weight of FedProx's term in the own branch; the local_only one has none.
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
        on_distrust: str = "warn",
        fusion: AgreedFusion | None = None,
        own_fusion: OwnFusionConfig | None = None,
        algorithm: str = "fedper",
        proximal: float = 0.0,
        turn: AbstractContextManager[Any] | None = None,
    ) -> None:
        self.data = data
        self.settings = settings
        self.split = split
        self._classes = classes
        self._party = party
        self._fusion = fusion
        self._own_fusion = own_fusion or OwnFusionConfig()
        self._turn = turn or nullcontext()
        self._outgoing: Tensors = {}
        self._step: Progress = lambda done, of, loss: None
        self._unfitted: tuple[Tensors, dict[str, Any]] | None = None
        self.fused: nn.Module | None = None
        self.unusable = ""
        self._trainer = partial(
            Trainer,
            data=data.train,
            split=split,
            classes=classes,
            seed=seed,
            party=party,
            total_rounds=rounds,
        )
        begin = deepcopy(model)
        self._own = self._trainer(model, settings=settings, algorithm=algorithm, proximal=proximal)
        alone = as_alone(settings, algorithm, steps=self._own.steps_per_round)
        super().__init__(self._trainer(begin, settings=alone) if acceptance else None, classes)
        self._leaves = on_distrust == "leave"

    @property
    def model(self) -> nn.Module:
        """The party's own model, trained in place."""
        return self._own.model

    @property
    def federated(self) -> nn.Module | None:
        """The noised model that the federation trains, where it is not the own model."""
        return None

    def train(self, round: int, step: Callable[[int, int, float], None]) -> Trained:
        """Both branches, one after the other, on the same batches; then the acceptance test."""
        self._step = step
        self._unfit()
        with self._turn:
            baseline = self._train_baseline(round)
            result = self._own.train_round(round, step)
        return self._judged(result.loss, result.seconds, baseline)

    def shared(self) -> Tensors:
        """Copies of the shared tensors as they are now."""
        return shared_tensors(self.model, self.split)

    def merge(self, shared: Tensors) -> None:
        """Take over the agreed shared tensors; the local_only branch does not."""
        self._own.merge(shared)
        self._judge.merged = True

    def fit(self) -> Trained:
        """After the last round: the private layers on the final shared tensors, while the
        local_only branch spends the same epochs on all of its layers. Once: a fusion has
        done it already."""
        if self._unfitted is not None:
            return Trained(loss=None, seconds=0.0)
        self._unfitted = self._branches()
        with self._turn:
            baseline = self._fit_baseline()
            result = self._own.fit_private(progress=self._alive)
        return Trained(loss=result.loss, seconds=result.seconds, baseline_seconds=baseline)

    def prepare(self, kind: str, final: bool, step: Callable[[int, int, float], None]) -> Trained:
        """What fusion releases, from the own model: fitted first after the last round."""
        self._step = step
        result = self.fit() if final else Trained(loss=None, seconds=0.0)
        if kind == "private":
            self._consented()
            self._outgoing = private_tensors(self.model, self.split)
        else:
            self._outgoing = self._outputs(self.model)
        return result

    def outgoing(self) -> Tensors:
        """Copies of what :meth:`prepare` made ready."""
        return {name: tensor.clone() for name, tensor in self._outgoing.items()}

    def absorb(self, received: Mapping[str, Tensors]) -> None:
        """Between two rounds: one epoch of learning from the averaged outputs; the local_only
        branch spends it on the own labels alone."""
        with self._turn:
            self._fit_baseline(1)
            before = self._own.state()
            try:
                self._distill(self._own, received, epochs=1)
            except TrainingDiverged:
                self._own.load_state(*before)

    def fuse(self, received: Mapping[str, Tensors], shared: Tensors) -> Trained:
        """Make :attr:`fused` of what the parties released after the last round. The local_only
        branch trains for as many epochs on the own labels.

        What cannot be used - a loss that diverges, layers of a peer that overflow or crash - costs
        nothing but the fusion: :attr:`fused` stays None and :attr:`unusable` says why.

        Args:
            received: by party, the own included.
            shared: the agreed shared tensors.
        """
        began, baseline = time.perf_counter(), 0.0
        assert self._fusion is not None  # nothing was received without
        with self._turn:
            if self._fusion.method == "distill":
                baseline = self._fit_baseline(self._own_fusion.epochs)
            try:
                fused = self._fused(received, shared)
                example, _ = self.data.train.batch(torch.arange(1))
                device = next((p.device for p in fused.parameters()), example.device)
                with torch.no_grad():
                    usable = torch.isfinite(fused.eval()(example.to(device))).all()
                self.fused = fused if usable else None
                self.unusable = "" if usable else "the fused model's answers are not finite"
            except Exception as error:  # what peers sent runs in here: it must not end the run
                if isinstance(error, Defect):
                    raise
                self.fused, self.unusable = None, str(error) or type(error).__name__
        spent = time.perf_counter() - began - baseline
        return Trained(loss=None, seconds=spent, baseline_seconds=baseline)

    def _fused(self, received: Mapping[str, Tensors], shared: Tensors) -> nn.Module:
        assert self._fusion is not None
        if self._fusion.method == "distill":
            copy = self._trainer(deepcopy(self.model), settings=self.settings)
            self._distill(copy, received, epochs=self._own_fusion.epochs)
            return copy.model
        if self._fusion.method == "average":
            example, _ = self.data.train.batch(torch.arange(1))
            return averaged(self.model, self.split, received, shared=shared, example=example)
        return joined(
            self.model,
            received,
            self._party,
            shared=shared,
            fusion=self._fusion,
            classes=len(self._classes),
        )

    def _consented(self) -> None:
        """The last of the checks on consent: the files' own checks have refused before."""
        if not self._own_fusion.release_private:
            raise Defect(
                "private layers were to be released without [fusion] release_private = true; "
                "nothing was sent"
            )

    def validate(self) -> float | None:
        """Accuracy on the own validation images; None without any, or for a regression."""
        return self._accuracy(self.model)

    def personal(self) -> tuple[str, nn.Module]:
        """The model to keep. The one trained alone, which nobody else had a hand in, gives way only
        to one that is clearly better on the own validation images
        (:meth:`~splitfed.evaluation.Predictions.clearly_better_than`): the better of the two that
        federating made. Without such images it is "partial".

        Returns:
            "partial", "local_only" or "fused", and that model.
        """
        chosen = "partial" if self.data.validation is None else self.federated_choice()
        model = self.fused if chosen == "fused" and self.fused is not None else self.model
        if self.baseline is not None and self.data.validation is not None:
            its, alone = (self.predict(m, self.data.validation) for m in (model, self.baseline))
            if its is not None and alone is not None and not its.clearly_better_than(alone):
                return "local_only", self.baseline
        return chosen, model

    def federated_choice(self) -> str:
        """Which of the models that federating made is better on the own validation images, by
        accuracy and among equals by loss: "fused", or "partial" where it is not. "fused" too
        where there are no such images."""
        fused = self.predict(self.fused, self.data.validation)
        own = self.predict(self.model, self.data.validation)
        if fused is None:
            return "fused" if self.fused is not None and own is None else "partial"
        return "fused" if own is not None and fused.better_than(own) else "partial"

    def usable(self, model: nn.Module) -> bool:
        """Whether a model's tensors and its answers on a few own images are finite."""
        if any(not torch.isfinite(t).all() for t in model.state_dict().values()):
            return False
        found = self.predict(model, self.data.train.subset(range(min(8, len(self.data.train)))))
        assert found is not None
        outputs = found.values if found.probabilities is None else found.probabilities
        return outputs is not None and bool(torch.isfinite(outputs).all())

    def validated(self) -> dict[str, float | None]:
        """Accuracy of each candidate of :meth:`personal` on the own validation images."""
        return {
            "local_only": self._accuracy(self.baseline),
            "partial": self._accuracy(self.model),
            "fused": self._accuracy(self.fused),
        }

    def predict(self, model: nn.Module | None, data: ImageSet | None) -> Predictions | None:
        """What ``model`` makes of ``data``; None where either is missing."""
        if model is None or data is None:
            return None
        with self._turn:
            return predict(model, data, loss=self.settings.loss, classes=len(self._classes) or None)

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Models and optimizers of both branches, for a bit-exact resume; after a fusion also
        as they were before the fit, for rounds that may be added."""
        tensors, meta = self._branches()
        tensors |= {f"outgoing/{name}": value for name, value in self._outgoing.items()}
        if self._unfitted is not None:
            before, facts = self._unfitted
            tensors |= {f"unfitted/{name}": value for name, value in before.items()}
            meta["unfitted"] = facts
        return tensors, meta

    def restore(self, tensors: Tensors, meta: dict[str, Any]) -> None:
        """The inverse of :meth:`state`. A folder made without ``acceptance`` has no
        local_only branch to go on with, so the comparison ends there."""
        self._restore_branches(tensors, meta)
        self._outgoing = below("outgoing/", tensors)
        if "unfitted" in meta:
            self._unfitted = (below("unfitted/", tensors), meta["unfitted"])

    def _branches(self) -> tuple[Tensors, dict[str, Any]]:
        tensors, meta = self._own.state()
        baseline, facts = self._baseline_state()
        past, judged = self._judge.state()
        own = {f"own/{name}": value for name, value in tensors.items()}
        return own | baseline | past, {"own": meta, **judged, **facts}

    def _restore_branches(self, tensors: Tensors, meta: dict[str, Any]) -> None:
        self._own.load_state(below("own/", tensors), meta["own"])
        self._judge.restore(tensors, meta)
        self._restore_baseline(tensors, meta)

    def _unfit(self) -> None:
        """Go back to before the fit: rounds were added to a federation that had fused."""
        if self._unfitted is not None:
            self._restore_branches(*self._unfitted)
            self._unfitted, self._outgoing, self.fused = None, {}, None

    def _outputs(self, model: nn.Module) -> Tensors:
        found = self.predict(model, self.data.reference)
        assert found is not None  # the agreement asks for reference images
        return outputs_of(found)

    def _distill(self, trainer: Trainer, received: Mapping[str, Tensors], epochs: int) -> None:
        assert self._fusion is not None
        assert self.data.reference is not None
        trainer.distill(
            self.data.reference,
            teacher(received, self._party, self._own_outputs(received)),
            temperature=self._fusion.temperature,
            weight=self._own_fusion.weight,
            epochs=epochs,
            progress=self._alive,
        )

    def _alive(self, done: int, of: int, loss: float) -> None:
        """A sign of life from work whose steps are not told: under privacy they give away n."""
        self._step(0, 0, loss)

    def _own_outputs(self, received: Mapping[str, Tensors]) -> Tensor | None:
        """The own part of the teacher, where it is better than what was released."""
        return None

    def last_judgement(self) -> dict[str, Any] | None:
        """The acceptance test of the last merge, once both branches are fitted; counts for
        nothing but the report, so that rounds that are added go on as if it had not been."""
        return self._heard(replace(self._judge))

    def _judged(self, loss: float | None, seconds: float, baseline: float) -> Trained:
        """What a round of training came to, with the acceptance test of the merge before it."""
        began = time.perf_counter()
        judgement = self._heard(self._judge)
        return Trained(
            loss=loss,
            seconds=seconds,
            baseline_seconds=baseline + time.perf_counter() - began,
            judgement=judgement,
            leave=self._judge.distrust if judgement and self._leaves else "",
        )

    def _heard(self, judge: Judge) -> dict[str, Any] | None:
        """Predictions of copies: not even a statistic that a model keeps may come of it."""
        held = self.data.validation
        if self.baseline is None or held is None:
            return None
        merged = self.predict(deepcopy(self.model), held) if judge.merged else None
        return judge.hear(self.predict(deepcopy(self.baseline), held), merged)

    def _accuracy(self, model: nn.Module | None) -> float | None:
        found = self.predict(model, self.data.validation)
        if found is None or found.correct is None:
            return None
        return float(found.correct.to(torch.float64).mean())
