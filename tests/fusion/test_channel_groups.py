from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from splitfed.errors import Defect, ModelError
from splitfed.fusion import Group, channel_groups, permuted
from splitfed.models import ResNet18, ThreeLayerCNN
from splitfed.sharing import load_tensors, named_tensors, private_tensors, split_model

EXAMPLE = torch.zeros(1, 1, 28, 28)


class Chain(nn.Module):
    """A shared convolution, the layers given, and a classifier of 8 channels."""

    shared = ("stem",)

    def __init__(self, *layers: nn.Module, features: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, stride=4)
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(features, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layers(torch.relu(self.stem(x)))
        return self.head(x.mean(dim=(2, 3)))


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(channels, 6, 3, padding=1)
        self.outer = nn.Conv2d(6, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.outer(torch.relu(self.inner(x)))


def groups_of(model: nn.Module, example: torch.Tensor = EXAMPLE) -> tuple[Group, ...]:
    return channel_groups(model, split_model(model), example)


def producers(model: nn.Module) -> list[str]:
    return [group.places[0][0] for group in groups_of(model)]


# --- what is found -------------------------------------------------------------------------


def test_three_layer_cnn_has_the_channels_between_conv3_and_the_classifier() -> None:
    places = (("conv3.weight", 0, 1), ("conv3.bias", 0, 1), ("classifier.weight", 1, 9))
    assert groups_of(ThreeLayerCNN()) == (Group(64, places),)


def test_batch_norm_goes_with_the_convolution_before_it() -> None:
    chain = Chain(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
    first, second = groups_of(chain)
    norm = ("weight", "bias", "running_mean", "running_var")
    assert first.places == (
        ("layers.0.weight", 0, 1),
        ("layers.0.bias", 0, 1),
        *((f"layers.1.{name}", 0, 1) for name in norm),
        ("layers.3.weight", 1, 1),
    )
    assert [name for name, _, _ in second.places] == [
        "layers.3.weight",
        "layers.3.bias",
        "head.weight",
    ]


@pytest.mark.parametrize(
    "layer",
    [
        nn.PReLU(8),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.InstanceNorm2d(8, affine=True),
        nn.GroupNorm(1, 8),
        nn.LayerNorm([8, 4, 4]),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layer_that_works_channel_by_channel_or_on_all_alike_is_part_of_the_group(
    layer: nn.Module,
) -> None:
    chain = Chain(nn.Conv2d(4, 8, 4), layer)
    (group,) = groups_of(chain)
    assert ("layers.1.weight", 0, 1) in group.places


def test_batch_norm_of_a_flattened_map_is_permuted_in_blocks() -> None:
    class Flat(nn.Module):
        shared = ("stem",)

        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, 4, 3, stride=4)
            self.conv = nn.Conv2d(4, 6, 4, stride=2)
            self.norm = nn.BatchNorm1d(24)
            self.head = nn.Linear(24, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.norm(self.conv(self.stem(x)).flatten(1)))

    (group,) = groups_of(Flat())
    assert ("norm.running_var", 0, 4) in group.places
    assert ("head.weight", 1, 4) in group.places


def test_inside_of_a_residual_block_is_found_and_its_sum_is_refused() -> None:
    chain = Chain(nn.Conv2d(4, 8, 3, padding=1), Residual(8))
    assert producers(chain) == ["layers.1.inner.weight"]


def test_resnet_has_one_group_inside_each_private_block() -> None:
    model = ResNet18(classes=3, channels=1)
    found = [group.places[0][0] for group in groups_of(model, torch.zeros(1, 1, 32, 32))]
    blocks = ("layer3.0", "layer3.1", "layer4.0", "layer4.1")
    assert found == [f"backbone.{block}.conv1.weight" for block in blocks]


# --- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize("groups", [2, 4])
def test_group_norm_of_several_groups_is_refused(groups: int) -> None:
    assert producers(Chain(nn.Conv2d(4, 8, 3), nn.GroupNorm(groups, 8))) == []


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Conv2d(4, 8, 3, groups=2),),  # the producer
        (nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3, groups=2)),  # in between
    ],
    ids=["producer", "between"],
)
def test_grouped_convolution_is_refused(layers: tuple[nn.Module, ...]) -> None:
    assert producers(Chain(*layers)) == []


def test_channels_used_by_position_are_refused() -> None:
    class ByPosition(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x[:, :1] * 2, x[:, 1:]], dim=1)

    assert producers(Chain(nn.Conv2d(4, 8, 3), ByPosition())) == []


def test_order_of_neighbours_that_a_cycle_keeps_is_refused() -> None:
    class Neighbours(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * x.roll(1, dims=1)

    assert producers(Chain(nn.Conv2d(4, 8, 3), Neighbours())) == []


def test_group_with_a_shared_layer_is_refused() -> None:
    layers = (nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3))
    for shared in (("layers.0",), ("layers.1",), ("layers.2",), ("layers.1.running_mean",)):
        chain = Chain(*copy.deepcopy(layers))
        split = split_model(chain, ("stem", *shared))
        found = channel_groups(chain, split, EXAMPLE)
        between = [group for group in found if ("layers.2.weight", 1, 1) in group.places]
        assert between == []


def test_layer_that_runs_twice_is_refused() -> None:
    layer = nn.Conv2d(8, 8, 3, padding=1)
    assert producers(Chain(nn.Conv2d(4, 8, 3), layer, nn.ReLU(), layer)) == []


def test_layers_that_run_twice_side_by_side_are_refused() -> None:
    """The law holds, but one group would be found twice."""

    class Siamese(Chain):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) - super().forward(-x)

    assert producers(Siamese(nn.Conv2d(4, 8, 3), nn.ReLU())) == []


@pytest.mark.parametrize("how", ["one parameter", "one memory"])
def test_tied_weights_are_refused(how: str) -> None:
    """A copy of the model keeps one parameter tied, but not two parameters with one memory."""
    first, second = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
    if how == "one parameter":
        second.weight = first.weight
    else:
        second.weight.data = first.weight.data
    assert producers(Chain(nn.Conv2d(4, 8, 3), first, nn.ReLU(), second)) == []


def test_reparametrised_layer_is_refused() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 8, 3))
    assert producers(Chain(layer)) == []


def test_weights_used_behind_the_modules_back_are_refused() -> None:
    class Behind(nn.Module):
        shared = ("stem",)

        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, 4, 3, stride=4)
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(self.stem(x).mean(dim=(2, 3)))
            return self.b(x) + x[:, :3] @ self.b.weight[:, :3].T

    assert producers(Behind()) == []


@pytest.mark.parametrize("initial", [0.0, 1.0])
def test_equal_initial_values_do_not_hide_a_dependence_on_position(initial: float) -> None:
    """A parameter or buffer of equal values obeys every permutation; trained, it does not."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.full((8,), initial))
            self.register_buffer("mask", torch.ones(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    class Apart(Chain):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.layers[0](self.stem(x)).mean(dim=(2, 3))
            return self.head(x * self.layers[1].scale * self.layers[1].mask)

    assert producers(Apart(nn.Conv2d(4, 8, 3), Scaled())) == []


def test_channels_without_influence_are_refused() -> None:
    """Nothing shows then that the places belong together."""

    class Dead(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 0.0

    assert producers(Chain(nn.Conv2d(4, 8, 3), Dead())) == []


def test_one_channel_has_nothing_to_permute() -> None:
    assert producers(Chain(nn.Conv2d(4, 1, 3), features=1)) == []


def test_model_that_does_not_run_in_float64_has_no_groups() -> None:
    class Narrow(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.float()

    assert producers(Chain(nn.Conv2d(4, 8, 3), Narrow())) == []


def test_model_that_draws_at_random_has_no_groups() -> None:
    class Noisy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.dropout(x, 0.5, training=True)

    assert producers(Chain(nn.Conv2d(4, 8, 3), Noisy())) == []


def test_example_that_does_not_fit_is_named() -> None:
    with pytest.raises(ModelError, match=r"example of shape \[1, 3, 28, 28\]"):
        groups_of(ThreeLayerCNN(), torch.zeros(1, 3, 28, 28))


# --- nothing is left behind ----------------------------------------------------------------


def test_model_and_random_state_are_left_as_found() -> None:
    model = Chain(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5)).train()
    model.layers[1].eval()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in named_tensors(model).items()}
    objects = {name: id(tensor) for name, tensor in model.named_parameters()}
    state = torch.get_rng_state()
    assert len(groups_of(model)) == 1
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert {name: id(tensor) for name, tensor in model.named_parameters()} == objects
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(not module._forward_hooks for module in model.modules())
    after = named_tensors(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in after)
    assert all(before[n].dtype == after[n].dtype for n in after)


def test_groups_do_not_depend_on_values_or_on_chance() -> None:
    model = ThreeLayerCNN()
    first = groups_of(model)
    torch.rand(7)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert groups_of(model) == first


# --- permuting -----------------------------------------------------------------------------


def test_permuted_moves_blocks_and_leaves_other_tensors_alone() -> None:
    tensors = {
        "w": torch.arange(12.0).reshape(2, 6),
        "b": torch.tensor([1.0, 2.0, 3.0]),
        "c": torch.ones(1),
    }
    group = Group(3, (("b", 0, 1), ("w", 1, 2)))
    moved = permuted(tensors, group, [2, 0, 1])
    assert moved["b"].tolist() == [3.0, 1.0, 2.0]
    assert moved["w"].tolist() == [[4.0, 5.0, 0.0, 1.0, 2.0, 3.0], [10.0, 11.0, 6.0, 7.0, 8.0, 9.0]]
    assert moved["c"] is tensors["c"]
    assert tensors["b"].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("group", "permutation", "match"),
    [
        (Group(3, (("b", 0, 1),)), [0, 0, 1], "not a permutation of 3"),
        (Group(3, (("b", 0, 1),)), [1, 0], "not a permutation of 3"),
        (Group(2, (("b", 0, 1),)), [1, 0], "tensor b does not have 2 x 1"),
        (Group(2, (("a", 0, 1),)), [1, 0], "tensor a does not have 2 x 1"),
    ],
)
def test_permuting_what_does_not_fit_is_a_defect(
    group: Group, permutation: list[int], match: str
) -> None:
    with pytest.raises(Defect, match=match):
        permuted({"b": torch.ones(3)}, group, permutation)


def test_permuted_tensors_make_the_same_function() -> None:
    model = ThreeLayerCNN().eval()
    split = split_model(model)
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(4, 1, 28, 28, generator=draw)
    before = model(images)
    (group,) = groups_of(model)
    order = torch.randperm(group.size, generator=draw)
    load_tensors(model, permuted(private_tensors(model, split), group, order))
    assert torch.allclose(model(images), before, atol=1e-5)
