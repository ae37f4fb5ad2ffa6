"""Learning from the averaged outputs of all parties, beside one's own labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitfed.errors import DataError, UserError
from splitfed.training.batches import Batches
from splitfed.training.losses import Objective

if TYPE_CHECKING:
    from splitfed.data import ImageSet


class Distillation:
    """What a teacher says of reference images, and the loss of learning it.

    On a batch (x, y) of own images and a batch r of reference images with teacher p, the loss
    is (Hinton et al. 2015, section 2, as co-distillation in Li & Wang 2019, *FedMD*, and Lin
    et al. 2020, *FedDF*)

        (CE(z(x), y) + weight · T² · KL(p_T ‖ softmax(z(r) / T))) / (1 + weight)

    with p_T = softmax(log p / T), the softened teacher. It is an average, so that gradients
    stay as large as those of the training before and its learning rate still fits: on the
    digits a plain sum diverged with weight 2.

    Both batches go through the model in one forward pass: a BatchNorm then normalises with the
    statistics of the mixture in training as it will later with its running statistics, which
    two passes would update from either kind of image in turn.

    Args:
        reference: N images; labels are not looked at.
        teacher: probabilities, float [N, classes].
        classes: K.
        temperature: T > 0.
        weight: of the teacher, > 0.
        batch_size: of the reference batches.
        device: where the model is.

    Raises:
        DataError: rows that are not N probability vectors of K classes, finite, >= 0, with
            sum 1 (to 1e-3).
        UserError: a temperature or weight that is not above 0.
    """

    def __init__(
        self,
        reference: ImageSet,
        teacher: Tensor,
        *,
        classes: int,
        temperature: float,
        weight: float,
        batch_size: int,
        device: torch.device,
    ) -> None:
        if not (temperature > 0 and weight > 0):
            raise UserError(
                f"distillation with temperature {temperature} and weight {weight}",
                "give numbers above 0",
            )
        check_teacher(teacher, len(reference), classes)
        rows = torch.arange(len(reference))  # each image's place instead of its label
        self._batches = Batches(replace(reference, labels=rows), batch_size, device)
        logarithms = teacher.to(device, torch.float32).log()  # log 0 = -inf stays 0 below
        self._targets = functional.softmax(logarithms / temperature, dim=1)
        self._temperature = temperature
        self._weight = weight

    def losses(
        self, model: nn.Module, objective: Objective, seed: int, *path: str | int
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """The loss of a step on (own images, own labels); each call takes the next reference
        batch in the order that (seed, path) decides."""
        stream = self._batches.epochs(seed, *path)

        def loss(images: Tensor, labels: Tensor) -> Tensor:
            extra, rows = next(stream)
            outputs: Tensor = model(torch.cat((images, extra)))
            own, others = outputs[: len(images)], outputs[len(images) :]
            total = objective(own, labels) + self._weight * self._gap(others, rows)
            return total / (1 + self._weight)

        return loss

    def _gap(self, outputs: Tensor, rows: Tensor) -> Tensor:
        """T² · KL of the softened teacher and ``outputs`` [B, K], a mean over the batch."""
        softened = functional.log_softmax(outputs / self._temperature, dim=1)
        targets = self._targets.index_select(0, rows)
        # T² keeps the gradient's size, whatever the temperature (Hinton et al. 2015, eq. 4).
        gap = functional.kl_div(softened, targets, reduction="batchmean")
        return self._temperature**2 * gap


def check_teacher(teacher: Tensor, images: int, classes: int) -> None:
    """Make sure that ``teacher`` holds the class probabilities of so many images.

    Raises:
        DataError: another shape, or rows that are no probabilities.
    """
    if teacher.shape != (images, classes) or not teacher.is_floating_point():
        raise DataError(
            f"the teacher's outputs are {teacher.dtype} {list(teacher.shape)}, not floats "
            f"[{images}, {classes}]",
            "give one row of class probabilities for each reference image",
        )
    sums = teacher.to(torch.float64).sum(1)
    if not bool((torch.isfinite(teacher) & (teacher >= 0)).all()) or not torch.allclose(
        sums, torch.ones_like(sums), atol=1e-3
    ):
        raise DataError(
            "the teacher's outputs are no probabilities: finite, 0 or more, with sum 1 in a row",
            "give averages of softmax outputs",
        )
