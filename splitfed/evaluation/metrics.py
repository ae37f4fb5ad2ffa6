"""What a classifier's accuracy hides: classes it misses, its ranking, its confidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from splitfed.evaluation.predictions import Predictions

BINS = 15
"""Bins of the calibration error, as in Guo et al. 2017."""
_BELOW_ONE = 1 - 2**-24  # the largest float32 under one
_DIGITS = 6  # torchmetrics returns float32: later digits are noise


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One class of the labels.

    Attributes:
        index: the class, counted from 0.
        images: how many of the images have it as their label.
        recall: share of these that were recognised, 0 to 1; None where there are none.
        precision: share of the images said to be of the class that are, 0 to 1; None where
            it was never said.
    """

    index: int
    images: int
    recall: float | None
    precision: float | None

    def row(self) -> dict[str, int | float | None]:
        """The class as a report states it."""
        return {
            "class": self.index,
            "images": self.images,
            "recall": self.recall,
            "precision": self.precision,
        }


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Figures beside the accuracy; each is None where it has no meaning or was not measured.

    Attributes:
        balanced_accuracy: mean recall over the classes that occur in the labels, 0 to 1.
        auroc: chance that an image of class 1 is given a higher probability of class 1 than
            one of class 0, ties counting half (Hanley & McNeil 1982); None unless there are
            exactly two classes and both occur.
        calibration_error: expected calibration error, see :func:`measure`, 0 to 1.
        per_class: one row for each of the K classes.
        confusion: [K][K] images, rows the true class, columns the predicted one.
    """

    balanced_accuracy: float | None = None
    auroc: float | None = None
    calibration_error: float | None = None
    per_class: tuple[ClassRow, ...] | None = None
    confusion: tuple[tuple[int, ...], ...] | None = None

    def row(self) -> dict[str, Any]:
        """The figures as a report states them."""
        per_class, confusion = self.per_class, self.confusion
        return {
            "balanced_accuracy": self.balanced_accuracy,
            "auroc": self.auroc,
            "calibration_error": self.calibration_error,
            "per_class": None if per_class is None else [row.row() for row in per_class],
            "confusion": None if confusion is None else [list(row) for row in confusion],
        }


def measure(predictions: Predictions) -> Metrics:
    """Every figure of :class:`Metrics`, from [N, K] probabilities and [N] labels.

    The calibration error is equation 3 of Guo et al. (2017), "On calibration of modern neural
    networks", ICML: ``Σ_m |B_m|/N · |acc(B_m) - conf(B_m)|`` over fifteen bins of equal width
    of the likeliest class's probability. A probability on an edge counts in the bin above it,
    and 1 in the last bin.

    A row with a NaN or an infinity is no answer. It is wrong, as in ``Predictions.correct``:
    it counts among its class's images, lowers the recall, is in no column of the confusion
    matrix (whose row then sums to less than ``images``), and is ranked worst of all for the
    AUROC, which is then the least it can be. It has no confidence, so that there is no
    calibration error then.

    Returns:
        All None for a regression, without labels or images, and for a single class.
    """
    probabilities, labels = predictions.probabilities, predictions.labels
    if probabilities is None or labels is None or len(labels) == 0 or probabilities.shape[1] < 2:
        return Metrics()
    # torchmetrics takes seconds to import: only who measures waits for it
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    finite = torch.isfinite(probabilities).all(dim=1)
    classes = probabilities.shape[1]
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    if finite.any():
        confusion = multiclass_confusion_matrix(
            probabilities.argmax(dim=1)[finite], labels[finite], num_classes=classes
        )
    rows = _rows(confusion, torch.bincount(labels, minlength=classes))
    # Not torchmetrics' macro recall: it counts a class that was predicted, but that no label
    # has, as a recall of 0.
    recalls = [row.recall for row in rows if row.recall is not None]
    return Metrics(
        balanced_accuracy=sum(recalls) / len(recalls),
        auroc=_auroc(probabilities, labels, finite) if classes == 2 else None,
        calibration_error=_calibration_error(probabilities, labels) if finite.all() else None,
        per_class=rows,
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def _rows(confusion: Tensor, support: Tensor) -> tuple[ClassRow, ...]:
    right, said = confusion.diag().tolist(), confusion.sum(dim=0).tolist()
    return tuple(
        ClassRow(
            index=index,
            images=images,
            recall=right[index] / images if images else None,
            precision=right[index] / said[index] if said[index] else None,
        )
        for index, images in enumerate(support.tolist())
    )


def _auroc(probabilities: Tensor, labels: Tensor, finite: Tensor) -> float | None:
    """Of two classes; None where only one occurs."""
    if labels.min() == labels.max():
        return None
    from torchmetrics.functional.classification import binary_auroc

    worst = torch.where(labels == 1, -1.0, 2.0).to(probabilities.dtype)
    scores = torch.where(finite, probabilities[:, 1], worst)
    # Ranks, since only the order matters: torchmetrics takes a score outside [0, 1] for a logit.
    ranks = torch.unique(scores, return_inverse=True)[1].to(torch.float64)
    return _rounded(binary_auroc(ranks / ranks.max().clamp(min=1), labels))


def _calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    from torchmetrics.functional.classification import multiclass_calibration_error

    # torchmetrics gives a confidence of exactly 1 a sixteenth bin of its own, and takes one
    # above 1, be it by rounding, for a logit.
    inside = probabilities.clamp(0, _BELOW_ONE)
    return _rounded(
        multiclass_calibration_error(
            inside, labels, num_classes=probabilities.shape[1], n_bins=BINS, norm="l1"
        )
    )


def _rounded(value: Tensor) -> float:
    return round(min(max(value.item(), 0.0), 1.0), _DIGITS)
