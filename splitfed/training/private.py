"""The federated track under differential privacy: noised steps, and nothing else to see.

This trainer holds one model, the training images and the agreement's public numbers. It has
no way to the personal track: whatever a party trains without noise, validates or tests lies in
objects that nothing here refers to.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from splitfed.errors import DataError, Defect
from splitfed.privacy.gradients import UnitGradients
from splitfed.privacy.keystream import Keystream
from splitfed.privacy.optimizer import PrivateOptimizer
from splitfed.sharing import Split, canonical_name, load_tensors, named_tensors, shared_tensors
from splitfed.tensors import Tensors, all_finite
from splitfed.training.batches import Batches
from splitfed.training.determinism import find_device
from splitfed.training.loop import REPORT_SECONDS, Progress, RoundResult
from splitfed.training.losses import check_labels, objective
from splitfed.training.optimizer import NamedOptimizer
from splitfed.training.schedule import round_rate
from splitfed.training.trainer import below, check_state

if TYPE_CHECKING:
    from splitfed.config import TrainingConfig
    from splitfed.data import ImageSet
    from splitfed.privacy import Mechanism


class PrivateTrainer:
    """Trains ``model`` in place by Poisson-sampled DP-SGD (Abadi et al. 2016, algorithm 1).

    Every parameter that asks for a gradient is trained and noised; what must not move is
    frozen beforehand. Two trainers never give the same bytes: sampling and noise come from
    the operating system.

    Args:
        model: moved to the device of ``settings``; run in evaluation mode.
        data: labelled training images; with ``unit = "patient"`` each with its patient.
        settings: the ``[training]`` section: device, loss, and ``federated`` for the optimizer.
        mechanism: the agreement's; its mode is "dp-frozen" or "dp-all".
        split: which tensors of ``model`` are shared.
        classes: the agreement's class names; not looked at when the loss is ``"mse"``.
        records: the party's public number of units, n; the expected batch is q·n.
        keystream: where noise and sampling come from; None: a new one.

    Raises:
        DataError: no labels, no patients under ``unit = "patient"``, or more units than the
            agreement says (fewer count as units that contribute nothing).
        UserError: CUDA where there is none.
    """

    def __init__(
        self,
        model: nn.Module,
        data: ImageSet,
        settings: TrainingConfig,
        *,
        mechanism: Mechanism,
        split: Split,
        classes: Sequence[str],
        records: int,
        keystream: Keystream | None = None,
    ) -> None:
        check_labels(data.labels, settings.loss, len(classes))
        device = find_device(settings.device)
        self.model = model.to(device)
        self.split = split
        self.mechanism = mechanism
        self._settings = settings.federated
        self._keystream = keystream or Keystream()
        self._batches = Batches(data, len(data), device)
        self._units = _Units(data, mechanism.unit, records)
        names = {
            split.aliases.get(name, name): raw
            for raw, parameter in model.named_parameters()
            if parameter.requires_grad
            for name in (canonical_name(raw),)
        }
        raw_parameters = dict(model.named_parameters())
        parameters = {name: raw_parameters[raw] for name, raw in names.items()}
        self._trained = frozenset(parameters)
        self._kept = self._trained | split.shared_names
        self._order = tuple(names.values())
        self._gradients = UnitGradients(
            model,
            {raw: raw_parameters[raw] for raw in self._order},
            objective(settings.loss, len(classes)),
        )
        self._optimizer = NamedOptimizer(parameters, self._settings)
        self._private = PrivateOptimizer(
            self._optimizer.inner,
            model=model,
            noise_multiplier=mechanism.noise_multiplier,
            max_grad_norm=mechanism.max_grad_norm,
            expected_batch_size=mechanism.sample_rate * records,
            keystream=self._keystream,
        )

    @property
    def steps_per_round(self) -> int:
        """Noised steps of one round; the agreement's."""
        return self.mechanism.steps_per_round

    def train_round(self, round: int, progress: Progress | None = None) -> RoundResult:
        """Take the noised steps of one round, from what is there.

        Always as many as agreed, whatever the losses are: stopping would tell something
        about the images. A record whose loss or gradient is not finite contributes nothing. A
        round that ends with values that are not finite (too large a learning rate) is undone.

        Args:
            round: from 1.
            progress: called at most every 0.2 s, and once at the end.

        Raises:
            ModelError: outputs that do not fit the classes, or a model whose gradients
                cannot be computed record by record.
        """
        begin = reported = time.perf_counter()
        steps, seen, start = self.steps_per_round, _Seen(), self.tensors()
        for step in range(steps):
            self._optimizer.set_rate(
                round_rate(
                    self._settings,
                    round=round,
                    step=step,
                    steps=steps,
                    total_rounds=self.mechanism.rounds,
                )
            )
            self._step(seen)
            now = time.perf_counter()
            if progress is not None and now - reported >= REPORT_SECONDS and step + 1 < steps:
                reported = now
                progress(step + 1, steps, seen.mean())
        if all_finite(self.tensors()) is not None:
            # Computed from noised sums alone, so to undo it tells nothing; to stop would.
            load_tensors(self.model, start)
            self._optimizer.restart(self._trained)
        if progress is not None:
            progress(steps, steps, seen.mean())
        return RoundResult(
            loss=seen.mean() if seen.finite() else None,
            steps=steps,
            images=seen.images,
            seconds=time.perf_counter() - begin,
        )

    def shared(self) -> Tensors:
        """Copies of the shared tensors as they are now: noised, ready to be released."""
        return shared_tensors(self.model, self.split)

    def tensors(self) -> Tensors:
        """Copies of all that is trained under noise or shared, by canonical name."""
        found = named_tensors(self.model)
        return {name: found[name].to("cpu", copy=True).contiguous() for name in sorted(self._kept)}

    def merge(self, shared: Mapping[str, Tensor]) -> None:
        """Take over the tensors that all parties agreed on, and restart their momentum.

        Raises:
            Defect: not exactly the shared tensors.
        """
        for name in sorted(self.split.shared_names ^ shared.keys()):
            raise Defect(f"merge: tensor {name} is not both shared and given")
        self._load(shared)
        self._optimizer.restart(self.split.shared_names)

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """What the next round depends on, apart from chance: noised tensors and the optimizer
        state that was computed from them. No noise, no seed, no sample."""
        tensors = {f"model/{name}": value for name, value in self.tensors().items()}
        for name, value in self._optimizer.state().items():
            tensors[f"optimizer/{name}"] = value
        return tensors, {"optimizer": self._optimizer.kind}

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Go on where :meth:`state` was taken, with new noise.

        Raises:
            FolderError: the checkpoint is of another model or optimizer.
        """
        model = below("model/", tensors)
        check_state(model, self._kept, meta, self._optimizer.kind)
        self._load(model)
        self._optimizer.load(below("optimizer/", tensors))

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace tensors; those that are shared and not trained are from now on as given."""
        load_tensors(self.model, tensors)
        self._gradients.set_fixed(
            {raw for raw, _ in self.model.named_parameters() if canonical_name(raw) in tensors}
        )

    def _step(self, seen: _Seen) -> None:
        chosen = np.flatnonzero(self._keystream.mask(self.mechanism.sample_rate, len(self._units)))
        try:
            for index, groups in self._units.chunks(chosen, self._gradients.chunk):
                images, labels = self._batches.at(index)
                if groups is not None:
                    groups = groups.to(images.device)
                gradients, losses = self._gradients(images, labels, groups)
                self._private.add([gradients[raw] for raw in self._order])
                seen.add(losses)
            self._private.noised_step()
        except BaseException:
            self._private.discard()  # half a sum must not slip into another step
            raise


class _Units:
    """What is sampled: single records, or patients with all their records.

    Args:
        agreed: the public number of units.
    """

    def __init__(self, data: ImageSet, unit: str, agreed: int) -> None:
        self._members: list[Tensor] | None = None
        count = len(data)
        if unit == "patient":
            if data.groups is None:
                raise DataError(
                    'unit = "patient", and the training images do not say which patient each '
                    "belongs to",
                    "add groups.csv (file,group) beside a folder's classes, train_groups to an npz "
                    'file, a third value to your function, or agree on unit = "record"',
                )
            places: dict[str, list[int]] = {}
            for place, group in enumerate(data.groups):
                places.setdefault(group, []).append(place)
            self._members = [torch.tensor(members) for members in places.values()]
            count = len(self._members)
        if count > agreed:
            raise DataError(
                f"there are {count} training {unit}s, the agreement's records = {agreed}",
                "agree on the right number: sample rate and delta rest on it",
            )
        self._count = count

    def __len__(self) -> int:
        return self._count

    def chunks(self, chosen: Any, size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The records of the ``chosen`` units, about ``size`` at a time, units whole; and for
        patients, which of the chunk's units each record belongs to."""
        if self._members is None:
            for start in range(0, len(chosen), size):
                yield torch.from_numpy(chosen[start : start + size]), None
            return
        members: list[Tensor] = []
        for place, unit in enumerate(chosen):
            members.append(self._members[unit])
            if sum(map(len, members)) >= size or place + 1 == len(chosen):
                numbers = [torch.full((len(m),), i) for i, m in enumerate(members)]
                yield torch.cat(members), torch.cat(numbers)
                members = []


class _Seen:
    """The losses of the records that were seen, for the party's own eyes."""

    def __init__(self) -> None:
        self.images = 0
        self._total: Tensor | None = None
        self._count: Tensor | None = None

    def add(self, losses: Tensor) -> None:
        finite = torch.isfinite(losses)
        total = torch.where(finite, losses, torch.zeros_like(losses)).sum(dtype=torch.float64)
        self._total = total if self._total is None else self._total + total
        self._count = finite.sum() if self._count is None else self._count + finite.sum()
        self.images += len(losses)

    def finite(self) -> bool:
        return self._count is not None and int(self._count) > 0

    def mean(self) -> float:
        """Mean loss per image so far; 0 before the first."""
        if not self.finite():
            return 0.0
        assert self._total is not None
        assert self._count is not None
        return float(self._total) / int(self._count)
