from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from splitfed.aggregation import weighted_mean
from splitfed.errors import Defect
from splitfed.fusion import Group, channel_groups, match, matched_average, permuted
from splitfed.models import ThreeLayerCNN
from splitfed.sharing import Split, load_tensors, private_tensors, split_model
from splitfed.tensors import Tensors

EXAMPLE = torch.zeros(1, 1, 28, 28)
EQUAL = {"a": 1.0, "b": 1.0, "c": 1.0}


class TwoNorms(nn.Module):
    """Two private convolutions with BatchNorm, then two linear layers: three groups in a row."""

    shared = ("conv1",)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 12, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(12)
        self.conv3 = nn.Conv2d(12, 16, 3, padding=1)
        self.norm3 = nn.BatchNorm2d(16)
        self.hidden = nn.Linear(16 * 9, 20)
        self.classifier = nn.Linear(20, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(torch.relu(self.norm2(self.conv2(x))), 2)
        x = functional.max_pool2d(torch.relu(self.norm3(self.conv3(x))), 2)
        return self.classifier(torch.relu(self.hidden(x.flatten(1))))


def made(kind: type[nn.Module], seed: int) -> nn.Module:
    """A model in evaluation mode whose norms have seen images."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind()
        with torch.no_grad():
            for _ in range(3):
                model(torch.randn(8, 1, 28, 28) * (1 + seed))
    return model.eval()


def parts(model: nn.Module) -> tuple[Split, tuple[Group, ...], Tensors]:
    split = split_model(model)
    return split, channel_groups(model, split, EXAMPLE), private_tensors(model, split)


def shuffled(tensors: Tensors, groups: tuple[Group, ...], seed: int) -> Tensors:
    draw = torch.Generator().manual_seed(seed)
    for group in groups:
        tensors = permuted(tensors, group, torch.randperm(group.size, generator=draw))
    return tensors


def images(seed: int = 0) -> torch.Tensor:
    return torch.randn(16, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


def outputs(model: nn.Module, tensors: Tensors) -> torch.Tensor:
    load_tensors(model, tensors)
    with torch.no_grad():
        return model(images())


def equal(left: Tensors, right: Tensors) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


# --- the permutation law -------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ThreeLayerCNN, TwoNorms])
@pytest.mark.parametrize("seed", range(3))
def test_permuted_copy_fuses_back_to_the_same_model(kind: type[nn.Module], seed: int) -> None:
    model = made(kind, seed)
    _, groups, own = parts(model)
    copy = shuffled(own, groups, seed)
    assert not equal(copy, own)
    before = outputs(model, own)
    assert torch.allclose(outputs(model, copy), before, atol=1e-5)
    assert equal(match(own, copy, groups), own)
    fused = matched_average({"a": own, "b": copy}, EQUAL, groups)
    assert equal(fused, own)
    assert torch.allclose(outputs(model, fused), before, atol=1e-5)


@pytest.mark.parametrize("kind", [ThreeLayerCNN, TwoNorms])
def test_averaging_without_matching_destroys_the_model(kind: type[nn.Module]) -> None:
    """The control: without it the law above might hold for any average."""
    model = made(kind, 1)
    _, groups, own = parts(model)
    before = outputs(model, own)
    fused = weighted_mean({"a": own, "b": shuffled(own, groups, 1)}, EQUAL)
    assert (outputs(model, fused) - before).abs().max() > 0.1 * before.abs().max()


def test_two_norms_are_three_groups_in_a_row() -> None:
    _, groups, _ = parts(made(TwoNorms, 0))
    assert [group.size for group in groups] == [12, 16, 20]
    assert groups[1].places[0][0] == groups[0].places[-1][0] == "conv3.weight"


@pytest.mark.parametrize("seed", range(3))
def test_slightly_changed_permuted_copy_is_put_in_order(seed: int) -> None:
    model = made(TwoNorms, seed)
    _, groups, own = parts(model)
    draw = torch.Generator().manual_seed(seed)
    changed = {
        name: t + 0.2 * t.std() * torch.randn(t.shape, generator=draw)
        if t.is_floating_point()
        else t
        for name, t in own.items()
    }
    assert equal(match(own, shuffled(changed, groups, seed), groups), changed)


def test_matching_never_changes_the_function() -> None:
    """Whatever order is chosen for unrelated models, it is a permutation by the law."""
    one, two = made(TwoNorms, 1), made(TwoNorms, 2)
    _, groups, own = parts(one)
    _, _, other = parts(two)
    before = outputs(two, other)
    matched = match(own, other, groups)
    assert not equal(matched, other)
    assert torch.allclose(outputs(two, matched), before, atol=1e-5)


def test_matching_brings_unrelated_models_closer_and_is_finished_when_it_ends() -> None:
    _, groups, own = parts(made(ThreeLayerCNN, 1))
    _, _, other = parts(made(ThreeLayerCNN, 2))
    matched = match(own, other, groups)

    def apart(tensors: Tensors) -> float:
        return sum(
            float((own[n] / own[n].square().mean().sqrt() - t / t.square().mean().sqrt()).norm())
            ** 2
            for n, t in tensors.items()
        )

    assert apart(matched) < apart(other)
    assert equal(match(own, matched, groups), matched)


def test_channels_that_are_alike_before_are_told_apart_by_what_follows() -> None:
    """Dead channels: equal where they are produced, different where they are used."""
    _, groups, own = parts(made(ThreeLayerCNN, 3))
    own["conv3.weight"][:5] = 0.0
    own["conv3.bias"][:5] = 0.0
    assert equal(match(own, shuffled(own, groups, 3), groups), own)


def test_dead_channels_of_the_first_of_several_groups_are_found_in_a_later_sweep() -> None:
    _, groups, own = parts(made(TwoNorms, 3))
    for name, dim, _ in groups[0].places:
        if dim == 0:
            own[name][:5] = 0.0
    assert equal(match(own, shuffled(own, groups, 3), groups), own)


@pytest.mark.parametrize("seed", range(5))
def test_permuted_copy_is_recovered_where_the_first_layer_is_thin(seed: int) -> None:
    """Two numbers a channel before it and 32 after it, these in disorder at first."""
    draw = torch.Generator().manual_seed(seed)
    own = {
        "a": torch.randn(32, 2, generator=draw),
        "b": torch.randn(32, 32, generator=draw),
        "c": torch.randn(3, 32, generator=draw),
    }
    groups = (Group(32, (("a", 0, 1), ("b", 1, 1))), Group(32, (("b", 0, 1), ("c", 1, 1))))
    assert equal(match(own, shuffled(own, groups, seed), groups), own)


def test_indistinguishable_channels_stay_where_they_are() -> None:
    _, groups, own = parts(made(ThreeLayerCNN, 3))
    alike = {name: torch.ones_like(tensor) for name, tensor in own.items()}
    empty = {name: torch.zeros_like(tensor) for name, tensor in own.items()}
    for reference in (alike, empty):
        assert equal(match(reference, own, groups), own)


def test_scale_of_a_tensor_does_not_drown_the_others() -> None:
    """Running variances may be thousands of times as large as weights."""
    _, groups, own = parts(made(TwoNorms, 1))
    draw = torch.Generator().manual_seed(1)
    other = {
        name: 1e6 * (1 + torch.rand(t.shape, generator=draw)) if name.endswith("var") else t
        for name, t in own.items()
    }
    matched = match(own, shuffled(other, groups, 1), groups)
    assert equal(matched, other)


def test_extreme_values_do_not_overflow() -> None:
    group = Group(2, (("w", 0, 1),))
    own = {"w": torch.tensor([[1e300, 0.0], [0.0, 1e300]], dtype=torch.float64)}
    other = {"w": torch.tensor([[0.0, 1e-300], [1e-300, 0.0]], dtype=torch.float64)}
    assert match(own, other, [group])["w"].tolist() == [[1e-300, 0.0], [0.0, 1e-300]]


# --- the average ---------------------------------------------------------------------------


def test_three_permuted_parties_fuse_to_one() -> None:
    model = made(TwoNorms, 4)
    _, groups, own = parts(model)
    parties = {"c": shuffled(own, groups, 1), "a": own, "b": shuffled(own, groups, 2)}
    fused = matched_average(parties, {"a": 0.2, "b": 0.5, "c": 0.3}, groups)
    # three float64 products and a quotient, then float32: at most the last bit
    assert all(torch.allclose(fused[n], own[n], rtol=1e-6, atol=0) for n in own)
    assert torch.allclose(outputs(model, fused), outputs(model, own), atol=1e-5)


def test_order_of_the_parties_in_the_mappings_changes_no_bit() -> None:
    models = {name: made(TwoNorms, seed) for seed, name in enumerate("abc")}
    _, groups, _ = parts(models["a"])
    tensors = {name: parts(model)[2] for name, model in models.items()}
    weights = {"a": 0.1, "b": 0.7, "c": 0.3}
    forward = matched_average(tensors, weights, groups)
    backward = matched_average(
        dict(reversed(tensors.items())), dict(reversed(weights.items())), groups
    )
    assert equal(forward, backward)


def test_average_without_groups_is_the_plain_mean() -> None:
    tensors = {name: parts(made(TwoNorms, seed))[2] for seed, name in enumerate("abc")}
    weights = {"a": 0.1, "b": 0.7, "c": 0.3}
    assert equal(matched_average(tensors, weights, ()), weighted_mean(tensors, weights))


def test_inputs_are_left_alone() -> None:
    _, groups, own = parts(made(TwoNorms, 1))
    other = shuffled(own, groups, 1)
    kept = {name: tensor.clone() for name, tensor in other.items()}
    fused = matched_average({"a": own, "b": other}, EQUAL, groups)
    for tensor in fused.values():
        tensor.zero_()
    assert equal(other, kept)


GROUP = Group(2, (("w", 0, 1),))


@pytest.mark.parametrize(
    ("other", "match_"),
    [
        ({}, "tensor w is not in both"),
        ({"w": torch.ones(3)}, r"tensor w is \[2\] in one set and \[3\] in the other"),
        ({"w": torch.tensor([1.0, float("nan")])}, "tensor w is not finite"),
    ],
)
def test_tensors_that_do_not_fit_are_a_defect(other: Tensors, match_: str) -> None:
    with pytest.raises(Defect, match=match_):
        match({"w": torch.ones(2)}, other, [GROUP])


def test_average_of_nobody_is_a_defect() -> None:
    with pytest.raises(Defect, match="no parties"):
        matched_average({}, {}, ())
