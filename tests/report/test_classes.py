from __future__ import annotations

from typing import Any

import pytest

from splitfed.report import classes, validate
from tests.support.reports import full_row, fused_report, sample_report, unhelped_report


def found(report: dict[str, Any]) -> classes.Classes:
    view = classes.by_class(validate(report))
    assert view is not None
    return view


def test_the_classes_are_those_of_the_model_that_was_kept() -> None:
    assert found(fused_report()).key == "fused"
    assert found(unhelped_report()).key == "local_only"
    assert found(sample_report()).key == "partial"  # it does not say; the verdict speaks of this


def test_every_class_has_its_name_and_its_images() -> None:
    view = found(fused_report())
    assert [(line.name, line.images) for line in view.lines] == [
        ("benign", 1050),
        ("malignant", 450),
    ]
    assert view.left_out == view.unanswered == 0


def test_a_matrix_row_is_shaded_by_shares_of_its_true_class() -> None:
    (name, cells), *_ = found(fused_report()).matrix
    assert name == "benign"
    assert sum(cell.images for cell in cells) == 1050
    assert sum(cell.share for cell in cells) == pytest.approx(1)
    assert [cell.right for cell in cells] == [True, False]


def test_of_many_classes_the_worst_are_listed_and_those_without_images_last() -> None:
    row = full_row(0.9, [10] * 14 + [0])
    for place, entry in enumerate(row["per_class"]):
        entry["recall"] = None if place == 14 else (14 - place) / 14
    report = sample_report(classes=[f"c{i}" for i in range(15)])
    report["evaluation"]["partial"] = row
    view = found(report)
    assert [line.name for line in view.lines] == [f"c{i}" for i in range(13, 1, -1)]
    assert view.left_out == 3
    assert view.matrix == ()


def test_images_without_an_answer_are_counted() -> None:
    report = fused_report()
    report["evaluation"]["fused"]["confusion"][0][0] -= 7
    assert found(report).unanswered == 7


def test_what_was_not_measured_has_no_classes() -> None:
    for missing in (None, {**full_row(0.9, [5, 5]), "per_class": None}):
        report = fused_report()
        report["evaluation"]["fused"] = missing
        assert classes.by_class(validate(report)) is None


def test_a_class_beyond_the_agreements_has_its_number() -> None:
    assert [line.name for line in found(sample_report(classes=["zero"])).lines][:2] == [
        "zero",
        "class 1",
    ]
