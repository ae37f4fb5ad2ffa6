"""Learners under differential privacy: what is sent is noised, what is kept is not.

Two tracks that meet in one direction only. The federated track (a
:class:`~splitfed.training.private.PrivateTrainer`) makes what leaves. The personal track is
downstream of it: it starts from the federated tensors and trains without noise, and nothing
in the federated track refers to it.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from torch import nn

from splitfed.errors import TrainingDiverged
from splitfed.privacy import Mechanism
from splitfed.privacy.frozen import freeze_private
from splitfed.privacy.keystream import Keystream
from splitfed.privacy.public_head import PublicHead
from splitfed.privacy.update import noised_update
from splitfed.rounds import Trained
from splitfed.run.agreed import Agreed
from splitfed.run.learner import LocalLearner
from splitfed.sharing import Split, load_tensors, private_tensors, shared_tensors
from splitfed.tensors import Tensors
from splitfed.training.private import PrivateTrainer
from splitfed.training.trainer import below


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
        self._rounds = 0  # trained so far
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
        self._rounds = round
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

    def fit(self) -> Trained:
        """After the last round, the personal track: from the federated tensors, first the
        private layers, then all layers for as many epochs as the rounds had, without noise;
        in all as many as the local_only branch."""
        with self._turn:
            baseline = self._fit_baseline()
            names = self.split.shared_names | self.split.private_names
            found = self._federated.tensors()
            load_tensors(self.model, {n: t for n, t in found.items() if n in names})
            began = self._own.state()
            try:
                results = [self._own.fit_private()]
                results += [self._own.train_round(round + 1) for round in range(self._rounds)]
            except TrainingDiverged:
                # What was paid for is kept: the federated tensors, without the fine-tuning.
                self._own.load_state(*began)
                return Trained(loss=None, seconds=0.0, baseline_seconds=baseline)
        return Trained(
            loss=results[-1].loss,
            seconds=sum(result.seconds for result in results),
            baseline_seconds=baseline,
        )

    def validate(self) -> float | None:
        """Accuracy of the noised model on the own validation images."""
        return self._accuracy(self.federated)

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """The federated track and the local_only branch; the personal track begins last."""
        tensors, facts = self._baseline_state()
        federated, facts["federated"] = self._federated.state()
        facts["rounds"] = self._rounds
        return tensors | {f"federated/{name}": t for name, t in federated.items()}, facts

    def restore(self, tensors: Tensors, meta: dict[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        self._federated.load_state(below("federated/", tensors), meta["federated"])
        self._rounds = int(meta["rounds"])
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
        self._outgoing: Tensors | None = None

    def train(self, round: int, step: Callable[[int, int, float], None]) -> Trained:
        """Both branches; then the noised update that may leave. Training that diverges is
        undone and counts as no update: to stop would tell something about the data."""
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
        now = shared_tensors(self.model, self.split)
        self._outgoing = noised_update(now, base, self._mechanism, self._keystream)
        return Trained(loss=loss, seconds=seconds, baseline_seconds=baseline)

    def shared(self) -> Tensors:
        """The noised update of this round; between rounds the agreed shared tensors."""
        return dict(self._outgoing) if self._outgoing is not None else super().shared()

    def merge(self, shared: Tensors) -> None:
        """Take over the agreed shared tensors."""
        super().merge(shared)
        self._outgoing = None

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """As without privacy, and the update that waits to be released."""
        tensors, facts = super().state()
        waiting = {f"outgoing/{name}": value for name, value in (self._outgoing or {}).items()}
        return tensors | waiting, facts

    def restore(self, tensors: Tensors, meta: dict[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        super().restore(tensors, meta)
        self._outgoing = below("outgoing/", tensors) or None
