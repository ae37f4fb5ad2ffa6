"""The splits that are compared."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from splitfed.leakage.candidates import candidates
from splitfed.models import ThreeLayerCNN
from splitfed.sharing import split_model


def test_every_prefix_of_the_three_layer_cnn_and_the_agreed_one_among_them() -> None:
    model = ThreeLayerCNN(widths=(2, 2, 2))
    found = candidates(model, split_model(model))
    assert [one.label for one in found] == [
        "conv1",
        "conv1 to conv2",
        "conv1 to conv3",
        "everything",
    ]
    assert [one.agreed for one in found] == [False, True, False, False]
    assert sorted(found[0].split.shared_names) == ["conv1.bias", "conv1.weight"]
    assert not found[-1].split.private


def test_an_agreed_set_that_is_no_prefix_comes_last() -> None:
    model = ThreeLayerCNN(widths=(2, 2, 2))
    agreed = split_model(model, ("conv2", "conv3"))
    found = candidates(model, agreed)
    assert [one.agreed for one in found] == [False] * 4 + [True]
    assert (found[-1].label, found[-1].split) == ("as agreed", agreed)


def test_a_norm_goes_with_the_layer_before_it() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 3))
    found = candidates(model, split_model(model, ("*",)))
    assert [one.label for one in found] == ["0", "everything"]
    assert {name.split(".")[0] for name in found[0].split.shared_names} == {"0", "1"}


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3))


class WithOwn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.scale = nn.Parameter(torch.ones(1))


@pytest.mark.parametrize(
    ("model", "labels"),
    [(Wrapped(), ["0", "everything"]), (WithOwn(), ["conv", "everything"])],
)
def test_stages_of_wrapped_models_and_tensors_of_the_model_itself(
    model: nn.Module, labels: list[str]
) -> None:
    found = candidates(model, split_model(model, ("*",)))
    assert [one.label for one in found] == labels
    assert not found[-1].split.private


def test_a_deep_model_has_few_candidates_from_the_first_stage_to_everything() -> None:
    model = nn.Sequential(*(nn.Conv2d(1, 1, 1) for _ in range(20)))
    found = candidates(model, split_model(model, ("0", "1")))
    assert len(found) == 7
    assert [one.label for one in found if not one.agreed][:2] == ["0", "0 to 4"]
    assert sum(one.agreed for one in found) == 1
    sizes = [len(one.split.shared) for one in found if one.label != "as agreed"]
    assert sizes == sorted(sizes)
