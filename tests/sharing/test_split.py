"""The laws of the split: one side for every tensor, or a refusal that names it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from splitfed.errors import SharingError
from splitfed.sharing import (
    canonical_name,
    fingerprint,
    load_tensors,
    matches,
    merge,
    named_tensors,
    partition,
    private_tensors,
    shared_tensors,
    split_model,
)


class Net(nn.Module):
    shared = ("conv1", "norm")

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.conv10 = nn.Conv2d(2, 2, 3)
        self.head = nn.Linear(2, 3)
        self.register_buffer("scale", torch.ones(2), persistent=False)


class Wrapper(nn.Module):
    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.add_module(name, model)


def names(specs):
    return [spec.name for spec in specs]


def test_every_parameter_and_buffer_has_exactly_one_side():
    model = Net()
    split = split_model(model)
    everything = {n for n, _ in model.named_parameters()} | {n for n, _ in model.named_buffers()}
    assert split.shared_names | split.private_names == everything
    assert not split.shared_names & split.private_names
    assert names(split.shared) == [
        "conv1.bias", "conv1.weight", "norm.bias", "norm.num_batches_tracked",
        "norm.running_mean", "norm.running_var", "norm.weight",
    ]  # fmt: skip
    assert "scale" in split.private_names


def test_partition_and_merge_are_inverse_both_ways():
    model = Net()
    split = split_model(model)
    tensors = named_tensors(model)
    shared, private = partition(tensors, split)
    assert merge(shared, private).keys() == tensors.keys()
    assert all(torch.equal(merge(shared, private)[n], tensors[n]) for n in tensors)
    again = partition(merge(shared, private), split)
    assert (again[0].keys(), again[1].keys()) == (shared.keys(), private.keys())


def test_loading_what_was_taken_gives_the_same_model():
    torch.manual_seed(0)
    model, other = Net(), Net()
    split = split_model(model)
    load_tensors(other, merge(shared_tensors(model, split), private_tensors(model, split)))
    assert all(
        torch.equal(value, named_tensors(model)[name])
        for name, value in named_tensors(other).items()
    )


def test_shared_tensors_are_copies():
    model = Net()
    split = split_model(model)
    taken = shared_tensors(model, split)
    with torch.no_grad():
        model.conv1.weight.add_(1)
    assert not torch.equal(taken["conv1.weight"], model.conv1.weight)


@pytest.mark.parametrize("prefix", ["_module", "module"])
def test_wrapper_prefixes_never_change_a_name(prefix):
    plain = split_model(Net())
    assert split_model(Wrapper(Net(), prefix)) == plain
    assert split_model(Wrapper(Wrapper(Net(), "module"), prefix)) == plain
    assert canonical_name(f"{prefix}.conv1.weight") == "conv1.weight"


def test_opacus_wrapper_keeps_names():
    opacus = pytest.importorskip("opacus.grad_sample", exc_type=ImportError)
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    wrapped = opacus.GradSampleModule(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)))
    assert split_model(wrapped, "0") == split_model(model, "0")


def test_star_shares_everything():
    split = split_model(Net(), "*")
    assert split.private == ()
    assert len(split.shared) == len(named_tensors(Net()))


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("conv1", "conv1.weight", True),
        ("conv1", "conv10.weight", False),
        ("conv1.weight", "conv1.weight", True),
        ("conv1.weight", "conv1.bias", False),
        ("conv*", "conv10.bias", True),
        ("*.weight", "head.weight", True),
        ("*.weight", "block.head.weight", False),
        ("Conv1", "conv1.weight", False),
        ("conv", "conv1.weight", False),
    ],
)
def test_patterns_match_whole_components(pattern, name, expected):
    assert matches(pattern, name) is expected


@pytest.mark.parametrize(
    ("shared", "private", "says"),
    [
        (["conv3"], None, "'conv3' matches no tensor"),
        (["conv1", "conv1.weight"], None, "conv1.weight is matched by two shared patterns"),
        ([], None, "nothing is shared"),
        (["conv1."], None, "'conv1.' is not a dotted name"),
        ([""], None, "'' is not a dotted name"),
        (["conv1"], ["conv10", "head"], "norm.bias is declared neither"),
        (["conv1"], ["*"], "conv1.bias is declared both"),
        (["conv1"], ["conv7"], "private pattern 'conv7' matches no tensor"),
        (7, None, "shared = 7 is neither"),
    ],
)
def test_a_bad_declaration_is_refused_by_name(shared, private, says):
    with pytest.raises(SharingError, match="(?s)" + says.replace("(", r"\(")):
        split_model(Net(), shared, private)


def test_a_model_without_declaration_is_refused():
    with pytest.raises(SharingError, match="Linear does not declare"):
        split_model(nn.Linear(2, 2))


def test_a_submodule_called_shared_is_not_a_declaration():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Linear(1, 1)

    with pytest.raises(SharingError, match="does not declare"):
        split_model(Named())


def test_weights_tied_across_the_border_are_refused():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    with pytest.raises(SharingError, match="0.weight and private tensor 1.weight are tied"):
        split_model(model, "0")


def test_a_view_across_the_border_is_refused():
    model = nn.Module()
    base = torch.zeros(10)
    model.register_buffer("one", base[:6])
    model.register_buffer("two", base[4:])
    with pytest.raises(SharingError, match="one and private tensor two are tied"):
        split_model(model, "one")


def test_weights_tied_on_one_side_travel_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1))
    model[1].weight = model[0].weight
    split = split_model(model, ["0", "1"])
    assert names(split.shared) == ["0.bias", "0.weight", "1.bias"]
    assert split.aliases == {"1.weight": "0.weight"}
    shared, private = partition(named_tensors(model), split)
    assert (set(shared), set(private)) == (split.shared_names, split.private_names)
    load_tensors(model, {"0.weight": torch.ones(3, 3)})
    assert torch.equal(model[1].weight, torch.ones(3, 3))


def test_lazy_and_meta_tensors_are_refused_by_name():
    with pytest.raises(SharingError, match="0.weight is lazily initialised"):
        split_model(nn.Sequential(nn.LazyLinear(3)), "0")
    with pytest.raises(SharingError, match="0.weight is on the meta device"):
        split_model(nn.Sequential(nn.Linear(2, 2, device="meta")), "0")


def test_a_dtype_without_wire_form_is_refused_by_name():
    with pytest.raises(SharingError, match=r"0.weight is .*complex64"):
        split_model(nn.Sequential(nn.Linear(2, 2, dtype=torch.complex64)), "0")


def test_fingerprint_depends_on_names_shapes_and_dtypes_only():
    torch.manual_seed(1)
    first = split_model(Net()).shared
    torch.manual_seed(2)
    assert fingerprint(split_model(Net()).shared) == fingerprint(first)
    assert fingerprint(first[:-1]) != fingerprint(first)
    assert fingerprint(split_model(Net().double()).shared) != fingerprint(first)


def test_loading_a_wrong_tensor_changes_nothing():
    model = Net()
    before = {name: value.clone() for name, value in named_tensors(model).items()}
    wrong = {"conv1.bias": torch.full((2,), 7.0), "conv1.weight": torch.zeros(1)}
    with pytest.raises(SharingError, match=r"conv1.weight is \(1,\)"):
        load_tensors(model, wrong)
    with pytest.raises(SharingError, match="no tensor nothing"):
        load_tensors(model, {"conv1.bias": torch.full((2,), 7.0), "nothing": torch.zeros(1)})
    assert all(torch.equal(value, before[name]) for name, value in named_tensors(model).items())


def test_partition_refuses_missing_and_unknown_tensors():
    split = split_model(Net())
    tensors = named_tensors(Net())
    with pytest.raises(SharingError, match="extra is unknown"):
        partition({**tensors, "extra": torch.zeros(1)}, split)
    tensors.pop("head.bias")
    with pytest.raises(SharingError, match="head.bias is missing"):
        partition(tensors, split)
