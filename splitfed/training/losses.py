"""The two losses, and the record of a round's losses that never makes a GPU wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from splitfed.errors import DataError, ModelError, TrainingDiverged

Objective = Callable[[Tensor, Tensor], Tensor]
"""(outputs, labels) -> mean loss of the batch, a scalar that can be differentiated."""


def objective(loss: Literal["cross_entropy", "mse"], classes: int) -> Objective:
    """The loss called ``loss``; it checks the shape of a model's outputs as it goes.

    Args:
        loss: ``"cross_entropy"`` of outputs [B, classes] and int64 labels [B], or the mean
            squared error of outputs with as many values as there are labels.
        classes: only for cross-entropy.
    """

    def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
        if outputs.dim() != 2 or outputs.shape[1] != classes:
            raise ModelError(
                f"the model's outputs have shape {list(outputs.shape)}, not "
                f"[{len(labels)}, {classes}]",
                "end the model with one output per class of the agreement",
            )
        return functional.cross_entropy(outputs, labels)

    def squared_error(outputs: Tensor, labels: Tensor) -> Tensor:
        if outputs.numel() != labels.numel():
            raise ModelError(
                f"the model's outputs have shape {list(outputs.shape)}, the targets "
                f"{list(labels.shape)}",
                "end the model with one output per target",
            )
        return functional.mse_loss(outputs.reshape(labels.shape), labels)

    return squared_error if loss == "mse" else cross_entropy


def check_labels(labels: Tensor | None, loss: str, classes: int) -> None:
    """Refuse labels the loss cannot use, before the first step rather than in it.

    Raises:
        DataError: no labels, labels of the wrong kind, or a class that does not exist.
    """
    if labels is None:
        raise DataError("the training images have no labels", "name a labelled data set")
    if loss == "mse":
        if not labels.is_floating_point():
            raise DataError(
                f'loss = "mse" on labels of {labels.dtype}', "give float32 targets, not classes"
            )
        return
    if labels.is_floating_point():
        raise DataError(
            f'loss = "cross_entropy" on labels of {labels.dtype}',
            'give int64 classes, or set loss = "mse" in [training]',
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"training labels run from {low} to {high}, but there are {classes} classes",
            "labels are positions in the agreement's classes, from 0",
        )


class LossRecord:
    """The loss of every step, kept on the device until somebody looks."""

    def __init__(self, sizes: Sequence[int], who: str, when: str) -> None:
        self._sizes = torch.tensor(sizes, dtype=torch.float64)
        self._values: Tensor | None = None
        self._who = who
        self._when = when

    def add(self, step: int, loss: Tensor) -> None:
        """Note the loss of ``step`` (from 0)."""
        if self._values is None:
            self._values = loss.new_empty(len(self._sizes))
        self._values[step] = loss.detach()

    def mean(self, steps: int) -> float:
        """Mean loss per image of the first ``steps`` steps.

        Raises:
            TrainingDiverged: one of them is not finite; names party, round, step and loss.
        """
        assert self._values is not None  # asked after a step only
        values = self._values[:steps].to("cpu", torch.float64)
        finite = torch.isfinite(values)
        if not bool(finite.all()):
            first = int(finite.logical_not().nonzero()[0])
            raise TrainingDiverged(
                f"{self._who}: the training loss is {values[first].item()} {self._when}, "
                f"step {first + 1} of {len(self._sizes)}",
                "lower [training] lr in party.toml, or look for broken images and labels",
            )
        sizes = self._sizes[:steps]
        return float((values * sizes).sum() / sizes.sum())
