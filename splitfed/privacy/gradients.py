"""Per-unit gradients: each record is differentiated by itself, so no record can see another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    (vmap). Layers that mix records have nothing to mix, whatever they are called. The model
    is in evaluation mode: no dropout, whose mask would depend on who else is in the sample.

    Args:
        model: as it is trained; its parameters are read at every call.
        trained: names (as in ``model.named_parameters()``) of what is differentiated.
        loss: of one record.
    """

    def __init__(self, model: nn.Module, trained: Mapping[str, nn.Parameter], loss: Loss) -> None:
        self._model = model.eval()
        self._trained = dict(trained)
        size = sum(p.numel() * p.element_size() for p in self._trained.values())
        self.chunk = max(1, min(CHUNK, CHUNK_BYTES // max(1, size)))

        def of_one(values: dict[str, Tensor], others: Any, image: Tensor, label: Tensor) -> Tensor:
            outputs = functional_call(model, (values, others), (image[None],))
            return loss(outputs, label[None])

        self._of_each = vmap(grad_and_value(of_one), in_dims=(None, None, 0, 0))

    def __call__(
        self, images: Tensor, labels: Tensor, groups: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients of a chunk, by parameter name, and the records' losses.

        Args:
            images: [N, ...], N ≥ 1.
            labels: [N].
            groups: [N] int64: record i belongs to unit ``groups[i]`` of 0..G-1, each of which
                has a record. A unit's gradient is the mean over its records. None: each
                record is its own unit.

        Returns:
            {name: [N or G, *shape]} and [N] losses, detached.

        Raises:
            ModelError: the model cannot be differentiated record by record.
        """
        trained = {name: p.detach() for name, p in self._trained.items()}
        others = {n: t.detach() for n, t in self._rest()}
        try:
            found, losses = self._of_each(trained, others, images, labels)
        except RuntimeError as error:
            if "out of memory" in str(error).lower():
                raise
            reason = str(error).strip().split("\n", 1)[0]
            raise ModelError(
                f"{type(self._model).__name__}: gradients of single records cannot be computed "
                f"(torch.func.vmap): {reason}",
                "replace what writes in place to buffers, draws random numbers or branches on "
                "values in forward()",
            ) from error
        if groups is not None:
            count = int(groups.max()) + 1
            sizes = torch.bincount(groups, minlength=count)
            found = {name: _mean_of(g, groups, sizes) for name, g in found.items()}
        return found, losses

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
