"""The kept model class by class: what it finds, and what it takes for what."""

from __future__ import annotations

from typing import NamedTuple

from splitfed.report.rows import ClassRow, ScoreRow
from splitfed.report.schema import Report
from splitfed.report.words import class_name, kept

SHOWN = 12
"""With more classes only so many are listed, the worst, and a matrix would not be readable."""


class Line(NamedTuple):
    """One class of the table."""

    name: str
    images: int
    recall: float | None
    precision: float | None


class Cell(NamedTuple):
    """One field of the confusion matrix: images, and their share of the true class."""

    images: int
    share: float
    right: bool


class Classes(NamedTuple):
    """``key``: which model. ``lines``: its classes. ``left_out``: how many classes are not
    listed. ``matrix``: a row for each true class, with its name; () where there are too many.
    ``unanswered``: images for which the model gave no finite answer, in no column."""

    key: str
    lines: tuple[Line, ...]
    left_out: int
    matrix: tuple[tuple[str, tuple[Cell, ...]], ...]
    unanswered: int


def by_class(report: Report) -> Classes | None:
    """The kept model's classes; where the report does not say which was kept, the model that
    the verdict speaks of. None where they were not measured."""
    key = kept(report) or (report.verdict.compared if report.verdict else "partial")
    row: ScoreRow | None = getattr(report.evaluation, key, None)
    if row is None or not row.per_class:
        return None
    listed, unanswered = row.per_class, 0
    if len(listed) > SHOWN:
        listed = sorted(listed, key=_worst_first)[:SHOWN]
    if row.confusion is not None:
        unanswered = sum(r.images for r in row.per_class) - sum(map(sum, row.confusion))
    return Classes(
        key,
        tuple(Line(class_name(report, r.index), r.images, r.recall, r.precision) for r in listed),
        len(row.per_class) - len(listed),
        _matrix(report, row) if len(row.per_class) <= SHOWN else (),
        unanswered,
    )


def _worst_first(row: ClassRow) -> tuple[bool, float, int]:
    """By recall; classes without images last."""
    return (row.recall is None, row.recall or 0.0, row.index)


def _matrix(report: Report, row: ScoreRow) -> tuple[tuple[str, tuple[Cell, ...]], ...]:
    return tuple(
        (
            class_name(report, true),
            tuple(
                Cell(images, images / sum(counted) if images else 0.0, true == said)
                for said, images in enumerate(counted)
            ),
        )
        for true, counted in enumerate(row.confusion or ())
    )
