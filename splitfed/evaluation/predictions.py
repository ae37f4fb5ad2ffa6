"""A model's predictions on a set of images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from splitfed.errors import DataError, ModelError

if TYPE_CHECKING:
    from splitfed.data import ImageSet

Loss = Literal["cross_entropy", "mse"]


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a model says about N images.

    Attributes:
        probabilities: [N, K] float64, rows sum to one; None for a regression.
        values: [N] or [N, K] float64, shaped like the labels; None for a classification.
        labels: [N] int64 classes, or the regression's targets; None where there are none.
        loss: mean cross-entropy in nats, or mean squared error; None without labels, and
            None when it is not finite (a model that overflows has no meaningful loss).
    """

    probabilities: Tensor | None
    values: Tensor | None
    labels: Tensor | None
    loss: float | None

    def __len__(self) -> int:
        outputs = self.values if self.probabilities is None else self.probabilities
        return 0 if outputs is None else len(outputs)

    @property
    def correct(self) -> Tensor | None:
        """[N] bool: is the likeliest class the label? A row with a NaN or an infinity is wrong.
        None for a regression and for images without labels."""
        if self.probabilities is None or self.labels is None:
            return None
        finite = torch.isfinite(self.probabilities).all(dim=1)
        return (self.probabilities.argmax(dim=1) == self.labels) & finite

    def better_than(self, other: Predictions) -> bool:
        """Higher accuracy; where that is equal, and for a regression, lower loss."""
        if self.correct is not None and other.correct is not None:
            mine, its = int(self.correct.sum()), int(other.correct.sum())
            if mine != its:
                return mine > its
        return self.loss is not None and (other.loss is None or self.loss < other.loss)

    def clearly_better_than(self, other: Predictions) -> bool:
        """Better by more than one standard error, on the same N images with labels: less than that
        a choice between two models does not rest on (the "1 SE rule" of Breiman et al.,
        *Classification and Regression Trees*, 1984, section 3.4).

        For each image d is how much more wrong ``other`` is: a wrong answer, or the squared error
        of a regression. If the two were equally good, the sum of all d would have the variance
        Σd² (where answers are right or wrong, the number of images that only one of the two has
        right: McNemar 1947). Clearly better is Σd > √(Σd²).
        """
        if self.correct is not None and other.correct is not None:
            better = self.correct.to(torch.float64) - other.correct.to(torch.float64)
        else:
            mine, its = self._errors(), other._errors()
            if mine is None or its is None or not torch.isfinite(mine).all():
                return False
            if not torch.isfinite(its).all():
                return True
            better = its - mine
        return bool(better.sum() > better.square().sum().sqrt())

    def _errors(self) -> Tensor | None:
        """[N] float64: the squared error of each image of a regression; None for others."""
        if self.values is None or self.labels is None:
            return None
        return (self.values - self.labels).square().reshape(len(self), -1).mean(dim=1)


def predict(
    model: nn.Module,
    data: ImageSet,
    batch_size: int = 256,
    *,
    loss: Loss = "cross_entropy",
    classes: int | None = None,
) -> Predictions:
    """Run ``model`` over ``data`` in evaluation mode, on the device the model is on.

    The model is left as it was found: no gradient, no running statistic, and the training
    mode of every submodule put back. Softmax and loss are computed in float64 from the
    model's outputs.

    Args:
        model: images [n, C, H, W] -> outputs [n, K].
        data: N ≥ 1 images.
        batch_size: images per forward pass; changes memory and speed only.
        loss: ``"cross_entropy"`` for classes, ``"mse"`` for a regression.
        classes: the K the agreement asks for; None does not ask.

    Raises:
        DataError: no images.
        ModelError: outputs that are not [n, K], or not shaped like the regression's labels.
    """
    if len(data) == 0:
        raise DataError("there are no images to predict", "give the evaluation at least one image")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    outputs: list[Tensor] = []
    labels: list[Tensor] = []
    with _evaluating(model), torch.inference_mode():
        for start in range(0, len(data), batch_size):
            images, targets = data.batch(torch.arange(start, min(start + batch_size, len(data))))
            outputs.append(model(images.to(device)).to("cpu", torch.float64))
            if targets is not None:
                labels.append(targets)
    # clones outside inference mode: ordinary tensors that a caller may use in autograd
    all_outputs = torch.cat(outputs).clone()
    all_labels = torch.cat(labels) if labels else None
    if loss == "mse":
        return _regression(all_outputs, all_labels)
    return _classification(all_outputs, all_labels, classes)


def _classification(outputs: Tensor, labels: Tensor | None, classes: int | None) -> Predictions:
    if outputs.dim() != 2 or (classes is not None and outputs.shape[1] != classes):
        wanted = f"[images, {classes or 'classes'}]"
        raise ModelError(
            f"the model's outputs have shape {list(outputs.shape)}, not {wanted}",
            "end the model with one output per class of the agreement",
        )
    logs = torch.log_softmax(outputs, dim=1)
    mean = None
    if labels is not None:
        mean = _finite(-logs.gather(1, labels[:, None]).mean().item())
    return Predictions(probabilities=logs.exp(), values=None, labels=labels, loss=mean)


def _regression(outputs: Tensor, labels: Tensor | None) -> Predictions:
    if labels is None:
        values = outputs.squeeze(1) if outputs.dim() == 2 and outputs.shape[1] == 1 else outputs
        return Predictions(probabilities=None, values=values, labels=None, loss=None)
    if outputs.numel() != labels.numel():
        raise ModelError(
            f"the model's outputs have shape {list(outputs.shape)}, the targets "
            f"{list(labels.shape)}",
            "end the model with one output per target",
        )
    values = outputs.reshape(labels.shape)
    mean = _finite((values - labels.to(torch.float64)).square().mean().item())
    return Predictions(probabilities=None, values=values, labels=labels, loss=mean)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards for each submodule the mode it had."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
