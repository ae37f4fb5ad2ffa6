from __future__ import annotations

import pytest
import torch
from torch import nn

from splitfed.data import ImageSet
from splitfed.errors import DataError, ModelError
from splitfed.evaluation import Predictions, predict, score


class Fixed(nn.Module):
    """Returns the images' own values as outputs: what goes in is known, so is what comes out."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


def outputs(rows: list[list[float]], labels: list[float] | None) -> ImageSet:
    target = None if labels is None else torch.tensor(labels)
    return ImageSet(images=torch.tensor(rows), labels=target)


LOG3 = torch.tensor(3.0).log().item()


def test_probabilities_are_the_softmax_and_the_loss_is_its_mean_negative_log() -> None:
    said = predict(Fixed(), outputs([[LOG3, 0.0], [0.0, 0.0]], [0, 1]))
    assert said.probabilities is not None
    assert said.probabilities.dtype == torch.float64
    expected = torch.tensor([[0.75, 0.25], [0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(said.probabilities, expected, rtol=1e-6, atol=0)
    by_hand = -(torch.log(torch.tensor(0.75)) + torch.log(torch.tensor(0.5))).item() / 2
    assert said.loss == pytest.approx(by_hand, rel=1e-6)


def test_batch_size_changes_nothing() -> None:
    torch.manual_seed(0)
    data = ImageSet(images=torch.randn(23, 4), labels=torch.arange(23) % 3)
    model = nn.Linear(4, 3)
    whole, parts = predict(model, data, 23), predict(model, data, 4)
    torch.testing.assert_close(whole.probabilities, parts.probabilities, rtol=1e-6, atol=1e-7)
    assert torch.equal(whole.correct, parts.correct)
    assert len(whole) == len(parts) == 23


def test_the_model_is_left_as_it_was_found() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    model.train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = ImageSet(images=torch.randn(8, 4), labels=torch.arange(8) % 2)
    first = predict(model, data)
    assert [module.training for module in model] == [True, False, True, True]
    assert model.training
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(first.probabilities, predict(model, data).probabilities)  # no dropout


def test_training_mode_is_put_back_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(9, 2))
    with pytest.raises(RuntimeError):
        predict(model, ImageSet(images=torch.randn(2, 4), labels=torch.tensor([0, 1])))
    assert model.training
    assert model[0].training


def test_images_without_labels_have_probabilities_but_no_loss_and_no_accuracy() -> None:
    said = predict(Fixed(), outputs([[0.0, 1.0]], None))
    assert said.probabilities is not None
    assert (said.labels, said.loss) == (None, None)
    assert score(said).accuracy is None
    assert said.correct is None


def test_predictions_can_take_part_in_later_gradients() -> None:
    said = predict(Fixed(), outputs([[0.0, 1.0]], [1]))
    weight = torch.ones(2, dtype=torch.float64, requires_grad=True)
    (said.probabilities * weight).sum().backward()
    assert weight.grad is not None


def test_a_row_that_is_not_finite_is_wrong_and_takes_the_loss_with_it() -> None:
    nan = float("nan")
    said = predict(Fixed(), outputs([[nan, 0.0], [0.0, nan], [0.0, 5.0]], [0, 1, 1]))
    assert said.correct.tolist() == [False, False, True]
    assert said.loss is None
    assert score(said).accuracy == pytest.approx(1 / 3)


def test_regression_has_a_squared_error_and_no_accuracy() -> None:
    said = predict(Fixed(), outputs([[1.0], [3.0]], [2.0, 1.0]), loss="mse")
    assert said.probabilities is None
    assert said.values.tolist() == [1.0, 3.0]
    assert said.loss == (1 + 4) / 2
    assert said.correct is None
    assert score(said).row() == {
        "accuracy": None, "accuracy_low": None, "accuracy_high": None, "loss": 2.5,
        "balanced_accuracy": None, "auroc": None, "calibration_error": None,
        "per_class": None, "confusion": None,
    }  # fmt: skip


def test_outputs_that_are_not_one_per_class_are_named_by_shape() -> None:
    data = outputs([[0.0, 1.0, 2.0]], [1])
    with pytest.raises(ModelError, match=r"\[1, 3\], not \[images, 2\]"):
        predict(Fixed(), data, classes=2)
    assert predict(Fixed(), data, classes=3).correct.tolist() == [False]


def test_regression_outputs_must_fit_the_targets() -> None:
    with pytest.raises(ModelError, match=r"\[1, 2\], the targets \[1\]"):
        predict(Fixed(), outputs([[0.0, 1.0]], [1.0]), loss="mse")


def test_no_images_is_a_data_error() -> None:
    class Empty:
        def __len__(self) -> int:
            return 0

    with pytest.raises(DataError, match="no images"):
        predict(Fixed(), Empty())


# --- better, and clearly better --------------------------------------------------------------


def answering(right: list[bool]) -> Predictions:
    """A classification of class 1 or not, right where asked."""
    labels = torch.ones(len(right), dtype=torch.int64)
    ones = torch.tensor(right, dtype=torch.float64)
    return Predictions(
        probabilities=torch.stack([1 - ones, ones], dim=1), values=None, labels=labels, loss=0.5
    )


def guessing(values: list[float], labels: list[float]) -> Predictions:
    """A regression."""
    found, wanted = (torch.tensor(row, dtype=torch.float64) for row in (values, labels))
    return Predictions(probabilities=None, values=found, labels=wanted, loss=None)


@pytest.mark.parametrize(
    ("gained", "lost", "clear"),
    [(0, 0, False), (1, 0, False), (2, 0, True), (3, 1, False), (4, 1, True), (1, 4, False),
     (10, 6, False), (11, 6, True)],
)  # fmt: skip
def test_clearly_better_is_more_than_one_standard_error_of_the_pairs(
    gained: int, lost: int, clear: bool
) -> None:
    mine = answering([True] * gained + [False] * lost + [True, False] * 20)
    other = answering([False] * gained + [True] * lost + [True, False] * 20)
    assert mine.clearly_better_than(other) is clear
    assert not (clear and other.clearly_better_than(mine))


def test_a_regression_is_clearly_better_by_its_squared_errors() -> None:
    labels = [0.0, 1.0, 2.0, 3.0]
    exact, off = guessing(labels, labels), guessing([1.0, 2.0, 3.0, 4.0], labels)
    once = guessing([1.0, 1.0, 2.0, 3.0], labels)
    assert exact.clearly_better_than(off)  # by 4, the standard error is 2
    assert not exact.clearly_better_than(once)  # by 1, the standard error is 1
    assert not off.clearly_better_than(exact)


def test_what_is_not_finite_is_never_clearly_better() -> None:
    labels = [0.0, 1.0, 2.0, 3.0]
    off, broken = guessing([9.0] * 4, labels), guessing([float("nan"), 1.0, 2.0, 3.0], labels)
    assert off.clearly_better_than(broken)
    assert not broken.clearly_better_than(off)
    assert not broken.clearly_better_than(broken)


def test_without_labels_nothing_is_clearly_better() -> None:
    blind = Predictions(
        probabilities=torch.eye(2, dtype=torch.float64), values=None, labels=None, loss=None
    )
    assert not blind.clearly_better_than(blind)
