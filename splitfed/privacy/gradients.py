"""Per-unit gradients: each record is differentiated by itself, so no record can see another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from splitfed.errors import ModelError

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs [1, ...], labels [1]) -> the loss of one record, a scalar."""

CHUNK = 64
"""Records that are differentiated at once: the fastest size on a CPU, and little memory."""
CHUNK_BYTES = 512 << 20
"""Gradients of one chunk take at most this much memory, unless one record alone takes more."""


class UnitGradients:
    """Gradients of single records, or of all records of one patient.

    ``torch.func`` differentiates a function of *one* record and is vectorised over records
    (vmap). Layers that mix records have nothing to mix, whatever they are called. Three
    things that would let a record move another's gradient all the same are closed:

    * The model is in evaluation mode: a dropout mask would depend on who else is drawn.
    * Every chunk is filled up to the same size with null records, whose gradients are dropped:
      matrix products of few rows round otherwise than those of many.
    * What is not trained is compared with its values at the beginning after every chunk: a
      counter or a statistic that ``forward`` writes would carry records into the next chunk.

    Args:
        model: as it is trained; its trained parameters are read at every call, all other
            tensors once, now.
        trained: names (as in ``model.named_parameters()``) of what is differentiated.
        loss: of one record.
    """

    def __init__(self, model: nn.Module, trained: Mapping[str, nn.Parameter], loss: Loss) -> None:
        self._model = model.eval()
        self._trained = dict(trained)
        self._fixed = {name: t.detach().clone() for name, t in self._rest()}
        size = sum(p.numel() * p.element_size() for p in self._trained.values())
        self.chunk = max(1, min(CHUNK, CHUNK_BYTES // max(1, size)))

        def of_one(values: dict[str, Tensor], others: Any, image: Tensor, label: Tensor) -> Tensor:
            outputs = functional_call(model, (values, others), (image[None],))
            return loss(outputs, label[None])

        self._of_each = vmap(grad_and_value(of_one), in_dims=(None, None, 0, 0))

    def __call__(
        self, images: Tensor, labels: Tensor, groups: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients of some units, by parameter name, and their records' losses.

        Args:
            images: [N, ...], N ≥ 1.
            labels: [N].
            groups: [N] int64: record i belongs to unit ``groups[i]`` of 0..G-1, each of which
                has a record. A unit's gradient is the mean over its records. None: each
                record is its own unit.

        Returns:
            {name: [N or G, *shape]} and [N] losses, detached.

        Raises:
            ModelError: the model cannot be differentiated record by record, or writes to
                tensors that are not trained.
        """
        parts = [
            self._filled_up(images[start : start + self.chunk], labels[start : start + self.chunk])
            for start in range(0, len(images), self.chunk)
        ]
        found = {name: torch.cat([part[name] for part, _ in parts]) for name in self._trained}
        losses = torch.cat([losses for _, losses in parts])
        if groups is not None:
            sizes = torch.bincount(groups)
            found = {name: _mean_of(g, groups, sizes) for name, g in found.items()}
        return found, losses

    def set_fixed(self, names: Collection[str]) -> None:
        """Take over the present values of these tensors, which are not trained but were just
        replaced from outside."""
        for name, tensor in self._rest():
            if name in names:
                self._fixed[name] = tensor.detach().clone()

    def _filled_up(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """At most one chunk of records, computed as a whole one."""
        count, missing = len(images), self.chunk - len(images)
        if missing:
            images = torch.cat([images, images.new_zeros((missing, *images.shape[1:]))])
            labels = torch.cat([labels, labels.new_zeros(missing)])
        trained = {name: p.detach() for name, p in self._trained.items()}
        others = {name: t.detach() for name, t in self._rest()}
        try:
            found, losses = self._of_each(trained, others, images, labels)
        except RuntimeError as error:
            if "out of memory" in str(error).lower():
                raise
            reason = str(error).strip().split("\n", 1)[0]
            raise self._refused(f"cannot be computed (torch.func.vmap): {reason}") from error
        for name, tensor in self._rest():
            if not torch.equal(tensor, self._fixed[name]):
                tensor.data.copy_(self._fixed[name])
                raise self._refused(f"would not be of one record alone: forward() writes to {name}")
        return {name: g[:count] for name, g in found.items()}, losses[:count]

    def _refused(self, why: str) -> ModelError:
        return ModelError(
            f"{type(self._model).__name__}: gradients of single records {why}",
            "replace what writes in place, draws random numbers or branches on values in "
            "forward(), or agree on another model",
        )

    def _rest(self) -> list[tuple[str, Tensor]]:
        return [
            (name, tensor)
            for name, tensor in (*self._model.named_parameters(), *self._model.named_buffers())
            if name not in self._trained
        ]


def _mean_of(gradients: Tensor, groups: Tensor, sizes: Tensor) -> Tensor:
    total = gradients.new_zeros((len(sizes), *gradients.shape[1:]))
    total.index_add_(0, groups, gradients)
    return total / sizes.reshape(-1, *[1] * (gradients.dim() - 1))
