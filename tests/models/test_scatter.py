"""Scattering features: constants that anybody can recompute, and the linear model on them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from splitfed.aggregation import norm_bound
from splitfed.errors import ModelError
from splitfed.models import ScatterFront, ScatterNet
from splitfed.models.scatter import CONSTANTS, drawings, filters, make_whitening
from splitfed.privacy.frozen import freeze_private
from splitfed.privacy.gradients import UnitGradients
from splitfed.privacy.guards import check_model
from splitfed.random import forked
from splitfed.sharing import (
    load_tensors,
    named_tensors,
    private_tensors,
    shared_tensors,
    split_model,
)

BUFFERS = {"phi1", "phi2", "psi0", "psi1", "shift", "white"}


def images_of(count: int, channels: int = 1, size: tuple[int, int] = (28, 28)) -> torch.Tensor:
    """Normalised as [preprocessing] does it by default."""
    draw = torch.Generator().manual_seed(7)
    return torch.rand(count, channels, *size, generator=draw) * 2 - 1


def with_weights(model: ScatterNet) -> ScatterNet:
    """The same weights in every model; a new one is zero."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) / 100)
    return model


@pytest.mark.parametrize(
    ("channels", "size", "grid"),
    [(1, (28, 28), (7, 7)), (3, (32, 30), (8, 8)), (1, (9, 13), (3, 4))],
)
def test_features_of_any_size_lie_on_a_grid_of_a_quarter(
    channels: int, size: tuple[int, int], grid: tuple[int, int]
) -> None:
    images = images_of(2, channels, size)
    features = ScatterFront()(images)
    assert features.shape == (2, 81 * channels, *grid)
    norm = float(81 * channels * grid[0] * grid[1]) ** 0.5
    assert torch.allclose(features.flatten(1).norm(dim=1), torch.full((2,), norm), rtol=1e-5)
    model = ScatterNet(channels=channels, classes=4, size=size)
    assert model(images).shape == (2, 4)


def test_front_has_no_parameter_and_equal_buffers_twice() -> None:
    one, other = ScatterFront(), ScatterFront()
    assert list(one.parameters()) == []
    assert one.state_dict() == {}
    found, again = dict(one.named_buffers()), dict(other.named_buffers())
    assert set(found) == set(again) == BUFFERS
    assert all(torch.equal(found[name], again[name]) for name in BUFFERS)


def test_features_of_an_image_do_not_depend_on_the_others() -> None:
    images, front = images_of(3), ScatterFront()
    assert torch.allclose(front(images)[1:2], front(images[1:2]), atol=1e-4)


def test_a_blank_image_and_an_extreme_one_have_finite_features() -> None:
    front = ScatterFront()
    for value in (-1.0, 1.0, 1e4):
        assert torch.isfinite(front(torch.full((1, 1, 28, 28), value))).all()


def test_mean_and_std_undo_the_preprocessing() -> None:
    images = images_of(2)
    pixels = images * 0.5 + 0.5
    usual, other = ScatterFront(), ScatterFront(mean=0.2, std=0.4)
    assert torch.allclose(usual(images), other((pixels - 0.2) / 0.4), atol=1e-3)


def test_wavelets_sum_to_zero_and_low_passes_to_one() -> None:
    bank = filters()
    for name in ("psi0", "psi1"):
        assert bank[name].sum(dim=(1, 2, 3)).abs().max() < 1e-6
    for name in ("phi1", "phi2"):
        assert bank[name].sum().item() == pytest.approx(1, abs=1e-6)


def test_shipped_constants_are_what_the_public_drawings_give() -> None:
    shipped, made = load_file(CONSTANTS), make_whitening()
    assert shipped.keys() == made.keys()
    for name, values in shipped.items():
        assert values.shape == made[name].shape
        assert torch.dist(values, made[name]) < 1e-3 * values.norm()


def test_drawings_follow_from_their_seed() -> None:
    one = drawings(6)
    assert one.shape == (6, 1, 28, 28)
    assert 0 <= one.min() < one.max() <= 1
    assert torch.equal(one, drawings(6))
    assert not torch.equal(one, drawings(6, seed=1))


def test_only_the_linear_layer_travels() -> None:
    split = split_model(ScatterNet())
    assert split.shared_names == {"shared_conv.weight"}
    assert split.private_names == {"offset"} | {f"front.{name}" for name in BUFFERS}
    on_features = split_model(ScatterNet(input="features"))
    assert on_features.shared == split.shared
    assert on_features.private_names == {"offset"}


def test_features_serve_as_well_as_images() -> None:
    images = images_of(4)
    model, on_features = with_weights(ScatterNet()), with_weights(ScatterNet(input="features"))
    assert torch.equal(model(images), on_features(ScatterFront()(images)))


def test_logits_are_those_of_the_convolution() -> None:
    model, features = with_weights(ScatterNet(input="features")), images_of(3, 81, (7, 7))
    expected = model.shared_conv(features).flatten(1) + model.offset
    assert torch.allclose(model(features), expected, atol=1e-5)


def test_private_buffers_survive_saving_and_loading() -> None:
    saved = ScatterNet()
    split = split_model(saved)
    kept = shared_tensors(saved, split) | private_tensors(saved, split)
    loaded = ScatterNet()
    with torch.no_grad():
        loaded.front.white.zero_()
    load_tensors(loaded, kept)
    assert torch.equal(named_tensors(loaded)["front.white"], named_tensors(saved)["front.white"])


def test_two_builds_are_equal_and_begin_at_zero_whatever_the_seed() -> None:
    with forked(1, "model"):
        one = ScatterNet()
    with forked(2, "model"):
        other = ScatterNet()
    split = split_model(one)
    initial = shared_tensors(one, split)
    assert torch.equal(initial["shared_conv.weight"], torch.zeros(10, 81, 7, 7))
    assert norm_bound(initial) == 1  # why max_update_norm is set by hand
    for name, values in named_tensors(one).items():
        assert torch.equal(values, named_tensors(other)[name])


@pytest.mark.parametrize("mode", ["dp-all", "dp-frozen"])
def test_it_may_be_trained_privately(mode: str) -> None:
    model = ScatterNet()
    check_model(model, split_model(model), mode)


def test_frozen_it_is_the_shared_layer_alone() -> None:
    model = with_weights(ScatterNet(input="features"))
    freeze_private(model, split_model(model), seed=0)
    assert torch.equal(model.offset, torch.zeros(10))
    assert not model.offset.requires_grad


@pytest.mark.parametrize("input", ["images", "features"])
def test_gradients_of_single_records_are_those_of_one_record_at_a_time(input: str) -> None:
    model = with_weights(ScatterNet(input=input))
    x = images_of(3) if input == "images" else ScatterFront()(images_of(3))
    labels = torch.tensor([0, 4, 9])
    gradients, losses = UnitGradients(
        model, dict(model.named_parameters()), functional.cross_entropy
    )(x, labels)
    for place in range(3):
        model.zero_grad()
        loss = functional.cross_entropy(model(x[place : place + 1]), labels[place : place + 1])
        loss.backward()
        assert losses[place].item() == pytest.approx(loss.item(), rel=1e-4)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            assert torch.allclose(gradients[name][place], parameter.grad, atol=1e-4)


def test_norm_of_a_gradient_does_not_depend_on_the_image() -> None:
    """‖z‖ is public, so the clipping norm weighs records by their error alone."""
    model = ScatterNet()
    x, labels = images_of(4) * torch.tensor([1.0, 0.5, 0.2, 0.05])[:, None, None, None], [1] * 4
    gradients, _ = UnitGradients(model, dict(model.named_parameters()), functional.cross_entropy)(
        x, torch.tensor(labels)
    )
    norms = gradients["shared_conv.weight"].flatten(1).norm(dim=1)
    assert torch.allclose(norms, norms[0].expand(4), rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"size": [28]}, r"size = \[28\]"),
        ({"size": [28, 8]}, r"size = \[28, 8\]"),
        ({"classes": 0}, "classes = 0"),
        ({"channels": 0}, "channels = 0"),
        ({"input": "pixels"}, "input = 'pixels'"),
    ],
)
def test_a_value_that_makes_no_such_network_is_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        ScatterNet(**arguments)
