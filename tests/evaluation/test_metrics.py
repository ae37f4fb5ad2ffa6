from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitfed.evaluation import ClassRow, Metrics, Predictions, measure, score


def said(probabilities: list[list[float]], labels: list[int]) -> Predictions:
    return Predictions(
        probabilities=torch.tensor(probabilities, dtype=torch.float64),
        values=None,
        labels=torch.tensor(labels),
        loss=None,
    )


def drawn(seed: int, images: int, classes: int) -> Predictions:
    draw = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, generator=draw, dtype=torch.float64)
    labels = torch.randint(0, classes, (images,), generator=draw)
    return said(logits.softmax(dim=1).tolist(), labels.tolist())


THREE = said(
    [
        [0.7, 0.2, 0.1],  # right
        [0.1, 0.8, 0.1],  # 0 taken for 1
        [0.3, 0.6, 0.1],  # right
        [0.2, 0.5, 0.3],  # right
        [0.1, 0.2, 0.7],  # 1 taken for 2, which no label has
        [0.9, 0.1, 0.0],  # right
    ],
    [0, 0, 1, 1, 1, 0],
)

sizes = st.tuples(st.integers(0, 2**31), st.integers(1, 60), st.integers(2, 6))
few = settings(max_examples=40, deadline=None)


def test_classes_are_counted_as_by_hand() -> None:
    got = measure(THREE)
    assert got.confusion == ((2, 1, 0), (0, 2, 1), (0, 0, 0))
    assert got.per_class == (
        ClassRow(index=0, images=3, recall=2 / 3, precision=1.0),
        ClassRow(index=1, images=3, recall=2 / 3, precision=2 / 3),
        ClassRow(index=2, images=0, recall=None, precision=0.0),
    )


def test_a_class_that_no_label_has_does_not_lower_the_balanced_accuracy() -> None:
    """Class 2 was predicted once; torchmetrics' macro average would make it 4/9."""
    assert measure(THREE).balanced_accuracy == pytest.approx(2 / 3)


def test_a_class_never_predicted_has_no_precision_and_one_without_labels_no_recall() -> None:
    got = measure(said([[0.6, 0.3, 0.1], [0.7, 0.2, 0.1]], [0, 1]))
    assert got.per_class is not None
    assert [(row.recall, row.precision) for row in got.per_class] == [
        (1.0, 0.5),
        (0.0, None),
        (None, None),
    ]
    assert got.balanced_accuracy == 0.5


@few
@given(sizes)
def test_a_confusion_matrix_holds_every_image_once(size: tuple[int, int, int]) -> None:
    given = drawn(*size)
    got, row = measure(given), score(given).row()
    matrix = np.array(got.confusion)
    assert got.per_class is not None
    assert matrix.sum(axis=1).tolist() == [found.images for found in got.per_class]
    assert np.trace(matrix) == round(row["accuracy"] * size[1])
    labels = given.labels.numpy()
    answers = given.probabilities.numpy().argmax(axis=1)
    present = np.unique(labels)
    recalls = [np.mean(answers[labels == label] == label) for label in present]
    assert got.balanced_accuracy == pytest.approx(np.mean(recalls))


def test_the_calibration_error_is_the_gap_in_every_bin_by_its_share() -> None:
    """Bins of 1/15: 0.95 (right) and 0.96 (wrong) share the last one, 0.7 (right) is alone."""
    got = measure(said([[0.95, 0.05], [0.04, 0.96], [0.7, 0.3]], [0, 0, 0]))
    expected = 2 / 3 * abs(0.5 - 0.955) + 1 / 3 * abs(1 - 0.7)
    assert got.calibration_error == pytest.approx(expected, abs=1e-6)


def test_full_confidence_shares_the_last_bin() -> None:
    """1.0 (wrong) and 0.96 (right) are both above 14/15; apart they would give 0.52."""
    got = measure(said([[1.0, 0.0], [0.04, 0.96]], [1, 1]))
    assert got.calibration_error == pytest.approx(abs(0.5 - 0.98), abs=1e-6)


def test_full_confidence_that_is_right_is_perfectly_calibrated() -> None:
    assert measure(said([[1.0, 0.0], [0.0, 1.0]], [0, 1])).calibration_error == 0.0


def test_a_probability_above_one_by_rounding_is_not_taken_for_a_logit() -> None:
    above = math.nextafter(1, 2)
    assert measure(said([[above, 0.0], [0.0, above]], [0, 1])).calibration_error == 0.0


@few
@given(sizes)
def test_the_calibration_error_agrees_with_its_formula(size: tuple[int, int, int]) -> None:
    given = drawn(*size)
    table, labels = given.probabilities.numpy(), given.labels.numpy()
    confidence, right = table.max(axis=1), table.argmax(axis=1) == labels
    bins = np.minimum((confidence * 15).astype(int), 14)
    expected = sum(
        abs(right[bins == index].sum() - confidence[bins == index].sum()) / len(labels)
        for index in range(15)
    )
    assert measure(given).calibration_error == pytest.approx(expected, abs=2e-6)


def test_auroc_counts_the_pairs_in_the_right_order() -> None:
    """Class 1: 0.9, 0.4; class 0: 0.4, 0.1. Of four pairs three are in order, one is a tie."""
    got = measure(said([[0.1, 0.9], [0.6, 0.4], [0.6, 0.4], [0.9, 0.1]], [1, 1, 0, 0]))
    assert got.auroc == 0.875


@few
@given(st.integers(0, 2**31), st.integers(2, 60))
def test_auroc_agrees_with_comparing_every_pair(seed: int, images: int) -> None:
    given = drawn(seed, images, 2)
    scores, labels = given.probabilities.numpy()[:, 1], given.labels.numpy()
    scores = scores.round(1)  # for ties
    rounded = said(np.stack([1 - scores, scores], axis=1).tolist(), labels.tolist())
    above, below = scores[labels == 1], scores[labels == 0]
    got = measure(rounded).auroc
    if not len(above) or not len(below):
        assert got is None
        return
    pairs = np.sign(above[:, None] - below[None, :])
    assert got == pytest.approx(float(np.mean((pairs + 1) / 2)), abs=2e-6)


def test_auroc_is_of_exactly_two_classes_of_which_both_occur() -> None:
    assert measure(THREE).auroc is None
    assert measure(said([[0.2, 0.8], [0.3, 0.7]], [1, 1])).auroc is None


def test_an_image_without_a_finite_answer_is_wrong_everywhere() -> None:
    whole = said([[0.1, 0.9], [0.2, 0.8], [0.8, 0.2]], [1, 1, 0])
    for broken in (math.nan, math.inf):
        got = measure(said([[0.1, 0.9], [0.2, broken], [0.8, 0.2]], [1, 1, 0]))
        assert got.confusion == ((1, 0), (0, 1))
        assert got.per_class is not None
        assert [(row.images, row.recall) for row in got.per_class] == [(1, 1.0), (2, 0.5)]
        assert got.balanced_accuracy == 0.75
        assert got.auroc == 0.5  # of two pairs one is as bad as can be
        assert got.calibration_error is None
    assert measure(whole).auroc == 1.0


def test_without_a_single_finite_answer_every_image_is_wrong() -> None:
    got = score(said([[math.nan] * 2] * 3, [0, 1, 1])).row()
    assert (got["accuracy"], got["balanced_accuracy"], got["auroc"]) == (0.0, 0.0, 0.0)
    assert got["confusion"] == [[0, 0], [0, 0]]
    assert got["calibration_error"] is None


@pytest.mark.parametrize(
    "given",
    [
        Predictions(probabilities=None, values=torch.ones(2), labels=torch.ones(2), loss=0.0),
        Predictions(probabilities=torch.ones(2, 2) / 2, values=None, labels=None, loss=None),
        said([[1.0], [1.0]], [0, 0]),
    ],
    ids=["regression", "without labels", "one class"],
)
def test_what_has_no_meaning_is_not_measured(given: Predictions) -> None:
    assert measure(given) == score(given).metrics == Metrics()
    assert set(Metrics().row().values()) == {None}


def test_a_row_is_made_of_plain_json_values() -> None:
    row = measure(THREE).row()
    assert list(row) == [
        "balanced_accuracy",
        "auroc",
        "calibration_error",
        "per_class",
        "confusion",
    ]
    assert row["per_class"][2] == {"class": 2, "images": 0, "recall": None, "precision": 0.0}
    assert row["confusion"] == [[2, 1, 0], [0, 2, 1], [0, 0, 0]]
    assert all(type(cell) is int for line in row["confusion"] for cell in line)


def test_torchmetrics_is_imported_only_to_measure() -> None:
    code = "import sys, splitfed.evaluation; print('torchmetrics' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"
