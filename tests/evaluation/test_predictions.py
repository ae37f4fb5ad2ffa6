from __future__ import annotations

import pytest
import torch
from torch import nn

from splitfed.data import ImageSet
from splitfed.errors import DataError, ModelError
from splitfed.evaluation import predict, score


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
