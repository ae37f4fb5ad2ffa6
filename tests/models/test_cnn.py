"""The three-convolution network and the linear model, tensor by tensor."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from splitfed.errors import ModelError
from splitfed.models import Linear, ThreeLayerCNN
from splitfed.sharing import split_model
from tests.support.data import tiny_set


def test_the_documents_network_has_exactly_these_tensors() -> None:
    shapes = {name: list(tensor.shape) for name, tensor in ThreeLayerCNN().named_parameters()}
    assert shapes == {
        "conv1.weight": [32, 1, 3, 3],
        "conv1.bias": [32],
        "conv2.weight": [64, 32, 3, 3],
        "conv2.bias": [64],
        "conv3.weight": [64, 64, 3, 3],
        "conv3.bias": [64],
        "classifier.weight": [10, 3 * 3 * 64],
        "classifier.bias": [10],
    }
    assert list(ThreeLayerCNN().buffers()) == []


def test_conv1_and_conv2_are_shared_and_the_rest_is_private() -> None:
    split = split_model(ThreeLayerCNN())
    assert [spec.name for spec in split.shared] == [
        "conv1.bias",
        "conv1.weight",
        "conv2.bias",
        "conv2.weight",
    ]
    assert split.private_names == {
        "conv3.bias",
        "conv3.weight",
        "classifier.bias",
        "classifier.weight",
    }


@pytest.mark.parametrize(
    ("arguments", "shape", "features"),
    [
        ({}, (1, 28, 28), 576),
        ({"channels": 3, "size": [32, 48], "classes": 4}, (3, 32, 48), 64 * 4 * 6),
        ({"widths": [2, 3, 5], "classes": 2, "size": (9, 15)}, (1, 9, 15), 5),
    ],
)
def test_channels_widths_classes_and_size_fit_together(
    arguments: dict[str, Any], shape: tuple[int, ...], features: int
) -> None:
    model = ThreeLayerCNN(**arguments)
    assert model.classifier.in_features == features
    assert model(torch.zeros(2, *shape)).shape == (2, arguments.get("classes", 10))


def test_activation_stands_after_each_convolution() -> None:
    x = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    relu = ThreeLayerCNN(activation="relu")
    tanh = ThreeLayerCNN(activation="tanh")
    tanh.load_state_dict(relu.state_dict())

    def by_hand(model: ThreeLayerCNN, act: Any) -> torch.Tensor:
        h = x
        for layer in (model.conv1, model.conv2, model.conv3):
            h = torch.nn.functional.max_pool2d(act(layer(h)), 2)
        return model.classifier(h.reshape(2, -1))

    assert torch.allclose(relu(x), by_hand(relu, torch.relu))
    assert torch.allclose(tanh(x), by_hand(tanh, torch.tanh))
    assert not torch.allclose(relu(x), tanh(x))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"widths": [8, 8]}, r"widths = \[8, 8\]"),
        ({"widths": [8, 0, 8]}, r"widths = \[8, 0, 8\]"),
        ({"size": [28]}, r"size = \[28\]"),
        ({"size": [28, 7]}, r"size = \[28, 7\]"),
        ({"classes": 0}, "classes = 0"),
        ({"channels": 0}, "channels = 0"),
        ({"activation": "gelu"}, "activation = 'gelu'"),
    ],
)
def test_a_value_that_makes_no_such_network_is_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        ThreeLayerCNN(**arguments)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_it_learns_separable_images(activation: str) -> None:
    data = tiny_set(48, classes=3)
    torch.manual_seed(0)
    model = ThreeLayerCNN(widths=(4, 8, 8), classes=3, activation=activation)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x, y = data.batch(torch.arange(48))
    for _ in range(20):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    unseen, truth = tiny_set(30, classes=3, seed=1).batch(torch.arange(30))
    assert (model(unseen).argmax(1) == truth).float().mean() > 0.9


def test_linear_shares_everything_and_computes_wx_plus_b() -> None:
    model = Linear(features=3, outputs=2)
    split = split_model(model)
    assert split.shared_names == {"linear.weight", "linear.bias"}
    assert split.private == ()
    with torch.no_grad():
        model.linear.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]]))
        model.linear.bias.copy_(torch.tensor([0.5, -0.5]))
    assert model(torch.tensor([[1.0, 1.0, 1.0]])).tolist() == [[6.5, 0.5]]


def test_linear_takes_images_as_well_as_rows() -> None:
    model = Linear(features=12, outputs=1)
    images = torch.arange(24.0).reshape(2, 1, 3, 4)
    assert torch.equal(model(images), model(images.reshape(2, 12)))


@pytest.mark.parametrize(
    "arguments", [{"features": 0, "outputs": 1}, {"features": 1, "outputs": 0}]
)
def test_linear_without_inputs_or_outputs_is_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ModelError, match="must be 1 or more"):
        Linear(**arguments)
