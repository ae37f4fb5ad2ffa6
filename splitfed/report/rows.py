"""What a report states of its models and their fusion; every figure checked for its range."""

from __future__ import annotations

from typing import Literal

import msgspec


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a report; keys it does not know are let through."""


def shares(**values: float | None) -> None:
    """Refuse what is not within 0 and 1, by its name.

    Raises:
        ValueError: names it.
    """
    for name, value in values.items():
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{name} {value} is not within 0..1")


def counts(**values: float | None) -> None:
    """Refuse what is below 0, by its name.

    Raises:
        ValueError: names it.
    """
    for name, value in values.items():
        if value is not None and value < 0:
            raise ValueError(f"{name} {value} is below 0")


class ClassRow(Part, frozen=True, kw_only=True):
    """One class on the own test images: how many are of it, how many of these were found, and
    how many of those said to be of it are."""

    index: int = msgspec.field(name="class")
    images: int
    recall: float | None
    precision: float | None

    def __post_init__(self) -> None:
        shares(recall=self.recall, precision=self.precision)
        counts(**{"class": self.index, "images": self.images})


class ScoreRow(Part, frozen=True, kw_only=True):
    """One model on the party's own test images; the interval is Wilson's at 95 %. In
    ``confusion`` a row is a true class and a column a predicted one."""

    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    loss: float | None
    balanced_accuracy: float | None = None
    auroc: float | None = None
    calibration_error: float | None = None
    per_class: list[ClassRow] | None = None
    confusion: list[list[int]] | None = None

    def __post_init__(self) -> None:
        found = (self.accuracy_low, self.accuracy, self.accuracy_high)
        known = [value for value in found if value is not None]
        if known and (len(known) < 3 or not 0 <= known[0] <= known[1] <= known[2] <= 1):
            raise ValueError(f"accuracy {self.accuracy} with interval {found[0]}..{found[2]}")
        shares(
            balanced_accuracy=self.balanced_accuracy,
            auroc=self.auroc,
            calibration_error=self.calibration_error,
        )
        classes = self.per_class
        if classes is not None and [row.index for row in classes] != list(range(len(classes))):
            raise ValueError("per_class does not list the classes 0, 1, ... in order")
        if self.confusion is not None:
            self._check_confusion(self.confusion)

    def _check_confusion(self, confusion: list[list[int]]) -> None:
        size = len(confusion) if self.per_class is None else len(self.per_class)
        if len(confusion) != size or any(len(row) != size for row in confusion):
            raise ValueError(f"confusion is not {size} x {size}, one row and column a class")
        for row in confusion:
            for cell in row:
                counts(confusion=cell)
        for mine, row in zip(self.per_class or (), confusion, strict=False):
            if sum(row) > mine.images:  # fewer where the model gave no finite answer
                raise ValueError(f"confusion has more images of class {mine.index} than there are")


class ValidationPart(Part, frozen=True, kw_only=True):
    """Accuracies on the party's own validation images, by which it chose its model."""

    local_only: float | None
    partial: float | None
    fused: float | None

    def __post_init__(self) -> None:
        shares(local_only=self.local_only, partial=self.partial, fused=self.fused)


class FusionPart(Part, frozen=True, kw_only=True):
    """What was exchanged besides updates, and which model the party kept.

    ``kind``: what was released, class probabilities on ``reference_size`` public images (after
    the last round, and between rounds where agreed) or private layers (once).
    ``parties``: whose came in. ``payload_bytes``: what this party released for it.
    ``epsilon``: spent on it alone.
    """

    method: Literal["none", "distill", "average", "ensemble"]
    outcome: Literal["fused", "void", "unusable", "not reached", "none"]
    kind: Literal["outputs", "private"] | None
    reference_size: int | None
    parties: list[str]
    payload_bytes: int | None
    epsilon: float | None
    validation: ValidationPart | None
    kept: str | None

    def __post_init__(self) -> None:
        counts(
            reference_size=self.reference_size,
            payload_bytes=self.payload_bytes,
            epsilon=self.epsilon,
        )
