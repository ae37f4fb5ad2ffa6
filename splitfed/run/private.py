"""Learners under differential privacy: what is sent is noised, what is kept is not.

Two tracks that meet in one direction only. The federated track (a
:class:`~splitfed.training.private.PrivateTrainer`) makes what leaves. The personal track is
downstream of it: it starts from the federated tensors and trains without noise, and nothing
in the federated track refers to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from splitfed.errors import ModelError, TrainingDiverged
from splitfed.fusion import OUTPUTS
from splitfed.privacy import Mechanism
from splitfed.privacy.frozen import freeze_private
from splitfed.privacy.keystream import Keystream
from splitfed.privacy.public_head import PublicHead
from splitfed.privacy.update import noised_update
from splitfed.rounds import Trained
from splitfed.run.agreed import Agreed
from splitfed.run.fusing import outputs_of
from splitfed.run.learner import LocalLearner
from splitfed.sharing import (
    Split,
    canonical_name,
    load_tensors,
    private_tensors,
    shared_tensors,
)
from splitfed.tensors import Tensors
from splitfed.training.private import PrivateTrainer
from splitfed.training.trainer import below

HEAD_RATE = 2.0
"""The head's learning rate over that of the federated steps: one layer on layers that stand
still bears more, and has few steps."""


def federated_model(model: nn.Module, split: Split, agreed: Agreed) -> nn.Module:
    """What the federated track trains: a copy of ``model``, with its private layers frozen at
    public values under "dp-frozen", or replaced by the agreed public head.

    Raises:
        ModelError: the public head does not fit the model.
    """
    assert agreed.mechanism is not None
    federated = deepcopy(model)
    if agreed.mechanism.mode != "dp-frozen":
        return federated
    if not agreed.public_head:
        freeze_private(federated, split, agreed.seed)
        return federated
    assert agreed.size is not None  # an agreement with a public head has preprocessing
    return PublicHead(federated, split, agreed.size, len(agreed.classes) or 1, agreed.seed)


def noised_head(
    model: nn.Module,
    trainer: Callable[..., PrivateTrainer],
    mechanism: Mechanism,
    split: Split,
    step: Callable[[int, int, float], None],
) -> nn.Module:
    """``model`` with a head that was fitted with noise, so that its outputs may leave.

    Trained is the last private layer (or the public head in its place), by the same DP-SGD as
    the shared layers, which stay as they are; the noise is that of ``fusion_epsilon``. What
    goes in is noised or public, and what comes out of the head follows from it alone. One
    layer: the fewer parameters are noised, the more is left of what they learnt.

    Args:
        model: a copy of the federated model; changed in place.
        trainer: makes a :class:`PrivateTrainer` of a model and a mechanism.
        mechanism: the agreement's.
        split: of ``model``.

    Raises:
        ModelError: no private layer with a weight matrix.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in last_layer(model, split).parameters(recurse=False):
        parameter.requires_grad_(True)
    trainer(model, mechanism=mechanism.head).train_round(1, step)
    return model


def last_layer(model: nn.Module, split: Split) -> nn.Module:
    """The last module that holds a weight matrix or kernel of its own, none of it shared: what
    is fitted for the outputs of "dp-frozen".

    Raises:
        ModelError: there is none.
    """
    if isinstance(model, PublicHead):
        return model.public_head
    found: nn.Module | None = None
    for prefix, part in model.named_modules():
        own = {
            canonical_name(f"{prefix}.{name}" if prefix else name): parameter
            for name, parameter in part.named_parameters(recurse=False)
        }
        private = {split.aliases.get(name, name) for name in own} <= split.private_names
        if private and any(parameter.dim() >= 2 for parameter in own.values()):
            found = part
    if found is None:
        raise ModelError(
            "the model has no private layer that could be fitted for fusion",
            'share fewer layers, or agree on [fusion] method = "none"',
        )
    return found


class PrivateLearner(LocalLearner):
    """Modes "dp-frozen" and "dp-all".

    Args:
        model: the personal model, with the agreed initial shared tensors in it.
        federated: the model that the federation trains, a copy with frozen private layers
            under "dp-frozen"; changed in place.
        federated_split: which of its tensors are shared: the same as in ``model``.
        mechanism: the agreement's.
        records: the party's public number of units.
        more: as for :class:`LocalLearner`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        federated: nn.Module,
        federated_split: Split,
        mechanism: Mechanism,
        records: int,
        **more: Any,
    ) -> None:
        super().__init__(model, **more)
        if mechanism.fusion is not None:
            last_layer(federated, federated_split)  # or all rounds would be paid for nothing
        self._rounds = 0  # trained so far
        self._mechanism = mechanism
        rate = HEAD_RATE * self.settings.federated.lr
        faster = self.settings.federated.model_copy(update={"lr": rate})
        self._head_trainer = partial(
            PrivateTrainer,
            data=self.data.train,
            settings=self.settings.model_copy(update={"federated": faster}),
            split=federated_split,
            classes=self._classes,
            records=records,
        )
        self._federated = PrivateTrainer(
            federated,
            self.data.train,
            self.settings,
            mechanism=mechanism,
            split=federated_split,
            classes=self._classes,
            records=records,
        )
        if federated_split.private == self.split.private:
            # Fitting begins at the head that the shared layers were trained against.
            load_tensors(self.model, private_tensors(federated, federated_split))

    @property
    def federated(self) -> nn.Module:
        """A copy of the noised model as the federation trains it: what is done with it must not
        reach the original, not even a statistic that its layers keep."""
        return deepcopy(self._federated.model)

    def train(self, round: int, step: Callable[[int, int, float], None]) -> Trained:
        """The local_only branch, then the noised steps of the federated track."""
        self._rounds, self._step = round, step
        with self._turn:
            baseline = self._train_baseline(round)
            result = self._federated.train_round(round, step)
        return Trained(loss=result.loss, seconds=result.seconds, baseline_seconds=baseline)

    def shared(self) -> Tensors:
        """Copies of the noised shared tensors: all that is ever released."""
        return self._federated.shared()

    def merge(self, shared: Tensors) -> None:
        """Take over the agreed shared tensors in the federated track."""
        self._federated.merge(shared)

    def prepare(self, kind: str, final: bool, step: Callable[[int, int, float], None]) -> Trained:
        """What fusion releases, from the federated track alone: under "dp-all" its own noised
        model's outputs or private layers; under "dp-frozen" the outputs of a head that is
        fitted with noise of its own on the frozen shared layers."""
        began = time.perf_counter()
        model = self.federated
        if self._mechanism.fusion is not None:
            with self._turn:
                model = noised_head(
                    model, self._head_trainer, self._mechanism, self._federated.split, step
                )
        if kind == "private":
            self._consented()
            self._outgoing = private_tensors(model, self.split)
        else:
            self._outgoing = self._outputs(model)
        return Trained(loss=None, seconds=time.perf_counter() - began)

    def _own_outputs(self, received: Mapping[str, Tensors]) -> Tensor | None:
        """At home the personal model's outputs serve: they never leave."""
        found = self.predict(self.model, self.data.reference)
        return None if found is None else outputs_of(found)[OUTPUTS]

    def fit(self) -> Trained:
        """After the last round, the personal track: from the federated tensors, first the
        private layers, then all layers for as many epochs as the rounds had, without noise;
        in all as many as the local_only branch."""
        with self._turn:
            baseline = self._fit_baseline()
            names = self.split.shared_names | self.split.private_names
            found = self._federated.tensors()
            load_tensors(self.model, {n: t for n, t in found.items() if n in names})
            began, self._judge.merged = self._own.state(), self._rounds > 0
            try:
                results = [self._own.fit_private()]
                results += [self._own.train_round(round + 1) for round in range(self._rounds)]
            except TrainingDiverged:
                # What was paid for is kept: the federated tensors, without the fine-tuning.
                self._own.load_state(*began)
                self._judge.merged = False
                return Trained(loss=None, seconds=0.0, baseline_seconds=baseline)
        return Trained(
            loss=results[-1].loss,
            seconds=sum(result.seconds for result in results),
            baseline_seconds=baseline,
        )

    def last_judgement(self) -> dict[str, Any] | None:
        """Asked once, after the fit: only then are there two branches with equal training. The
        noise alone would fail any test of the noised model between rounds."""
        return self._heard(replace(self._judge, running=1, lag=0))

    def validate(self) -> float | None:
        """Accuracy of the noised model on the own validation images."""
        return self._accuracy(self.federated)

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """The federated track and the local_only branch; the personal track begins last."""
        tensors, facts = self._baseline_state()
        federated, facts["federated"] = self._federated.state()
        facts["rounds"] = self._rounds
        tensors |= {f"federated/{name}": value for name, value in federated.items()}
        return tensors | {f"outgoing/{name}": t for name, t in self._outgoing.items()}, facts

    def restore(self, tensors: Tensors, meta: dict[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        self._federated.load_state(below("federated/", tensors), meta["federated"])
        self._rounds = int(meta["rounds"])
        self._outgoing = below("outgoing/", tensors)
        self._restore_baseline(tensors, meta)


class UpdateLearner(LocalLearner):
    """Mode "party-update": trained as without privacy; the update leaves clipped and noised.

    Args:
        mechanism: the agreement's.
        more: as for :class:`LocalLearner`.
    """

    def __init__(self, model: nn.Module, *, mechanism: Mechanism, **more: Any) -> None:
        super().__init__(model, **more)
        self._mechanism = mechanism
        self._keystream = Keystream()
        self._noised: Tensors | None = None

    def train(self, round: int, step: Callable[[int, int, float], None]) -> Trained:
        """Both branches; then the noised update that may leave, and the acceptance test. Training
        that diverges is undone and counts as no update: to stop would tell something about the
        data."""
        self._step = step
        base = shared_tensors(self.model, self.split)
        tensors, facts = self._own.state()
        with self._turn:
            baseline = self._train_baseline(round)
            loss, seconds = None, 0.0
            try:
                result = self._own.train_round(round, step)
                loss, seconds = result.loss, result.seconds
            except TrainingDiverged:
                self._own.load_state(tensors, facts)
                self._judge.merged = False  # whatever it is worth now is nobody else's doing
        now = shared_tensors(self.model, self.split)
        self._noised = noised_update(now, base, self._mechanism, self._keystream)
        return self._judged(loss, seconds, baseline)

    def shared(self) -> Tensors:
        """The noised update of this round; between rounds the agreed shared tensors."""
        return dict(self._noised) if self._noised is not None else super().shared()

    def merge(self, shared: Tensors) -> None:
        """Take over the agreed shared tensors."""
        super().merge(shared)
        self._noised = None

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """As without privacy, and the update that waits to be released."""
        tensors, facts = super().state()
        waiting = {f"noised/{name}": value for name, value in (self._noised or {}).items()}
        return tensors | waiting, facts

    def restore(self, tensors: Tensors, meta: dict[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        super().restore(tensors, meta)
        self._noised = below("noised/", tensors) or None
