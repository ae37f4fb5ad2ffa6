"""What travels under each algorithm of the agreement."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from splitfed.errors import SharingError
from splitfed.models import ThreeLayerCNN
from splitfed.sharing import Split, algorithm_split, named_tensors, split_model
from tests.support.training import TinyNet

EVERYTHING = frozenset(named_tensors(TinyNet()))
NORMS = {n for n in EVERYTHING if n.startswith(("norm.", "own_norm."))}


def split_of(
    algorithm: str, model: nn.Module, shared: object = None, private: object = None
) -> Split:
    return split_model(model, *algorithm_split(algorithm, model, shared, private))


@pytest.mark.parametrize("algorithm", ["fedper", "fedrep", "fedbabu"])
def test_these_share_what_the_class_declares_or_the_agreement_names(algorithm: str) -> None:
    model = TinyNet()
    assert split_of(algorithm, model) == split_model(model)
    assert split_of(algorithm, model, ("conv",)) == split_model(model, ("conv",))
    both = (("conv",), ("*norm", "classifier"))
    assert algorithm_split(algorithm, model, *both) == both


def test_fedper_may_share_everything() -> None:
    assert split_of("fedper", TinyNet(), "*").shared_names == EVERYTHING


def test_fedavg_shares_everything_whatever_the_class_declares() -> None:
    split = split_of("fedavg", TinyNet())
    assert (split.shared_names, split.private) == (EVERYTHING, ())
    for pattern in ("*", ("*",), ["*"]):
        assert split_of("fedavg", TinyNet(), pattern) == split


def test_fedbn_keeps_parameters_and_buffers_of_norms_and_shares_the_rest() -> None:
    split = split_of("fedbn", TinyNet())
    assert split.private_names == NORMS
    assert {"norm.weight", "norm.running_var", "norm.num_batches_tracked"} <= split.private_names
    assert split.shared_names == EVERYTHING - NORMS


class Own(nn.LayerNorm):
    """A subclass of torch's own."""


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm1d(4), nn.BatchNorm2d(4), nn.BatchNorm3d(4), nn.SyncBatchNorm(4),
        nn.InstanceNorm1d(4, affine=True), nn.InstanceNorm2d(4, track_running_stats=True),
        nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.RMSNorm(4), Own(4),
    ],
    ids=lambda norm: type(norm).__name__,
)  # fmt: skip
def test_fedbn_knows_every_norm_of_torch(norm: nn.Module) -> None:
    split = split_of("fedbn", nn.Sequential(nn.Linear(4, 4), norm))
    assert split.shared_names == {"0.weight", "0.bias"}
    assert split.private_names == {f"1.{name}" for name in named_tensors(norm)}


def test_fedbn_looks_through_wrappers_and_at_norms_that_stand_twice() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self._module = TinyNet()

    assert split_of("fedbn", Wrapper()) == split_of("fedbn", TinyNet())
    norm = nn.LayerNorm(3)
    split = split_of("fedbn", nn.Sequential(nn.Linear(3, 3), norm, norm))
    assert (split.private_names, dict(split.aliases)) == (
        {"1.weight", "1.bias"}, {"2.weight": "1.weight", "2.bias": "1.bias"},
    )  # fmt: skip


def test_exact_names_are_never_read_as_patterns() -> None:
    model = nn.ModuleDict({"a*": nn.Linear(2, 2), "ab": nn.LayerNorm(2), "[c]": nn.Linear(2, 2)})
    assert split_of("fedbn", model).private_names == {"ab.weight", "ab.bias"}


def test_lg_fedavg_is_the_complement_of_what_the_class_declares() -> None:
    for model in (ThreeLayerCNN(widths=(2, 2, 2)), TinyNet()):
        declared, turned = split_model(model), split_of("lg-fedavg", model)
        assert turned.shared == declared.private
        assert turned.private == declared.shared


def test_lg_fedavg_turns_tied_tensors_round_together() -> None:
    class Tied(nn.Module):
        shared = ("first",)

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = (nn.Linear(2, 2) for _ in range(3))
            self.third.weight = self.second.weight

    split = split_of("lg-fedavg", Tied())
    assert split.private_names == {"first.weight", "first.bias"}
    assert dict(split.aliases) == {"third.weight": "second.weight"}


class Whole(nn.Linear):
    """Keeps nothing."""

    shared = "*"


@pytest.mark.parametrize(
    ("algorithm", "model", "patterns", "match"),
    [
        ("fedbn", ThreeLayerCNN(), (None, None), "ThreeLayerCNN has no normalisation layer"),
        ("fedbn", nn.LayerNorm(2), (None, None), "LayerNorm has nothing but normalisation"),
        ("fedbn", TinyNet(), (("conv",), None), "shares all but the normalisation layers"),
        ("fedbn", TinyNet(), (None, ("norm",)), "shares all but the normalisation layers"),
        ("fedavg", TinyNet(), (("conv",), None), "shares the whole model"),
        ("fedavg", TinyNet(), ("*", ("norm",)), "shares the whole model"),
        ("lg-fedavg", TinyNet(), (("classifier",), None), "shares what the model class keeps"),
        ("lg-fedavg", Whole(2, 2), (None, None), "Whole declares every layer as shared"),
        ("lg-fedavg", nn.Linear(2, 2), (None, None), "does not declare which tensors it shares"),
        ("fedrep", TinyNet(), ("*", None), '"fedrep" trains private layers apart'),
        ("fedbabu", Whole(2, 2), (None, None), '"fedbabu" trains private layers apart'),
        ("fedprox", TinyNet(), (None, None), "'fedprox': no such algorithm"),
    ],
)
def test_what_an_algorithm_cannot_do_is_refused_with_a_cure(
    algorithm: str, model: nn.Module, patterns: tuple[object, object], match: str
) -> None:
    with pytest.raises(SharingError, match=match) as caught:
        algorithm_split(algorithm, model, *patterns)
    assert caught.value.cure


def test_nothing_is_drawn_or_changed_by_the_question() -> None:
    model = TinyNet()
    before = {name: tensor.clone() for name, tensor in named_tensors(model).items()}
    state = torch.get_rng_state()
    for algorithm in ("fedper", "fedavg", "fedrep", "fedbabu", "fedbn", "lg-fedavg"):
        algorithm_split(algorithm, model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[n], t) for n, t in named_tensors(model).items())
